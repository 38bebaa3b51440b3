"""Users test their own budgets: fixed clock and ids, everything in memory."""

import time
from collections.abc import Iterator

import pytest

import tailbudget
from tailbudget import Budget
from tailbudget.instrument import request
from tailbudget.testing import Clock, Over, recording


def answer(clock: Clock) -> Iterator[str]:
    with tailbudget.request("chat", budgets_ms={"total": 2_000, "retrieval": 300, "ttft": 900}, request_id="r-1"):
        with tailbudget.stage("retrieval", "docs"):
            clock.advance_ms(310)
        yield from tailbudget.stream(words(clock), model="m")


def words(clock: Clock) -> Iterator[str]:
    for word in ("It ", "depends. ", "Mostly."):
        clock.advance_ms(400)
        yield word


def test_a_service_is_held_to_its_budgets_without_waiting() -> None:
    clock = Clock()
    with recording(clock=clock) as recorded:
        assert "".join(answer(clock)) == "It depends. Mostly."
    assert recorded.over_budget() == [Over("chat", "retrieval", 310, 300)]
    assert recorded.named("chat").duration_ms == 310 + 1_200
    assert recorded.spent_ms("prefill") == 400
    assert recorded.spent_ms("decode") == 800
    assert recorded.named("chat").attributes["slo.time_to_first_token"] == pytest.approx(0.71)


def test_ids_and_times_are_the_same_in_every_run() -> None:
    def run() -> list[object]:
        clock = Clock()
        with recording(clock=clock) as recorded:
            "".join(answer(clock))
        return list(recorded.spans)

    first, second = run(), run()
    assert first == second
    assert len(first) == 3


def test_every_budget_is_held_against_its_own_clock() -> None:
    clock = Clock()
    budget = Budget(total_ms=100, ttft_ms=50, usable_ms=10, tools_ms=60, model_ms=9_000, post_ms=1, tool_rounds=1)
    with recording(clock=clock) as recorded, tailbudget.request("agent", budgets_ms=budget):
        with tailbudget.stage("tools"):
            clock.advance_ms(30)
            with tailbudget.stage("tools"):
                clock.advance_ms(5)
        with tailbudget.stage("tools"):
            clock.advance_ms(40)
        tailbudget.usable()
        clock.advance_ms(26)
        assert tailbudget.remaining_ms() == 0
    assert set(recorded.over_budget()) == {
        Over("agent", "total", 101, 100),
        Over("agent", "usable", 75, 10),
        Over("agent", "tools", 75, 60),
        Over("agent", "tool_rounds", 2, 1),
    }
    assert recorded.named("agent").attributes["slo.over"] == "tools"


def test_events_and_metrics_are_recorded_too() -> None:
    with recording() as recorded:
        tailbudget.feedback("r-1", converted=True)
        with tailbudget.request("seen"):
            assert ({"route": "seen"}, 1) in recorded.points("slo.requests.active")
    (event,) = recorded.events
    assert (event.name, event.attributes["slo.feedback.converted"]) == ("slo.feedback", True)


def test_without_a_clock_time_is_real() -> None:
    with recording() as recorded, tailbudget.request("chat"):
        time.sleep(0.01)
    assert 10 <= recorded.named("chat").duration_ms < 10_000


def test_afterwards_everything_is_as_before() -> None:
    from tailbudget.instrument import providers, streams

    with recording(clock=Clock()):
        assert request.time is not time  # type: ignore[attr-defined]
    assert request.time is time  # type: ignore[attr-defined]
    assert streams._now_ns is time.perf_counter_ns
    assert providers._tracer is None


def test_a_name_that_is_not_there_says_which_are() -> None:
    with recording() as recorded, tailbudget.request("chat"):
        pass
    with pytest.raises(LookupError, match=r"0 spans named 'caht' among \['chat'\]"):
        recorded.named("caht")
    with pytest.raises(ValueError, match="expected milliseconds, 0 or more"):
        Clock().advance_ms(-1)
