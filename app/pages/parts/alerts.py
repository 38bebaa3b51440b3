"""Alerts that are open, one line each, with what shows them."""

from collections.abc import Collection, Mapping
from html import escape
from typing import Any, Final

import pyarrow as pa
import streamlit as st

from . import controls
from .charts import is_light
from .words import clock, count, html_clock, utc

#: What an alert is about -> the page that shows it, and its name.
KINDS: Final = {
    "burn": ("violations", "Violations"),
    "sag": ("token-rate", "Token rate"),
    "blind": ("coverage", "Coverage"),
    "diagnosis": ("diagnoses", "Diagnoses"),
    "objectives": ("coverage", "Coverage"),
}
#: Tickets that are shown at once; pages are all.
MOST_TICKETS: Final = 2
STYLE = """<style>
.alert { border: 1px solid #2c3140; border-left: 4px solid #f2a83b; border-radius: 6px; padding: 8px 14px;
  margin-bottom: 6px; overflow-wrap: anywhere }
.alert.page { border-left-color: #f2765d; background: rgba(242, 118, 93, 0.1) }
.alert b { font-weight: 600 } .alert .quiet { color: #aab2c5; font-size: 13px } .alert a { color: #f2b84b }
details summary { color: #aab2c5; font-size: 13px; padding: 2px 14px 6px; cursor: pointer }
</style>"""
#: The same in the light theme.
LIGHT = """<style>
.alert { border-color: #d5d9e2; border-left-color: #96660a } .alert.page { border-left-color: #c8452b }
.alert .quiet { color: #4b5468 } .alert a { color: #96660a } details summary { color: #4b5468 }
</style>"""


def show(alerts: pa.Table, *, kinds: Collection[str] = tuple(KINDS)) -> None:
    """Draw one line an open alert of these kinds, pages first, and one about those that closed in the window."""
    rows = [row for row in alerts.to_pylist() if row["kind"] in kinds]
    firing = [row for row in rows if row["closed"] is None]
    firing.sort(key=lambda row: row["severity"] != "page")  # in the order of the answer, the newest first
    if firing:
        is_elsewhere = set(kinds) == set(KINDS)  # a page of some kinds alone is what shows them
        at_once = MOST_TICKETS + sum(row["severity"] == "page" for row in firing)
        lines = [_line(row, linked=is_elsewhere) for row in firing]
        st.html(STYLE + (LIGHT if is_light() else "") + "".join(lines[:at_once]) + _folded(lines[at_once:]))
    closed = [row for row in rows if row["closed"] is not None]
    if closed:
        ended = ", ".join(f"{row['kind']} {clock(row['opened'])} to {clock(row['closed'])}" for row in closed[:3])
        hover = "  \n".join(f"{row['kind']} {utc(row['opened'], row['closed'])}" for row in closed[:3])
        st.caption(f"Alerts that ended in this window: {len(closed)} · {ended}", help=hover)


def _folded(lines: list[str]) -> str:
    """Return lines that are seen once asked for: what is within budget must stand on the first screen."""
    if not lines:
        return ""
    return f"<details><summary>{count(len(lines), 'more ticket')}</summary>{''.join(lines)}</details>"


def _line(row: Mapping[str, Any], *, linked: bool) -> str:
    path, title = KINDS.get(row["kind"], KINDS["burn"])
    more = [escape(f"{name} {row[name]}") for name in ("scope", "owner") if row[name]]
    if row["acknowledged"] is not None:
        more.append(f"taken by {escape(row['acknowledged_by'] or 'somebody')} at {html_clock(row['acknowledged'])}")
    severity = escape(row["severity"])
    runbook = str(row["runbook"] or "")
    is_address = runbook.startswith(("http://", "https://"))
    if runbook and not is_address:
        more.append(escape(f"runbook {runbook}"))
    links = ({title: controls.link(path)} if linked else {}) | ({"runbook": runbook} if is_address else {})
    led = " · ".join(f'<a target="_self" href="{escape(href)}">{name}</a>' for name, href in links.items())
    return (
        f'<div class="alert {severity}" role="status"><b>{"▲ " if severity == "page" else ""}{severity} · '
        f"{escape(row['kind'])}</b> since {html_clock(row['opened'])}: {escape(row['summary'])} "
        f'<span class="quiet">{" · ".join(more)}{" · " if more and led else ""}{led}</span></div>'
    )
