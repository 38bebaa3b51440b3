"""What a simulated run was like: waits, first tokens, gaps and ends of its requests, and how full its steps were."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from .scheduler import End, Generation

PERCENTILES: Final = (50, 95, 99)


class Ended(NamedTuple):
    """A request that was taken; times in ms since its arrival, None for what did not happen."""

    tenant: str
    end: End
    queue_ms: float | None
    ttft_ms: float | None
    final_ms: float
    prompt_tokens: int
    output_tokens: int
    preemptions: int

    @classmethod
    def of(cls, generation: Generation) -> "Ended":
        """Return the row of a generation that is over; its `id` is the trace's tenant."""

        def since_ms(instant_ns: int | None) -> float | None:
            return None if instant_ns is None else (instant_ns - generation.arrived_ns) / 1e6

        return cls(
            generation.id,
            generation.end or "error",
            since_ms(generation.prefill_ns),
            since_ms(generation.first_token_ns),
            since_ms(generation.ended_ns) or 0.0,
            len(generation.prompt),
            len(generation.output),
            generation.preemptions,
        )


@dataclass
class Steps:
    """Sums over the steps of a run. `*_ns` sums are weighted by how long each step took."""

    slots: int
    n: int = 0
    busy_ns: int = 0
    streams: int = 0
    prompt_tokens: int = 0
    running_ns: int = 0
    waiting_ns: int = 0
    kv_ns: float = 0.0
    most_running: int = 0
    most_waiting: int = 0
    most_kv: float = 0.0

    def add(
        self, step_ns: int, *, streams: int, prompt_tokens: int, running: int, waiting: int, kv_used: float
    ) -> None:
        """Book one step."""
        self.n += 1
        self.busy_ns += step_ns
        self.streams += streams
        self.prompt_tokens += prompt_tokens
        self.running_ns += running * step_ns
        self.waiting_ns += waiting * step_ns
        self.kv_ns += kv_used * step_ns
        self.most_running = max(self.most_running, running)
        self.most_waiting = max(self.most_waiting, waiting)
        self.most_kv = max(self.most_kv, kv_used)


@dataclass
class Run:
    """All that came of a trace. `refused` has tenant and reason of each request that was never taken."""

    steps: Steps
    ended: list[Ended] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    length_s: float = 0.0
    preemptions: int = 0
    prefix_hits: int = 0
    prefix_queries: int = 0
    _gaps_ns: Counter[int] = field(default_factory=Counter)

    def gap(self, gap_ns: int) -> None:
        """Book the time between two tokens of one stream."""
        self._gaps_ns[gap_ns] += 1

    def summary(self) -> dict[str, Any]:
        """Return counts, percentiles in ms (None without any), and means over the run's length.

        `utilisation` is the share of time in which a step ran; `batch` the mean of decoding streams a step that had
        any work; `running` and `waiting` are means over time, idle time included.
        """
        steps, length_ns = self.steps, max(self.length_s * 1e9, 1.0)
        output = sum(row.output_tokens for row in self.ended)
        return {
            **_outcomes(self.ended, [reason for _, reason in self.refused]),
            **_percentiles(self.ended),
            **{f"itl_p{q}_ms": _counted(self._gaps_ns, q) for q in PERCENTILES},
            "length_s": self.length_s,
            "utilisation": steps.busy_ns / length_ns,
            "steps": steps.n,
            "step_ms": steps.busy_ns / max(steps.n, 1) / 1e6,
            "batch": steps.streams / max(steps.n, 1),
            "running": steps.running_ns / length_ns,
            "most_running": steps.most_running,
            "waiting": steps.waiting_ns / length_ns,
            "most_waiting": steps.most_waiting,
            "kv_used": steps.kv_ns / length_ns,
            "most_kv_used": steps.most_kv,
            "preemptions": self.preemptions,
            "prefix_hits": self.prefix_hits / self.prefix_queries if self.prefix_queries else 0.0,
            "tokens_per_s": output / length_ns * 1e9,
        }

    def by_tenant(self) -> dict[str, dict[str, Any]]:
        """Return outcomes and percentiles of each tenant, by name."""
        names = sorted({row.tenant for row in self.ended} | {tenant for tenant, _ in self.refused})
        found = {}
        for name in names:
            own = [row for row in self.ended if row.tenant == name]
            reasons = [reason for tenant, reason in self.refused if tenant == name]
            found[name] = {**_outcomes(own, reasons), **_percentiles(own)}
        return found


def _outcomes(ended: Sequence[Ended], reasons: Sequence[str]) -> dict[str, int]:
    refused = Counter(reasons)
    ends = Counter(row.end for row in ended)
    return {
        "requests": len(ended) + len(reasons),
        "complete": ends["complete"],
        "shed": refused["full"] + refused["late"],
        "over_quota": refused["quota"],
        "too_long": refused["too_long"],
        "expired": ends["deadline"],
    }


def _percentiles(ended: Sequence[Ended]) -> dict[str, float | None]:
    """Return percentiles of what happened: of final times those that were served to the end."""
    measures: dict[str, list[float]] = {
        "queue": [row.queue_ms for row in ended if row.queue_ms is not None],
        "ttft": [row.ttft_ms for row in ended if row.ttft_ms is not None],
        "final": [row.final_ms for row in ended if row.end == "complete"],
    }
    return {f"{name}_p{q}_ms": quantile(values, q) for name, values in measures.items() for q in PERCENTILES}


def quantile(values: Iterable[float], q: float) -> float | None:
    """Return the q-th percentile, interpolated between neighbours as SQL's quantile_cont does; None of nothing."""
    ordered = sorted(values)
    if not ordered:
        return None
    place = (len(ordered) - 1) * q / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _counted(gaps_ns: Mapping[int, int], q: int) -> float | None:
    """Return the q-th percentile of counted gaps in ms: the smallest with at least q % at or below it."""
    left = sum(gaps_ns.values()) * q / 100
    for gap_ns, count in sorted(gaps_ns.items()):
        left -= count
        if left <= 0:
            return gap_ns / 1e6
    return None
