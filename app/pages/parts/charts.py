"""Draws the charts of `app/charts` by name."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import streamlit as st

FOLDER = Path(__file__).resolve().parents[2] / "charts"


@cache
def _text(name: str) -> str:
    return (FOLDER / f"{name}.vl.json").read_text(encoding="utf-8")


def spec(name: str) -> dict[str, Any]:
    """Return a fresh copy of the chart `name`."""
    loaded: dict[str, Any] = json.loads(_text(name))
    return loaded


def draw(name: str, frame: pa.Table) -> None:
    """Draw the chart `name` from `frame`; its description, which says what one row is, is what screen readers say."""
    st.vega_lite_chart(frame, spec(name))
