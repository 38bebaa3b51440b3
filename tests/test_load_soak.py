"""A soak calls what drifts and nothing else, keeps little however long it lasts, and reads its target's memory."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tailbudget.app.load.results import Result, Sample
from tailbudget.app.load.runner import Step
from tailbudget.app.load.session import Session
from tailbudget.app.load.soak import SLICES, Histogram, Soak, memory_reader, rss_of, trend

from .load_support import route, scripted, traffic

HOUR_NS = 3_600_000_000_000


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with scripted() as url:
        yield url


def soaked(
    total_ms: Callable[[float], float],
    *,
    failing: Callable[[float], float] = lambda _: 0.0,
    tokens: Callable[[float], float] = lambda _: 20.0,
    memory: Callable[[float], float] = lambda _: 1e8,
    seed: int = 1,
) -> dict[str, str]:
    """Return the verdicts on an hour of 6,000 requests, whose figures are functions of its share that is over."""
    rng, at = np.random.default_rng(seed), 0.0
    soak = Soak(began_ns=0, lasts_s=3600, memory=lambda: memory(at) * float(rng.normal(1, 0.005)))
    for number in range(6000):
        at = number / 6000
        ms = total_ms(at) * float(rng.lognormal(0, 0.3))
        one = Result(number, 1, int(at * HOUR_NS), total_ms=ms, ttft_ms=ms / 4)
        one.output_tokens = 1 + round(ms * 0.75 * tokens(at) / 1e3)
        one.outcome = "error" if rng.random() < failing(at) else "ok"
        soak.keep(one)
        if number % 50 == 0:
            soak.sample(one.planned_ns)
    return {one.measure: one.verdict for one in soak.drifts()}


def test_an_hour_that_stays_as_it_was_is_steady_in_all_of_its_measures() -> None:
    for seed in range(5):
        verdicts = soaked(lambda _: 800.0, seed=seed)
        assert set(verdicts.values()) == {"steady"}, verdicts


@pytest.mark.parametrize(
    ("measure", "changes"),
    [
        ("total_p95_ms", {"total_ms": lambda at: 800 * (1 + 0.3 * at)}),
        ("error_rate", {"failing": lambda at: 0.04 * at}),
        ("tokens_per_stream_s", {"tokens": lambda at: 40 * (1 - 0.3 * at)}),
        ("memory_bytes", {"memory": lambda at: 1e8 * (1 + 0.2 * at)}),
    ],
)
def test_what_grows_worse_over_the_hour_is_called_so(
    measure: str, changes: dict[str, Callable[[float], float]]
) -> None:
    verdicts = soaked(**{"total_ms": lambda _: 800.0, **changes})  # type: ignore[arg-type]
    assert verdicts[measure] == "worse"
    untouched = {"total_p95_ms", "error_rate", "memory_bytes"} - {measure}
    assert {verdicts[name] for name in untouched} == {"steady"}


def test_one_bad_stretch_is_no_drift() -> None:
    verdicts = soaked(lambda at: 8000.0 if 0.5 < at < 0.55 else 800.0)
    assert verdicts["total_p95_ms"] == "steady"


def test_what_gets_better_is_no_reason_to_fail() -> None:
    assert soaked(lambda at: 800 * (1.4 - 0.4 * at))["total_p50_ms"] == "better"


def test_a_trend_is_that_of_theil_and_sen_and_its_chance_that_of_kendall() -> None:
    t = np.arange(20.0)
    slope, luck = trend(t, 3 + 0.5 * t)
    assert slope == pytest.approx(0.5)
    assert luck < 1e-6
    assert trend(t, np.full(20, 4.0)) == (0.0, 1.0)
    rng = np.random.default_rng(3)
    called = sum(trend(t, rng.normal(size=20))[1] < 0.05 for _ in range(1000))
    assert called == pytest.approx(50, abs=20)


def test_a_histogram_is_exact_to_a_hundredth_and_stays_small() -> None:
    values = np.random.default_rng(5).lognormal(5, 1, 50_000)
    histogram = Histogram()
    for value in values:
        histogram.add(float(value))
    for share in (0.5, 0.95, 0.99):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.011)
    assert len(histogram.counts) < 700


def test_what_is_kept_of_a_soak_does_not_grow_with_its_length() -> None:
    sample, soak = Sample(500), Soak(began_ns=0, lasts_s=3600)
    sizes = []
    for number in range(20_000):
        one = Result(number, 1, number * 180_000_000, total_ms=100.0 + number % 700)
        sample.add(one)
        soak.keep(one)
        if number in (9_999, 19_999):
            sizes.append((len(sample.results), max(len(part.total.counts) for part in soak.slices)))
    assert sizes[0][0] == sizes[1][0] == 500
    assert sizes[1][1] < 300
    assert len(soak.slices) == SLICES
    assert sample.n == 20_000
    kept = np.array([one.number for one in sample.results])
    assert kept.mean() == pytest.approx(10_000, rel=0.1)  # the first are no likelier than the last


def test_the_memory_of_a_process_is_read_by_its_id_or_from_its_metrics(tmp_path: Path) -> None:
    own = rss_of(os.getpid())
    assert own is not None
    assert memory_reader(str(os.getpid()))() == pytest.approx(own, rel=0.1)
    metrics = tmp_path / "metrics"
    metrics.write_text("# HELP x\nprocess_resident_memory_bytes 1.25e+08\n")
    assert memory_reader(metrics.as_uri())() == 1.25e8
    assert memory_reader("http://127.0.0.1:9/metrics")() is None
    assert memory_reader("")() is None
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        ended.wait()
    assert memory_reader(str(ended.pid))() is None


def test_both_memories_are_read_twice_a_slice_as_long_as_a_soak_lasts() -> None:
    soak = Soak(began_ns=0, lasts_s=SLICES / 1000, memory=lambda: 1.25e8)
    instants = iter(range(0, SLICES * 1_000_000, 500_000))

    async def watched() -> None:
        with contextlib.suppress(RuntimeError):  # what the end of an iterator becomes within a coroutine
            await soak.watch(lambda: next(instants))

    asyncio.run(watched())
    assert next(instants, None) is None
    assert [one.memory_bytes for one in soak.slices] == [1.25e8] * SLICES
    assert all(one.own_memory_bytes for one in soak.slices)


def test_a_soak_of_a_step_has_its_drifts_and_slices(server: str) -> None:
    session = Session(route(server, delay_ms=0), traffic(), soaks=True, memory=memory_reader(str(os.getpid())))
    stepped = asyncio.run(session.run(Step(1, "requests/s", 60.0, 3.0)))
    told = stepped.figures["soak"]
    assert sum(one["n"] for one in told["slices"]) == stepped.figures["n"] > 100
    assert {one["measure"] for one in told["drifts"]} >= {"total_p95_ms", "error_rate", "memory_bytes"}
    assert any(one["own_memory_bytes"] for one in told["slices"])
