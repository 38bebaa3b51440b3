"""Compares a run with an earlier one's report: what changed at the same load, and whether it is worse."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics.compare import Change, changes
from tailbudget.instrument.errors import UserError

#: A change of a percentile below this is none, however sure it is.
LEAST_CHANGE: Final = 0.05
#: Of a rate: percentage points.
LEAST_RATE: Final = 0.01
BETTER_WHEN_MORE: Final = frozenset({"cache_hit_rate"})
Told = Mapping[str, Any]


@dataclass(frozen=True)
class Regression:
    """How one measure of one step changed from the baseline; `worse` and `better` are sure and not small."""

    step: int
    offered: float | None
    unit: str
    change: Change
    worse: bool
    better: bool

    def told(self) -> dict[str, Any]:
        """Return it as a plain object."""
        difference = asdict(self.change.difference) if self.change.difference else None
        verdict = "worse" if self.worse else "better" if self.better else "same" if difference else "too few requests"
        place = {"step": self.step, "offered": self.offered, "unit": self.unit, "measure": self.change.measure}
        return {**place, "baseline_n": self.change.a_n, "n": self.change.b_n, **(difference or {}), "verdict": verdict}


def read(file: Path) -> Told:
    """Return an earlier run's report; raises UserError for a file that is none."""
    try:
        found: Told = json.loads(file.read_text(encoding="utf-8"))
        return {**found, "steps": [dict(step, samples=step["samples"]) for step in found["steps"]]}
    except OSError as error:
        raise UserError(f"baseline {str(file)!r} cannot be read ({error.strerror}): name an earlier run's JSON report"
                        ) from error  # fmt: skip
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"baseline {str(file)!r} is no report of a load run: name the JSON that --out wrote") from error


def regressions(baseline: Told, steps: Sequence[Told]) -> list[Regression]:
    """Return how each measure changed, a step whose load the baseline had too."""
    before = {_load(step): step for step in baseline["steps"]}
    return [one for step in steps for one in _step(before.get(_load(step)), step)]


def check_loads(baseline: Told, unit: str, loads: Sequence[float | None]) -> None:
    """Raise UserError where the baseline was taken at none of these loads, with which there is nothing to compare."""
    before = dict.fromkeys(map(_load, baseline["steps"]))
    if not before.keys() & {(unit, load) for load in loads}:
        told = ", ".join(f"{offered} {unit}" for unit, offered in before)
        raise UserError(f"the baseline was taken at {told}, this run at none of them: send the same load")


def _load(step: Told) -> tuple[str, float | None]:
    return step["unit"], step["offered"]


def _step(before: Told | None, now: Told) -> Iterator[Regression]:
    if before is None:
        return
    for change in changes(_table(before), _table(now), paired=False):
        worse, better = _verdict(change)
        yield Regression(now["step"], now["offered"], now["unit"], change, worse, better)


def _verdict(change: Change) -> tuple[bool, bool]:
    """Return whether it is worse, and whether it is better."""
    found = change.difference
    least = LEAST_RATE if change.measure.endswith("_rate") else LEAST_CHANGE
    if found is None or not found.changed or abs(found.change) < least:
        return False, False
    worse = (found.change > 0) != (change.measure in BETTER_WHEN_MORE)
    return worse, not worse


def _table(step: Told) -> pa.Table:
    """Return a step's samples with the columns that `changes` compares."""
    samples = step["samples"]
    outcomes = samples["outcome"]
    kept = [outcome == "ok" for outcome in outcomes]
    latency = {name: [value if ok else None for value, ok in zip(samples[name], kept, strict=True)]
               for name in ("total_ms", "ttft_ms")}  # fmt: skip
    shares = {"timed_out": ("timeout",), "dropped": ("dropped",), "failed": ("error", "shed", "unsent")}
    columns = {name: [float(outcome in words) for outcome in outcomes] for name, words in shares.items()}
    nothing = [None] * len(outcomes)
    names = {"t_s": samples["t_s"], **latency, **columns, "cost_usd": nothing, "cached": samples.get("cached", nothing)}
    return pa.table({name: pa.array(values, pa.float64()) for name, values in names.items()})
