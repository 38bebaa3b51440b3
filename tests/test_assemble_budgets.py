"""Which requests are over a budget, and which stage is to blame."""

from dataclasses import replace
from pathlib import Path

import pytest

from tailbudget.analytics.objectives import load
from tailbudget.collector.assemble import Assembler, FileBudgets, Live

from .spans import Span, Trace, assemble, database, land, later, one, rows

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


class Filed:
    """Traces assembled under a file of objectives."""

    def __init__(self, folder: Path, text: str) -> None:
        self.file = folder / "slo.yaml"
        self.file.write_text(text)
        self.connection = database()
        self.budgets = FileBudgets(self.connection, lambda: load([self.file]))
        self._assembler = Assembler(self.connection, budgets=self.budgets)

    def assemble(self, spans: list[Span]) -> None:
        land(self.connection, spans)
        self._assembler.tick(later(60))

    def stages(self) -> dict[str, float | None]:
        return {row["stage"]: row["budget_ms"] for row in rows(self.connection, "select stage, budget_ms from stages")}


OBJECTIVES = """
objectives:
- name: r
  where: route = '/r'
  total: p95 < 150ms
  ttft: p95 < 40ms
  retrieval: p99 < 80ms
  model: p95 < 1s
  tools+post: p95 < 1ms
- name: strict
  where: route = '/r' and tenant is null
  retrieval: p50 < 60ms
  goodput: 90% of prompt < 5ms, total < 900ms
- name: other
  where: route = '/other'
  tools: p95 < 1ms
"""


def test_a_request_without_budgets_takes_those_of_the_objectives_file(tmp_path: Path) -> None:
    filed = Filed(tmp_path, OBJECTIVES)
    filed.assemble(request(budgets={}))
    assert filed.stages() == {"retrieval": 60.0, "prompt": 5.0, "tools": None, "post": None}
    row = one(filed.connection, "select budget_ms, ttft_budget_ms, over_stage, over_by from requests")
    assert row == {"budget_ms": 150.0, "ttft_budget_ms": 40.0, "over_stage": "retrieval", "over_by": "budget"}
    assert one(filed.connection, "select over_ms, budget_ms from violations") == {"over_ms": 40.0, "budget_ms": 60.0}


def test_the_budgets_of_the_request_itself_go_before_those_of_the_file(tmp_path: Path) -> None:
    filed = Filed(tmp_path, OBJECTIVES)
    filed.assemble(request(budgets={"retrieval": 0.2, "total": 3}))
    assert filed.stages()["retrieval"] == 200.0
    assert filed.stages()["prompt"] == 5.0
    assert one(filed.connection, "select budget_ms from requests") == {"budget_ms": 3000.0}


def test_a_changed_file_gives_the_next_requests_its_budgets(tmp_path: Path) -> None:
    filed = Filed(tmp_path, OBJECTIVES)
    filed.assemble(request(1, budgets={}))
    filed.file.write_text("name: r\nretrieval: p95 < 500ms\n")
    filed.assemble(request(2, start_ms=10_000, budgets={}))
    found = rows(filed.connection, "select budget_ms from stages where stage = 'retrieval' order by started")
    assert [row["budget_ms"] for row in found] == [60.0, 500.0]


@pytest.mark.parametrize("where", ["tenant > 5", "total_ms = 'slow'", "lower(calls) = 'x'"])
def test_a_condition_that_cannot_be_judged_stops_no_tick_and_no_other_budget(where: str, tmp_path: Path) -> None:
    filed = Filed(
        tmp_path, f"objectives:\n- {{name: odd, where: {where}, prompt: p95 < 1ms}}\n- {{name: r, tools: p95 < 9ms}}"
    )
    spans = request(budgets={})
    filed.assemble([replace(spans[0], attrs={**spans[0].attrs, "slo.tenant": "acme"}), *spans[1:]])
    assert (filed.stages()["prompt"], filed.stages()["tools"]) == (None, 9.0)


def test_a_request_that_runs_takes_the_total_of_the_file(tmp_path: Path) -> None:
    filed = Filed(tmp_path, OBJECTIVES)
    for number, route in enumerate(("/r", "/r", "/none")):
        filed.connection.execute(
            """insert into live by name select uuid() as trace_id, $n as span_id, 'x' as request_id, $t as started,
               $route as route, 9.0 as age_s, $t as heard, false as changed, 1 as resource_id,
               if($n = 1, 7.0, null) as budget_ms""",
            {"n": number, "t": later(0), "route": route},
        )
    Live(filed.connection, budgets=filed.budgets).tick(later(1))
    found = rows(filed.connection, "select budget_ms from live order by span_id")
    assert [row["budget_ms"] for row in found] == [150.0, 7.0, None]
