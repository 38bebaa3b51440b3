"""Rows of figures of one height, each with its n."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

import streamlit as st

from .charts import is_light
from .words import NOTHING, clock, count, duration, share

#: A grid, since Streamlit's own rows are either unequal or one below the other on a phone, above everything else.
STYLE = """<style>
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 10px }
.card { border: 1px solid #2c3140; border-radius: 6px; padding: 10px 14px }
.card .label, .card .note { font-size: 13px; color: #aab2c5 }
.card .value { font-size: 24px; line-height: 1.35; overflow-wrap: anywhere }
.card .bad { color: #f58d78 } .card .good { color: #5ad1b2 }
.card.small .value, .card.small .bar { opacity: 0.5 }
a.card { color: inherit; text-decoration: none; display: block }
a.card:hover, a.card:focus { border-color: #f2b84b }
.card .bar { height: 6px; border-radius: 3px; background: #2c3140; margin: 5px 0 6px }
.card .bar div { height: 100%; border-radius: 3px; background: #5ad1b2 }
.card .bar.bad div { background: #f58d78 }
</style>"""
#: The same in the light theme.
LIGHT = """<style>
.card { border-color: #d5d9e2 } .card .label, .card .note { color: #4b5468 } .card .bar { background: #d5d9e2 }
.card .bad { color: #b53a21 } .card .good { color: #16876b }
</style>"""
#: Events below which a share is greyed: one more bad one would change it by over two percent.
SMALL_N = 50


class Card(NamedTuple):
    """One figure: what it is, its value, a note below, and whether that is bad, good, neither or from too small an n.

    `bar` is a share that is drawn below the value, `href` what the card opens.
    """

    label: str
    value: str
    note: str
    verdict: Literal["bad", "good", "none", "small"] = "none"
    bar: float | None = None
    href: str = ""


def show(row: Sequence[Card]) -> None:
    """Draw cards side by side, of one height; on a narrow screen two in a row."""
    style = STYLE + LIGHT if is_light() else STYLE
    st.html(f'{style}<div class="cards">{"".join(map(_html, row))}</div>')


def _html(card: Card) -> str:
    label, value, note = escape(card.label), escape(card.value), escape(card.note)
    kind = "card small" if card.verdict == "small" else "card"
    tag = f'a class="{kind}" target="_self" href="{escape(card.href)}"' if card.href else f'div class="{kind}"'
    bar = ""
    if card.bar is not None:
        bar = f'<div class="bar {card.verdict}"><div style="width: {100 * min(max(card.bar, 0), 1):.0f}%"></div></div>'
    return (
        f'<{tag}><div class="label">{label}</div><div class="value">{value}</div>{bar}'
        f'<div class="note {card.verdict}">{note}</div></{tag.split()[0]}>'
    )


def latency(summary: Mapping[str, Any], *, href: str = "") -> None:
    """Draw p50, p95, p99 and the share of good requests from a row of `latency_summary`."""
    row = [_held(f"p{q} total · n {summary['n']:,}", summary[f"p{q}_ms"], summary["budget_ms"]) for q in (50, 95, 99)]
    show([card._replace(href=href) for card in (*row, _good(summary))])


def budgets(rows: Sequence[Mapping[str, Any]], *, href: str) -> None:
    """Draw a card an objective from rows of `budgets`: good share, what is left of its budget, how fast it burns."""
    show([_budget(row)._replace(href=href) for row in rows])


def _budget(row: Mapping[str, Any]) -> Card:
    name = f"{row['objective']} · {row['part']}" if row["part"] else str(row["objective"])
    label = f"{name} · {row['goal']} · n {row['n']:,} in {row['period']}"
    if row["blind_since"] is not None:
        return Card(label, "blind", f"▲ no event since {clock(row['blind_since'])}: see Coverage", "bad")
    good = share(row["n"] - row["bad"], row["n"])
    if row["n"] < SMALL_N:
        return Card(label, f"{good} good", f"n {row['n']}: too few to judge by", "small", row["budget_left"])
    left = row["budget_left"]
    words = f"{100 * left:.0f} % of the budget left" if left > 0 else f"▲ overspent by {-100 * left:.0f} %"
    burn = "" if row["burn_1h"] is None else f", burns {row['burn_1h']:.1f}x"
    fires = f" · ▲ {', '.join(row['firing'])}" if row["firing"] else ""
    return Card(label, f"{good} good", words + burn + fires, "bad" if fires or left <= 0 else "good", left)


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
