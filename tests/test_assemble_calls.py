"""How a model call is cut into stages, and which spans are one call."""

import pytest

from tailbudget.collector.assemble import Assembler

from .spans import Row, Trace, assemble, database, land, later, one, rows
from .test_assemble_requests import CALL, ENGINE

SPLIT = "select split, network_ms, queue_ms, prefill_ms, decode_ms, outcome from calls"


def call_of(trace: Trace) -> Row:
    connection = database()
    assemble(connection, trace.spans)
    return one(connection, SPLIT)


def test_the_servers_times_are_scaled_down_together_when_they_exceed_the_call() -> None:
    trace = Trace()
    call = trace.add("chat m", 0, 375, kind="CLIENT", attrs=CALL)
    trace.add("llm_request", 5, 760, under=call, kind="SERVER", service="engine", attrs=ENGINE)
    assert call_of(trace) == {
        "split": "server", "network_ms": 0.0, "queue_ms": 50.0, "prefill_ms": 75.0, "decode_ms": 250.0, "outcome": "ok",
    }  # fmt: skip


def test_without_a_server_the_first_token_ends_prefill() -> None:
    attrs = {
        **CALL, "slo.time_to_first_token": 0.3, "slo.stream.end": "complete", "slo.net.connect": 0.02,
        "slo.net.tls": 0.03, "slo.net.wait_headers": 0.2, "slo.net.backoff": 0.1,
    }  # fmt: skip
    trace = Trace()
    trace.add("chat m", 0, 1000, kind="CLIENT", attrs=attrs)
    assert call_of(trace) == {
        "split": "first_token", "network_ms": 50.0, "queue_ms": 100.0, "prefill_ms": 150.0, "decode_ms": 700.0,
        "outcome": "ok",
    }  # fmt: skip


def test_a_call_that_does_not_stream_is_decode_but_for_its_network() -> None:
    trace = Trace()
    trace.add("chat m", 0, 1000, kind="CLIENT", attrs={**CALL, "slo.net.connect": 0.05})
    assert call_of(trace) == {
        "split": "none", "network_ms": 50.0, "queue_ms": 0.0, "prefill_ms": 0.0, "decode_ms": 950.0, "outcome": "ok",
    }  # fmt: skip


def test_a_call_that_failed_without_a_token_is_network_and_other() -> None:
    trace = Trace()
    call = trace.add(
        "chat m", 0, 100, kind="CLIENT", status="ERROR", attrs={**CALL, "error.type": "openai.RateLimitError"}
    )
    trace.add("POST", 10, 40, under=call, kind="CLIENT", attrs={"http.request.method": "POST"})
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, SPLIT)
    assert (row["split"], row["network_ms"], row["decode_ms"], row["outcome"]) == ("failed", 30.0, 0.0, "error")
    assert one(connection, "select network_ms, other_ms from requests") == {"network_ms": 30.0, "other_ms": 70.0}


def test_an_engine_without_a_call_is_a_call_of_its_own() -> None:
    trace = Trace()
    trace.add("llm_request", 0, 760, kind="SERVER", service="engine", attrs=ENGINE)
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select split, network_ms, queue_ms, prefill_ms, decode_ms from calls")
    assert row == {"split": "server", "network_ms": 0.0, "queue_ms": 100.0, "prefill_ms": 150.0, "decode_ms": 500.0}
    assert one(connection, "select total_ms, other_ms from requests") == {"total_ms": 760.0, "other_ms": 10.0}


@pytest.mark.parametrize("call_first", [True, False])
def test_a_call_and_its_engine_in_two_traces_are_joined_by_their_response_id(*, call_first: bool) -> None:
    client, server = Trace(1), Trace(2)
    client.add("chat m", 0, 900, kind="CLIENT", attrs={**CALL, "gen_ai.response.id": "chatcmpl-1"})
    server.add(
        "llm_request", 100, 850, kind="SERVER", service="engine", attrs={**ENGINE, "gen_ai.request.id": "chatcmpl-1"}
    )
    connection = database()
    assembler = Assembler(connection)
    for trace in (client, server) if call_first else (server, client):
        land(connection, trace.spans)
        assembler.tick(later(60))
    row = one(connection, SPLIT)
    assert (row["split"], row["network_ms"], row["queue_ms"], row["decode_ms"]) == ("server", 150.0, 100.0, 500.0)
    assert one(connection, "select calls, queue_ms from requests") == {"calls": 1, "queue_ms": 100.0}


def test_a_call_inside_a_call_of_the_same_service_is_one_call() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 500, attrs={"slo.request": "ask"})
    outer = trace.add("chat m", 10, 400, under=root, attrs={**CALL, "gen_ai.provider.name": "openai"})
    between = trace.add("chain", 20, 390, under=outer)
    inner = trace.add("ChatCompletion", 30, 380, under=between, attrs={"openinference.span.kind": "LLM"})
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select span_id, model, provider, total_ms, spans from calls")
    assert row == {"span_id": inner, "model": "m", "provider": "openai", "total_ms": 350.0, "spans": [inner, outer]}
    assert one(connection, "select decode_ms, other_ms from requests") == {"decode_ms": 350.0, "other_ms": 150.0}


def test_only_the_part_of_a_call_that_is_on_the_path_counts() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 1000, attrs={"slo.request": "ask"})
    call = trace.add(
        "chat m", 0, 800, under=root, attrs={**CALL, "slo.time_to_first_token": 0.3, "slo.stream.end": "complete"}
    )
    trace.add("execute_tool t", 200, 500, under=call, attrs={"gen_ai.operation.name": "execute_tool"})
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select prefill_ms, tools_ms, decode_ms, other_ms from requests")
    assert row == {"prefill_ms": 200.0, "tools_ms": 300.0, "decode_ms": 300.0, "other_ms": 200.0}


def test_tokens_a_second_leave_the_first_token_out() -> None:
    attrs = {**CALL, "slo.time_to_first_token": 0.2, "slo.stream.end": "complete", "gen_ai.usage.output_tokens": 9}
    trace = Trace()
    trace.add("chat m", 0, 1000, kind="CLIENT", attrs=attrs)
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select ttft_ms, tpot_ms from calls") == {"ttft_ms": 200.0, "tpot_ms": 100.0}


@pytest.mark.parametrize(
    ("attrs", "status", "outcome"),
    [
        ({"slo.stream.end": "complete"}, "UNSET", "ok"),
        ({"slo.stream.end": "deadline"}, "UNSET", "timeout"),
        ({"slo.stream.end": "closed"}, "UNSET", "stopped"),
        ({"slo.stream.end": "abandoned"}, "UNSET", "stopped"),
        ({"slo.stream.end": "error"}, "ERROR", "error"),
        ({"http.response.status_code": 500}, "ERROR", "error"),
        ({"http.response.status_code": 429}, "ERROR", "error"),
        ({"http.response.status_code": 400}, "ERROR", "rejected"),
        ({"error.type": "asyncio.exceptions.CancelledError"}, "ERROR", "stopped"),
        ({"error.type": "GeneratorExit"}, "ERROR", "stopped"),
        ({"gen_ai.response.time_to_first_chunk": 0.1}, "UNSET", "stopped"),
        ({"gen_ai.response.time_to_first_chunk": 0.1, "gen_ai.usage.output_tokens": 3}, "UNSET", "ok"),
    ],
)
def test_how_a_call_ended(attrs: dict[str, object], status: str, outcome: str) -> None:
    trace = Trace()
    trace.add("chat m", 0, 1000, kind="CLIENT", status=status, attrs={**CALL, **attrs})
    assert call_of(trace)["outcome"] == outcome


@pytest.mark.parametrize(
    ("engine", "stage"),
    [
        ({"queue": 0.4, "model_prefill": 0.0, "model_decode": 0.0}, "queue"),
        ({"queue": 0.1, "model_prefill": 0.3, "model_decode": 0.0}, "prefill"),
        ({"queue": 0.1, "model_prefill": 0.1, "model_decode": 0.21}, "decode"),
        (None, "prefill"),
    ],
)
def test_a_client_that_left_is_dropped_in_the_stage_it_left_in(engine: dict[str, float] | None, stage: str) -> None:
    trace = Trace()
    root = trace.add("POST /chat", 0, 450, kind="SERVER", attrs={"slo.request": "/chat", "slo.outcome": "dropped"})
    call = trace.add("chat m", 10, 430, under=root, kind="CLIENT", attrs={**CALL, "slo.stream.end": "cancelled"})
    if engine:
        attrs = {"gen_ai.latency.e2e": 0.4, **{f"gen_ai.latency.time_in_{key}": value for key, value in engine.items()}}
        trace.add("llm_request", 15, 420, under=call, kind="SERVER", service="engine", attrs=attrs)
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select outcome, left_in_stage, left_after_ms from requests")
    assert row == {"outcome": "dropped", "left_in_stage": stage, "left_after_ms": 430.0}


def test_an_exception_under_the_status_ok_left_the_stream_but_failed_no_call() -> None:
    left = (("exception", 90.0, {"exception.type": "Exception"}),)
    for told, outcome in (({}, "stopped"), ({"gen_ai.response.finish_reasons": ["stop"]}, "ok")):
        trace = Trace()
        attrs = {**CALL, "gen_ai.request.stream": True, **told}
        trace.add("chat m", 0, 100, kind="CLIENT", status="OK", attrs=attrs, events=left)
        assert call_of(trace)["outcome"] == outcome


def test_where_nothing_says_who_left_few_chunks_mean_dropped_and_many_mean_left() -> None:
    for chunks, outcome in ((5, "dropped"), (40, "left")):
        trace = Trace()
        root = trace.add("GET /ask", 0, 500, kind="SERVER", attrs={"http.route": "/ask"})
        attrs = {**CALL, "slo.stream.end": "closed", "slo.stream.chunks": chunks, "slo.time_to_first_token": 0.1}
        trace.add("chat m", 0, 450, under=root, kind="CLIENT", attrs=attrs)
        connection = database()
        assemble(connection, trace.spans)
        assert one(connection, "select outcome from requests")["outcome"] == outcome
        assert [row["outcome"] for row in rows(connection, "select outcome from calls")] == ["stopped"]
