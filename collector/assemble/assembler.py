"""Turns the traces that are ripe into rows of requests, calls, streams, stages and violations, in sets of SQL."""

import logging
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import duckdb

from tailbudget.instrument.vocabulary import STAGES

from .file_budgets import FileBudgets
from .prices import Price, price_table
from .statements import Statements, text_of

#: Traces and spans a tick takes at most; the next one goes on. 200,000 spans at once need more than the 128 MB that the
#: database may use, 64,000 need less than 96.
TRACES: Final = 4_000
SPANS: Final = 80_000
#: A trace that fails alone is tried so often, behind all others, before it is given up: memory may have been short.
TRIES: Final = 3
#: A tick that fails is tried again with so many times fewer traces, until the one that fails is alone.
FEWER: Final = 8
#: What the values or the size of a trace can cause; any other error is the database's or ours.
OF_A_TRACE: Final = (duckdb.DataError, duckdb.InvalidInputException, duckdb.OutOfMemoryException)
#: What a tick builds, in this order; each is a temporary table of the file's name.
BUILD: Final = (
    "node", "twin", "tail", "walk", "path", "call", "slice", "behind", "outside", "ended", "cut", "piece", "part",
    "cost", "request", "left", "stage",
)  # fmt: skip
TABLES: Final = ("rollup", "requests", "calls", "streams", "stages", "stage_spans", "violations")


@dataclass(frozen=True, slots=True)
class TickReport:
    """What one tick did."""

    traces: int
    requests: int
    elapsed_ms: float
    unfinished: bool = False  # ripe traces were left to the next tick


log: Final = logging.getLogger(__name__)


class Assembler:
    """Assembles on one connection, which no other thread may use meanwhile."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        prices: tuple[Price, ...] = (),
        budgets: FileBudgets | None = None,
    ) -> None:
        self._connection = connection
        self._prices = prices
        self._budgets = budgets or FileBudgets(connection)
        self._statements = Statements(connection)
        self._traces = TRACES
        self._failed: Counter[str] = Counter()
        connection.execute(text_of("state"))
        connection.register("batch_price", price_table(prices))
        connection.execute("create or replace temp table price as from batch_price")
        connection.unregister("batch_price")

    def tick(self, now: datetime) -> TickReport:
        """Assemble the ripe traces of `dirty` in one transaction and take them off the list.

        A trace is ripe when its root was seen, or 10 s after its last span came. Its rows of an earlier assembly are
        replaced. A trace that cannot be assembled is set aside, so that it does not stop the others, and given up after
        TRIES ticks: logged, and counted in `ingest_health`. Any other error changes nothing
        and is raised.
        """
        began = time.perf_counter()
        if not self._value("select count(*) from dirty"):
            return TickReport(0, 0, _ms_since(began))
        self._budgets.refresh()
        try:
            traces, requests, unfinished = self._attempt(now)
        except OF_A_TRACE as error:
            self._set_aside(now, error)
            return TickReport(0, 0, _ms_since(began), unfinished=True)
        unfinished = unfinished or self._traces < TRACES
        self._traces = min(self._traces * FEWER, TRACES)
        return TickReport(traces, requests, _ms_since(began), unfinished)

    def _attempt(self, now: datetime) -> tuple[int, int, bool]:
        self._connection.begin()
        try:
            done = self._assemble(now)
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()
        return done

    def _set_aside(self, now: datetime, error: Exception) -> None:
        """Take fewer traces from now on; one that failed alone goes to the end of the list, or off it."""
        if self._traces > 1:
            self._traces = max(self._traces // FEWER, 1)
            return
        self._statements.run("ripe", now=now, traces=1)
        trace_id = str(self._connection.execute("select trace_id from ripe").fetchall()[0][0])
        self._failed[trace_id] += 1
        if self._failed[trace_id] < TRIES:
            self._statements.run("postpone", now=now)
            return
        del self._failed[trace_id]
        log.error("trace %s cannot be assembled and was given up: %s", trace_id, str(error).splitlines()[0])
        self._statements.run("give_up", now=now)

    def _assemble(self, now: datetime) -> tuple[int, int, bool]:
        ripe = self._statements.run("ripe", now=now, traces=self._traces)
        if not ripe:
            return 0, 0, False
        unfinished = self._gather(now) or ripe >= self._traces
        lost = self._value("select count(*) from live where outcome = 'lost'")
        if lost:
            self._statements.run("lost")
        needed = self._statements.row("probe") | {"cost": len(self._prices), "left": lost}
        for name in BUILD:
            if needed.get(name, 1):
                self._statements.run(name)
            if name == "request":
                self._budgets.apply()
        self._store(now, needed)
        done = self._value("select count(*) from ripe"), self._value("select count(*) from request"), unfinished
        self._statements.run("release")
        return done

    def _gather(self, now: datetime) -> bool:
        """Take the spans of the ripe traces; return whether some of these were left to the next tick."""
        unfinished = False
        if self._members() > SPANS:
            unfinished = bool(self._statements.run("trim", spans=SPANS))
            self._members()
        self._complete(now)
        return unfinished

    def _store(self, now: datetime, needed: dict[str, int]) -> None:
        after = self._statements.row("after")
        if after["over"]:
            self._statements.run("over", stages=list(STAGES))
        bounds = self._statements.row("bounds")
        for table in TABLES:
            if needed.get(table, 1):
                self._statements.run(table, **bounds)
        self._statements.run("done", now=now)
        if after["rejudge"]:
            self._statements.run("rejudge", now=now)

    def _complete(self, now: datetime) -> None:
        """Add the traces that share a call with these, and what of all of them lies in sealed files."""
        if self._statements.run("partner", now=now):
            self._members()
        sealed = self._statements.row("sealed")
        if sealed["traces"]:
            known = self._statements.row("extent")
            from_us, to_us = min(known["from_us"], sealed["from_us"]), max(known["to_us"], sealed["to_us"])
            self._statements.run("member_sealed", from_us=from_us, to_us=to_us)

    def _members(self) -> int:
        from_us, to_us = self._statements.row("extent").values()
        return self._statements.run("member", from_us=from_us, to_us=to_us)

    def _value(self, query: str) -> int:
        return int(self._connection.execute(query).fetchall()[0][0])


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
