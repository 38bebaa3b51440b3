"""Before and after: what changed between two versions, flags or stretches of time, and what only seems to."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from tailbudget.instrument.errors import UserError

from .questions import ask
from .reader import Reader
from .resample import Difference, Sample, mean_difference, percentile_ratio
from .window import Window

PERCENTILES: Final = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
LATENCIES: Final = ("total_ms", "ttft_ms")
#: Measure -> the column of which it is the mean, and whether its change is a ratio.
MEANS: Final = {
    "timeout_rate": ("timed_out", False),
    "drop_rate": ("dropped", False),
    "failure_rate": ("failed", False),
    "cache_hit_rate": ("cached", False),
    "cost_usd": ("cost_usd", True),
}


@dataclass(frozen=True)
class Side:
    """Requests of a window; with `by` only those whose column or span attribute of that name is `value`.

    `by` is version, model, tenant, route, region or the key of an attribute of the request's span, such as a flag.
    With `run_id` it is the requests of a load run, which no other comparison counts.
    """

    window: Window
    by: str | None = None
    value: str | None = None

    def __post_init__(self) -> None:
        if (self.by is None) != (self.value is None):
            raise UserError(f"a side has by {self.by!r} and value {self.value!r}: give both or neither")


@dataclass(frozen=True)
class Change:
    """One measure on both sides; `difference` is None where the samples are too small to tell."""

    measure: str
    a_n: int
    b_n: int
    difference: Difference | None


def compare(reader: Reader, a: Side, b: Side) -> list[Change]:
    """Return how each measure changed from `a` to `b`, with 95 % intervals from blocks of time drawn again and again.

    Measures are total_ms_p50, _p95, _p99, ttft_ms_p50, ..., timeout_rate, drop_rate, failure_rate, cache_hit_rate
    (share of requests that read cached tokens) and cost_usd (mean a request). The change of a percentile and of the
    cost is a ratio less one, of a rate the difference. Where the windows overlap, as with two versions that serve
    side by side, the same stretches of time are drawn for both. Raises QueryError as the reader does.
    """
    tables = [
        ask(reader, "compare", {**side.window.params(), "by": side.by or "version", "value": side.value})
        for side in (a, b)
    ]
    return changes(*tables, paired=a.window.from_ts < b.window.to_ts and b.window.from_ts < a.window.to_ts)


def changes(a: pa.Table, b: pa.Table, *, paired: bool) -> list[Change]:
    """Return how each measure changed between two tables with the columns of `compare.sql`, oldest row first.

    `paired` says that both were taken over the same time. Nulls are left out, each column's for itself.
    """
    found = []
    tables = (a, b)
    for column in LATENCIES:
        before, after = (_sample(table, column) for table in tables)
        for name, p in PERCENTILES:
            difference = percentile_ratio(before, after, p, paired=paired)
            found.append(Change(f"{column}_{name}", len(before.values), len(after.values), difference))
    for measure, (column, ratio) in MEANS.items():
        before, after = (_sample(table, column) for table in tables)
        difference = mean_difference(before, after, paired=paired, ratio=ratio)
        found.append(Change(measure, len(before.values), len(after.values), difference))
    return found


def _sample(table: pa.Table, column: str) -> Sample:
    known = table.filter(table[column].is_valid())
    return Sample(*(np.asarray(known[name].to_numpy(), dtype=float) for name in ("t_s", column)))
