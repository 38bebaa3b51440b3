"""Whose turn it is: short questions do not wait for long ones, long ones not for ever, and one may be alone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tailbudget.collector.api import turns
from tailbudget.collector.api.guard import KEPT_CHARS, Guard, RefusedSqlError
from tailbudget.collector.api.turns import LONG_SLOTS, SHORT_S, SLOTS, BusyError, Costs, Turns
from tailbudget.collector.land.database import open_database


@asynccontextmanager
async def held(found: Turns, *shorts: bool) -> AsyncIterator[AsyncExitStack]:
    """Hold so many turns, which are free."""
    async with AsyncExitStack() as stack:
        for short in shorts:
            await stack.enter_async_context(found.turn(short=short, within_s=5))
        yield stack


async def ask(found: Turns, order: list[str], name: str, *, short: bool) -> None:
    async with found.turn(short=short, within_s=5):
        order.append(name)


async def test_a_short_question_has_its_turn_while_long_ones_hold_all_of_theirs() -> None:
    found, order = Turns(), list[str]()
    async with held(found, *[False] * LONG_SLOTS):
        long = asyncio.create_task(ask(found, order, "long", short=False))
        await ask(found, order, "short", short=True)
        assert order == ["short"]
    await long
    assert order == ["short", "long"]


async def test_short_questions_go_first_and_each_kind_in_its_order() -> None:
    found, order = Turns(), list[str]()
    async with held(found, *[True] * SLOTS):
        asked = [
            asyncio.create_task(ask(found, order, f"{name} {number}", short=name == "short"))
            for number in range(2)
            for name in ("long", "short")
        ]
        await asyncio.sleep(0)
    await asyncio.gather(*asked)
    assert order == ["short 0", "short 1", "long 0", "long 1"]


async def test_a_long_question_that_waited_goes_before_short_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE_S", 0.0)
    found, order = Turns(), list[str]()
    async with held(found, *[True] * SLOTS):
        asked = [asyncio.create_task(ask(found, order, name, short=name == "short")) for name in ("long", "short")]
        await asyncio.sleep(0)
    await asyncio.gather(*asked)
    assert order == ["long", "short"]


async def test_who_gives_up_leaves_no_turn_behind() -> None:
    found, order = Turns(), list[str]()
    async with held(found, *[False] * LONG_SLOTS):
        with pytest.raises(BusyError, match="2 queries run already"):
            async with found.turn(short=False, within_s=0.01):
                pass
        left = asyncio.create_task(ask(found, order, "left", short=False))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
    async with held(found, *[False] * LONG_SLOTS):
        await ask(found, order, "short", short=True)
    assert order == ["short"]


async def test_whose_turn_comes_as_it_leaves_gives_it_back() -> None:
    found, order = Turns(), list[str]()
    async with held(found, *[False] * LONG_SLOTS) as stack:
        left = asyncio.create_task(ask(found, order, "left", short=False))
        await asyncio.sleep(0)
        await stack.aclose()  # its turn has come, and it does not know yet
        left.cancel()
        await asyncio.wait([left])
    async with held(found, *[False] * LONG_SLOTS):
        assert order == []


async def test_alone_waits_for_what_runs_and_lets_nothing_begin() -> None:
    found, order = Turns(), list[str]()

    async def alone() -> None:
        async with found.alone(within_s=5):
            order.append("alone")
            await asyncio.sleep(0.01)
            order.append("still alone")

    async with held(found, False):
        both = [asyncio.create_task(alone()), asyncio.create_task(alone())]
        await asyncio.sleep(0)
        asked = asyncio.create_task(ask(found, order, "asked", short=True))
        await asyncio.sleep(0.01)
        assert order == []
    await asyncio.gather(*both, asked)
    assert order == ["alone", "still alone"] * 2 + ["asked"]
    async with held(found, False):
        with pytest.raises(BusyError, match="still run"):
            async with found.alone(within_s=0.01):
                pass
    await ask(found, order, "after", short=False)


def test_a_question_is_short_once_it_was_and_long_for_a_while_after_it_was_long() -> None:
    costs = Costs()
    asked = "select count(*) from spans where name = '{}' and kind = {}"
    assert not costs.is_short(asked.format("it''s", 1))
    costs.took(asked.format("a", 22), SHORT_S / 10)
    assert costs.is_short(asked.format("it''s", 3))
    assert not costs.is_short("select count(*) from spans where title = 'a' and kind = 1")
    costs.took(asked.format("b", 4), 2 * SHORT_S)
    costs.took(asked.format("c", 5), 0.0)
    assert not costs.is_short(asked.format("d", 6))
    for _ in range(3):
        costs.took(asked.format("c", 5), 0.0)
    assert costs.is_short(asked.format("d", 6))


def test_what_costs_are_known_of_is_bounded() -> None:
    costs = Costs()
    for number in range(3 * turns.KNOWN):
        costs.took(f"select {'x' * (number % 100)}y{number}", 0.0)
    assert len(costs._took_s) <= turns.KNOWN
    long = f"select '{'x' * turns.MOST_CHARS}'"
    costs.took(long, 0.0)
    assert not costs.is_short(long)


def test_a_question_is_parsed_once_and_many_threads_run_it(tmp_path: Path) -> None:
    with open_database(tmp_path) as connection:
        guard = Guard(connection)
        sql = "select $name || range as n from range(3) where range >= $low"
        first = guard.check(connection.cursor(), sql)
        barrier = threading.Barrier(4)

        def many(number: int) -> set[str]:
            cursor, found = connection.cursor(), set[str]()
            barrier.wait()
            for _ in range(50):
                statement = guard.check(cursor, sql)
                assert statement is first
                found |= set(cursor.sql(statement, params={"name": number, "low": 2}).to_arrow_table()["n"].to_pylist())
            return found

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(many, range(4))) == [{"02"}, {"12"}, {"22"}, {"32"}]


def test_questions_that_were_refused_are_refused_again_and_those_kept_are_bounded(tmp_path: Path) -> None:
    with open_database(tmp_path) as connection:
        guard = Guard(connection)
        check: Callable[[str], object] = lambda sql: guard.check(connection.cursor(), sql)  # noqa: E731
        for _ in range(2):
            with pytest.raises(RefusedSqlError):
                check("from read_text('/etc/passwd')")
        first = check("select 1")
        for number in range(2, 30):
            check(f"select '{number}{'x' * (KEPT_CHARS // 25)}'")
        assert check("select 1") is not first  # it made room for others
        assert sum(map(len, guard._kept)) <= KEPT_CHARS
