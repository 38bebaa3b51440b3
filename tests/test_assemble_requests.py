"""Which spans make a request, and what its row says."""

from .spans import Trace, assemble, database, one, rows

CALL = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
ENGINE = {
    "gen_ai.latency.e2e": 0.75,
    "gen_ai.latency.time_in_queue": 0.1,
    "gen_ai.latency.time_in_model_prefill": 0.15,
    "gen_ai.latency.time_in_model_decode": 0.5,
}
STAGE_SUM = "network_ms + queue_ms + retrieval_ms + prompt_ms + prefill_ms + decode_ms + tools_ms + post_ms + other_ms"


def test_a_rag_request_is_cut_into_its_stages() -> None:
    trace = Trace()
    attrs = {"slo.request": "/chat", "slo.request.id": "r-1", "slo.tenant": "acme", "slo.budget.total": 4.0}
    root = trace.add("POST /chat", 0, 1000, kind="SERVER", attrs=attrs)
    trace.add("retrieval docs", 10, 160, under=root, attrs={"slo.stage": "retrieval"})
    trace.add("prompt chat", 160, 170, under=root, attrs={"slo.stage": "prompt"})
    call = trace.add("chat m", 180, 950, under=root, kind="CLIENT", attrs={**CALL, "slo.time_to_first_token": 0.3})
    trace.add("POST", 181, 290, under=call, kind="CLIENT", attrs={"http.request.method": "POST"})
    trace.add("llm_request", 190, 940, under=call, kind="SERVER", service="engine", attrs=ENGINE)
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, f"select *, {STAGE_SUM} as summed from requests")
    assert (row["request_id"], row["route"], row["tenant"], row["model"]) == ("r-1", "/chat", "acme", "m")
    assert (row["outcome"], row["root_kind"], row["calls"]) == ("ok", "slo", 1)
    assert (row["network_ms"], row["queue_ms"], row["prefill_ms"], row["decode_ms"]) == (20, 100, 150, 500)
    assert (row["retrieval_ms"], row["prompt_ms"], row["other_ms"]) == (150, 10, 70)
    assert abs(row["summed"] - row["total_ms"]) < 1e-6
    assert row["ttft_ms"] == 480
    assert row["budget_ms"] == 4000
    assert row["over_stage"] is None


def test_marked_spans_are_requests_before_served_ones() -> None:
    trace = Trace()
    outer = trace.add("POST /agent", 0, 500, kind="SERVER", attrs={"http.request.method": "POST"})
    for turn in (0, 200):
        marked = trace.add("turn", turn, turn + 150, under=outer, attrs={"slo.request": "turn"})
        trace.add("chat m", turn + 10, turn + 140, under=marked, attrs=CALL)
        trace.add("inner", turn + 10, turn + 20, under=marked, attrs={"slo.request": "nested"})
    connection = database()
    assert assemble(connection, trace.spans).requests == 2
    assert {row["route"] for row in rows(connection, "select route from requests")} == {"turn"}


def test_without_a_marked_span_the_outermost_served_one_is_the_request() -> None:
    trace = Trace()
    client = trace.add("GET", 0, 900, kind="CLIENT", service="browser", attrs={"http.request.method": "GET"})
    server = trace.add("GET /ask", 5, 800, under=client, kind="SERVER", attrs={"http.route": "/ask"})
    call = trace.add("chat m", 10, 790, under=server, kind="CLIENT", attrs=CALL)
    trace.add("llm_request", 20, 780, under=call, kind="SERVER", service="engine", attrs=ENGINE)
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select route, root_kind, total_ms from requests") == {
        "route": "/ask",
        "root_kind": "server",
        "total_ms": 795.0,
    }


def test_a_script_that_calls_a_model_is_a_request_by_its_root() -> None:
    trace = Trace()
    trace.add("chat m", 0, 300, kind="CLIENT", attrs=CALL)
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select route, root_kind, decode_ms, calls from requests")
    assert row == {"route": "chat m", "root_kind": "root", "decode_ms": 300.0, "calls": 1}


def test_a_health_check_is_no_request() -> None:
    trace = Trace()
    root = trace.add("GET /health", 0, 2, kind="SERVER", attrs={"http.route": "/health"})
    trace.add("GET /health http send", 1, 2, under=root, attrs={"asgi.event.type": "http.response.body"})
    connection = database()
    assert assemble(connection, trace.spans).requests == 0


def test_a_marked_request_that_was_shed_counts_without_any_call() -> None:
    trace = Trace()
    trace.add("POST /chat", 0, 2, kind="SERVER", attrs={"slo.request": "/chat", "slo.outcome": "shed"})
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select outcome, calls, other_ms from requests") == {
        "outcome": "shed",
        "calls": 0,
        "other_ms": 2.0,
    }


def test_an_explicit_stage_owns_everything_beneath_it() -> None:
    trace = Trace()
    root = trace.add("chat", 0, 500, attrs={"slo.request": "chat"})
    stage = trace.add("rewrite", 0, 400, under=root, attrs={"slo.stage": "retrieval"})
    trace.add("chat m", 50, 350, under=stage, attrs=CALL)
    trace.add("search", 350, 380, under=stage, attrs={"openinference.span.kind": "TOOL"})
    trace.add("fmt", 380, 390, under=stage, attrs={"slo.stage": "prompt"})
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select retrieval_ms, prompt_ms, tools_ms, decode_ms, calls from requests")
    assert row == {"retrieval_ms": 390.0, "prompt_ms": 10.0, "tools_ms": 0.0, "decode_ms": 0.0, "calls": 1}
    assert one(connection, "select decode_ms from calls")["decode_ms"] == 300


def test_an_http_hop_lasts_as_long_as_what_it_called_and_is_named_by_its_peer() -> None:
    trace = Trace()
    root = trace.add("chat", 0, 500, attrs={"slo.request": "chat"})
    attrs = {"http.request.method": "POST", "server.address": "billing", "server.port": 80}
    hop = trace.add("POST", 10, 45, under=root, kind="CLIENT", attrs=attrs)
    trace.add("POST /bill", 12, 400, under=hop, kind="SERVER", service="billing")
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select stage, peer, duration_ms, critical_ms from stage_spans where name = 'POST'")
    assert row == {"stage": "other", "peer": "billing:80", "duration_ms": 390.0, "critical_ms": 2.0}
    assert one(connection, "select critical_ms from stage_spans where name = 'POST /bill'")["critical_ms"] == 388


def test_a_clock_that_is_off_is_taken_out_and_told() -> None:
    trace = Trace()
    root = trace.add("chat", 0, 400, attrs={"slo.request": "chat"})
    hop = trace.add("POST", 100, 300, under=root, kind="CLIENT", attrs={"http.request.method": "POST"})
    far = trace.add("POST /search", 5100, 5200, under=hop, kind="SERVER", service="search")
    trace.add("lookup", 5110, 5190, under=far, service="search", attrs={"slo.stage": "retrieval"})
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select retrieval_ms, skew_ms from requests") == {"retrieval_ms": 80.0, "skew_ms": 4950.0}
    assert one(connection, "select offset_ms from stage_spans where stage = 'retrieval'")["offset_ms"] == 160


def test_children_of_a_parent_that_never_came_share_a_stand_in_until_it_does() -> None:
    trace = Trace()
    root = trace.add("job", 0, 600)
    trace.add("chat m", 100, 200, under=root, attrs=CALL)
    trace.add("chat m", 300, 500, under=root, attrs=CALL)
    connection = database()
    assert assemble(connection, trace.spans[1:]).requests == 1
    assert one(connection, "select span_id, service, total_ms, calls from requests") == {
        "span_id": root,
        "service": "shop",
        "total_ms": 400.0,
        "calls": 2,
    }
    assemble(connection, trace.spans[:1])
    assert one(connection, "select route, total_ms, calls from requests") == {
        "route": "job",
        "total_ms": 600.0,
        "calls": 2,
    }


def test_a_span_that_is_its_own_ancestor_harms_nothing() -> None:
    trace = Trace()
    root = trace.add("chat", 0, 100, attrs={"slo.request": "chat"})
    trace.add("self", 10, 20, under=root + 1)
    trace.add("a", 10, 20, under=root + 3)
    trace.add("b", 10, 20, under=root + 2)
    connection = database()
    assert assemble(connection, trace.spans).requests == 1


def test_a_tool_that_starts_after_the_earlier_ones_ended_is_a_new_round() -> None:
    trace = Trace()
    root = trace.add("chat", 0, 500, attrs={"slo.request": "chat"})
    for start, end in ((0, 50), (10, 60), (100, 150)):
        trace.add("tool", start, end, under=root, attrs={"gen_ai.tool.name": "t"})
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select tool_rounds, tools_ms from requests") == {"tool_rounds": 2, "tools_ms": 100.0}


def test_a_guardrail_is_prompt_before_the_first_call_and_post_after_it() -> None:
    trace = Trace()
    root = trace.add("chat", 0, 500, attrs={"slo.request": "chat"})
    trace.add("in", 0, 50, under=root, attrs={"openinference.span.kind": "GUARDRAIL"})
    trace.add("chat m", 60, 400, under=root, attrs=CALL)
    trace.add("out", 410, 480, under=root, attrs={"openinference.span.kind": "GUARDRAIL"})
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select prompt_ms, post_ms from requests") == {"prompt_ms": 50.0, "post_ms": 70.0}


def test_a_request_of_a_route_that_made_calls_before_counts_without_any() -> None:
    connection = database()

    def served(number: int, route: str, *, call: bool, service: str = "shop") -> int:
        trace = Trace(number)
        root = trace.add("GET", 0, 100, kind="SERVER", service=service, attrs={"http.route": route})
        if call:
            trace.add("chat m", 10, 90, under=root, service=service, attrs=CALL)
        return assemble(connection, trace.spans).requests

    assert served(1, "/ask", call=False) == 0
    assert served(2, "/ask", call=True) == 1
    assert served(3, "/ask", call=False) == 2  # the first one too: only the order of arrival was against it
    assert served(4, "/health", call=False) == 0
    assert served(5, "/ask", call=False, service="other") == 0
    without = rows(connection, "select calls, outcome, other_ms from requests where calls = 0")
    assert without == [{"calls": 0, "outcome": "ok", "other_ms": 100.0}] * 2


def test_a_planner_and_a_writer_one_after_the_other_under_one_root_are_one_request() -> None:
    trace = Trace()
    root = trace.add("workflow", 0, 1000)
    for start in (0, 500):
        agent = trace.add(
            "invoke_agent", start, start + 400, under=root, attrs={"gen_ai.operation.name": "invoke_agent"}
        )
        trace.add("chat m", start + 10, start + 390, under=agent, attrs=CALL)
    connection = database()
    assert assemble(connection, trace.spans).requests == 1
    assert one(connection, "select route, calls, total_ms from requests") == {
        "route": "workflow",
        "calls": 2,
        "total_ms": 1000.0,
    }


def test_what_a_model_call_reaches_behind_another_service_is_no_request_of_its_own() -> None:
    trace = Trace()
    root = trace.add("script", 0, 1000)
    call = trace.add("chat m", 10, 990, under=root, kind="CLIENT", attrs=CALL)
    server = trace.add("POST /v1/chat", 20, 980, under=call, kind="SERVER", service="gateway")
    trace.add("chat m", 30, 970, under=server, service="gateway", attrs=CALL)
    connection = database()
    assemble(connection, trace.spans)
    assert one(connection, "select route, calls from requests") == {"route": "script", "calls": 1}


def test_a_stage_that_was_timed_outside_of_any_request_is_no_request() -> None:
    trace = Trace()
    trace.add("retrieval idx", 0, 100, attrs={"slo.stage": "retrieval"})
    assert assemble(database(), trace.spans).requests == 0
