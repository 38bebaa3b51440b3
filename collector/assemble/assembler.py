"""Turns the traces that are ripe into rows of requests, calls, streams, stages and violations, in sets of SQL."""

import logging
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.instrument.vocabulary import STAGES

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
BUILD: Final = ("node", "twin", "tail", "walk", "path", "call", "piece", "request", "stage")
TABLES: Final = ("requests", "calls", "streams", "stages", "stage_spans", "violations")


@dataclass(frozen=True, slots=True)
class TickReport:
    """What one tick did."""

    traces: int
    requests: int
    elapsed_ms: float
    unfinished: bool = False  # ripe traces were left to the next tick


@cache
def _sql(name: str) -> str:
    if name == "member_sealed":  # the same from the view, which reads sealed files too
        return _sql("member").replace("from spans_open", "from spans")
    return (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8")


log: Final = logging.getLogger(__name__)


class Assembler:
    """Assembles on one connection, which no other thread may use meanwhile."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._parsed: dict[str, list[duckdb.Statement]] = {}  # parsing anew was a seventh of a small tick
        self._traces = TRACES
        self._failed: Counter[str] = Counter()
        connection.execute(_sql("state"))

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
        self._run("ripe", now=now, traces=1)
        trace_id = str(self._connection.execute("select trace_id from ripe").fetchall()[0][0])
        self._failed[trace_id] += 1
        if self._failed[trace_id] < TRIES:
            self._run("postpone", now=now)
            return
        del self._failed[trace_id]
        log.error("trace %s cannot be assembled and was given up: %s", trace_id, str(error).splitlines()[0])
        self._run("give_up", now=now)

    def _assemble(self, now: datetime) -> tuple[int, int, bool]:
        ripe = self._run("ripe", now=now, traces=self._traces)
        if not ripe:
            return 0, 0, False
        unfinished = ripe >= self._traces
        if self._run("member") > SPANS:
            unfinished = bool(self._run("trim", spans=SPANS)) or unfinished
            self._run("member")
        if self._run("partner", now=now):
            self._run("member")
        if self._value(_sql("sealed")):
            self._run("member_sealed")
        idle = self._idle()
        for name in BUILD:
            if name not in idle:
                self._run(name)
        self._run("over", stages=list(STAGES))
        first_us, last_us = self._bounds_us()
        for table in TABLES:
            if table not in idle:
                self._run(table, first_us=first_us, last_us=last_us)
        self._run("done", now=now)
        done = self._value("select count(*) from ripe"), self._value("select count(*) from request"), unfinished
        self._run("release")
        return done

    def _run(self, name: str, **params: object) -> int:
        """Run the statements of one file, each with the parameters that it names; return the rows of the last."""
        rows = 0
        if name not in self._parsed:
            self._parsed[name] = self._connection.extract_statements(_sql(name))
        for statement in self._parsed[name]:
            named = {key: params[key] for key in statement.named_parameters}
            counted = self._connection.execute(statement, named).fetchall()
            rows = int(counted[0][0]) if counted else 0
        return rows

    def _idle(self) -> set[str]:
        """Return the steps that these traces have no use for."""
        (needed,) = self._connection.execute(_sql("probe")).fetchall()
        return {name for name, wanted in zip(("twin", "tail", "streams"), needed, strict=True) if not wanted}

    def _bounds_us(self) -> tuple[int, int]:
        row = self._connection.execute("select min(s) // 1000, max(e) // 1000 + 1 from node").fetchall()[0]
        return int(row[0] or 0), int(row[1] or 0)

    def _value(self, query: str) -> int:
        return int(self._connection.execute(query).fetchall()[0][0])


def _ms_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
