"""What the assembler knows of earlier ticks: a restart, a late span and the order of arrival change no row."""

import random

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.collector.assemble import Assembler

from .spans import Row, Span, Trace, database, land, later, one, rows
from .test_assemble_requests import CALL, ENGINE
from .test_assemble_timing import TABLES

ANSWER = {"gen_ai.response.id": "chatcmpl-1"}


def restarted(connection: duckdb.DuckDBPyConnection) -> Assembler:
    """Return an assembler that remembers only what is stored: temporary tables are a connection's own."""
    return Assembler(connection.cursor())


def split_call() -> tuple[Trace, Trace]:
    app, engine = Trace(1), Trace(2)
    root = app.add("ask", 0, 900, attrs={"slo.request": "ask"})
    app.add("chat m", 10, 890, under=root, kind="CLIENT", attrs={**CALL, **ANSWER})
    served = {**ENGINE, "gen_ai.request.id": "chatcmpl-1"}
    engine.add("llm_request", 60, 810, kind="SERVER", service="e", attrs=served)
    return app, engine


@pytest.mark.parametrize("late", ["app", "engine"])
def test_two_traces_of_one_call_stay_joined_over_a_restart(late: str) -> None:
    app, engine = split_call()
    connection = database()
    land(connection, app.spans + engine.spans)
    Assembler(connection).tick(later(10))
    touched = app if late == "app" else engine
    touched.add("late", 20, 30, under=touched.spans[0].span_id)
    land(connection, touched.spans[-1:], at=later(20))
    restarted(connection).tick(later(40))
    row = one(connection, "select split, queue_ms, len(spans) as spans from calls")
    assert row == {"split": "server", "queue_ms": 100.0, "spans": 2}
    assert one(connection, "select count(*) as n from requests")["n"] == 1


def test_a_late_span_after_a_restart_waits_for_no_root() -> None:
    app, _ = split_call()
    connection = database()
    land(connection, app.spans)
    Assembler(connection).tick(later(1))
    app.add("retrieval docs", 0, 10, under=app.spans[0].span_id, attrs={"slo.stage": "retrieval"})
    land(connection, app.spans[-1:], at=later(2))
    assert restarted(connection).tick(later(2)).traces == 1
    assert one(connection, "select retrieval_ms from requests") == {"retrieval_ms": 10.0}


def test_a_span_that_comes_much_later_than_the_rest_of_its_trace_finds_it() -> None:
    connection = database()
    assembler = Assembler(connection)
    app, _ = split_call()
    land(connection, app.spans)
    assembler.tick(later(1))
    other = Trace(9)
    other.add("ask", 3_000_000, 3_000_100, attrs={"slo.request": "ask"})
    land(connection, other.spans, at=later(3000))
    assembler.tick(later(3001))  # forgets what is older than 15 minutes
    app.add("retrieval docs", 2_000_000, 2_000_010, under=app.spans[0].span_id, attrs={"slo.stage": "retrieval"})
    land(connection, app.spans[-1:], at=later(3002))
    assembler.tick(later(3020))
    assert rows(connection, "select route, total_ms from requests order by started") == [
        {"route": "ask", "total_ms": 900.0},
        {"route": "ask", "total_ms": 100.0},
    ]
    assert one(connection, "select count(*) as n from calls")["n"] == 1


def shed_and_answered(service: str | None) -> list[Span]:
    """Return requests of three routes: one that answers and sheds, one that only sheds, a health check."""
    spans: list[Span] = []
    for number, (route, answered) in enumerate(
        [("/ask", False), ("/ask", True), ("/ask", False), ("/never", False), ("/health", False)], start=1
    ):
        trace = Trace(number)
        attrs = {"http.route": route, "http.response.status_code": 200 if answered else 503}
        root = trace.add("GET", number * 100, number * 100 + 90, kind="SERVER", service=service, attrs=attrs)
        if answered:
            trace.add("chat m", number * 100 + 1, number * 100 + 80, under=root, service=service, attrs=CALL)
        spans += trace.spans
    return spans


def everything(spans: list[Span]) -> dict[str, list[Row]]:
    """Return all rows after each span was landed and assembled alone, with a restart half-way."""
    connection = database()
    assembler = Assembler(connection)
    for number, span in enumerate(spans):
        if number == len(spans) // 2:
            assembler = restarted(connection)
        land(connection, [span], at=later(number))
        assembler.tick(later(number + 0.5))
    for seconds in (60, 62):
        assembler.tick(later(len(spans) + seconds))
    return {table: rows(connection, f"select * from {table} order by all") for table in TABLES}


@settings(max_examples=4)
@given(seed=st.integers(0, 2**32), service=st.sampled_from(["shop", None]))
def test_a_shed_request_counts_whether_its_route_made_calls_before_or_after(seed: int, service: str | None) -> None:
    spans = shed_and_answered(service)
    random.Random(seed).shuffle(spans)
    found = everything(spans)
    assert [(row["route"], row["calls"], row["outcome"]) for row in found["requests"]] == [
        ("/ask", 0, "error"), ("/ask", 1, "ok"), ("/ask", 0, "error"),
    ]  # fmt: skip
