"""Which requests are over a budget, and which stage is to blame."""

from .spans import Span, Trace, assemble, database, one, rows

LENGTHS = {"retrieval": 100.0, "prompt": 20.0, "tools": 50.0, "post": 30.0}


def request(trace_id: int = 1, *, start_ms: float = 0, budgets: dict[str, float], **lengths: float) -> list[Span]:
    """Return a request whose stages follow each other; budgets are seconds by name."""
    trace = Trace(trace_id)
    spans = {**LENGTHS, **lengths}
    attrs = {"slo.request": "/r", **{f"slo.budget.{name}": value for name, value in budgets.items()}}
    root = trace.add("/r", start_ms, start_ms + sum(spans.values()), attrs=attrs)
    at = start_ms
    for stage, length in spans.items():
        trace.add(stage, at, at + length, under=root, attrs={"slo.stage": stage})
        at += length
    return trace.spans


def test_of_two_stages_over_their_budgets_the_one_further_over_is_to_blame() -> None:
    connection = database()
    assemble(connection, request(budgets={"retrieval": 0.09, "tools": 0.01, "prompt": 0.15, "total": 1}))
    row = one(connection, "select over_stage, over_ms, budget_ms, total_ms from violations")
    assert row == {"over_stage": "tools", "over_ms": 40.0, "budget_ms": 10.0, "total_ms": 200.0}
    assert one(connection, "select over_stage, over_by from requests") == {"over_stage": "tools", "over_by": "budget"}
    over = rows(connection, "select stage, budget_ms, over_ms from stages where over_ms is not null order by stage")
    assert over == [
        {"stage": "retrieval", "budget_ms": 90.0, "over_ms": 10.0},
        {"stage": "tools", "budget_ms": 10.0, "over_ms": 40.0},
    ]


def test_model_stands_for_queue_prefill_and_decode_together() -> None:
    trace = Trace()
    attrs = {"slo.request": "/r", "slo.budget.model": 0.5, "slo.budget.decode": 0.4, "slo.budget.network": 0.1}
    root = trace.add("/r", 0, 1000, attrs=attrs)
    call = {"gen_ai.operation.name": "chat", "slo.time_to_first_token": 0.35, "slo.stream.end": "complete"}
    trace.add("chat m", 0, 800, under=root, attrs=call)
    connection = database()
    assemble(connection, trace.spans)
    row = one(connection, "select over_stage, over_ms, budget_ms from violations")
    assert row == {"over_stage": "model", "over_ms": 300.0, "budget_ms": 500.0}


def test_no_budget_is_null_and_nothing_is_over() -> None:
    connection = database()
    assemble(connection, request(budgets={}))
    assert one(connection, "select budget_ms, over_stage from requests") == {"budget_ms": None, "over_stage": None}
    assert {row["budget_ms"] for row in rows(connection, "select budget_ms from stages")} == {None}
    assert rows(connection, "select * from violations") == []


def test_a_late_total_blames_the_stage_furthest_over_its_usual_time() -> None:
    connection = database()
    usual = [span for n in range(1, 8) for span in request(n, start_ms=n * 1000, budgets={"total": 0.21})]
    assemble(connection, usual)
    assemble(connection, request(9, start_ms=60_000, budgets={"total": 0.21}, prompt=90, retrieval=110))
    row = one(connection, "select over_stage, over_ms, budget_ms from violations")
    assert row == {"over_stage": "prompt", "over_ms": 70.0, "budget_ms": 210.0}
    assert one(connection, "select over_by from requests where over_stage is not null")["over_by"] == "baseline"


def test_a_late_total_with_nothing_to_compare_with_blames_nobody() -> None:
    connection = database()
    assemble(connection, request(budgets={"total": 0.1}))
    assert one(connection, "select over_stage, over_ms from violations") == {"over_stage": None, "over_ms": 100.0}
