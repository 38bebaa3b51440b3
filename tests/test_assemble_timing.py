"""When a trace is assembled, and that neither order nor repetition of arrival changes its rows."""

import random
import time
from functools import cache
from itertools import pairwise

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.collector.assemble import Assembler, statements
from tailbudget.collector.assemble import assembler as assembler_module
from tailbudget.instrument.vocabulary import STAGES

from .spans import Row, Span, Trace, database, land, later, one, rows
from .test_assemble_requests import CALL, ENGINE

LLM = {"openinference.span.kind": "LLM"}

TABLES = ("requests", "calls", "streams", "stages", "stage_spans", "violations")


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


def foreign_traces() -> list[Span]:
    """Return calls of six dialects: nested, in pieces, side by side, behind a gateway, and over several traces."""
    return [span for trace in (nested(), *pieces(), side_by_side(), *gateway(), agent()) for span in trace.spans]


def nested() -> Trace:
    trace = Trace(11)
    root = trace.add("query", 0, 900, attrs={"openinference.span.kind": "CHAIN"})
    trace.add("retrieve", 10, 100, under=root, attrs={"openinference.span.kind": "RETRIEVER"})
    outer = trace.add("predict", 110, 120, under=root, attrs={**LLM, "llm.token_count.prompt": 57})
    trace.add(
        "chat", 111, 119, under=outer, attrs=LLM, events=(("First Token Stream Event", 400, {}), ("end", 700, {}))
    )
    return trace


def pieces() -> tuple[Trace, Trace]:
    """Return a streamed call told in two records, and one whose engine is SGLang in a trace of its own."""
    app, engine = Trace(12), Trace(13)
    root = app.add("ask", 0, 2000, attrs={"slo.request": "ask"})
    app.add("Chat", 10, 100, under=root, attrs=CALL)
    told = {"logfire.span_type": "log", "gen_ai.request.model": "m", "duration": 0.5, "gen_ai.usage.output_tokens": 24}
    app.add("streaming response", 600, 600, under=root, attrs=told)
    app.add("chat m", 700, 1900, under=root, kind="CLIENT", attrs={**CALL, "gen_ai.response.id": "s1"})
    request = engine.add("Req s1", 720, 1880, service="sglang", attrs={"module": "sglang::request", "rid": "s1"})
    for name, start, end in (
        ("prefill_waiting", 730, 900),
        ("prefill_forward", 900, 1000),
        ("decode_loop", 1000, 1870),
    ):
        engine.add(name, start, end, under=request, service="sglang")
    return app, engine


def side_by_side() -> Trace:
    trace = Trace(14)
    root = trace.add("GET /ask", 0, 900, kind="SERVER", attrs={"http.route": "/ask"})
    for start, end in ((0, 500), (100, 490)):
        trace.add("chat m", start, end, under=root, scope="openai", attrs=CALL)
        trace.add("Chat", start + 5, end - 5, under=root, scope="other", attrs={**LLM, "llm.model_name": "m"})
    return trace


def gateway() -> tuple[Trace, Trace, Trace]:
    answer = {"gen_ai.response.id": "g1"}
    app, proxy, engine = Trace(15), Trace(16), Trace(17)
    app.add("chat m", 0, 900, kind="CLIENT", attrs={**CALL, **answer})
    server = proxy.add("POST /v1/chat", 40, 895, kind="SERVER", service="gateway", attrs={"http.route": "/v1/chat"})
    proxy.add("chat m", 50, 890, under=server, service="gateway", scope="litellm", attrs={**CALL, **answer})
    engine.add("llm_request", 60, 880, kind="SERVER", service="engine", attrs={**ENGINE, "gen_ai.request.id": "g1"})
    return app, proxy, engine


def agent() -> Trace:
    trace = Trace(18)
    root = trace.add("agent", 0, 1000, attrs={"gen_ai.operation.name": "invoke_agent"})
    for start in (0, 500):
        trace.add("chat m", start, start + 300, under=root, attrs={**CALL, "slo.time_to_first_token": 0.1})
        trace.add(
            "execute_tool t", start + 300, start + 450, under=root, attrs={"gen_ai.operation.name": "execute_tool"}
        )
    return trace


@cache
def ours() -> dict[str, list[Row]]:
    return everything([busy_trace(1) + busy_trace(2)])


@cache
def foreign() -> dict[str, list[Row]]:
    return everything([foreign_traces()])


def test_the_foreign_traces_are_the_calls_that_they_tell() -> None:
    joined = sorted(len(row["spans"]) for row in foreign()["calls"])
    assert joined == [1, 1, 2, 2, 2, 2, 2, 3]
    assert len(foreign()["requests"]) == 5
    for row in foreign()["requests"]:
        assert abs(sum(row[f"{stage}_ms"] for stage in STAGES) - row["total_ms"]) < 1e-6


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 30), max_size=3))
def test_rows_of_any_dialect_do_not_depend_on_arrival_or_repetition(seed: int, cuts: list[int]) -> None:
    spans = foreign_traces()
    rng = random.Random(seed)
    rng.shuffle(spans)
    edges = [0, *sorted(cuts), len(spans)]
    batches = [spans[a:b] for a, b in pairwise(edges) if a < b]
    assert everything([*batches, rng.sample(spans, 5)]) == foreign()


def test_one_late_span_gives_the_same_rows_as_an_early_one() -> None:
    spans = foreign_traces()
    for late in range(0, len(spans), 4):
        assert everything([spans[:late] + spans[late + 1 :], [spans[late]]]) == foreign(), spans[late]


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 18), max_size=3))
def test_rows_do_not_depend_on_the_order_of_arrival(seed: int, cuts: list[int]) -> None:
    spans = busy_trace(1) + busy_trace(2)
    random.Random(seed).shuffle(spans)
    edges = [0, *sorted(cuts), len(spans)]
    batches = [spans[a:b] for a, b in pairwise(edges) if a < b]
    assert everything(batches) == ours()


def test_a_span_that_arrives_twice_counts_once() -> None:
    spans = busy_trace(1) + busy_trace(2)
    assert everything([spans, spans[3:7], spans]) == ours()


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


def test_a_tick_takes_no_more_spans_than_memory_holds_but_always_one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembler_module, "SPANS", 20)
    connection = database()
    assembler = Assembler(connection)
    for number in range(1, 6):
        land(connection, busy_trace(number), at=later(number))
    reports = [assembler.tick(later(60)) for _ in range(4)]
    assert [(report.traces, report.unfinished) for report in reports] == [(2, True), (2, True), (1, False), (0, False)]
    monkeypatch.setattr(assembler_module, "SPANS", 5)
    land(connection, busy_trace(6), at=later(60))
    assert assembler.tick(later(60)).traces == 1
    assert {row["calls"] for row in rows(connection, "select calls from requests")} == {1}


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


POISON = "select error('poison') from member where name = 'poison';"


def test_a_trace_that_cannot_be_assembled_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = statements.text_of
    monkeypatch.setattr(statements, "text_of", lambda name: (POISON if name == "request" else "") + load(name))
    connection = database()
    assembler = Assembler(connection)
    bad = Trace(99)
    bad.add("poison", 0, 10, attrs={"slo.request": "/chat"})
    land(connection, bad.spans, at=later(0))
    for number in range(1, 30):
        land(connection, busy_trace(number), at=later(1))
    for number in range(30):
        assembler.tick(later(2 + number))
    assert one(connection, "select count(*) as n from requests")["n"] == 29
    assert one(connection, "select count(*) as n from dirty")["n"] == 0
    given_up = one(connection, "select service, n from ingest_health where reason = 'not_assembled'")
    assert given_up["n"] == 1
    assert "cannot be assembled" in caplog.text


def test_a_token_count_beyond_all_sums_is_no_count() -> None:
    connection = database()
    trace = Trace(7)
    root = trace.add("POST /chat", 0, 1000, kind="SERVER", attrs={"slo.request": "/chat"})
    for start in (10, 500):
        attrs = {**CALL, "gen_ai.usage.output_tokens": 2**63 - 1}
        trace.add("chat m", start, start + 100, under=root, kind="CLIENT", attrs=attrs)
    land(connection, trace.spans, at=later(0))
    assert Assembler(connection).tick(later(1)).requests == 1
    assert one(connection, "select output_tokens from requests")["output_tokens"] is None


def test_a_tick_with_nothing_to_do_is_almost_free() -> None:
    connection = database()
    assembler = Assembler(connection)
    instants = [time.thread_time()]
    for number in range(20):
        assembler.tick(later(number))
        instants.append(time.thread_time())
    assert sorted(end - begin for begin, end in pairwise(instants))[10] < 0.005
