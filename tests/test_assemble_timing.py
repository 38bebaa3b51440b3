"""When a trace is assembled, and that neither order nor repetition of arrival changes its rows."""

import random
from itertools import pairwise

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.collector.assemble import Assembler

from .spans import Row, Span, Trace, database, land, later, one, rows
from .test_assemble_requests import CALL, ENGINE

TABLES = ("requests", "calls", "stages", "stage_spans", "violations")


def busy_trace(trace_id: int = 1) -> list[Span]:
    """Return a request with ties, overlaps, a hop with a clock that is off, and a joined engine."""
    trace = Trace(trace_id)
    root = trace.add("POST /chat", 0, 1000, kind="SERVER", attrs={"slo.request": "/chat", "slo.budget.retrieval": 0.1})
    for stage, start, end in (("retrieval", 10, 160), ("tools", 10, 160), ("tools", 60, 160), ("prompt", 160, 160)):
        trace.add(stage, start, end, under=root, attrs={"slo.stage": stage})
    hop = trace.add("GET", 160, 200, under=root, kind="CLIENT", attrs={"http.request.method": "GET"})
    trace.add("GET /flags", 7000, 7010, under=hop, kind="SERVER", service="flags")
    call = trace.add(
        "chat m", 210, 950, under=root, kind="CLIENT", attrs={**CALL, "gen_ai.response.id": f"c{trace_id}"}
    )
    trace.add("llm_request", 220, 940, under=call, kind="SERVER", service="engine", attrs=ENGINE)
    return trace.spans


def everything(spans_in_batches: list[list[Span]]) -> dict[str, list[Row]]:
    """Return all rows after each batch was landed and assembled a second after the one before."""
    connection = database()
    assembler = Assembler(connection)
    for number, batch in enumerate(spans_in_batches):
        land(connection, batch, at=later(number))
        assembler.tick(later(number + 0.5))
    assembler.tick(later(len(spans_in_batches) + 60))
    return {table: rows(connection, f"select * from {table} order by all") for table in TABLES}


EXPECTED = everything([busy_trace(1) + busy_trace(2)])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 18), max_size=3))
def test_rows_do_not_depend_on_the_order_of_arrival(seed: int, cuts: list[int]) -> None:
    spans = busy_trace(1) + busy_trace(2)
    random.Random(seed).shuffle(spans)
    edges = [0, *sorted(cuts), len(spans)]
    batches = [spans[a:b] for a, b in pairwise(edges) if a < b]
    assert everything(batches) == EXPECTED


def test_a_span_that_arrives_twice_counts_once() -> None:
    spans = busy_trace(1) + busy_trace(2)
    assert everything([spans, spans[3:7], spans]) == EXPECTED


def test_a_trace_without_its_root_waits_for_ten_seconds_of_silence() -> None:
    connection = database()
    assembler = Assembler(connection)
    land(connection, busy_trace()[1:], at=later(0))
    assert assembler.tick(later(9.9)).traces == 0
    assert one(connection, "select count(*) as n from dirty")["n"] == 1
    assert assembler.tick(later(10)).traces == 1
    assert one(connection, "select count(*) as n from dirty")["n"] == 0


def test_a_trace_whose_root_is_there_is_assembled_at_once() -> None:
    connection = database()
    land(connection, busy_trace(), at=later(0))
    report = Assembler(connection).tick(later(0))
    assert (report.traces, report.requests) == (1, 1)
    assert report.elapsed_ms > 0


def test_a_late_span_replaces_the_rows_of_its_trace_without_waiting() -> None:
    connection = database()
    assembler = Assembler(connection)
    *early, engine = busy_trace()
    land(connection, early, at=later(0))
    assembler.tick(later(1))
    assert one(connection, "select split from calls")["split"] == "none"
    land(connection, [engine], at=later(2))
    assert assembler.tick(later(2)).traces == 1
    assert one(connection, "select split from calls")["split"] == "server"
    assert one(connection, "select count(*) as n from requests")["n"] == 1


def test_an_error_changes_nothing_and_is_raised() -> None:
    connection = database()
    land(connection, busy_trace(), at=later(0))
    assembler = Assembler(connection)
    connection.execute("alter table violations rename to elsewhere")
    with pytest.raises(duckdb.CatalogException, match="violations"):
        assembler.tick(later(1))
    assert one(connection, "select count(*) as n from dirty")["n"] == 1
    assert one(connection, "select count(*) as n from requests")["n"] == 0
    connection.execute("alter table elsewhere rename to violations")
    assert assembler.tick(later(2)).requests == 1


def test_a_tick_with_nothing_to_do_is_almost_free() -> None:
    connection = database()
    assembler = Assembler(connection)
    reports = [assembler.tick(later(number)) for number in range(20)]
    assert sorted(report.elapsed_ms for report in reports)[10] < 5
