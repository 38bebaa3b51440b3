"""Draws the charts of `app/charts` by name, each with its SQL and its rows to take away."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import streamlit as st
from pyarrow import csv

from . import picked
from .answers import asked

FOLDER = Path(__file__).resolve().parents[2] / "charts"
#: What may be picked in the layer named `brushed`: a stretch of time, a box of time and value, or one mark by its `id`.
BRUSHES: Final[dict[str, dict[str, Any]]] = {
    "time": {"type": "interval", "encodings": ["x"]},
    "box": {"type": "interval", "encodings": ["x", "y"]},
    "point": {"type": "point", "fields": ["id"]},
}
#: Colours of the dark theme that a light page cannot show -> those that it can.
LIGHT: Final = {
    "#ffffff": "#14171f", "#e6e8ee": "#1d212b", "#aab2c5": "#4b5468", "#c3c9d6": "#39404f", "#2c3140": "#d5d9e2",
    "#0f1117": "#ffffff", "#f2765d": "#c8452b", "#f58d78": "#b53a21", "#5ad1b2": "#16876b", "#8a93a6": "#667085",
    "#1c2c47": "#d6e4f7", "#1f4468": "#a8cbe6", "#247a8a": "#6fb1bd", "#4fae84": "#4b9f76", "#b9bf5b": "#9a9a1f",
    "#8bb8f8": "#2f6fc4",
    # the stages
    "#5b9cf5": "#2f6fc4", "#c9b458": "#8a7420", "#4fc3a1": "#1b8f73", "#b794f6": "#8257c9", "#f2a83b": "#b06f0c",
    "#e377c2": "#b83d8a", "#8bd3f7": "#2482ad", "#a3d977": "#5a8a2e",
}  # fmt: skip


#: What axes and legends are written in: Streamlit's own grey has a contrast of 3.7 to 1 on a light page.
INK: Final = "#c3c9d6"


@cache
def _text(name: str) -> str:
    return (FOLDER / f"{name}.vl.json").read_text(encoding="utf-8")


def spec(name: str, *, light: bool = False) -> dict[str, Any]:
    """Return a fresh copy of the chart `name`, in the colours of the theme."""
    text = _text(name)
    for dark, bright in LIGHT.items() if light else ():
        text = text.replace(dark, f"{bright[0]}!{bright[1:]}")  # marked, so that none is replaced twice
    loaded: dict[str, Any] = json.loads(text.replace("#!", "#"))
    ink = LIGHT[INK] if light else INK
    for part in ("axis", "legend"):
        loaded.setdefault("config", {}).setdefault(part, {}).update(labelColor=ink, titleColor=ink)
    return loaded


def is_light() -> bool:
    """Return whether the viewer's theme is the light one."""
    return bool(st.context.theme.type == "light")


def draw(
    name: str,
    frame: pa.Table,
    title: str,
    *,
    key: str = "",
    brush: Literal["time", "box", "point"] | None = None,
    on_brush: Callable[[Mapping[str, Any]], None] = picked.pick,
    hover: str | None = None,
) -> None:
    """Draw the chart `name` from `frame` below `title` in Markdown and what takes its rows away.

    The chart's description, which says what one row is, is what screen readers say.
    `key` tells pictures of one chart apart. With `brush` call `on_brush` with what was picked: bounds by field or `id`,
    `{}` once that is ended. `hover` is as in `tools`.
    """
    tools(frame, title, name=f"{name}{key}", hover=hover)
    drawn = grounded(spec(name, light=is_light()), frame)
    if brush is None:
        st.vega_lite_chart(frame.replace_schema_metadata(None), drawn)
        return
    if brush == "time":  # the picture of another stretch of time is another picture: it begins without a selection
        place = f"{name}{key}{st.session_state.get('between') or ''}"
    else:
        place = _outlined(f"{name}{key}", drawn)
    layer = next(one for one in drawn["layer"] if one.get("name") == "brushed")
    layer["params"] = [{"name": "brush", "select": BRUSHES[brush] | _outline(brush)}]

    def callback() -> None:
        on_brush(brushed(st.session_state.get(place)))
        if brush != "time":
            number, outlined, _ = st.session_state[f"drawn {name}{key}"]
            st.session_state[f"drawn {name}{key}"] = number, outlined, picked.text()

    st.vega_lite_chart(frame.replace_schema_metadata(None), drawn, key=place, on_select=callback)


def grounded(drawn: dict[str, Any], frame: pa.Table) -> dict[str, Any]:
    """Return the chart with an axis from 0 to 1 in place of one whose values are zero throughout.

    Vega would make an axis of no length of them: a line across the middle, beside the tick "0.000000".
    """
    for axis in ("x", "y"):
        placed = [one.get(axis) or {} for one in _encodings(drawn)]
        found = [one for one in placed if one.get("type") == "quantitative"]
        fields = {one["field"] for one in found if "field" in one}
        free = bool(fields) and not any("domain" in one.get("scale", {}) for one in found)
        if free and all(name in frame.column_names and not any(frame[name].to_pylist()) for name in fields):
            found[0].setdefault("scale", {})["domain"] = [0, 1]
    return drawn


def _outline(brush: str) -> dict[str, Any]:
    """Return how what is dragged is drawn: Vega's own grey is lost on a light page."""
    if BRUSHES[brush]["type"] != "interval":
        return {}
    ink = LIGHT[INK] if is_light() else INK
    return {"mark": {"fill": "#8a93a6", "fillOpacity": 0.2, "stroke": ink, "strokeWidth": 1.5}}


def _encodings(drawn: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "encoding" in drawn:
        yield drawn["encoding"]
    for one in drawn.get("layer", ()):
        yield from _encodings(one)


def _outlined(name: str, drawn: dict[str, Any]) -> str:
    """Return the key of a picture in which something may be picked, and say in `drawn` what it outlines.

    What a person picks in it, it shows itself. What the address brings, by a link or back and forward, is outlined in
    another picture.
    """
    now = picked.text()
    number, outlined, known = st.session_state.get(f"drawn {name}", (0, "", ""))
    if now != known or outlined not in ("", now):
        number, outlined = number + 1, now
    st.session_state[f"drawn {name}"] = number, outlined, now
    if outlined:
        next(one for one in drawn["params"] if one["name"] == "picked")["value"] = picked.bounds()
    return f"{name} {number}"


def brushed(state: Any) -> dict[str, Any]:
    """Return the bounds by field of a chart's state, of a picked mark its `id`; `{}` without a selection."""
    found = (state or {}).get("selection", {}).get("brush", {})
    return dict(found[-1] if found else {}) if isinstance(found, list) else dict(found)


def tools(frame: pa.Table, title: str, *, name: str, hover: str | None = None) -> None:
    """Draw a picture's title, and beside it what takes it away: its SQL, and its rows as CSV.

    `hover` is said on hover: the title's times in UTC.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key=f"head-{name}"):
        st.caption(title, width="stretch", help=hover)
        with st.popover("SQL · CSV", type="tertiary", key=f"tools-{name}", on_change="rerun") as menu:
            if menu.open:
                st.code(asked(frame), language="sql", height=320)
                st.download_button("Download the rows", to_csv(frame), f"{name}.csv", "text/csv", on_click="ignore")


def to_csv(frame: pa.Table) -> bytes:
    """Return the rows as CSV with a header; lists and structs as text."""
    flat = [
        pa.array([None if value is None else str(value) for value in column.to_pylist()])
        if pa.types.is_nested(column.type)
        else column
        for column in frame.columns
    ]
    target = io.BytesIO()
    csv.write_csv(pa.table(flat, names=frame.column_names), target)
    return target.getvalue()
