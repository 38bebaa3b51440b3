"""Tenants get their shares, priorities go first, and nobody's prompt stops the others' tokens."""

import time
from itertools import pairwise

import pytest

from tailbudget.gpu_runtime.engine import EngineFullError
from tailbudget.gpu_runtime.kv import Pages
from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import Generation, Scheduler
from tailbudget.gpu_runtime.tenants import ANYBODY, Tenant
from tests.runtime_support import engine, on_devices
from tests.support import wait_until


def _generation(
    name: str, tenant: Tenant = ANYBODY, *, prompt: int = 20, tokens: int = 20, priority: int = 0
) -> Generation:
    return Generation(name, [1] * prompt, SamplingParams(tokens), 0, tenant=tenant, priority=priority)


def _ended(scheduler: Scheduler, *, steps: int) -> list[Generation]:
    """Run so many steps as the engine does; returns those that ended, in order."""
    over: list[Generation] = []
    for _ in range(steps):
        work = scheduler.plan()
        sampled = [item.generation for item in work if item.samples]
        scheduler.advance(work)
        for generation in sampled:
            generation.output.append(7)
            if len(generation.output) == generation.params.max_tokens:
                scheduler.remove(generation)
                over.append(generation)
    return over


def _scheduler(slots: int = 2) -> Scheduler:
    return Scheduler(Pages(100), slots=slots, prefill_chunk=100, prefix_cache=False)


def test_a_flood_of_one_tenant_does_not_keep_another_waiting() -> None:
    flood, other = Tenant("flood"), Tenant("other")
    scheduler = _scheduler(slots=1)
    for index in range(50):
        scheduler.add(_generation(f"flood {index}", flood))
    _ended(scheduler, steps=5)
    scheduler.add(_generation("other", other))
    assert "other" in [generation.id for generation in _ended(scheduler, steps=80)]


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_tenants_that_always_wait_are_served_tokens_by_weight(weight: float) -> None:
    heavy, light = Tenant("heavy", weight=weight), Tenant("light")
    scheduler = _scheduler()
    for index in range(400):
        # Many small ones against few large ones: shares are of tokens, not of requests.
        scheduler.add(_generation(f"heavy {index}", heavy, prompt=60, tokens=40))
        scheduler.add(_generation(f"light {index}", light, prompt=6, tokens=4))
    served = {heavy: 0, light: 0}
    for generation in _ended(scheduler, steps=1200):
        served[generation.tenant] += generation.length
    assert len(scheduler.waiting) > 10
    assert served[heavy] / served[light] == pytest.approx(weight, rel=0.15)


def test_what_a_tenant_used_while_nobody_waited_is_not_held_against_it() -> None:
    busy, late = Tenant("busy"), Tenant("late")
    scheduler = _scheduler(slots=1)
    for index in range(5):
        scheduler.add(_generation(f"alone {index}", busy, tokens=200))
    assert len(_ended(scheduler, steps=1100)) == 5
    for index in range(4):
        scheduler.add(_generation(f"busy {index}", busy))
        scheduler.add(_generation(f"late {index}", late))
    order = [generation.tenant.name for generation in _ended(scheduler, steps=400)]
    assert sorted(order[:2]) == ["busy", "late"]


def test_a_lower_priority_number_goes_first_and_keeps_its_pages() -> None:
    scheduler = _scheduler(slots=1)
    for name, priority in (("running", 0), ("late", 5), ("normal", 0), ("urgent", -1)):
        scheduler.add(_generation(name, priority=priority))
        if name == "running":
            _ended(scheduler, steps=1)
    assert [each.id for each in _ended(scheduler, steps=100)] == ["running", "urgent", "normal", "late"]
    scheduler = Scheduler(Pages(4), slots=2, prefill_chunk=100)
    for name, priority in (("patient", 1), ("urgent", 0)):
        scheduler.add(_generation(name, prompt=10, tokens=40, priority=priority))
        _ended(scheduler, steps=1)
    patient, urgent = scheduler.waiting.first(), scheduler.running[0]
    assert [each.id for each in _ended(scheduler, steps=200)] == ["urgent", "patient"]
    assert (patient, urgent.preemptions) == (None, 0)


def _longest_gap_share(device: str) -> float:
    """Return the longest gap of a stream beside a huge prompt as a share of the prompt's time."""
    with engine(device=device, max_context=2048, prefill_chunk=16, prefix_cache=False) as bench:
        stream = bench.submit("The river", max_tokens=1500)
        wait_until(lambda: stream.output)
        huge = bench.submit([5 + index % 400 for index in range(1600)], max_tokens=1)
        bench.finish(huge)
        stream.cancelled = True
        bench.finish(stream)
    assert huge.prefill_ns is not None
    assert huge.ended_ns is not None
    # By the engine's own stamps: a loop that watches it here would fight it for the interpreter's lock.
    tokens_ns = [at_ns for at_ns in stream.token_ns if huge.prefill_ns <= at_ns <= huge.ended_ns]
    assert len(tokens_ns) >= 90  # a hundred chunks, a token of the stream with each
    return max(after - before for before, after in pairwise(tokens_ns)) / (huge.ended_ns - huge.prefill_ns)


@on_devices
def test_a_huge_prompt_does_not_stop_the_tokens_of_others(device: str) -> None:
    # An engine that stops does so each time, a machine that hesitates does not.
    assert any(_longest_gap_share(device) < 1 / 4 for _ in range(3))


def _waited_ns(device: str) -> int:
    """Return how long the first of two requests that become one batch waited for its token, with 1 s to wait."""
    with engine(device=device, batch_delay_ms=1000) as bench:
        first = bench.submit("The river", max_tokens=2)
        time.sleep(0.02)
        second = bench.submit("June", max_tokens=2)
        for generation in (first, second):
            bench.finish(generation)
    assert first.prefill_ns == second.prefill_ns is not None
    assert first.first_token_ns is not None
    assert first.first_token_ns - first.arrived_ns > 0.95e9
    return first.first_token_ns - first.arrived_ns


def _waited_alone_ns(device: str) -> int:
    """Return how long a request waited where no other has a place beside it."""
    with engine(device=device, batch_delay_ms=10_000, max_running=1) as bench:
        full = bench.submit("The river", max_tokens=2)
        bench.finish(full)
    assert full.prefill_ns is not None
    return full.prefill_ns - full.arrived_ns


@on_devices
def test_an_idle_engine_waits_the_batch_delay_for_others_and_no_longer(device: str) -> None:
    # An engine that waits too long does so each time, a machine that hesitates does not.
    assert any(_waited_ns(device) < 3e9 for _ in range(3))
    assert any(_waited_alone_ns(device) < 10e9 for _ in range(3))


@on_devices
def test_a_request_that_would_wait_beyond_its_deadline_is_refused_with_the_measured_wait(device: str) -> None:
    with engine(device=device, max_running=1, step_delay_ms=20) as bench:
        served = bench.submit("The river", max_tokens=20)
        bench.finish(served)
        running = [bench.submit("The river", max_tokens=100) for _ in range(3)]
        assert served.prefill_ns is not None
        assert served.ended_ns is not None
        assert bench.engine.wait_s == pytest.approx(3 * (served.ended_ns - served.prefill_ns) / 1e9)
        assert bench.engine.wait_s > 1.0
        now_ns = time.perf_counter_ns()
        hurried = Generation("hurried", [5], SamplingParams(2), now_ns, deadline_ns=now_ns + 500_000_000)
        with pytest.raises(
            EngineFullError, match=r"the wait would be about \d+\.\d s and the deadline is in 0\.5 s"
        ) as caught:
            bench.engine.submit(hurried)
        assert caught.value.retry_s == pytest.approx(bench.engine.wait_s - 0.5, abs=0.1)
        patient = Generation("patient", [5], SamplingParams(2), now_ns, deadline_ns=now_ns + 600_000_000_000)
        bench.engine.submit(patient)
        for generation in running:
            generation.cancelled = True
        bench.finish(patient)
        assert bench.engine.wait_s == 0
