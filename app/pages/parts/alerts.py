"""Alerts that are open, in words."""

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa
import streamlit as st

from .words import clock, plain

KINDS = ("burn", "sag", "blind", "diagnosis")


def show(alerts: pa.Table, *, kinds: Collection[str] = KINDS) -> None:
    """Draw one line an open alert of these kinds, and one about those that closed in the window; none when none was."""
    rows = [row for row in alerts.to_pylist() if row["kind"] in kinds]
    for row in (row for row in rows if row["closed"] is None):
        st.error(f"**{row['severity']} · {row['kind']}** since {clock(row['opened'])}: {_words(row)}")
    closed = [row for row in rows if row["closed"] is not None]
    if closed:
        kinds = ", ".join(f"{row['kind']} {clock(row['opened'])} to {clock(row['closed'])}" for row in closed[:3])
        st.caption(f"Alerts that ended in this window: {len(closed)} · {kinds}")


def _words(row: Mapping[str, Any]) -> str:
    more = [f"{name} {plain(str(row[name]))}" for name in ("scope", "owner", "runbook") if row[name]]
    if row["acknowledged"] is not None:
        more.append(f"taken by {plain(str(row['acknowledged_by'] or 'somebody'))} at {clock(row['acknowledged'])}")
    return " · ".join([plain(row["summary"]), *more])
