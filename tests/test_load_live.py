"""While it goes on a run shows what it sent, and percentiles of clocks and stages."""

import asyncio
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from tailbudget.analytics.reader import QueryError
from tailbudget.app.load import live
from tailbudget.app.load.live import Live
from tailbudget.app.load.results import Result
from tailbudget.app.load.runner import Runner, Step

from .support import wait_until

STEP = Step(2, "requests/s", 5.0, 60.0)


class Stages:
    """A reader that knows one stage, or does not answer."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.since: list[object] = []

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        self.since.append(params["since"])
        if not self.answers:
            raise QueryError("away", unreachable=True)
        return pa.Table.from_pylist([{"stage": "queue", "n": 7, "p50_ms": 1.0, "p95_ms": 2.5, "p99_ms": 3.0}])


def _watched(reader: Stages, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(live, "EVERY_S", {True: 0.01, False: 0.01})
    monkeypatch.setattr(live, "STAGES_EVERY_S", 0.0)
    out = io.StringIO()
    shown = Live(out, run_id="r", reader=reader)

    async def run() -> None:
        watching = asyncio.create_task(shown.watch(STEP, cast("Runner", SimpleNamespace(running=3))))
        await asyncio.sleep(0)
        shown.keep(Result(1, 2, 0, total_ms=120.0, ttft_ms=40.0))
        shown.keep(Result(2, 2, 0, total_ms=9.0, outcome="shed"))
        await asyncio.to_thread(wait_until, lambda: out.getvalue().count("\n") >= 3, what="three lines")
        watching.cancel()

    asyncio.run(run())
    return out.getvalue()


def test_a_line_has_the_load_the_outcomes_the_clocks_and_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    line = _watched(Stages(answers=True), monkeypatch).splitlines()[-1]
    for part in ("step 2", "5 requests/s", "3 running", "1 ok, 1 shed", "total", "120.0 ms", "40.0 ms"):
        assert part in line
    assert "queue     p50       1.0 ms  p95       2.5 ms  p99       3.0 ms  n 7" in line


def test_stages_are_those_of_the_step_and_of_no_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, began = Stages(answers=True), datetime.now(UTC)
    _watched(reader, monkeypatch)
    assert reader.since
    assert all(isinstance(since, datetime) and since >= began for since in reader.since)


def test_a_collector_that_is_away_costs_the_stages_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = _watched(Stages(answers=False), monkeypatch).splitlines()[-1]
    assert "120.0 ms" in line
    assert "queue" not in line


def test_on_a_terminal_lines_are_drawn_over_each_other() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    shown: Any = Live(out, run_id="r", reader=None)
    shown._draw(["one", "two"])
    shown._draw(["three"])
    assert out.getvalue() == "one\ntwo\n\x1b[2F\x1b[Jthree\n"
