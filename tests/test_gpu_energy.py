"""A GPU's energy is divided over the requests of each step by tokens; the rest is idle, and the sum is the counter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbudget.gpu_runtime.energy import KEPT_STEPS, EnergyAccountant
from tests.nvml_support import compiled

MS = 1_000_000
REAL_STEPS = """
import ctypes, json, sys, time
from tailbudget.gpu_runtime.nvml import GpuSampler
from tailbudget.gpu_runtime.telemetry import Telemetry
from tailbudget.gpu_runtime.watch import GpuWatch
from tests.runtime_support import engine, tiny_model
from tests.support import wait_until

spend = ctypes.CDLL("libnvidia-ml.so.1").stub_spend
model, _ = tiny_model()
forward = type(model).forward

def costly(self, segments, cache):
    spend(0, 1000 + 500 * sum(len(segment.tokens) for segment in segments))
    time.sleep(0.002)
    return forward(self, segments, cache)

sampler = GpuSampler(interval_s=0.02)
watch = GpuWatch("GPU-first", read=sampler.energy_j)
sampler.sinks.append(watch.add)
sampler.start()
wait_until(lambda: watch.energy.take("nobody") is not None)
type(model).forward = costly
spans = {}

class Ends:
    decoding = step = lambda self, *_, **__: None
    def finished(self, generation):
        now_ns = time.time_ns()
        spans[generation.id] = watch.attributes(generation.id, now_ns - 10**9, now_ns)

with engine(Ends(), max_running=4) as bench:
    bench.engine.energy = watch.energy
    for wave in range(3):
        spend(0, 40_000)
        wait_until(lambda: watch.energy.idle_j >= 39 * (wave + 1))
        for generation in [bench.submit("The river runs to the sea", max_tokens=count) for count in (5, 20, 40)]:
            bench.finish(generation)
    wait_until(lambda: len(spans) == 9)
counter_j = sampler.energy_j("GPU-first")
watch.energy.sampled(counter_j)
sampler.stop()
print(json.dumps([counter_j - 5000, watch.energy.requests_j, watch.energy.idle_j, list(spans.values())]))
"""


def test_a_step_is_divided_by_tokens_and_what_lies_between_steps_is_idle() -> None:
    accountant = EnergyAccountant()
    accountant.sampled(100.0, 0)
    accountant.step_started(10 * MS)
    accountant.step_ended({"a": 3, "b": 1}, 50 * MS)
    accountant.sampled(110.0, 100 * MS)
    assert accountant.take("a") == pytest.approx(3.0)
    assert accountant.take("b") == pytest.approx(1.0)
    assert accountant.idle_j == pytest.approx(6.0)
    assert accountant.requests_j == pytest.approx(4.0)


def test_a_step_over_several_samples_takes_each_samples_power() -> None:
    accountant = EnergyAccountant()
    accountant.sampled(0.0, 0)
    accountant.step_started(50 * MS)
    accountant.sampled(10.0, 100 * MS)
    accountant.sampled(40.0, 200 * MS)
    accountant.step_ended({"a": 1}, 250 * MS)
    accountant.sampled(60.0, 300 * MS)
    assert accountant.take("a") == pytest.approx(5 + 30 + 10)
    assert accountant.idle_j == pytest.approx(5 + 10)


def test_the_end_of_a_request_reads_the_counter_so_that_its_last_step_counts() -> None:
    values = iter([0.0, 8.0])
    accountant = EnergyAccountant(lambda: next(values))
    accountant.take("nobody")
    accountant.step_started()
    accountant.step_ended({"a": 1})
    assert 0 < (accountant.take("a") or 0) <= 8
    assert accountant.requests_j + accountant.idle_j == pytest.approx(8.0)


def test_a_step_that_failed_is_idle_and_so_is_one_that_computed_nothing() -> None:
    accountant = EnergyAccountant()
    accountant.sampled(0.0, 0)
    accountant.step_started(0)
    accountant.step_started(10 * MS)
    accountant.step_ended({}, 20 * MS)
    accountant.sampled(7.0, 20 * MS)
    assert accountant.requests_j == 0.0
    assert accountant.idle_j == pytest.approx(7.0)


def test_a_counter_that_starts_anew_gives_nobody_a_negative_energy() -> None:
    accountant = EnergyAccountant()
    accountant.sampled(5000.0, 0)
    accountant.step_started(0)
    accountant.step_ended({"a": 1}, 10 * MS)
    accountant.sampled(2.0, 10 * MS)
    accountant.sampled(5.0, 20 * MS)
    assert (accountant.take("a"), accountant.idle_j) == (0.0, 3.0)


def test_a_reading_that_a_later_one_overtook_changes_nothing() -> None:
    accountant = EnergyAccountant()
    accountant.sampled(100.0, 0)
    accountant.sampled(110.0, 10 * MS)
    accountant.sampled(109.0, 11 * MS)
    accountant.sampled(112.0, 20 * MS)
    assert accountant.idle_j == pytest.approx(12.0)


def test_without_a_counter_a_request_has_no_energy_and_nothing_is_kept() -> None:
    accountant = EnergyAccountant(lambda: None)
    accountant.step_started()
    accountant.step_ended({"a": 1})
    assert accountant.take("a") is None


def test_while_the_counter_is_silent_old_steps_become_idle_and_memory_stays_bounded() -> None:
    accountant = EnergyAccountant()
    accountant.sampled(0.0, 0)
    steps = KEPT_STEPS + 1000
    for index in range(steps):
        accountant.step_started(index * MS)
        accountant.step_ended({"a": 1}, (index + 1) * MS)
    accountant.sampled(float(steps), steps * MS)
    assert accountant.requests_j == pytest.approx(KEPT_STEPS)
    assert accountant.idle_j == pytest.approx(1000)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("start", "end", "sample", "take")),
        st.integers(0, 50),
        st.dictionaries(st.sampled_from("abcd"), st.integers(0, 64)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_happens_requests_and_idle_are_what_the_counter_grew_by(
    events: list[tuple[str, int, dict[str, int]]],
) -> None:
    accountant = EnergyAccountant()
    accountant.sampled(0.0, 0)
    now_ns, joules, taken = 0, 0.0, 0.0
    for what, amount, tokens in events:
        now_ns += amount * MS
        joules += amount
        match what:
            case "start":
                accountant.step_started(now_ns)
            case "end":
                accountant.step_ended(tokens, now_ns)
            case "sample":
                accountant.sampled(joules, now_ns)
            case _:
                taken += accountant.take("a") or 0.0
    now_ns += MS
    accountant.step_ended({}, now_ns)
    accountant.sampled(joules, now_ns)
    assert accountant.requests_j + accountant.idle_j == pytest.approx(joules, abs=1e-9)
    left = sum(accountant.take(request) or 0.0 for request in "abcd")
    assert taken + left <= accountant.requests_j + 1e-9


def test_real_steps_and_a_counter_read_through_nvml_sum_up_within_a_hundredth(tmp_path: Path) -> None:
    driver = compiled(tmp_path)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver)}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", REAL_STEPS], env=environment, cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    counter_j, requests_j, idle_j, spans = json.loads(done.stdout)
    assert requests_j + idle_j == pytest.approx(counter_j, rel=0.01)
    assert idle_j >= 3 * 39
    told_j = [span["slo.gpu.energy"] for span in spans]
    # What the spans tell is what the accountant gave, but what the counter had not told when a request ended.
    assert sum(told_j) <= requests_j * 1.0001
    assert sum(told_j) + idle_j == pytest.approx(counter_j, rel=0.01)
    assert min(told_j) > 0
    assert {span["slo.gpu.sm_clock_min"] for span in spans} == {1980.0}
