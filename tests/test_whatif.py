"""What if a stage met its budget, ran in parallel or was shorter: the same as if the requests were run again."""

import random

import duckdb
import numpy as np
import pytest

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.whatif import shares, what_if, within
from tailbudget.analytics.window import Window
from tailbudget.instrument.errors import UserError

from .spans import Span, Trace, assemble, database, later

WINDOW = Window(later(-60), later(3600))
Times = tuple[float, float, float]


def drawn(count: int = 200) -> list[Times]:
    """Return milliseconds of two searches that run side by side, and of the answer behind both."""
    rng = random.Random(5)
    return [(rng.lognormvariate(5, 0.8), rng.lognormvariate(5, 0.4), rng.lognormvariate(6, 0.3)) for _ in range(count)]


def pipeline(number: int, times: Times) -> list[Span]:
    """Return a request that searches and asks a tool at once, then calls a model."""
    search_ms, tool_ms, answer_ms = times
    trace, at = Trace(number), number * 10_000.0
    both = at + 1 + max(search_ms, tool_ms)
    root = trace.add("chat", at, both + answer_ms + 1, kind="SERVER", attrs={"slo.request": "chat"})
    trace.add("search", at + 1, at + 1 + search_ms, under=root, attrs={"slo.stage": "retrieval"})
    trace.add("look up", at + 1, at + 1 + tool_ms, under=root, attrs={"slo.stage": "tools"})
    usage = {"gen_ai.usage.output_tokens": 100, "gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    trace.add("chat m", both, both + answer_ms, under=root, kind="CLIENT", attrs=usage)
    return trace.spans


def again(times: list[Times]) -> list[float]:
    """Return the totals of the same pipeline, run with other times."""
    return [2 + max(search_ms, tool_ms) + answer_ms for search_ms, tool_ms, answer_ms in times]


@pytest.fixture(scope="module")
def requests() -> duckdb.DuckDBPyConnection:
    connection = database()
    assemble(connection, [span for n, times in enumerate(drawn(), start=1) for span in pipeline(n, times)])
    return connection


def test_a_stage_in_its_budget_saves_what_running_again_saves(requests: duckdb.DuckDBPyConnection) -> None:
    found = what_if(ConnectionReader(requests), WINDOW, stage="retrieval", budget_ms=150)
    assert found
    before = np.quantile(again(drawn()), 0.95)
    after = np.quantile(again([(min(s, 150), t, answer_ms) for s, t, answer_ms in drawn()]), 0.95)
    assert found.n == 200
    assert found.p95_ms == pytest.approx((before, after), abs=0.01)
    plain = np.quantile([total - max(s - 150, 0) for total, (s, *_) in zip(again(drawn()), drawn(), strict=True)], 0.95)
    assert after - plain > 1  # what the search beside it takes is not saved


def test_half_the_decode_time_and_fewer_tokens_are_the_same_thing(requests: duckdb.DuckDBPyConnection) -> None:
    reader = ConnectionReader(requests)
    expected = np.quantile(again([(s, t, answer_ms / 2) for s, t, answer_ms in drawn()]), 0.99)
    halves = (
        what_if(reader, WINDOW, stage="decode", factor=0.5),
        what_if(reader, WINDOW, stage="decode", max_tokens=50),
    )
    for found in halves:
        assert found
        assert found.p99_ms[1] == pytest.approx(expected, abs=0.01)
        assert found.changed == 200
    more = what_if(reader, WINDOW, stage="decode", max_tokens=256)
    assert more
    assert (more.changed, more.p50_ms[0]) == (0, more.p50_ms[1])


def test_tools_one_after_another_would_take_as_long_as_the_longest_in_parallel() -> None:
    connection = database()
    trace = Trace(1)
    root = trace.add("chat", 0, 610, kind="SERVER", attrs={"slo.request": "chat"})
    for start_ms, end_ms in ((5, 105), (105, 305), (305, 605)):
        trace.add("execute_tool", start_ms, end_ms, under=root, attrs={"slo.stage": "tools"})
    assemble(connection, trace.spans)
    found = what_if(ConnectionReader(connection), WINDOW, stage="tools", parallel=True)
    assert found
    assert found.p50_ms == pytest.approx((610, 310))


def test_shares_sum_to_what_all_stages_save_together(requests: duckdb.DuckDBPyConnection) -> None:
    reader, budgets_ms = ConnectionReader(requests), {"retrieval": 150.0, "decode": 400.0, "prompt": 10.0}
    found = shares(reader, WINDOW, budgets_ms=budgets_ms)
    alone = what_if(reader, WINDOW, stage="decode", budget_ms=400)
    assert alone
    assert found["prompt"] == 0
    assert found["decode"] > 0
    assert found["retrieval"] > 0
    only = shares(reader, WINDOW, budgets_ms={"decode": 400.0})
    assert only["decode"] == pytest.approx(alone.p95_ms[0] - alone.p95_ms[1])
    # Every stage but these two saves nothing, so their shares are all of it.
    capped = [(min(s, 150.0), t, min(answer_ms, 400.0)) for s, t, answer_ms in drawn()]
    together = np.quantile(again(drawn()), 0.95) - np.quantile(again(capped), 0.95)
    assert sum(found.values()) == pytest.approx(together, abs=0.01)


def test_several_stages_in_their_budgets_save_what_their_shares_sum_to(requests: duckdb.DuckDBPyConnection) -> None:
    reader = ConnectionReader(requests)
    budgets_ms = {"retrieval": 100.0, "decode": 300.0}
    found = within(reader, WINDOW, budgets_ms=budgets_ms)
    assert found is not None
    was_ms, would_ms = found.p95_ms
    assert was_ms - would_ms == pytest.approx(sum(shares(reader, WINDOW, budgets_ms=budgets_ms).values()))
    assert found == within(reader, WINDOW, budgets_ms={**budgets_ms, "post": 1.0})
    alone = within(reader, WINDOW, budgets_ms={"decode": 300.0})
    assert alone == what_if(reader, WINDOW, stage="decode", budget_ms=300.0)
    assert within(reader, Window(later(90_000), later(90_001)), budgets_ms=budgets_ms) is None


def test_what_cannot_be_asked_is_refused(requests: duckdb.DuckDBPyConnection) -> None:
    reader = ConnectionReader(requests)
    with pytest.raises(UserError, match="unknown stage 'nonsense'"):
        what_if(reader, WINDOW, stage="nonsense", factor=0.5)
    with pytest.raises(UserError, match="2 changes were given"):
        what_if(reader, WINDOW, stage="decode", factor=0.5, max_tokens=3)
    with pytest.raises(UserError, match="at most 6"):
        shares(reader, WINDOW, budgets_ms=dict.fromkeys("abcdefg", 1.0))
    assert what_if(reader, Window(later(90_000), later(90_001)), stage="decode", factor=0.5) is None
