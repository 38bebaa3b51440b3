"""`tailbudget capacity`: the worksheet for people and for programs."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics import objectives
from tailbudget.analytics.capacity import Kind, Limits, Load
from tailbudget.analytics.worksheet import OUTAGE_S, Demand, Sheet
from tailbudget.instrument.errors import UserError

from .text import to_text

#: Of a load, what people read, in this order; times at the share of the limits.
SHOWN: Final = ("rate_s", "utilisation", "batch", "waiting", "queue_ms", "ttft_ms", "itl_ms", "final_ms", "growth_s")
#: What an objective may limit -> the limit of an engine. `model` is queue, prefill and decode: all that it does.
PROMISED: Final = {"ttft": "ttft_ms", "tpot": "itl_ms", "model": "final_ms"}
DEFAULT_SHARE: Final = 0.95
#: Of the curve, the shares of the highest rate that people read.
EVERY: Final = 4


def kinds(texts: Iterable[str]) -> list[Kind]:
    """Return the kinds that texts such as `800:150` or `800:150:3` name: prompt, answer, weight; else UserError."""
    found = []
    for text in texts:
        number = r"(\d+(?:\.\d+)?)"
        parts = re.fullmatch(f"{number}:{number}(?::{number})?", text)
        if parts is None:
            raise UserError(f"--mix {text!r}: expected PROMPT:ANSWER or PROMPT:ANSWER:WEIGHT, as 800:150:3")
        found.append(Kind(float(parts[3] or 1), float(parts[1]), float(parts[2])))
    return found


def given(texts: Sequence[str], peak_s: float | None) -> list[Demand]:
    """Return the one demand that was given, none where neither part was. UserError for one part without the other."""
    if bool(texts) != (peak_s is not None):
        raise UserError("--mix and --peak belong together: expected both, or neither to read what was stored")
    return [] if peak_s is None else [Demand("", kinds(texts), peak_s)]


def limits(files: Sequence[Path], *, share: float | None, **given_ms: float | None) -> Limits:
    """Return the limits that were given, else those of objectives in files: the tightest of each, the largest share.

    UserError where neither says what must hold.
    """
    named = {limit: value for limit, value in given_ms.items() if value is not None}
    if named:
        return Limits(**named, share=DEFAULT_SHARE if share is None else share)
    found: dict[str, float] = {}
    shares = [] if share is None else [share]
    for objective in objectives.load(files):
        for limit in objective.limits:
            if name := PROMISED.get(limit.measure):
                found[name] = min(limit.below_ms, found.get(name, math.inf))
                shares += [] if share is not None else [objective.target]
    return Limits(**found, share=max(shares, default=DEFAULT_SHARE))


def to_json(sheets: Sequence[Sheet]) -> str:
    """Return one JSON array, an object a region; what is infinite is null."""
    return json.dumps([_finite(asdict(sheet)) for sheet in sheets], indent=2, default=str) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def report(sheets: Sequence[Sheet]) -> str:
    """Return what people read: of each region the plan in sentences, then tables."""
    return "\n".join("\n".join(_parts(sheet)) for sheet in sheets)


def _parts(sheet: Sheet) -> Iterator[str]:
    yield from summary(sheet)
    yield ""
    loads = [*sheet.curve[EVERY - 1 :: EVERY]]
    yield f"one replica, times at p{100 * sheet.limits.share:g}\n{_table(map(row, loads))}"
    if sheet.demand.buckets:
        yield f"by prompt bucket\n{_table(sheet.demand.buckets)}"
    if sheet.tenants:
        yield f"by tenant\n{_table(sheet.tenants)}"


def summary(sheet: Sheet) -> Iterator[str]:
    """Yield the plan in sentences."""
    demand, peak = sheet.demand, sheet.at_peak
    region = f"{demand.region}: " if demand.region else ""
    yield (
        f"{region}a peak of {demand.peak_s:,.2f} requests a second needs {_replicas(sheet.replicas)} of at most "
        f"{sheet.replica.max_running} requests at once; one holds {sheet.highest_s:,.2f} a second within the limits"
    )
    yield (
        f"in the peak a replica is busy {peak.utilisation:.0%} of the time with a batch of {peak.batch:.1f}; "
        f"{peak.waiting:.2f} requests wait"
    )
    yield _cost(sheet)
    yield _outage(sheet)


def _replicas(count: int) -> str:
    return "1 replica" if count == 1 else f"{count:,} replicas"


def _cost(sheet: Sheet) -> str:
    usd = "" if sheet.usd_day is None else f", {sheet.usd_day:,.2f} dollars"
    hourly = sheet.hourly_gpu_hours_day
    by_hour = "" if hourly is None else f"; {hourly:,.0f} with as many replicas as each hour of the day needs"
    return f"{sheet.gpu_hours_day:,.0f} GPU hours a day{usd}{by_hour}"


def _outage(sheet: Sheet) -> str:
    if sheet.one_less is None or sheet.outage_wait_s is None:
        return "while the only replica is away nobody is served"
    if not sheet.one_less.growth_s:
        return f"while one replica is away the others' queue does not grow: {sheet.one_less.waiting:.2f} requests wait"
    growth = sheet.one_less.growth_s * (sheet.replicas - 1) * 60
    return (
        f"while one replica is away the queue grows by {growth:,.0f} requests a minute: after "
        f"{OUTAGE_S / 60:.0f} minutes they wait {sheet.outage_wait_s:,.0f} s"
    )


def row(load: Load) -> dict[str, Any]:
    """Return a row of the curve; None for what is infinite."""
    return {name: _finite(getattr(load, name)) for name in SHOWN}


def _table(rows: Iterable[Any]) -> str:
    return to_text(pa.Table.from_pylist(list(rows))).rsplit("\n", 2)[0] + "\n"
