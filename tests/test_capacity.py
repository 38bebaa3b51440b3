"""The worksheet's formulas agree with a simulation of the same engine within 10 %, and its plan adds up."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Final

import pytest

from tailbudget.analytics.capacity import Kind, Limits, Replica, best_batch, highest_rate, load
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.analytics.worksheet import Demand, Terms, demands, worksheet
from tailbudget.app.pages.parts import plans, words
from tailbudget.gpu_runtime.settings import RuntimeSettings
from tailbudget.gpu_runtime.simulator import Arrival, StepTime, simulate
from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import STAGES

from .spans import database, later

STAGE_COLUMNS: Final = ", ".join(f"0.0 as {stage}_ms" for stage in STAGES)
FIXED: Final = (Kind(1, 300, 60),)
MIXED: Final = (Kind(3, 100, 20), Kind(2, 500, 60), Kind(1, 1500, 120))
WIDE: Final = Replica(20, stream_ms=0.5, prompt_token_ms=0.05, max_running=48, prefill_chunk=256)
SMALL: Final = Replica(8, stream_ms=2, prompt_token_ms=0.02, max_running=8, prefill_chunk=128)
CASES: Final[Mapping[str, tuple[Sequence[Kind], Replica, Limits]]] = {
    "first tokens, equal requests": (FIXED, SMALL, Limits(ttft_ms=1000)),
    "first tokens, mixed requests": (MIXED, WIDE, Limits(ttft_ms=900)),
    "gaps between tokens": (FIXED, WIDE, Limits(itl_ms=42)),
    "last tokens": (MIXED, SMALL, Limits(final_ms=4000)),
}


@cache
def _simulated(kinds: tuple[Kind, ...], replica: Replica, rate_s: float, count: int = 4000) -> dict[str, Any]:
    """Return the summary of requests that come at random, in all as many a second and of each kind as they should."""
    chance = random.Random(4)
    each = count / sum(kind.weight for kind in kinds)
    asked = [kind for kind in kinds for _ in range(round(kind.weight * each))]
    chance.shuffle(asked)
    times_s = sorted(chance.uniform(0, count / rate_s) for _ in asked)
    arrivals = [
        Arrival(at_s, prompt_tokens=round(kind.prompt_tokens), output_tokens=round(kind.output_tokens))
        for at_s, kind in zip(times_s, asked, strict=True)
    ]
    step = StepTime(replica.base_ms, stream_ms=replica.stream_ms, prompt_token_ms=replica.prompt_token_ms)
    settings = RuntimeSettings(
        max_context=4096, max_running=replica.max_running, max_waiting=100_000, prefill_chunk=replica.prefill_chunk,
        prefix_cache=False,
    )  # fmt: skip
    return simulate(arrivals, step_time=step, settings=settings).summary()


def _kept(found: Mapping[str, Any], limits: Limits) -> bool:
    return all(
        limit is None or found[f"{name}_p95_ms"] <= limit
        for name, limit in (("ttft", limits.ttft_ms), ("itl", limits.itl_ms), ("final", limits.final_ms))
    )


@pytest.mark.parametrize("case", CASES)
def test_the_highest_rate_is_that_of_a_simulation_within_10_percent(case: str) -> None:
    kinds, replica, limits = CASES[case]
    highest_s = highest_rate(kinds, replica, limits)
    assert _kept(_simulated(tuple(kinds), replica, 0.9 * highest_s), limits)
    assert not _kept(_simulated(tuple(kinds), replica, 1.1 * highest_s), limits)


@pytest.mark.parametrize("case", CASES)
def test_batch_and_utilisation_are_those_of_a_simulation_within_10_percent(case: str) -> None:
    kinds, replica, limits = CASES[case]
    rate_s = 0.9 * highest_rate(kinds, replica, limits)
    found, told = _simulated(tuple(kinds), replica, rate_s), load(rate_s, kinds, replica)
    for name in ("utilisation", "batch", "running"):
        assert getattr(told, name) == pytest.approx(found[name], rel=0.1), name


def test_a_queue_grows_as_fast_as_in_a_simulation() -> None:
    station = load(1e6, FIXED, SMALL)
    most_s = 1e6 - station.growth_s
    rate_s, count = 1.5 * most_s, 2000
    found = _simulated(FIXED, SMALL, rate_s, count)
    assert load(rate_s, FIXED, SMALL).growth_s == pytest.approx(0.5 * most_s)
    # Those who come last wait for all that gathered meanwhile.
    gathered_s = count / rate_s
    assert found["most_waiting"] == pytest.approx(0.5 * most_s * gathered_s, rel=0.1)


def test_one_slot_without_prompts_queues_as_pollaczek_and_khinchine_say() -> None:
    replica = Replica(10, stream_ms=0, prompt_token_ms=0, max_running=1, prefill_chunk=10_000)
    told = load(0.7 / 0.1, [Kind(1, 1, 10)], replica)
    # Ten steps of 10 ms each, all alike: half the wait of exponential ones. The wait for the step in progress is apart.
    wait_ms = 1e3 * told.waiting / told.rate_s - told.utilisation * 5
    assert wait_ms == pytest.approx(0.7 * 100 / (2 * 0.3), rel=0.05)
    assert told.utilisation == pytest.approx(0.7)


def test_a_lower_rate_a_longer_limit_or_a_faster_step_is_never_worse() -> None:
    limits = Limits(ttft_ms=900, final_ms=9000)
    loads = [load(rate_s, MIXED, WIDE) for rate_s in (0.1, 1, 2, 4, 6, 100)]
    for name in ("utilisation", "batch", "waiting", "queue_ms", "ttft_ms", "itl_ms", "final_ms", "growth_s"):
        values = [getattr(one, name) for one in loads]
        assert values == sorted(values), name
    highest_s = highest_rate(MIXED, WIDE, limits)
    assert highest_rate(MIXED, WIDE, replace(limits, ttft_ms=1800)) >= highest_s
    assert highest_rate(MIXED, replace(WIDE, base_ms=10), limits) > highest_s


def test_the_batch_that_is_chosen_is_the_smallest_that_holds_about_the_most() -> None:
    limits = Limits(ttft_ms=900, itl_ms=45)
    chosen = best_batch(MIXED, WIDE, limits, most=64)
    best_s = max(highest_rate(MIXED, replace(WIDE, max_running=slots), limits) for slots in (8, 16, 32, 64))
    assert highest_rate(MIXED, chosen, limits) > 0.97 * best_s
    assert chosen.max_running < 64


def test_the_plan_has_room_beside_the_peak_and_says_what_it_costs() -> None:
    demand = Demand("eu", MIXED, 20.0, hours_s=[20.0] * 12 + [1.0] * 12)
    terms = Terms(0.25, gpus=4, usd_per_gpu_hour=2.0)
    sheet = worksheet(demand, WIDE, limits=Limits(ttft_ms=900), terms=terms)
    assert (sheet.replicas - 1) * sheet.highest_s < 25 <= sheet.replicas * sheet.highest_s
    assert sheet.gpu_hours_day == sheet.replicas * 4 * 24
    assert sheet.usd_day == sheet.gpu_hours_day * 2
    assert sheet.hourly_gpu_hours_day == 4 * (12 * sheet.replicas + 12)
    assert sheet.at_peak.keeps(sheet.limits)
    assert [one.keeps(sheet.limits) for one in sheet.curve[:19]] == [True] * 19
    assert not sheet.curve[-1].keeps(sheet.limits)


def test_what_a_lost_replica_does_to_the_queue_follows_from_little() -> None:
    demand = Demand("", FIXED, 7.5)
    sheet = worksheet(demand, SMALL, limits=Limits(ttft_ms=1000), terms=Terms(0.0, most_running=8))
    away = sheet.one_less
    assert away is not None
    assert sheet.outage_wait_s is not None
    assert away.growth_s > 0
    queue, served_s = away.growth_s * 300, away.rate_s - away.growth_s
    assert sheet.outage_wait_s == pytest.approx(queue / served_s)
    assert plans._away(sheet).value == f"▲ {words.duration(1000 * queue / served_s)} wait"
    assert worksheet(replace(demand, peak_s=0.1), SMALL, limits=Limits(ttft_ms=1000), terms=Terms()).one_less is None


def test_a_cache_holds_no_more_requests_than_its_tokens_allow() -> None:
    terms = Terms(kv_tokens=360 * 5)
    assert worksheet(Demand("", FIXED, 1.0), WIDE, limits=Limits(ttft_ms=900), terms=terms).replica.max_running <= 5


def test_demand_is_read_by_region_bucket_and_tenant_without_load_tests() -> None:
    connection = database()
    for number in range(240):
        region, tenant = ("eu", "acme") if number % 3 else ("us", "globex")
        connection.execute(
            "insert into requests by name select $id::uuid as trace_id, $n as span_id, $n::varchar as request_id, "
            "$t as started, $tenant as tenant, $synthetic as synthetic, 's' as service, 'ok' as outcome, "
            f"1.0 as total_ms, 0 as calls, 0 as tool_rounds, {STAGE_COLUMNS}",
            {"id": f"{number:032x}", "n": number, "t": later(number / 2), "tenant": tenant, "synthetic": number >= 180},
        )
        connection.execute(
            "insert into calls by name select $id::uuid as trace_id, $n as span_id, $n::varchar as request_id, "
            "$t as started, $region as region, 'ok' as outcome, 100 as input_tokens, 40 as cached_tokens, "
            "$n % 20 + 1 as output_tokens, 128 as prompt_bucket, 1.0 as total_ms, 'server' as split, "
            "'box:1' as server_address, [$n]::ubigint[] as spans",
            {"id": f"{number:032x}", "n": number, "t": later(number / 2), "region": region},
        )
    reader, window = ConnectionReader(connection), Window(later(0), later(1000))
    eu, us = demands(reader, window)
    assert (eu.region, us.region) == ("eu", "us")
    assert [(row["prompt_bucket"], row["n"], row["prompt_tokens"]) for row in eu.buckets] == [(128, 120, 60)]
    assert sum(kind.weight for kind in us.kinds) == 60
    assert eu.peak_s == pytest.approx(80 / 60, rel=0.02)
    assert not eu.hours_s
    assert [(row["tenant"], row["n"]) for row in eu.tenants] == [("acme", 120)]
    assert demands(reader, window, instance="other:1") == []
    sheet = worksheet(eu, WIDE, limits=Limits(ttft_ms=900), terms=Terms())
    assert sum(row["share"] for row in sheet.tenants) == pytest.approx(1)


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({}, "nothing says what must hold"),
        ({"ttft_ms": 0}, "ttft_ms is 0: expected milliseconds above 0"),
        ({"ttft_ms": 5, "share": 1.5}, "the share of good requests is 1.5"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, float], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Limits(**limits)


def test_limits_that_one_request_alone_breaks_are_told_with_what_it_takes() -> None:
    with pytest.raises(UserError, match=r"one request alone takes .* no number of replicas keeps the limits"):
        worksheet(Demand("", FIXED, 1.0), WIDE, limits=Limits(ttft_ms=10), terms=Terms())


@pytest.mark.parametrize(
    ("terms", "told"),
    [({"headroom": -1}, "headroom is -1"), ({"gpus": 0}, "gpus is 0"), ({"kv_tokens": 0}, "kv_tokens is 0")],
)
def test_terms_that_make_no_sense_are_refused(terms: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        Terms(**terms)
