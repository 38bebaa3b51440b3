"""What looks like a rule's trouble and is none, and trouble that hides from the plain figures."""

import base64
from itertools import accumulate
from typing import Any

import pytest

from tailbudget.instrument.gaps import Gaps

from .diagnosed import HTTP, Traffic, young_instance
from .test_diagnoses import about


def test_tools_between_which_the_model_was_asked_are_no_series() -> None:
    def asked(*, between: bool) -> Traffic:
        sent = Traffic()
        for at in range(5):
            trace, root = sent.ask(at)
            for tool, start in enumerate((at * 1e3, at * 1e3 + 500)):
                attrs = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": f"t{tool}"}
                trace.add(f"execute_tool t{tool}", start, start + 300, under=root, attrs=attrs)
            start = at * 1e3 + (320 if between else 820)
            sent.call(trace, root, start, start + 150)
        return sent

    assert about("tool_series", asked(between=False))
    assert not about("tool_series", asked(between=True))


@pytest.mark.parametrize(("calls", "found"), [(50, True), (150, False)])
def test_one_refused_call_counts_as_one_of_all(calls: int, found: bool) -> None:
    sent = Traffic()
    for at in range(calls):
        trace, root = sent.ask(at)
        call = sent.call(trace, root, at * 1e3, at * 1e3 + 900)
        if at == 3:
            attrs = {**HTTP, "http.response.status_code": 429}
            trace.add("POST", at * 1e3, at * 1e3 + 90, under=call, kind="CLIENT", attrs=attrs)
    assert [row["evidence"]["refused_share"] for row in about("rate_limited", sent)] == [1 / calls] * found


def test_a_call_says_itself_that_it_was_refused_and_tried_again() -> None:
    sent = Traffic()
    for at in range(30):
        sent.ask(at, ttft_ms=100, slo__ratelimit__refused=2 if at == 3 else None, slo__net__backoff=0.3)
    (row,) = about("rate_limited", sent)
    assert row["evidence"]["refused_share"] == pytest.approx(1 / 30)
    assert row["advice"].endswith("waits 300 ms to be tried again")


def test_a_round_trip_through_a_proxy_is_told_by_tls() -> None:
    sent = Traffic()
    for at in range(10):
        sent.ask(at, ttft_ms=100, slo__net__connect=0.0002, slo__net__tls=0.16)
    (row,) = about("far_endpoint", sent)
    assert row["evidence"]["round_trip_ms"] == pytest.approx(80)


@pytest.mark.parametrize(
    ("slow_at_start", "slow_later", "found"), [(20, 0, True), (20, 20, False), (4, 0, False), (10, 30, False)]
)
def test_an_instance_that_breaks_budgets_only_while_it_is_young_started_cold(
    slow_at_start: int, slow_later: int, found: bool
) -> None:
    rows = about("cold_start", young_instance(slow_at_start=slow_at_start, slow_later=slow_later))
    assert [row["scope"] for row in rows] == [{"service": "shop", "route": "/chat"}] * found
    for row in rows:
        assert (row["evidence"]["n_at_start"], row["evidence"]["saved_ms"]) == (20, pytest.approx(2500 / 3))
        assert "20 of 20 requests over their budget came within 60 s of a start" in row["advice"]


@pytest.mark.parametrize(("instance", "found"), [(2, True), (1, False)])
def test_the_first_call_of_an_engine_that_was_restarted_a_moment_ago_is_cold(instance: int, found: bool) -> None:
    sent = Traffic()
    for n in range(30):
        late = n == 20
        trace, root = sent.ask(30 * n)
        start = 30e3 * n
        call = sent.call(trace, root, start, start + 900, ttft_ms=700 if late else 100)
        engine = {"gen_ai.latency.e2e": 0.9, "gen_ai.latency.time_in_queue": 0.01}
        trace.add(
            "llm_request", start, start + 900, under=call, kind="SERVER", service="engine", attrs=engine,
            resource_id=10 + (instance if n >= 20 else 1),
        )  # fmt: skip
    rows = [row for row in about("cold_start", sent) if row["evidence"].get("ttft_ms") == 700]
    assert bool(rows) == found


TENANTS = [("engine", 300, True), ("other", 300, False), ("engine", 90, False)]


@pytest.mark.parametrize(("server", "queue_ms", "found"), TENANTS)
def test_a_tenant_harms_those_who_wait_for_the_same_server(server: str, queue_ms: int, found: bool) -> None:
    sent = Traffic()
    for at in range(25):
        for tenant, tokens in (("large", 900), ("small", 100)):
            late_ms = queue_ms if tenant == "small" else 20
            where: dict[str, Any] = {"server__address": server if tenant == "large" else "engine"}
            sent.ask(at * 2, attrs={"slo.tenant": tenant}, queue_ms=20, **where)
            sent.ask(600 + at * 2, attrs={"slo.tenant": tenant}, queue_ms=late_ms, tokens=tokens, **where)
    rows = about("noisy_tenant", sent)
    harmful = [row for row in rows if row["scope"]["tenant"] == "large"]
    assert bool(harmful) == found


def test_a_process_that_began_within_the_five_minutes_contradicts_nothing() -> None:
    def told(until_s: int) -> Traffic:
        sent = Traffic()
        for at in range(120, 300, 5):
            sent.gauge("slo.requests.active", 5, at_s=at, route="/chat")
        for n in range(55, 150):
            if n * 2 < until_s:
                sent.ask(n * 2, 10_000)
        return sent

    assert not about("littles_law", told(300))
    assert about("littles_law", told(200))


@pytest.mark.parametrize(("every_s", "found"), [(1, True), (5, True), (15, True), (40, False)])
def test_a_stuck_scheduler_is_seen_at_any_rate_of_sampling_that_shows_it_five_times(every_s: int, found: bool) -> None:
    sent = Traffic()
    for at in range(0, 140, every_s):
        sent.gpu(at, 0.05)
        sent.engine(at + 0.01 * (at % 7), waiting=8, kv_used=0.3)
    assert bool(about("scheduler_bug", sent)) == found


def gaps_of(gap_ms: int, *, at: int) -> str:
    """Return what a stream with 20 ms between tokens says whose gap number `at` is longer."""
    gaps = Gaps()
    gaps.feed(list(accumulate((gap_ms if n == at else 20) * 1_000_000 for n in range(60))))
    return base64.b64encode(gaps.encode()).decode()


@pytest.mark.parametrize(("at", "found"), [(5, True), (40, False)])
def test_streams_that_stand_still_beside_a_long_prompt_are_blocked_by_it_and_not_those_that_do_later(
    at: int, found: bool
) -> None:
    sent = Traffic()
    for n in range(25):
        sent.ask(n, ttft_ms=100, slo__stream__max_gap=0.02)
    for n in range(4):
        gaps: dict[str, Any] = {"slo__stream__chunks": 60, "slo__stream__gaps": gaps_of(400, at=at)}
        sent.ask(50 + n / 100, 2000, ttft_ms=100, slo__stream__max_gap=0.4, **gaps)
    sent.ask(50.15, 600, ttft_ms=450, prompt=2000, slo__stream__max_gap=0.02)
    for n in range(4):
        sent.ask(55 + n, ttft_ms=100, slo__stream__max_gap=0.02)
    rows = about("hol_blocking", sent)
    assert bool(rows) == found
    for row in rows:
        assert (row["evidence"]["others"], row["evidence"]["saved_ms"]) == (4, 380)
        assert "4 streams would stand still for 380 ms less" in row["advice"]


#: What a demo's service told every five seconds while no span was lost: 0.73 at a mean, and 0.52 by its spans.
SPORADIC = [1, 0, 0, 0, 4, 0, 0, 2, 0, 2, 1, 0, 1, 3, 1, 1, 1, 1, 1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 1, 2, 0, 0]


@pytest.mark.parametrize(("told", "found"), [(SPORADIC, False), ([1] * 33, True)])
def test_what_few_samples_of_few_requests_say_by_chance_contradicts_nothing(told: list[int], found: bool) -> None:
    sent = Traffic()
    for number, value in enumerate(told):
        sent.gauge("slo.requests.active", value, at_s=135 + 5 * number, route="/chat")
    for number in range(150):
        sent.ask(number * 2, 1_040)
    assert bool(about("littles_law", sent)) == found


@pytest.mark.parametrize(("requests", "found"), [(5, False), (29, False), (30, True)])
def test_clients_who_left_are_too_many_only_of_enough_that_ended(requests: int, found: bool) -> None:
    sent = Traffic()
    for at in range(requests):
        sent.ask(at, attrs={"slo.outcome": "dropped"} if at < 4 else {})
    assert bool(about("dropped", sent)) == found
