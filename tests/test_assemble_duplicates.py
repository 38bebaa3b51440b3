"""What several spans tell of one model call becomes one row, and what looks alike but is not stays apart."""

from typing import Any

import pytest

from tailbudget.collector.assemble import Assembler

from .spans import Row, Trace, assemble, database, land, later, one, rows
from .test_assemble_requests import CALL, ENGINE

LLM = {"openinference.span.kind": "LLM"}
TOKENS = {"gen_ai.usage.input_tokens": 57, "gen_ai.usage.output_tokens": 24}
ANSWER = {"gen_ai.response.id": "chatcmpl-1"}
HTTP = {"http.request.method": "POST"}


def calls_of(*traces: Trace) -> list[Row]:
    connection = database()
    assemble(connection, [span for trace in traces for span in trace.spans])
    return rows(connection, "select * from calls order by started")


def test_the_innermost_of_three_nested_spans_is_the_call_and_takes_what_it_lacks_from_the_nearest() -> None:
    trace = Trace()
    far = trace.add("predict", 0, 500, attrs={**LLM, "llm.model_name": "far", **TOKENS, "gen_ai.provider.name": "p"})
    near = trace.add("chat", 10, 490, under=far, attrs={**LLM, "llm.model_name": "near"})
    call = trace.add("_chat", 20, 480, under=near, attrs=LLM)
    (row,) = calls_of(trace)
    assert (row["span_id"], row["total_ms"], row["spans"]) == (call, 460.0, [call, near, far])
    assert (row["model"], row["provider"], row["input_tokens"], row["output_tokens"]) == ("near", "p", 57, 24)


def test_an_outer_call_of_several_attempts_hands_on_only_model_and_provider() -> None:
    trace = Trace()
    outer = trace.add("chat", 0, 900, attrs={**CALL, **TOKENS, **ANSWER, "gen_ai.provider.name": "p"})
    first = trace.add("try 1", 0, 300, under=outer, attrs=LLM, status="ERROR")
    second = trace.add("try 2", 400, 900, under=outer, attrs=LLM)
    found = calls_of(trace)
    assert [(row["span_id"], row["spans"]) for row in found] == [(first, [first, outer]), (second, [second, outer])]
    assert {(row["model"], row["provider"]) for row in found} == {("m", "p")}
    assert {(row["input_tokens"], row["output_tokens"], row["response_id"]) for row in found} == {(None, None, None)}


def test_a_stage_between_two_calls_ends_the_nesting() -> None:
    trace = Trace()
    outer = trace.add("chat", 0, 500, attrs=CALL)
    tool = trace.add("execute_tool t", 100, 400, under=outer, attrs={"gen_ai.operation.name": "execute_tool"})
    trace.add("chat", 120, 380, under=tool, attrs=CALL)
    assert len(calls_of(trace)) == 2


def test_the_call_of_a_gateway_is_part_of_the_applications() -> None:
    trace = Trace()
    call = trace.add("chat m", 0, 900, kind="CLIENT", attrs=CALL)
    http = trace.add("POST", 5, 100, under=call, kind="CLIENT", attrs=HTTP)
    server = trace.add("POST /v1/chat", 20, 890, under=http, kind="SERVER", service="gateway", attrs=HTTP)
    proxied = trace.add("litellm_request", 30, 880, under=server, service="gateway", attrs={**CALL, **TOKENS})
    engine = trace.add("llm_request", 40, 790, under=proxied, kind="SERVER", service="engine", attrs=ENGINE)
    (row,) = calls_of(trace)
    assert (row["span_id"], row["service"], row["spans"]) == (call, "shop", [call, proxied, engine])
    assert (row["split"], row["queue_ms"], row["network_ms"], row["output_tokens"]) == ("server", 100.0, 150.0, 24)


def test_the_call_of_a_gateway_in_a_trace_of_its_own_is_joined_by_the_response_id() -> None:
    app, gateway, engine = Trace(1), Trace(2), Trace(3)
    call = app.add("chat m", 0, 900, kind="CLIENT", attrs={**CALL, **ANSWER})
    proxied = gateway.add("chat m", 50, 890, service="gateway", scope="litellm", attrs={**CALL, **ANSWER, **TOKENS})
    served = engine.add(
        "llm_request", 60, 810, kind="SERVER", service="e", attrs={**ENGINE, "gen_ai.request.id": "chatcmpl-1"}
    )
    (row,) = calls_of(app, gateway, engine)
    assert (row["span_id"], row["spans"], row["split"]) == (call, [call, proxied, served], "server")
    assert row["output_tokens"] == 24


def test_a_gateway_whose_application_is_seen_later_has_no_request_of_its_own() -> None:
    app, gateway = Trace(1), Trace(2)
    app.add("chat m", 0, 900, kind="CLIENT", attrs={**CALL, **ANSWER})
    server = gateway.add("POST", 40, 895, kind="SERVER", service="gateway", attrs={"http.route": "/v1/chat"})
    gateway.add("chat m", 50, 890, under=server, service="gateway", scope="litellm", attrs={**CALL, **ANSWER})
    connection = database()
    assembler = Assembler(connection)
    for trace in (gateway, app):
        land(connection, trace.spans)
        assembler.tick(later(60))
    assert rows(connection, "select route, calls from requests") == [{"route": "chat m", "calls": 1}]


@pytest.mark.parametrize("traces", [1, 2])
def test_of_two_spans_with_one_response_id_at_one_time_the_later_starting_is_the_call(traces: int) -> None:
    first = Trace(1)
    second = first if traces == 1 else Trace(2)
    early = first.add("chat a", 0, 500, attrs={**CALL, **ANSWER, **TOKENS})
    late = second.add("chat b", 10, 490, scope="other", attrs={**LLM, **ANSWER})
    (row,) = calls_of(first, second) if traces == 2 else calls_of(first)
    assert (row["span_id"], row["spans"], row["output_tokens"]) == (late, [late, early], 24)


@pytest.mark.parametrize("service", ["shop", "other"])
def test_two_users_who_share_an_answer_at_one_time_made_two_calls(service: str) -> None:
    first, second = Trace(1), Trace(2)
    first.add("chat", 0, 500, attrs={**CALL, **ANSWER})
    second.add("chat", 10, 490, service=service, attrs={**CALL, **ANSWER})
    assert len(calls_of(first, second)) == 2


def test_an_answer_that_a_cache_replays_later_is_another_call() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 900, attrs={"slo.request": "ask"})
    trace.add("chat", 0, 400, under=root, attrs={**CALL, **ANSWER})
    trace.add("chat", 400, 405, under=root, scope="other", attrs={**CALL, **ANSWER})
    assert len(calls_of(trace)) == 2


@pytest.mark.parametrize(
    ("difference", "calls"),
    [
        ({}, 1),
        ({"attrs": {**LLM, "llm.model_name": "m-2026-10-01"}}, 1),
        ({"attrs": {**LLM, "llm.model_name": "other"}}, 2),
        ({"attrs": {**LLM, "llm.model_name": "m", "llm.token_count.completion": 23}}, 2),
        ({"scope": "openai"}, 2),
        ({"service": "other"}, 2),
        ({"end_ms": 510}, 2),
    ],
)
def test_two_instrumentations_side_by_side_saw_one_call(difference: dict[str, Any], calls: int) -> None:
    trace = Trace()
    root = trace.add("ask", 0, 900, attrs={"slo.request": "ask"})
    trace.add("chat m", 0, 500, under=root, scope="openai", attrs={**CALL, **TOKENS})
    inner: dict[str, Any] = {
        "end_ms": 490,
        "scope": "openinference",
        "attrs": {**LLM, "llm.model_name": "m"},
        **difference,
    }
    trace.add("ChatCompletion", 10, under=root, **inner)
    assert len(calls_of(trace)) == calls


def test_hedged_calls_that_two_instrumentations_saw_are_two() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 900, attrs={"slo.request": "ask"})
    for start, end in ((0, 500), (100, 490)):
        trace.add("chat m", start, end, under=root, scope="openai", attrs=CALL)
        trace.add("Chat", start + 5, end - 5, under=root, scope="other", attrs={**LLM, "llm.model_name": "m"})
    assert [row["total_ms"] for row in calls_of(trace)] == [490.0, 380.0]


def test_the_tokens_of_an_unfinished_stream_are_not_those_of_the_span_around_it() -> None:
    streamed = {**CALL, "gen_ai.response.time_to_first_chunk": 0.1}
    for finish, tokens in (({}, None), ({"gen_ai.response.finish_reasons": ["stop"]}, 1)):
        trace = Trace()
        outer = trace.add("chat", 0, 500, attrs={**CALL, "gen_ai.usage.output_tokens": 1})
        trace.add("messages", 10, 490, under=outer, attrs={**streamed, **finish})
        assert [row["output_tokens"] for row in calls_of(trace)] == [tokens]


@pytest.mark.parametrize("late", ["call", "engine"])
def test_two_traces_of_one_call_stay_joined_when_a_late_span_touches_one_of_them(late: str) -> None:
    app, engine = Trace(1), Trace(2)
    root = app.add("ask", 0, 900, attrs={"slo.request": "ask"})
    app.add("chat m", 10, 890, under=root, kind="CLIENT", attrs={**CALL, **ANSWER})
    served = engine.add(
        "llm_request", 60, 810, kind="SERVER", service="e", attrs={**ENGINE, "gen_ai.request.id": "chatcmpl-1"}
    )
    connection = database()
    assembler = Assembler(connection)
    land(connection, app.spans + engine.spans)
    assembler.tick(later(10))
    (app if late == "call" else engine).add("late", 20, 30, under=root if late == "call" else served)
    land(connection, (app if late == "call" else engine).spans[-1:], at=later(20))
    assembler.tick(later(40))
    row = one(connection, "select split, queue_ms, spans from calls")
    assert (row["split"], row["queue_ms"], len(row["spans"])) == ("server", 100.0, 2)


def test_a_call_lasts_until_its_last_event() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 900, attrs={"slo.request": "ask"})
    trace.add(
        "stream_chat", 10, 12, under=root, attrs=LLM, events=(("First Token Stream Event", 300, {}), ("done", 700, {}))
    )
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select total_ms, ttft_ms, prefill_ms, decode_ms from calls") == {
        "total_ms": 690.0, "ttft_ms": 290.0, "prefill_ms": 290.0, "decode_ms": 400.0,
    }  # fmt: skip
    assert one(connection, "select decode_ms from requests") == {"decode_ms": 400.0}


def logfire_tail(trace: Trace, at: float, duration_s: float, *, under: int | None = None) -> int:
    attrs = {"logfire.span_type": "log", "gen_ai.request.model": "m", "duration": duration_s, **TOKENS}
    return trace.add("streaming response", at, at, attrs=attrs, under=under)


def test_the_second_record_of_a_streamed_call_gives_it_its_tokens_and_its_end() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 2000, attrs={"slo.request": "ask"})
    first, second = (trace.add("Chat", at, at + 100, under=root, attrs=CALL) for at in (0, 30))
    ended = logfire_tail(trace, 900, 0.8, under=root)
    again = logfire_tail(trace, 1000, 0.87, under=root)
    found = calls_of(trace)
    assert [(row["span_id"], row["spans"]) for row in found] == [(first, [first, ended]), (second, [second, again])]
    assert [(row["total_ms"], row["output_tokens"]) for row in found] == [(900.0, 24), (970.0, 24)]


def test_the_second_record_in_another_trace_is_nobodys() -> None:
    call, tail = Trace(1), Trace(2)
    call.add("Chat", 0, 100, attrs=CALL)
    logfire_tail(tail, 900, 0.8)
    (row,) = calls_of(call, tail)
    assert (row["total_ms"], row["output_tokens"], len(row["spans"])) == (100.0, None, 1)


def sglang(trace: Trace, *, under: int | None, slices: bool) -> int:
    """Add a request whose own figure of prefill holds the wait, as SGLang's does."""
    attrs = {
        "module": "sglang::request", "rid": "chatcmpl-1", "gen_ai.latency.e2e": 0.9,
        "gen_ai.latency.time_in_model_prefill": 0.4, "gen_ai.latency.time_in_model_decode": 0.5,
    }  # fmt: skip
    request = trace.add("Req chatcmpl", 50, 950, under=under, service="sglang", attrs=attrs)
    thread = trace.add("Scheduler", 60, 950, under=request, service="sglang")
    for name, start, end in (
        ("prefill_waiting", 60, 310), ("prefill_forward", 310, 450), ("chunked_prefill", 310, 400),
        ("chunked_prefill", 400, 450), ("decode_loop", 450, 700), ("decode_loop", 710, 940),
    ) if slices else ():  # fmt: skip
        trace.add(name, start, end, under=thread, service="sglang")
    return request


@pytest.mark.parametrize(
    ("slices", "queue", "prefill", "decode"), [(True, 250.0, 140.0, 490.0), (False, 0.0, 400.0, 500.0)]
)
def test_sglangs_stages_beat_its_attributes(slices: bool, queue: float, prefill: float, decode: float) -> None:
    trace = Trace()
    call = trace.add("chat m", 0, 1000, kind="CLIENT", attrs=CALL)
    request = sglang(trace, under=call, slices=slices)
    (row,) = calls_of(trace)
    assert (row["split"], row["queue_ms"], row["prefill_ms"], row["decode_ms"]) == ("server", queue, prefill, decode)
    assert row["spans"] == [call, request]


def test_sglang_in_a_trace_of_its_own_is_joined_by_its_request_id() -> None:
    app, engine = Trace(1), Trace(2)
    app.add("chat m", 0, 1000, kind="CLIENT", attrs={**CALL, **ANSWER})
    sglang(engine, under=None, slices=True)
    (row,) = calls_of(app, engine)
    assert (row["split"], row["queue_ms"]) == ("server", 250.0)


def test_the_raw_request_of_litellm_is_no_second_call() -> None:
    trace = Trace()
    call = trace.add(
        "litellm_request", 0, 500, attrs={"gen_ai.request.model": "m", "llm.is_streaming": "True", **TOKENS}
    )
    trace.add("raw_gen_ai_request", 10, 490, under=call, attrs={"gen_ai.request.model": "m"})
    (row,) = calls_of(trace)
    assert (row["stream"], row["spans"], row["output_tokens"]) == (True, [call], 24)


def test_vercels_first_chunk_is_in_milliseconds() -> None:
    trace = Trace()
    outer = trace.add("ai.streamText", 0, 900, attrs={"ai.operationId": "ai.streamText", "ai.model.id": "m"})
    attrs = {
        "ai.operationId": "ai.streamText.doStream", "gen_ai.request.model": "m", "ai.response.msToFirstChunk": 321.5,
        "gen_ai.response.finish_reasons": ["stop"], "ai.usage.promptTokens": 57, "ai.usage.completionTokens": 24,
    }  # fmt: skip
    trace.add("ai.streamText.doStream", 10, 890, under=outer, attrs=attrs)
    (row,) = calls_of(trace)
    assert (row["ttft_ms"], row["stream"], row["outcome"]) == (321.5, True, "ok")
    assert (row["input_tokens"], row["output_tokens"]) == (57, 24)
