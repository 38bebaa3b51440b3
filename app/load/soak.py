"""A run of hours in bounded memory: what each slice was like, and whether latency, errors, tokens or memory drift."""

import asyncio
import math
import os
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from .results import Result

Floats = npt.NDArray[np.float64]
#: A histogram's buckets grow by this, so that a percentile is within 1 % of its rank's value.
GAMMA: Final = 1.02
LOG_GAMMA: Final = math.log(GAMMA)
#: A soak is cut into so many slices: enough for a trend to be told from luck.
SLICES: Final = 60
#: Of the slices' trend: a drift has a chance below this of being luck (Mann and Kendall's test, two-sided).
LUCK: Final = 0.01
FEWEST: Final = 10
#: The first slices warm caches and are no part of the trend.
WARM: Final = 0.1
RSS: Final = re.compile(rb"^process_resident_memory_bytes(?:\{[^}]*\})? ([0-9.e+]+)", re.MULTILINE)


@dataclass
class Histogram:
    """Milliseconds in buckets of equal ratio; its size is bounded by the range of values, not by their number."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, value_ms: float) -> None:
        """Count one value."""
        self.counts[math.ceil(math.log(max(value_ms, 1e-3)) / LOG_GAMMA)] += 1

    def quantile(self, share: float) -> float | None:
        """Return the value of a rank, to 1 %; None of nothing."""
        left = share * sum(self.counts.values())
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 0:
                return math.exp((bucket - 0.5) * LOG_GAMMA)
        return None


@dataclass
class Slice:
    """What a stretch of the soak was like."""

    total: Histogram = field(default_factory=Histogram)
    ttft: Histogram = field(default_factory=Histogram)
    n: int = 0
    failed: int = 0
    tokens: int = 0
    decode_ms: float = 0.0
    memory_bytes: float | None = None
    own_memory_bytes: float | None = None

    def add(self, result: Result) -> None:
        """Take a result."""
        self.n += 1
        self.failed += result.outcome not in ("ok", "left")
        if result.outcome != "ok":
            return
        self.total.add(result.total_ms)
        if result.ttft_ms is not None:
            self.ttft.add(result.ttft_ms)
            self.tokens += max((result.output_tokens or result.chunks) - 1, 0)
            self.decode_ms += result.total_ms - result.ttft_ms


#: Measure -> its value in a slice, whether more is worse, the change over the soak that counts (a ratio; of the error
#: rate the difference).
MEASURES: Final[dict[str, tuple[Callable[[Slice], float | None], bool, float]]] = {
    "total_p50_ms": (lambda one: one.total.quantile(0.5), True, 0.10),
    "total_p95_ms": (lambda one: one.total.quantile(0.95), True, 0.10),
    "ttft_p95_ms": (lambda one: one.ttft.quantile(0.95), True, 0.10),
    "tokens_per_stream_s": (lambda one: 1e3 * one.tokens / one.decode_ms if one.decode_ms else None, False, 0.10),
    "error_rate": (lambda one: one.failed / one.n if one.n else None, True, 0.01),
    "memory_bytes": (lambda one: one.memory_bytes, True, 0.05),
    "own_memory_bytes": (lambda one: one.own_memory_bytes, True, 0.05),
}
RATES: Final = ("error_rate",)


@dataclass(frozen=True)
class Drift:
    """How a measure moved from the soak's start to its end along its trend; `luck` is the chance of such a trend."""

    measure: str
    start: float | None
    end: float | None
    change: float | None
    luck: float | None
    verdict: str


class Soak:
    """Keeps slices of a run that lasts `lasts_s` from `began_ns`; `memory` reads the target's, in bytes, or None."""

    def __init__(self, *, began_ns: int, lasts_s: float, memory: Callable[[], float | None] = lambda: None) -> None:
        self.slices = [Slice() for _ in range(SLICES)]
        self._began_ns = began_ns
        self._slice_ns = lasts_s * 1e9 / SLICES
        self._memory = memory

    def keep(self, result: Result) -> None:
        """Count a result in the slice for which it was planned."""
        self._at(result.planned_ns).add(result)

    def sample(self, now_ns: int) -> None:
        """Read both memories into the slice of this instant."""
        one = self._at(now_ns)
        one.memory_bytes, one.own_memory_bytes = self._memory(), rss_of(os.getpid())

    async def watch(self, now_ns: Callable[[], int]) -> None:
        """Sample twice a slice, until cancelled."""
        while True:
            await asyncio.to_thread(self.sample, now_ns())
            await asyncio.sleep(self._slice_ns / 2e9)

    def _at(self, at_ns: int) -> Slice:
        return self.slices[min(max(int((at_ns - self._began_ns) / self._slice_ns), 0), SLICES - 1)]

    def drifts(self) -> list[Drift]:
        """Return how each measure moved; its verdict is worse, better, steady or unknown (too few slices have it)."""
        warm = round(WARM * SLICES)
        found = []
        for name, (value, more_is_worse, least) in MEASURES.items():
            pairs = [(at, value(one)) for at, one in enumerate(self.slices) if at >= warm and one.n]
            known = [(float(at), one) for at, one in pairs if one is not None]
            found.append(_drift(name, known, more_is_worse=more_is_worse, least=least))
        return found

    def told(self) -> dict[str, Any]:
        """Return the drifts and the slices as a plain object."""
        rows = [{name: value(one) for name, (value, _, _) in MEASURES.items()} | {"n": one.n} for one in self.slices]
        drifts = [vars(one) for one in self.drifts()]
        return {"slice_s": self._slice_ns / 1e9, "drifts": drifts, "slices": rows}


def _drift(name: str, known: Sequence[tuple[float, float]], *, more_is_worse: bool, least: float) -> Drift:
    if len(known) < FEWEST:
        return Drift(name, None, None, None, None, "unknown")
    t, values = (np.array(column) for column in zip(*known, strict=True))
    slope, luck = trend(t, values)
    middle = float(np.median(values - slope * t))
    start, end = middle + slope * float(t[0]), middle + slope * float(t[-1])
    change = end - start if name in RATES else (end - start) / start if start > 0 else 0.0
    verdict = "steady"
    if luck < LUCK and abs(change) >= least:
        verdict = "worse" if (change > 0) == more_is_worse else "better"
    return Drift(name, start, end, change, luck, verdict)


def trend(t: Floats, values: Floats) -> tuple[float, float]:
    """Return Theil and Sen's slope, the median over all pairs, and the chance of such a trend without any.

    The chance is that of Mann and Kendall's test with the normal approximation and the correction for ties; one slice
    that stands out moves neither.
    """
    first, second = np.triu_indices(len(t), k=1)
    slope = float(np.median((values[second] - values[first]) / (t[second] - t[first])))
    score = float(np.sign(values[second] - values[first]).sum())
    n = len(values)
    _, ties = np.unique(values, return_counts=True)
    variance = (n * (n - 1) * (2 * n + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())) / 18
    if variance <= 0:
        return slope, 1.0
    z = (abs(score) - 1) / math.sqrt(variance) if score else 0.0
    return slope, math.erfc(max(z, 0.0) / math.sqrt(2))


def rss_of(pid: int) -> float | None:
    """Return the resident memory of a process in bytes; None where it cannot be read."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return None
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def memory_reader(given: str) -> Callable[[], float | None]:
    """Return what reads the target's memory: of a process id, or of an address whose metrics tell it; else nothing."""
    if given.isdecimal():
        return lambda: rss_of(int(given))
    return (lambda: _scraped(given)) if given else lambda: None


def _scraped(url: str) -> float | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - an address that the user named
            found = RSS.search(answer.read())
    except (OSError, ValueError, urllib.error.URLError):
        return None
    return float(found[1]) if found else None


def to_markdown(told: Mapping[str, Any]) -> list[str]:
    """Return the drift report: a row a measure."""
    lines = [
        "## Drift",
        "",
        "| measure | start | end | change | chance | verdict |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in told["drifts"]:
        numbers = ["" if one[name] is None else f"{one[name]:,.4g}" for name in ("start", "end")]
        change = "" if one["change"] is None else f"{one['change']:+.1%}"
        luck = "" if one["luck"] is None else f"{one['luck']:.2g}"
        lines.append(f"| {one['measure']} | {' | '.join(numbers)} | {change} | {luck} | {one['verdict']} |")
    return lines
