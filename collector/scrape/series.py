"""From Prometheus' text format to one value a metric and model: the first spelling that is there, none added twice."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

#: Shards of one engine report the same number each: the largest counts, not the sum.
SHARDS: Final = frozenset({"tp_rank", "pp_rank", "dp_rank", "moe_ep_rank", "pid"})
MODEL: Final = "model_name"
PREFIXES: Final = {"vllm:": "vllm", "sglang:": "sglang", "tailbudget:": "tailbudget"}

Labels = frozenset[tuple[str, str]]


class NoEngineError(Exception):
    """The text is no Prometheus exposition, or not that of an engine: `str()` says which."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A row of names.csv: a metric of ours, and the engines' names for it, the best first."""

    name: str
    kind: str  # gauge, counter or histogram
    unit: str
    over: str  # what is taken over the engine's series of one model: sum or mean
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts by upper bound, the last bound infinite, not cumulative."""

    total: float
    bounds: tuple[float, ...]
    counts: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A metric of one model: a number, or a histogram. `series` are the parts it is made of, by their labels."""

    metric: Metric
    model: str | None
    series: Mapping[Labels, float | Histogram]


@dataclass(frozen=True, slots=True)
class Exposition:
    """What an engine told."""

    engine: str  # vllm, sglang or tailbudget
    samples: tuple[Sample, ...]


def load() -> tuple[Metric, ...]:
    """Return the rows of names.csv."""
    with Path(__file__).with_name("names.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Metric(row["metric"], row["kind"], row["unit"], row["over"], tuple(row["names"].split("|")))
            for row in csv.DictReader(file)
        )


METRICS: Final = load()


def read(text: str) -> Exposition:
    """Return the samples of names.csv in the text. Raises NoEngineError."""
    found = _families(text)
    samples: list[Sample] = []
    engines: set[str] = set()
    for metric in METRICS:
        name = next((name for name in metric.names if name in found), None)
        if name is None:
            continue
        engines |= {engine for prefix, engine in PREFIXES.items() if name.startswith(prefix)}
        by_model: dict[str | None, dict[Labels, float | Histogram]] = defaultdict(dict)
        for labels, value in found[name].items():
            by_model[dict(labels).get(MODEL)][labels] = value
        samples += [Sample(metric, model, series) for model, series in by_model.items()]
    if not samples:
        raise NoEngineError("no metric of vLLM, SGLang or our runtime is among them")
    return Exposition(min(engines), tuple(samples))


def _families(text: str) -> dict[str, dict[Labels, float | Histogram]]:
    """Return the series that names.csv names, by the name under which they are sent."""
    wanted = {name: metric.kind for metric in METRICS for name in metric.names}
    found: dict[str, dict[Labels, float | Histogram]] = defaultdict(dict)
    parts: dict[tuple[str, Labels], dict[float, float]] = defaultdict(dict)
    totals: dict[tuple[str, Labels], float] = defaultdict(float)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                labels = frozenset((key, value) for key, value in sample.labels.items() if key not in SHARDS | {"le"})
                if wanted.get(sample.name) in ("gauge", "counter") and math.isfinite(sample.value):
                    known = found[sample.name].get(labels)
                    largest = max(sample.value, known) if isinstance(known, float) else float(sample.value)
                    found[sample.name][labels] = largest
                    continue
                base, _, part = sample.name.rpartition("_")
                if wanted.get(base) == "histogram" and part == "bucket":
                    bound = float(sample.labels["le"])
                    parts[base, labels][bound] = max(sample.value, parts[base, labels].get(bound, 0.0))
                elif wanted.get(base) == "histogram" and part == "sum":
                    totals[base, labels] = max(sample.value, totals[base, labels])
    except (ValueError, KeyError, IndexError) as error:
        raise NoEngineError(f"it is not Prometheus' text format: {error}") from error
    for (name, labels), buckets in parts.items():
        found[name][labels] = _histogram(totals[name, labels], buckets)
    return found


def _histogram(total: float, buckets: Mapping[float, float]) -> Histogram:
    bounds = sorted(buckets)
    below = [0.0, *(buckets[bound] for bound in bounds)]
    return Histogram(total, tuple(bounds), tuple(max(b - a, 0.0) for a, b in pairwise(below)))


def combine(metric: Metric, values: Iterable[float]) -> float:
    """Return the sum or mean of the series of one model."""
    listed = list(values)
    return sum(listed) / len(listed) if metric.over == "mean" else sum(listed)


class Deltas:
    """Turns counters and histograms that only grow into what came since the last time; a smaller one began anew."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, Labels], float | Histogram] = {}

    def of(self, sample: Sample) -> dict[Labels, float | Histogram]:
        """Return what each series gained; a series that was not there before gained nothing that is known."""
        gained: dict[Labels, float | Histogram] = {}
        for labels, now in sample.series.items():
            key = (sample.metric.name, labels)
            before = self._last.get(key)
            self._last[key] = now
            if isinstance(now, Histogram):
                if isinstance(before, Histogram):
                    gained[labels] = _gained(before, now)
            elif isinstance(before, float):
                gained[labels] = now - before if now >= before else now
        return gained

    def forget(self) -> None:
        """Take the next values as the first."""
        self._last.clear()


def _gained(before: Histogram, now: Histogram) -> Histogram:
    if before.bounds != now.bounds or any(a > b for a, b in zip(before.counts, now.counts, strict=True)):
        return now
    counts = tuple(b - a for a, b in zip(before.counts, now.counts, strict=True))
    return Histogram(max(now.total - before.total, 0.0), now.bounds, counts)
