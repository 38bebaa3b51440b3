"""Changes between two sides as the rows of a picture, in words."""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa

from tailbudget.analytics.compare import Change
from tailbudget.analytics.resample import Difference

from .words import duration

#: A ratio that changed by less is called no change, however sure it is.
DEADBAND: Final = 0.05


def rows(changes: Sequence[Change]) -> pa.Table:
    """Return one row a measure that both sides have enough of: place, measure, change, low, high, state, label."""
    names = {"change": pa.float64(), "low": pa.float64(), "high": pa.float64(), "state": pa.string()}
    schema = pa.schema({"place": pa.int64(), "measure": pa.string(), **names, "label": pa.string()})
    told = [_row(one, one.difference) for one in changes if one.difference is not None]
    return pa.Table.from_pylist([{"place": place, **row} for place, row in enumerate(told)], schema=schema)


def _row(one: Change, found: Difference) -> dict[str, object]:
    is_rate = one.measure.endswith("_rate")
    state = "no clear change"
    if found.changed and (is_rate or abs(found.change) >= DEADBAND):
        worse = found.change > 0 and one.measure != "cache_hit_rate"
        state = "worse" if worse else "better"
    a, b = (
        duration(value) if "_ms_" in one.measure else _plain(value, is_rate=is_rate) for value in (found.a, found.b)
    )
    change = f"{100 * found.change:+.1f} points" if is_rate else f"{found.change:+.1%}"
    label = f"{one.measure.replace('_ms', '').replace('_', ' ')}: {a} → {b} · {change} · {state}"
    names = {"change": found.change, "low": found.low, "high": found.high, "state": state}
    return {"measure": one.measure, **names, "label": f"{label} · n {one.a_n:,}, {one.b_n:,}"}


def _plain(value: float, *, is_rate: bool) -> str:
    return f"{value:.1%}" if is_rate else f"${value:.4g}"
