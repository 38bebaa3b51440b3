"""What became of the requests of a load run, on the client's clock."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RANKS: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))


@dataclass(slots=True)
class Result:
    """One request. Milliseconds count from `planned_ns`, the unix time at which it was to be sent.

    `outcome` is ok, error, timeout, shed (429 or 503), rejected (another 4xx), left (the client went, as it was told
    to) or unsent. `consumer_ms` is what a slow reader took, `waited_ms` what it waited before it came back.
    """

    number: int
    step: int
    planned_ns: int
    late_ms: float = 0.0
    total_ms: float = 0.0
    ttft_ms: float | None = None
    outcome: str = "ok"
    status: int = 0
    error: str = ""
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    chunks: int = 0
    consumer_ms: float = 0.0
    attempts: int = 1
    waited_ms: float = 0.0
    tenant: str = ""
    trace_id: str = ""
    span_id: str = ""
    planned_to_leave: bool = False

    @property
    def tpot_ms(self) -> float | None:
        """Milliseconds a token after the first; None of fewer than two tokens, or where their number is not told."""
        if self.ttft_ms is None or self.output_tokens is None or self.output_tokens < 2:
            return None
        return (self.total_ms - self.ttft_ms) / (self.output_tokens - 1)


def percentiles(values: Iterable[float | None]) -> dict[str, float]:
    """Return n, mean, p50, p95, p99 and max of what is not None, to the microsecond; n alone of nothing."""
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return {"n": 0}
    ranks = np.quantile(known, [rank for _, rank in RANKS])
    found = {"n": len(known), "mean": known.mean(), **dict(zip((name for name, _ in RANKS), ranks, strict=True))}
    return {name: round(float(value), 3) for name, value in (found | {"max": known.max()}).items()} | {"n": len(known)}


def answered(results: Iterable[Result]) -> list[Result]:
    """Return those that had their whole answer: the others have no latency."""
    return [one for one in results if one.outcome == "ok"]


class Sample:
    """Counts all results and keeps up to `most` of them, each as likely as any other, however many there are."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._random = random.Random(most)  # noqa: S311 - which are kept is no secret
        self.results: list[Result] = []
        self.outcomes: Counter[str] = Counter()
        self.tokens = 0

    def add(self, result: Result) -> None:
        """Count a result."""
        self.outcomes[result.outcome] += 1
        self.tokens += result.output_tokens or 0
        if len(self.results) < self._most:
            self.results.append(result)
        elif (place := self._random.randrange(self.n)) < self._most:
            self.results[place] = result

    @property
    def n(self) -> int:
        """How many results there were."""
        return self.outcomes.total()


def figures(sample: Sample, *, lasted_s: float) -> dict[str, Any]:
    """Return what a step is told by: n, per_s, outcomes, percentiles of clocks and lateness, tokens a second."""
    results, good = sample.results, answered(sample.results)
    return {
        "n": sample.n,
        "lasted_s": round(lasted_s, 3),
        "per_s": round(sample.outcomes["ok"] / max(lasted_s, 1e-9), 3),
        "output_tokens_per_s": round(sample.tokens / max(lasted_s, 1e-9), 3),
        "outcomes": dict(sample.outcomes),
        "total_ms": percentiles(one.total_ms for one in good),
        "ttft_ms": percentiles(one.ttft_ms for one in good),
        "tpot_ms": percentiles(one.tpot_ms for one in good),
        "late_ms": percentiles(one.late_ms for one in results if one.outcome != "unsent"),
    }
