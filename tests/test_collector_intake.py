"""Who waits for a body is told what became of it, whoever else leaves, and before anything that can wait is done."""

import asyncio
import os
import selectors
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailbudget.collector import loop
from tailbudget.collector.collector import Collector
from tailbudget.collector.journal.writer import Journal, JournalRefusedError
from tailbudget.collector.land.seen import RecentKeys
from tailbudget.collector.receive.intake import Accepted, Packed
from tailbudget.collector.settings import CollectorSettings

from .collector_support import trace_body
from .support import wait_until


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Collector]:
    found = Collector(CollectorSettings(data=tmp_path))
    yield found
    found.close()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the journal write nothing before the event is set."""
    write, event = Journal._write_group, threading.Event()

    def wait(journal: Journal, group: object) -> None:
        event.wait()
        write(journal, group)  # type: ignore[arg-type]

    monkeypatch.setattr(Journal, "_write_group", wait)
    return event


def send(parts: Collector, body: bytes) -> "asyncio.Task[Accepted]":
    return asyncio.create_task(parts.intake.accept("traces", body, Packed(body, "identity")))


async def test_a_sender_that_leaves_takes_no_equal_body_along(parts: Collector, held: threading.Event) -> None:
    body = trace_body(3)
    first, second, third = (send(parts, body) for _ in range(3))
    await asyncio.sleep(0.05)
    first.cancel()
    third.cancel()
    await asyncio.sleep(0)
    held.set()
    assert await second == Accepted(0, repeated=True)
    assert await send(parts, body) == Accepted(0, repeated=True)
    assert first.cancelled()
    assert third.cancelled()


async def test_equal_bodies_are_refused_with_the_first_and_taken_when_sent_again(
    parts: Collector, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = trace_body(3)
    sent = [send(parts, body) for _ in range(3)]
    await asyncio.sleep(0.05)
    with monkeypatch.context() as broken:
        broken.setattr(Journal, "_append", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        held.set()
        found = await asyncio.gather(*sent, return_exceptions=True)
    assert [type(one) for one in found] == [JournalRefusedError] * 3
    assert await send(parts, body) == Accepted(0, repeated=False)


async def test_a_body_is_known_before_an_equal_one_can_ask_and_after_its_answer(
    parts: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    add, body = RecentKeys.add, trace_body(3)

    def note(keys: RecentKeys, *given: Any) -> None:
        done.append("known")
        add(keys, *given)

    monkeypatch.setattr(RecentKeys, "add", note)

    async def one() -> bool:
        answer = await parts.intake.accept("traces", body, Packed(body, "identity"))
        done.append("answered")
        return answer.repeated or (await send(parts, body)).repeated

    assert await one()
    assert done[:2] == ["answered", "known"]
    assert len(done) == 2


async def test_bodies_that_are_written_together_wake_the_loop_up_once(
    parts: Collector, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, woken = asyncio.get_running_loop(), []
    wake = running.call_soon_threadsafe

    def count(*given: Any) -> object:
        woken.append(given)
        return wake(*given)

    monkeypatch.setattr(running, "call_soon_threadsafe", count)
    sent = [send(parts, trace_body(1, seed=10 * number)) for number in range(20)]
    await asyncio.sleep(0.05)
    held.set()
    wait_until(lambda: len(parts.intake._settled) == 20)  # the loop runs nothing meanwhile
    assert await asyncio.gather(*sent) == [Accepted(0, repeated=False)] * 20
    assert len(woken) == 1


def test_the_loop_asks_the_kernel_seldom_while_it_has_work_and_soon_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float | None] = []
    select = selectors.DefaultSelector.select

    def count(selector: selectors.DefaultSelector, timeout: float | None = None) -> object:
        asked.append(timeout)
        return select(selector, timeout)

    async def work() -> None:
        for _ in range(1000):
            await asyncio.sleep(0)
        read, write = os.pipe()
        came = asyncio.Event()
        asyncio.get_running_loop().add_reader(read, came.set)
        os.write(write, b"x")
        while not came.is_set():  # noqa: ASYNC110 - the loop always has work
            await asyncio.sleep(0)
        asyncio.get_running_loop().remove_reader(read)
        os.close(read)
        os.close(write)

    monkeypatch.setattr(selectors.DefaultSelector, "select", count)
    monkeypatch.setattr(loop, "ASK_EVERY_S", 0.05)
    loop.run(work())
    assert len(asked) < 500
