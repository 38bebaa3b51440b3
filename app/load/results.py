"""What became of the requests of a load run, on the client's clock."""

from collections.abc import Iterable, Sequence
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


def figures(results: Sequence[Result], *, lasted_s: float) -> dict[str, Any]:
    """Return what a step is told by: n, per_s, outcomes, percentiles of clocks and lateness, tokens a second."""
    good = answered(results)
    outcomes: dict[str, int] = {}
    for one in results:
        outcomes[one.outcome] = outcomes.get(one.outcome, 0) + 1
    tokens = sum(one.output_tokens or 0 for one in results)
    return {
        "n": len(results),
        "lasted_s": round(lasted_s, 3),
        "per_s": round(len(good) / max(lasted_s, 1e-9), 3),
        "output_tokens_per_s": round(tokens / max(lasted_s, 1e-9), 3),
        "outcomes": outcomes,
        "total_ms": percentiles(one.total_ms for one in good),
        "ttft_ms": percentiles(one.ttft_ms for one in good),
        "tpot_ms": percentiles(one.tpot_ms for one in good),
        "late_ms": percentiles(one.late_ms for one in results if one.outcome != "unsent"),
    }
