"""Whatever shares a batch, a page or the machine with it, a greedy request gets what it gets alone."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import Generation
from tailbudget.gpu_runtime.telemetry import phases
from tests.runtime_support import Bench, Notes, engine

CONTEXT = 96


def _prompts(chance: random.Random, count: int) -> list[list[int]]:
    """Return prompts of which some begin alike."""
    common = [chance.randint(3, 499) for _ in range(40)]
    return [
        [*common[: chance.choice((0, 16, 33, 40))], *(chance.randint(3, 499) for _ in range(chance.randint(1, 12)))]
        for _ in range(count)
    ]


def _alone(prompts: list[list[int]], tokens: list[int]) -> list[list[int]]:
    with engine(max_context=CONTEXT, max_running=1, prefix_cache=False) as bench:
        generations = []
        for prompt, count in zip(prompts, tokens, strict=True):
            generations.append(bench.submit(prompt, max_tokens=count))
            bench.finish(generations[-1])
        return [generation.output for generation in generations]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kv_pages=st.sampled_from([6, 7, 9, 14, 0]),
    slots=st.integers(2, 5),
    chunk=st.sampled_from([1, 7, 16, 64]),
    prefix_cache=st.booleans(),
)
def test_greedy_tokens_are_those_of_a_run_alone(
    seed: int, kv_pages: int, slots: int, chunk: int, prefix_cache: bool
) -> None:
    chance = random.Random(seed)
    prompts = _prompts(chance, 6)
    tokens = [chance.randint(1, CONTEXT - len(prompt)) for prompt in prompts]
    alone = _alone(prompts, tokens)
    notes = Notes()
    chosen = {"max_running": slots, "prefill_chunk": chunk, "prefix_cache": prefix_cache, "kv_pages": kv_pages}
    with engine(notes, max_context=CONTEXT, **chosen) as bench:
        sent = [bench.submit(prompt, max_tokens=count) for prompt, count in zip(prompts, tokens, strict=True)]
        for generation in sent:
            bench.finish(generation)
        assert bench.engine.kv_used == 0
    assert [generation.output for generation in sent] == alone
    for generation in sent:
        _check_times(generation)
    assert notes.streams == 0


def _check_times(generation: Generation) -> None:
    found = phases(generation)
    assert generation.ended_ns is not None
    assert found.total_ns == generation.ended_ns - generation.arrived_ns
    assert min(found.queue_ns, found.prefill_ns, found.decode_ns) >= 0
    assert (generation.preempted_ns > 0) == (generation.preemptions > 0)
    assert generation.preempted_ns <= found.total_ns


def test_a_preempted_request_goes_on_as_if_nothing_had_been() -> None:
    prompts, tokens = [[5, 6, 7], [8, 9, 10]], [80, 80]
    alone = _alone(prompts, tokens)
    with engine(max_context=CONTEXT, max_running=2, kv_pages=6) as bench:
        sent = [bench.submit(prompt, max_tokens=80) for prompt in prompts]
        for generation in sent:
            bench.finish(generation)
        assert bench.engine.counts.preemptions == sum(each.preemptions for each in sent) > 0
    assert [generation.output for generation in sent] == alone
    assert sum(generation.preempted_ns > 0 for generation in sent) == 1


@pytest.mark.parametrize("seed", range(4))
def test_those_that_stay_are_not_touched_by_those_that_leave_or_run_out_of_time(seed: int) -> None:
    chance = random.Random(seed)
    prompts = _prompts(chance, 16)
    alone = _alone(prompts[:4], [40] * 4)
    with engine(max_context=CONTEXT, max_running=3, kv_pages=8) as bench:
        staying = [bench.submit(prompt, max_tokens=40) for prompt in prompts[:4]]
        leaving = [bench.submit(prompt, max_tokens=40) for prompt in prompts[4:10]]
        hurried = [_hurried(bench, prompt, chance.randint(1, 60)) for prompt in prompts[10:]]
        for generation in leaving:
            time.sleep(chance.random() * 0.01)
            generation.cancelled = True
        for generation in (*staying, *leaving, *hurried):
            bench.finish(generation)
            _check_times(generation)
        assert (bench.engine.kv_used, bench.engine.running, bench.engine.waiting) == (0, 0, 0)
    assert [generation.output for generation in staying] == alone
    assert {generation.end for generation in staying} == {"complete"}


def _hurried(bench: Bench, prompt: list[int], after_ms: int) -> Generation:
    now_ns = time.perf_counter_ns()
    params = SamplingParams(40, temperature=0.0)
    generation = Generation("hurried", prompt, params, now_ns, deadline_ns=now_ns + after_ms * 1_000_000)
    bench.engine.submit(generation)
    return generation
