"""The simulator decides what the engine decides, takes the time that its formula says, and loses no request."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tailbudget.gpu_runtime.settings import RuntimeSettings
from tailbudget.gpu_runtime.simulator import Arrival, StepTime, simulate
from tailbudget.instrument.errors import UserError

from .runtime_support import Bench, Notes

#: Tokens of a block that prompts of this file may share.
BLOCK = 32


def _settings(**settings: Any) -> RuntimeSettings:
    return RuntimeSettings(**{"device": "cpu", "max_context": 512, **settings})


def _prompt(arrival: Arrival, number: int) -> list[int]:
    """Return a prompt of the tiny model that begins with the arrival's blocks and goes on as no other does."""
    shared = [100 + block for block in arrival.blocks for _ in range(BLOCK)][: arrival.prompt_tokens]
    return [*shared, 200 + number, *[7] * (arrival.prompt_tokens - len(shared) - 1)]


def _arrivals(count: int, *, blocks: Sequence[tuple[int, ...]] = ((),)) -> list[Arrival]:
    chance = random.Random(3)
    found = []
    for number in range(count):
        own = blocks[number % len(blocks)]
        length = len(own) * BLOCK + chance.randint(1, 150)
        answer = chance.randint(1, 40)
        found.append(Arrival(0, prompt_tokens=length, output_tokens=answer, blocks=own, block_tokens=BLOCK))
    return found


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({}, [()]),
        ({"kv_pages": 40, "max_running": 6, "prefix_cache": False}, [()]),
        ({"kv_pages": 36, "max_running": 5}, [(1, 2), (), (1, 3), (1, 2, 4)]),
    ],
    ids=["plain", "too few pages", "prompts that begin alike"],
)
def test_the_engine_and_the_simulator_decide_alike(settings: dict[str, Any], blocks: list[tuple[int, ...]]) -> None:
    chosen = _settings(**{"max_running": 4, "prefill_chunk": 48, "dtype": "float32", **settings})
    arrivals = _arrivals(30, blocks=blocks)
    notes = Notes()
    bench = Bench(chosen, notes)
    served = [
        bench.submit(_prompt(arrival, number), max_tokens=arrival.output_tokens, ignore_eos=True)
        for number, arrival in enumerate(arrivals)
    ]
    bench.engine.start()
    for generation in served:
        bench.finish(generation)
    bench.engine.stop()
    run = simulate(arrivals, step_time=StepTime(1.0), settings=chosen)
    counts, steps = bench.engine.counts, run.steps
    assert (steps.n, steps.prompt_tokens, steps.prompt_tokens + steps.streams) == (
        counts.steps,
        counts.prompt_tokens,
        counts.step_tokens,
    )
    assert (run.preemptions, run.prefix_hits) == (counts.preemptions, counts.prefix_hits)
    ended = [(len(each.prompt), len(each.output), each.preemptions) for each in notes.ended]
    assert [(row.prompt_tokens, row.output_tokens, row.preemptions) for row in run.ended] == ended
    assert (run.preemptions > 0, run.prefix_hits > 0) == ("kv_pages" in settings, len(blocks) > 1)


def test_a_request_alone_takes_what_the_formula_says() -> None:
    step = StepTime(10, stream_ms=2, prompt_token_ms=0.5)
    found = simulate(
        [Arrival(1.0, prompt_tokens=100, output_tokens=3)], step_time=step, settings=_settings(prefill_chunk=64)
    )
    (row,) = found.ended
    # Chunks of 64 and 36 tokens, then two steps of one stream.
    prefill_ms, step_ms = 10 + 32 + 10 + 18, 12
    assert (row.queue_ms, row.ttft_ms, row.final_ms) == (0, prefill_ms, prefill_ms + 2 * step_ms)
    summary = found.summary()
    assert (summary["itl_p50_ms"], summary["steps"], summary["most_running"]) == (step_ms, 4, 1)
    assert summary["utilisation"] == pytest.approx(0.094 / 1.094)


def test_a_single_server_queues_as_pollaczek_and_khinchine_say() -> None:
    chance = random.Random(1)
    at_s, arrivals = 0.0, []
    for _ in range(20_000):
        at_s += chance.expovariate(7)
        arrivals.append(Arrival(at_s, prompt_tokens=1, output_tokens=1))
    found = simulate(
        arrivals, step_time=StepTime(100), settings=_settings(max_running=1, max_waiting=10_000, prefix_cache=False)
    )
    mean_ms = sum(row.queue_ms or 0 for row in found.ended) / len(found.ended)
    assert mean_ms == pytest.approx(0.7 * 100 / (2 * 0.3), rel=0.08)
    assert found.summary()["utilisation"] == pytest.approx(0.7, rel=0.03)


def test_the_batch_delay_gathers_those_who_come_soon_after() -> None:
    arrivals = [Arrival(at_s, prompt_tokens=4, output_tokens=2) for at_s in (0.0, 0.005, 0.02)]
    patient = simulate(arrivals, step_time=StepTime(1), settings=_settings(batch_delay_ms=10))
    assert [row.queue_ms for row in patient.ended] == [10, 5, 10]
    assert [row.queue_ms for row in simulate(arrivals, step_time=StepTime(1), settings=_settings()).ended] == [0, 0, 0]
    full = simulate(arrivals, step_time=StepTime(1), settings=_settings(batch_delay_ms=1000, max_running=2))
    assert [row.queue_ms for row in full.ended][:2] == [5, 0]


def test_what_finds_no_place_is_shed_and_nothing_is_lost() -> None:
    arrivals = [Arrival(0.001 * number, prompt_tokens=8, output_tokens=20) for number in range(50)]
    long = Arrival(0, prompt_tokens=600, output_tokens=1)
    found = simulate(
        [*arrivals, long], step_time=StepTime(10), settings=_settings(max_running=2, max_waiting=3)
    ).summary()
    assert found["too_long"] == 1
    assert found["shed"] + found["complete"] == 50
    assert found["shed"] > 30
    assert found["most_waiting"] == 3


def test_a_deadline_sheds_who_would_wait_too_long_and_ends_who_did() -> None:
    arrivals = [Arrival(0.01 * number, prompt_tokens=8, output_tokens=20) for number in range(100)]
    settings = _settings(max_running=2, max_waiting=1000)
    free, bound = (
        simulate(arrivals, step_time=StepTime(5), settings=settings, deadline_s=limit_s).summary()
        for limit_s in (None, 0.5)
    )
    assert (free["shed"], free["expired"], free["complete"]) == (0, 0, 100)
    assert bound["shed"] > 0
    assert bound["expired"] > 0
    assert bound["shed"] + bound["expired"] + bound["complete"] == 100
    assert bound["final_p99_ms"] <= 500 < free["final_p50_ms"]


@pytest.fixture
def keys(tmp_path: Path) -> str:
    path = tmp_path / "keys.toml"
    path.write_text(
        '[tenants.gold]\nkeys = ["a"]\nweight = 4\n\n[tenants.iron]\nkeys = ["b"]\n\n'
        '[tenants.last]\nkeys = ["c"]\npriority = 1\n\n[tenants.few]\nkeys = ["d"]\nrequests_per_minute = 10\n'
    )
    return str(path)


def test_weights_priorities_and_quotas_hold_as_they_do_in_the_runtime(keys: str) -> None:
    arrivals = [
        Arrival(0.001 * number, prompt_tokens=16, output_tokens=16, tenant=tenant)
        for number in range(60)
        for tenant in ("gold", "iron", "last", "few")
    ]
    run = simulate(
        arrivals, step_time=StepTime(5), settings=_settings(max_running=2, max_waiting=10_000, api_keys=keys)
    )
    found = run.by_tenant()
    assert found["gold"]["queue_p50_ms"] < 0.7 * found["iron"]["queue_p50_ms"]
    assert found["iron"]["queue_p99_ms"] < found["last"]["queue_p50_ms"]
    assert (found["few"]["over_quota"], found["few"]["complete"]) == (50, 10)
    assert sum(row["requests"] for row in found.values()) == run.summary()["requests"] == len(arrivals)


def test_a_tenant_that_the_file_of_keys_lacks_is_named(keys: str) -> None:
    arrival = Arrival(0, prompt_tokens=1, output_tokens=1, tenant="silver")
    with pytest.raises(UserError, match=r"tenant 'silver': .*keys.toml has 'few', 'gold', 'iron', 'last'"):
        simulate([arrival], step_time=StepTime(1), settings=_settings(api_keys=keys))


@pytest.mark.parametrize(
    ("base_ms", "stream_ms", "told"),
    [(-1, 0, "base_ms of a step is -1"), (1, float("nan"), "stream_ms of a step is nan"), (0, 0, "takes no time")],
)
def test_a_step_that_takes_no_time_is_refused(base_ms: float, stream_ms: float, told: str) -> None:
    with pytest.raises(UserError, match=told):
        StepTime(base_ms, stream_ms=stream_ms)
