"""The two sides of a comparison as a viewer chooses them, and their changes as the rows of a picture, in words."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final, NamedTuple

import pyarrow as pa
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from tailbudget.analytics import breakdown, slices
from tailbudget.analytics.compare import Change, Side
from tailbudget.analytics.resample import Difference
from tailbudget.analytics.window import Window

from . import controls, leads
from .answers import answer
from .words import clock, count, duration, utc

#: A ratio that changed by less is called no change, however sure it is.
DEADBAND: Final = 0.05

#: What the chosen range may be compared with -> how long before it that began; None: right before it.
EARLIER: Final = {"the time before": None, "a day before": timedelta(days=1), "a week before": timedelta(days=7)}


class Chosen(NamedTuple):
    """One side, and what it is called."""

    side: Side
    words: str


def values(columns: Sequence[DeltaGenerator], window: Window, *, by: str) -> tuple[Chosen, Chosen] | None:
    """Draw the choice of two values of the segment `by`; say what to do, and return None, where there are not two."""
    found = answer(breakdown.segment_values, window, by=by)
    known = [str(value) for value in found["value"].to_pylist()]
    if len(known) < 2:
        st.info(
            f"Requests of {controls.chosen_range().words} have {count(len(known), by)}, two are needed: choose "
            "a longer range, another segment, or send it (`service.version`, `slo.tenant`, `cloud.region`)."
        )
        return None
    a = columns[1].selectbox("from", known, index=1, key="a", bind="query-params")
    b = columns[2].selectbox("to", known, index=0, key="b", bind="query-params")
    return Chosen(Side(window, by, a), a), Chosen(Side(window, by, b), b)


def times(columns: Sequence[DeltaGenerator], window: Window) -> tuple[Chosen, Chosen] | None:
    """Draw the choice of an earlier time; None where the two would overlap."""
    picked = columns[1].selectbox("from", list(EARLIER), key="earlier", bind="query-params")
    columns[2].selectbox("to", [controls.chosen_range().words], disabled=True)
    length = window.to_ts - window.from_ts
    back = EARLIER[picked] or length
    if back < length:
        st.info(f"{picked.capitalize()}, the range overlaps itself: choose a shorter range, or the time before.")
        return None
    earlier = replace(window, from_ts=window.from_ts - back, to_ts=window.to_ts - back)
    begun = f"{picked} ({clock(earlier.from_ts)})"
    return Chosen(Side(earlier), begun), Chosen(Side(window), controls.chosen_range().words)


def hover(*sides: Chosen) -> str:
    """Return the times of the sides in UTC."""
    return " against ".join(utc(one.side.window.from_ts, one.side.window.to_ts) for one in sides)


def lead(*sides: Chosen) -> None:
    """Draw links to the latency of each side, where the filter or the range can tell them apart."""
    if sides[0].side.by in (None, *controls.FILTERS, *slices.COLUMNS):
        leads.show({f"Latency of {one.words}": _latency(one.side) for one in sides})


def _latency(side: Side) -> str:
    between = controls.stretch(side.window.from_ts, side.window.to_ts)
    if side.by in slices.COLUMNS:
        return controls.link("latency", between=between, only=f"{side.by} {side.value}")
    return controls.link("latency", between=between, **({side.by: side.value} if side.by else {}))


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
    percent = round(100 * found.change, 1) or 0.0  # never a minus before nothing
    change = f"{percent:+.1f} points" if is_rate else f"{percent:+.1f}%"
    label = f"{one.measure.replace('_ms', '').replace('_', ' ')}: {a} → {b} · {change} · {state}"
    names = {"change": found.change, "low": found.low, "high": found.high, "state": state}
    return {"measure": one.measure, **names, "label": f"{label} · n {one.a_n:,}, {one.b_n:,}"}


def _plain(value: float, *, is_rate: bool) -> str:
    return f"{value:.1%}" if is_rate else f"${value:.4g}"
