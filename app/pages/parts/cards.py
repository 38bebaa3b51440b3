"""Rows of figures of one height, each with its n."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

import streamlit as st

from .words import NOTHING, count, duration, share

#: A grid, since Streamlit's own rows are either unequal or one below the other on a phone, above everything else.
STYLE = """<style>
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px }
.card { border: 1px solid #2c3140; border-radius: 6px; padding: 10px 14px }
.card .label, .card .note { font-size: 13px; color: #aab2c5 }
.card .value { font-size: 24px; line-height: 1.35; overflow-wrap: anywhere }
.card .bad { color: #f58d78 } .card .good { color: #5ad1b2 }
</style>"""


class Card(NamedTuple):
    """One figure: what it is, its value, a note below, and whether that note is bad, good or neither."""

    label: str
    value: str
    note: str
    verdict: Literal["bad", "good", "none"] = "none"


def show(row: Sequence[Card]) -> None:
    """Draw cards side by side, of one height; on a narrow screen two in a row."""
    st.html(f'{STYLE}<div class="cards">{"".join(map(_html, row))}</div>')


def _html(card: Card) -> str:
    label, value, note = escape(card.label), escape(card.value), escape(card.note)
    return (
        f'<div class="card"><div class="label">{label}</div><div class="value">{value}</div>'
        f'<div class="note {card.verdict}">{note}</div></div>'
    )


def latency(summary: Mapping[str, Any]) -> None:
    """Draw p50, p95, p99 and the share of good requests from a row of `latency_summary`."""
    row = [_held(f"p{q} total · n {summary['n']:,}", summary[f"p{q}_ms"], summary["budget_ms"]) for q in (50, 95, 99)]
    show([*row, _good(summary)])


def request(row: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> None:
    """Draw total, first token, outcome and the stage to blame from a row of `requests` and its stages."""
    calls = count(row["calls"], "model call")
    left = f"left in {row['left_in_stage']}" if row["left_in_stage"] else calls
    streamed = "not streamed" if row["ttft_ms"] is None else "since the request's start"
    show(
        [
            _held("total", row["total_ms"], row["budget_ms"]),
            Card("first token", duration(row["ttft_ms"]), streamed),
            Card("outcome", row["outcome"], left, "none" if row["outcome"] == "ok" else "bad"),
            _blamed(row, stages),
        ]
    )


def _held(label: str, value_ms: float, budget_ms: float | None) -> Card:
    if budget_ms is None:
        return Card(label, duration(value_ms), "no budget")
    note = f"{100 * value_ms / budget_ms:.0f} % of {duration(budget_ms)}"
    over = value_ms > budget_ms
    return Card(label, duration(value_ms), f"▲ {note}" if over else note, "bad" if over else "good")


def _good(summary: Mapping[str, Any]) -> Card:
    counted, good = summary["counted"], summary["good"]
    if not counted:
        return Card("good · n 0", NOTHING, "no request has a budget")
    lost = "".join(f", {summary[name]:,} {name}" for name in ("dropped", "failed") if summary[name])
    return Card(f"good · n {counted:,}", share(good, counted), f"{good:,} ended well in budget{lost}")


def _blamed(row: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> Card:
    blamed = row["over_stage"]
    if not blamed:
        return Card("to blame", "no stage", "all budgets kept", "good")
    over_ms = next((stage["over_ms"] for stage in stages if stage["stage"] == blamed), None)
    note = "furthest above its usual time" if over_ms is None else f"▲ {duration(over_ms)} over its budget"
    return Card("to blame", blamed, note, "bad")
