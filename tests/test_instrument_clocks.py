"""What a chunk costs is measured in C or in Python: nobody can tell which, and neither harms who reads the stream."""

import asyncio
import gc
import os
import subprocess
import sys
from array import array
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbudget import stream
from tailbudget.instrument import clocks, collected
from tailbudget.instrument.gaps import READING_NS
from tests.instrument_support import Recorded, recording

DRAWN = Path(__file__).parent / "drawn_streams.py"
IMPLEMENTATIONS = ("native", "python")
OURS = tuple(f"tailbudget.instrument.{name}" for name in ("streams", "stream_record", "clocks", "_clocks"))
needs_native = pytest.mark.skipif(clocks.NATIVE is None, reason="the extension needs a C compiler")


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def drawn(implementation: str, *arguments: str) -> list[str]:
    """Return what is seen of drawn streams, a line each."""
    command = [sys.executable, str(DRAWN), *arguments]
    environment = os.environ | {"TAILBUDGET_STREAMS": implementation}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=True)
    return done.stdout.splitlines()


@needs_native
def test_of_four_hundred_drawn_streams_both_see_the_same() -> None:
    native, python = (drawn(one, "0", "400") for one in IMPLEMENTATIONS)
    assert len(native) == 400
    assert native == python


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_stream_that_is_collected_inside_a_lock_does_not_wait_for_it(implementation: str) -> None:
    assert len(drawn(implementation, "0", "200", "--collecting")) == 200


def test_a_stream_that_is_collected_inside_the_sdk_ends_a_moment_later(recorded: Recorded) -> None:
    inside: dict[str, Any] = {"__name__": "opentelemetry.sdk.metrics"}
    exec("def collect(streams):\n    streams.clear()", inside)  # a function of such a module
    held = [stream(iter("ab"), model="m")]
    inside["collect"](held)
    assert not recorded.spans
    collected.end_rest()
    assert recorded.attributes("chat m")["slo.stream.end"] == "abandoned"


times = st.lists(st.integers(0, 10**13), max_size=60).map(sorted)


@needs_native
@given(arrivals=times, lag_ns=st.integers(-(10**12), 10**12))
def test_both_reckon_alike(arrivals: list[int], lag_ns: int) -> None:
    found, expected = (one(arrivals, lag_ns, READING_NS) for one in (clocks.reckon, clocks.pure_python_reckon))
    assert found == expected
    gaps = array("q", found[0])
    assert clocks.in_us(gaps) == clocks.pure_python_in_us(gaps)


def parts_of(base: Any) -> tuple[Any, list[str]]:
    """Return an exchange on one of the implementations, and what it does."""
    done: list[str] = []

    class Exchange(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self._flows, self._send_tells_nothing, self._last_byte_ns = True, True, None
            self._send = lambda message: done.append(f"sent {message}")
            self._clock = lambda: 17

        def _send_and_look(self, message: Any) -> Any:
            done.append(f"looked {message}")

    return Exchange(), done


MESSAGES = (
    {"type": "http.response.body", "body": b"a", "more_body": True},
    {"type": "http.response.body", "body": b"", "more_body": True},
    {"type": "http.response.body", "body": b"a", "more_body": False},
    {"type": "http.response.body", "body": b"a"},
    {"type": "http.response.start", "status": 200},
    {"type": "http.response.body", "more_body": True},
)


@needs_native
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("flows", [True, False])
@pytest.mark.parametrize("tells_nothing", [True, False])
def test_both_let_the_same_parts_of_an_answer_pass(message: Any, flows: bool, tells_nothing: bool) -> None:
    seen = []
    for base in (clocks.Parts, clocks.PurePythonParts):
        exchange, done = parts_of(base)
        exchange._flows, exchange._send_tells_nothing = flows, tells_nothing
        exchange.send(message)
        seen.append((done, exchange._last_byte_ns))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) == 1


async def counted(count: int) -> AsyncIterator[Any]:
    for n in range(count):
        yield n


def test_the_wait_for_a_chunk_can_be_awaited_once(recorded: Recorded) -> None:
    async def twice() -> Any:
        waiting = aiter(stream(counted(3), model="m")).__anext__()
        first = await waiting
        with pytest.raises(RuntimeError, match="already awaited"):
            await waiting
        return first

    assert asyncio.run(twice()) == 0


@pytest.mark.parametrize("chunk", [(1, 2), (), None, ValueError("a chunk"), StopIteration(3)])
def test_every_object_passes_as_a_chunk(recorded: Recorded, chunk: Any) -> None:
    async def source() -> AsyncIterator[Any]:
        yield chunk

    async def read() -> list[Any]:
        waiting: Any = aiter(stream(source(), model="m", text_of=lambda _: "")).__anext__()
        with pytest.raises(StopIteration) as stopped:
            waiting.send(None)
        return [stopped.value.value, *[one async for one in stream(source(), model="m", text_of=lambda _: "")]]

    assert asyncio.run(read()) == [chunk, chunk]
    assert list(stream(iter([chunk]), model="m", text_of=lambda _: "")) == [chunk]


def test_a_source_that_answers_although_it_is_cancelled_is_heard(recorded: Recorded) -> None:
    class Stubborn:
        def __aiter__(self) -> "Stubborn":
            return self

        async def __anext__(self) -> str:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return "all the same"
            raise AssertionError

    async def read() -> Any:
        loop = aiter(stream(Stubborn(), model="m"))

        async def wait() -> str:
            return await anext(loop)

        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        return await waiting

    assert asyncio.run(read()) == "all the same"
    assert recorded.attributes("chat m")["slo.stream.chunks"] == 1


def test_a_loop_that_was_closed_gives_nothing_more_and_leaves_the_stream_open(recorded: Recorded) -> None:
    async def read() -> list[Any]:
        wrapped = stream(counted(5), model="m")
        loop: Any = aiter(wrapped)
        first = await anext(loop)
        await loop.aclose()
        rest = [one async for one in loop]
        assert not recorded.spans
        return [first, rest, [one async for one in wrapped]]

    assert asyncio.run(read())[:2] == [0, []]


def test_an_interrupt_while_a_chunk_is_looked_at_reaches_the_reader(recorded: Recorded) -> None:
    class Interrupting:
        @property
        def choices(self) -> Any:
            raise KeyboardInterrupt

    choice = SimpleNamespace(delta=SimpleNamespace(content="word. ", tool_calls=None), finish_reason=None)
    usual = SimpleNamespace(id="c", model="m", usage=None, choices=[choice])
    wrapped = stream(iter([usual] * 30 + [Interrupting()]), model="m")
    with pytest.raises(KeyboardInterrupt):
        list(wrapped)
    assert recorded.attributes("chat m")["slo.stream.end"] == "cancelled"


def ours() -> int:
    """Return how many streams, records and loops are held, other tests' too."""
    gc.collect()
    return sum(type(one).__module__ in OURS for one in gc.get_objects())


def test_streams_leave_nothing_behind(recorded: Recorded) -> None:
    choice = SimpleNamespace(delta=SimpleNamespace(content="word. ", tool_calls=None), finish_reason=None)
    chunk = SimpleNamespace(id="c", model="m", usage=None, choices=[choice])
    held = sys.getrefcount(chunk), sys.getrefcount(choice), ours()

    async def source() -> AsyncIterator[Any]:
        for _ in range(90):
            yield chunk

    async def read() -> None:
        for n in range(60):
            async for _ in stream(source(), model="m"):
                if n % 3 == 0:
                    break

    asyncio.run(read())
    for n in range(60):
        wrapped = iter(stream(iter([chunk] * 90), model="m"))
        assert sum(1 for _ in islice(wrapped, 50 if n % 3 == 0 else None)) >= 50
        del wrapped
    assert (sys.getrefcount(chunk), sys.getrefcount(choice), ours()) == held
