"""A sweep finds the highest load that holds, objectives are held to the right clock, what is worse is called so."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tailbudget.analytics.objectives import Limit, Objective
from tailbudget.app.load import baseline, report
from tailbudget.app.load.judge import broken, good, judge, rows
from tailbudget.app.load.results import Result, Sample, figures
from tailbudget.app.load.runner import Step
from tailbudget.app.load.session import Session, Stepped
from tailbudget.app.load.sweep import Knee, sweep
from tailbudget.instrument.errors import UserError

from .load_support import route, traffic

TARGET = route("http://127.0.0.1:9", delay_ms=0)
LOADS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]
TOTAL = Objective(name="total", target=0.95, limits=(Limit("total", 500),))
TTFT = Objective(name="ttft", target=0.95, limits=(Limit("ttft", 100),))
RETRIEVAL = Objective(name="retrieval", target=0.9, limits=(Limit("retrieval", 50),))


def results(total_ms: list[float], **fields: Any) -> list[Result]:
    """Return answered requests, one every 10 ms, of these lengths."""
    return [Result(number + 1, 1, number * 10_000_000, total_ms=ms, **fields) for number, ms in enumerate(total_ms)]


def served(found: list[Result], **stages_ms: float) -> dict[str, dict[str, Any]]:
    """Return what a service told of each: 10 ms less than the client saw, these stages of it."""
    return {f"r-{one.number}": {"total_ms": one.total_ms - 10, "outcome": "ok", "network_ms": 0.0, **stages_ms}
            for one in found}  # fmt: skip


@pytest.mark.parametrize("knee", [1, 2, 5, 8])
def test_halving_finds_the_same_knee_as_trying_each_load(knee: int) -> None:
    async def both() -> tuple[Knee, Knee, int]:
        tried: list[float] = []

        async def run(load: float) -> Stepped:
            tried.append(load)
            kept = judge(rows(results([400.0 if load <= knee else 600.0] * 20), {}, run_id="r", target=TARGET), [TOTAL])
            step = Step(1, "requests/s", load, 1.0)
            return Stepped(step, {}, kept, 0.0, [], rows([], {}, run_id="r", target=TARGET), 0)

        halved = await sweep(LOADS, run)
        steps = len(tried)
        return halved, await sweep(LOADS, run, every=True), steps

    halved, each, steps = asyncio.run(both())
    assert halved == each == Knee(float(knee), float(knee + 1))
    assert steps <= 5


def test_a_sweep_says_when_nothing_or_everything_holds() -> None:
    async def knee(ms: float) -> Knee:
        async def run(load: float) -> Stepped:
            found = rows(results([ms] * 20), {}, run_id="r", target=TARGET)
            return Stepped(Step(1, "requests/s", load, 1.0), {}, judge(found, [TOTAL]), 0.0, [], found, 0)

        return await sweep(LOADS, run)

    assert asyncio.run(knee(900)) == Knee(None, 1.0)
    assert asyncio.run(knee(100)) == Knee(9.0, None)


def test_an_objective_is_held_to_the_clients_clock_from_the_plan() -> None:
    found = results([100.0] * 90 + [600.0] * 10, ttft_ms=50.0)
    table = rows(found, served(found), run_id="r", target=TARGET)
    kept = judge(table, [TOTAL, TTFT])
    assert [(one.n, one.bad, one.holds) for one in kept] == [(100, 10, False), (100, 0, True)]
    assert good(table, [TOTAL, TTFT]) == 90


def test_what_the_client_waited_beyond_what_the_service_saw_is_network() -> None:
    found = results([100.0])
    (row,) = rows(found, served(found, retrieval_ms=70.0, other_ms=20.0), run_id="r", target=TARGET).to_pylist()
    assert (row["network_ms"], row["retrieval_ms"], row["total_ms"]) == (10.0, 70.0, 100.0)


def test_shed_and_unsent_requests_are_bad_and_clients_that_were_told_to_leave_do_not_count() -> None:
    found = results([100.0] * 10)
    for one, outcome in zip(found, ("shed", "unsent", "rejected", "left"), strict=False):
        one.outcome = outcome
    found[3].planned_to_leave = True
    (kept,) = judge(rows(found, {}, run_id="r", target=TARGET), [TOTAL])
    assert (kept.n, kept.bad) == (8, 2)


def test_the_stage_that_broke_first_is_the_one_that_grew_most_where_it_was_missed() -> None:
    calm = rows(
        one := results([200.0] * 20), served(one, retrieval_ms=80.0, decode_ms=110.0), run_id="r", target=TARGET
    )
    slow = results([200.0] * 15 + [900.0] * 5)
    told = served(slow, retrieval_ms=80.0, decode_ms=110.0)
    for late in slow[15:]:
        told[f"r-{late.number}"] |= {"retrieval_ms": 300.0, "decode_ms": 590.0}
    loaded = rows(slow, told, run_id="r", target=TARGET)
    found = broken(loaded, [TOTAL], judge(loaded, [TOTAL]), calm=calm)
    assert found is not None
    assert (found.objectives, found.stage, found.excess_ms) == (("total",), "decode", 480.0)
    # Where a stage's own objective failed, it is that stage, however much another grew.
    found = broken(loaded, [RETRIEVAL], judge(loaded, [RETRIEVAL]), calm=calm)
    assert found is not None
    assert found.stage == "retrieval"
    assert broken(calm, [TOTAL], judge(calm, [TOTAL]), calm=calm) is None


def _counted(found: list[Result]) -> Sample:
    sample = Sample(1000)
    for one in found:
        sample.add(one)
    return sample


def _report(slower: float = 1.0, failing: int = 0, *, seed: int = 1) -> dict[str, Any]:
    lengths_ms = np.random.default_rng(seed).lognormal(4, 0.3, 600) * slower
    found = results([float(ms) for ms in lengths_ms])
    for one in found[: 5 * failing : 5]:  # spread out: a row of failures is one event
        one.outcome = "error"
    session = Session(TARGET, traffic(), run_id="r")
    table = rows(found, {}, run_id="r", target=TARGET)
    step = Step(1, "requests/s", 5.0, 10.0)
    session.done.append(
        Stepped(step, figures(_counted(found), lasted_s=10.0), judge(table, [TOTAL]), 9.0, found, table, 0)
    )
    told: dict[str, Any] = json.loads(report.to_json(report.told(session)))
    return told


def test_a_slower_run_is_worse_than_its_baseline_and_an_equal_one_is_not(tmp_path: Path) -> None:
    (tmp_path / "before.json").write_text(json.dumps(_report()))
    before = baseline.read(tmp_path / "before.json")

    def verdicts(now: dict[str, Any]) -> dict[str, str]:
        found = (each.told() for each in baseline.regressions(before, now["steps"]))
        return {one["measure"]: one["verdict"] for one in found}

    assert "worse" not in verdicts(_report(seed=2)).values()
    assert verdicts(_report(1.3, seed=2))["total_ms_p95"] == "worse"
    assert verdicts(_report(0.7, seed=2))["total_ms_p95"] == "better"
    assert verdicts(_report(failing=120, seed=2))["failure_rate"] == "worse"


def test_a_baseline_at_another_load_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    before = _report()
    baseline.check_loads(before, "requests/s", [7.0, 5.0])
    for unit, load in (("requests/s", 7.0), ("clients", 5.0)):
        with pytest.raises(UserError, match=r"taken at 5.0 requests/s"):
            baseline.check_loads(before, unit, [load])
    for text in ("{}", "no json", '{"steps": [{}]}'):
        (tmp_path / "none.json").write_text(text)
        with pytest.raises(UserError, match="no report of a load run"):
            baseline.read(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        baseline.read(tmp_path / "absent.json")


def test_the_markdown_report_says_what_people_ask_for() -> None:
    told = _report(failing=3)
    told["steps"][0] |= {"holds": False, "late_ms": {"n": 600, "p99": 12.0}, "broke": {
        "objectives": ["total"], "stage": "queue", "excess_ms": 480.0}}  # fmt: skip
    told |= {"knee": {"load": 4.0, "beyond": 5.0}}
    text = report.to_markdown(told)
    for line in ("| 5 requests/s | 600 |", "queue broke first, 480.0 ms over the lowest load", "3 error",
                 "the client itself was late at 5 requests/s", "**Knee:** 4 requests/s (5 does not hold)"):  # fmt: skip
        assert line in text
    assert TOTAL.name in text
