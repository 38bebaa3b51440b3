"""Whatever shares a batch, a page or the machine with it, a greedy request gets what it gets alone."""

import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import Generation
from tailbudget.gpu_runtime.speculate import PAUSE_TOKENS, Drafter
from tailbudget.gpu_runtime.telemetry import phases
from tests.runtime_support import Bench, Notes, engine, on_devices, page_tokens

CONTEXT = 96


def _prompts(chance: random.Random, count: int) -> list[list[int]]:
    """Return prompts of which some begin alike."""
    common = [chance.randint(3, 499) for _ in range(40)]
    return [
        [*common[: chance.choice((0, 16, 33, 40))], *(chance.randint(3, 499) for _ in range(chance.randint(1, 12)))]
        for _ in range(count)
    ]


def _alone(
    prompts: list[list[int]], tokens: list[int], device: str = "cpu", *, context: int = CONTEXT
) -> list[list[int]]:
    with engine(max_context=context, max_running=1, prefix_cache=False, device=device) as bench:
        generations = []
        for prompt, count in zip(prompts, tokens, strict=True):
            generations.append(bench.submit(prompt, max_tokens=count))
            bench.finish(generations[-1])
        return [generation.output for generation in generations]


@on_devices
@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32),
    kv_pages=st.sampled_from([6, 7, 9, 14, 0]),
    slots=st.integers(2, 5),
    chunk=st.sampled_from([1, 7, 16, 64]),
    prefix_cache=st.booleans(),
    speculate=st.sampled_from([0, 3, 15]),
)
def test_greedy_tokens_are_those_of_a_run_alone(
    device: str, seed: int, kv_pages: int, slots: int, chunk: int, prefix_cache: bool, speculate: int
) -> None:
    chance = random.Random(seed)
    prompts = _prompts(chance, 6)
    tokens = [chance.randint(1, CONTEXT - len(prompt)) for prompt in prompts]
    alone = _alone(prompts, tokens, device)
    notes = Notes()
    chosen = {"max_running": slots, "prefill_chunk": chunk, "prefix_cache": prefix_cache, "kv_pages": kv_pages}
    with engine(notes, max_context=CONTEXT, speculate=speculate, device=device, **chosen) as bench:
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


@on_devices
def test_a_preempted_request_goes_on_as_if_nothing_had_been(device: str) -> None:
    size = page_tokens(device)
    prompts, context, tokens = [[5, 6, 7], [8, 9, 10]], 6 * size, 5 * size
    alone = _alone(prompts, [tokens, tokens], device, context=context)
    with engine(device=device, max_context=context, max_running=2, kv_pages=context // 16) as bench:
        sent = [bench.submit(prompt, max_tokens=tokens) for prompt in prompts]
        for generation in sent:
            bench.finish(generation)
        assert bench.engine.counts.preemptions == sum(each.preemptions for each in sent) > 0
    assert [generation.output for generation in sent] == alone
    assert sum(generation.preempted_ns > 0 for generation in sent) == 1


@on_devices
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_takes_fewer_steps_to_the_same_tokens(temperature: float, device: str) -> None:
    # The bias makes the answer repeat itself, as a text that quotes its prompt does.
    repeating: dict[str, Any] = {
        "max_tokens": 200, "temperature": temperature, "seed": 4, "logit_bias": ((40, 9.0), (41, 9.0)),
    }  # fmt: skip
    runs = []
    for speculate in (0, 4):
        with engine(speculate=speculate, device=device) as bench:
            generation = bench.submit([40, 41] * 8, **repeating)
            bench.finish(generation)
            counts = bench.engine.counts
            runs.append((generation.output, counts.steps))
            assert (counts.drafts > 0) == (speculate > 0)
            assert counts.accepted <= counts.drafts
            assert counts.steps == 200 - counts.accepted
    assert runs[0][0] == runs[1][0]
    assert runs[1][1] < runs[0][1]


@on_devices
@pytest.mark.parametrize("seed", range(4))
def test_those_that_stay_are_not_touched_by_those_that_leave_or_run_out_of_time(seed: int, device: str) -> None:
    chance = random.Random(seed)
    prompts = _prompts(chance, 16)
    alone = _alone(prompts[:4], [40] * 4, device)
    with engine(max_context=CONTEXT, max_running=3, kv_pages=8, device=device) as bench:
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


def test_guesses_come_from_the_latest_place_where_the_last_tokens_stood() -> None:
    drafter = Drafter()
    text = [1, 2, 3, 4, 5, 9, 1, 2, 3, 6, 7, 9, 1, 2, 3]
    assert drafter.draft(text, 3) == (6, 7, 9)
    assert drafter.draft([*text, 8], 3) == ()


def test_guessing_pauses_where_it_fails_and_is_tried_again_later() -> None:
    drafter, text = Drafter(), [1, 2, 3] * 10
    for _ in range(20):
        if drafter.draft(text, 4):
            drafter.checked(drafted=4, accepted=0, length=len(text))
    assert drafter.draft(text, 4) == ()
    assert drafter.draft([1, 2, 3] * 10 + [1, 2, 3] * PAUSE_TOKENS, 4)
    eager = Drafter()
    for _ in range(20):
        assert eager.draft(text, 4)
        eager.checked(drafted=4, accepted=3, length=len(text))
