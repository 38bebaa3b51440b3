"""The capacity worksheet: how many replicas and GPU hours a region's busiest minutes need, and what they cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final

from tailbudget.instrument.errors import UserError

from .capacity import Kind, Limits, Load, Replica, best_batch, highest_rate, load
from .questions import ask
from .reader import Reader
from .window import Window

HOURS: Final = 24
#: Shares of the highest rate that keeps the limits, for the curve.
CURVE: Final = tuple(step / 20 for step in range(1, 31))
#: How long a replica is away, for the queue that this makes.
OUTAGE_S: Final = 300.0


@dataclass(frozen=True)
class Terms:
    """What a plan has to observe. UserError for a value that makes no sense.

    `headroom`: share of the peak that must be free beside it. `most_running`: slots that an engine may have at most;
    with `kv_tokens`, the tokens of its KV cache, never more than fit.
    """

    headroom: float = 0.2
    _: KW_ONLY
    gpus: int = 1
    usd_per_gpu_hour: float | None = None
    most_running: int = 256
    kv_tokens: int | None = None

    def __post_init__(self) -> None:
        bounds = {"headroom": (0, 10), "gpus": (1, 1024), "most_running": (1, 4096)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)!r}: expected {low} to {high}")
        for name in ("usd_per_gpu_hour", "kv_tokens"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)!r}: expected more than 0")


@dataclass(frozen=True)
class Demand:
    """What one region asks: requests by kind, a second in its peak and, if known, in that of each hour of a day."""

    region: str
    kinds: Sequence[Kind]
    peak_s: float
    _: KW_ONLY
    hours_s: Sequence[float] = ()
    buckets: Sequence[Mapping[str, Any]] = ()
    tenants: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Sheet:
    """The plan of one region.

    `highest_s`: requests a second that one replica holds within the limits; `at_peak`: one of `replicas` in the peak;
    `one_less`: one of the others while a replica is away (None for a single one), and `outage_wait_s` how long
    requests wait after OUTAGE_S of that (Little: queue / rate). `hourly_gpu_hours_day`: with as many replicas as each
    hour of the day needs, None where a day is not known.
    """

    demand: Demand
    replica: Replica
    limits: Limits
    terms: Terms
    highest_s: float
    replicas: int
    at_peak: Load
    one_less: Load | None
    outage_wait_s: float | None
    gpu_hours_day: float
    hourly_gpu_hours_day: float | None
    usd_day: float | None
    curve: Sequence[Load]
    tenants: Sequence[Mapping[str, Any]]


def demands(reader: Reader, window: Window, *, instance: str | None = None) -> list[Demand]:
    """Return what each region asked of `instance`, of all engines if None; calls without token counts are left out."""
    params = {**window.span(), "instance": instance}
    mixes = ask(reader, "capacity_demand", params).to_pylist()
    peaks = ask(reader, "capacity_peak", params).to_pylist()
    tenants = ask(reader, "capacity_tenants", params).to_pylist()
    return [_demand(region, mixes, peaks, tenants) for region in sorted({row["region"] for row in mixes})]


def _demand(region: str, *answers: list[dict[str, Any]]) -> Demand:
    mix, peaks, tenants = ([row for row in rows if row["region"] == region] for rows in answers)
    kinds = [Kind(row["n"], row["prompt_tokens"], row["output_tokens"]) for row in mix]
    hours = {row["hour"]: row["peak_s"] for row in peaks}
    known = [hours[hour] for hour in range(HOURS)] if all(hour in hours for hour in range(HOURS)) else []
    return Demand(region, kinds, hours[None], hours_s=known, buckets=_buckets(mix), tenants=tenants)


def _buckets(mix: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a prompt bucket: prompt_bucket, n, mean prompt_tokens and output_tokens."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in mix:
        found.setdefault(row["prompt_bucket"], []).append(row)
    return [
        {
            "prompt_bucket": bucket,
            "n": sum(row["n"] for row in rows),
            **{
                name: sum(row["n"] * row[name] for row in rows) / sum(row["n"] for row in rows)
                for name in ("prompt_tokens", "output_tokens")
            },
        }
        for bucket, rows in sorted(found.items())
    ]


def worksheet(demand: Demand, replica: Replica, *, limits: Limits, terms: Terms, best: bool = True) -> Sheet:
    """Return the plan for a demand; with `best` slots are chosen, else those of the replica are kept.

    UserError where even a request alone breaks the limits.
    """
    if best:
        replica = best_batch(demand.kinds, replica, limits, most=_most_running(demand, terms))
    highest_s = highest_rate(demand.kinds, replica, limits)
    if not highest_s > 0:
        alone = load(1e-9, demand.kinds, replica, share=limits.share)
        raise UserError(
            f"one request alone takes {alone.ttft_ms:,.0f} ms to its first token, {alone.itl_ms:,.1f} ms between "
            f"tokens and {alone.final_ms:,.0f} ms to its last: no number of replicas keeps the limits"
        )
    wanted_s = demand.peak_s * (1 + terms.headroom)
    replicas = max(1, math.ceil(wanted_s / highest_s))
    at_peak = load(demand.peak_s / replicas, demand.kinds, replica, share=limits.share)
    away = load(demand.peak_s / (replicas - 1), demand.kinds, replica, share=limits.share) if replicas > 1 else None
    hours_day = _by_the_hour(demand, highest_s, terms)
    gpu_hours = float(replicas * terms.gpus * HOURS)
    return Sheet(
        demand, replica, limits, terms, highest_s, replicas, at_peak, one_less=away,
        outage_wait_s=None if away is None else away.growth_s * OUTAGE_S / (away.rate_s - away.growth_s),
        gpu_hours_day=gpu_hours, hourly_gpu_hours_day=hours_day,
        usd_day=None if terms.usd_per_gpu_hour is None else gpu_hours * terms.usd_per_gpu_hour,
        curve=[load(highest_s * part, demand.kinds, replica, share=limits.share) for part in CURVE],
        tenants=_tenants(demand, replica, at_peak, gpu_hours),
    )  # fmt: skip


def worksheets(reader: Reader, window: Window, *, replica: Replica, limits: Limits, terms: Terms) -> list[Sheet]:
    """Return the plan of each region that asked in the window; raises what `worksheet` raises."""
    return [worksheet(demand, replica, limits=limits, terms=terms) for demand in demands(reader, window)]


def _most_running(demand: Demand, terms: Terms) -> int:
    if terms.kv_tokens is None:
        return terms.most_running
    weight = sum(kind.weight for kind in demand.kinds)
    held = sum(kind.weight * (kind.prompt_tokens + kind.output_tokens) for kind in demand.kinds) / weight
    return max(1, min(terms.most_running, int(terms.kv_tokens / held)))


def _by_the_hour(demand: Demand, highest_s: float, terms: Terms) -> float | None:
    if not demand.hours_s:
        return None
    wanted = (max(1, math.ceil(peak_s * (1 + terms.headroom) / highest_s)) for peak_s in demand.hours_s)
    return float(sum(wanted) * terms.gpus)


def _tenants(demand: Demand, replica: Replica, at_peak: Load, gpu_hours: float) -> list[dict[str, Any]]:
    """Return one row a tenant: tenant, n, prompt_tokens, output_tokens, share of the engine's time, gpu_hours_day.

    A prompt's token takes its part of a step, an answer's its own and that of the base that the batch shares.
    """
    token_ms = replica.stream_ms + replica.base_ms / max(at_peak.batch, 1.0)
    spent = [row["prompt_tokens"] * replica.prompt_token_ms + row["output_tokens"] * token_ms for row in demand.tenants]
    total = sum(spent) or 1.0
    names = ("tenant", "n", "prompt_tokens", "output_tokens")
    return [
        {**{name: row[name] for name in names}, "share": own / total, "gpu_hours_day": gpu_hours * own / total}
        for row, own in zip(demand.tenants, spent, strict=True)
    ]
