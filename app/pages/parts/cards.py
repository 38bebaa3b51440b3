"""Rows of figures of one height, each with its n."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal, NamedTuple

import streamlit as st

from . import controls
from .charts import is_light
from .words import NOTHING, SMALL_N, clock, count, duration, share, utc

#: A grid, since Streamlit's own rows are either unequal or one below the other on a phone, above everything else.
STYLE = """<style>
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(132px, 1fr)); gap: 10px }
.card { border: 1px solid #2c3140; border-radius: 6px; padding: 10px 14px }
.card .label, .card .note { font-size: 13px; color: #aab2c5 }
.card .value { font-size: 24px; line-height: 1.35; overflow-wrap: anywhere }
.card .bad { color: #f58d78 } .card .good { color: #5ad1b2 }
.card.small .value { color: #8a93a6 } .card.small .bar { opacity: 0.5 }
a.card { color: inherit; text-decoration: none; display: block }
a.card:hover, a.card:focus { border-color: #f2b84b }
.card .bar { height: 6px; border-radius: 3px; background: #2c3140; margin: 5px 0 6px }
.card .bar div { height: 100%; border-radius: 3px; background: #5ad1b2 }
.card .bar.bad div { background: #f58d78 }
.card .figures { display: flex; flex-wrap: wrap; gap: 2px 14px; margin-top: 6px; font-size: 13px; color: #aab2c5 }
.card .figures b { font-weight: 600; color: #e6e8ee } .card .figures b.bad { color: #f58d78 }
.card.few .figures b, .card.few .figures b.bad { color: #8a93a6 }
@media (max-width: 460px) { .cards > :last-child:nth-child(odd) { grid-column: 1 / -1 } }
.cards.wide { grid-template-columns: repeat(auto-fit, minmax(min(300px, 100%), 1fr)) }
</style>"""
#: The same in the light theme.
LIGHT = """<style>
.card { border-color: #d5d9e2 } .card .label, .card .note { color: #4b5468 } .card .bar { background: #d5d9e2 }
.card .figures { color: #4b5468 } .card .figures b { color: #1d212b } .card .figures b.bad { color: #b53a21 }
.card .bad { color: #b53a21 } .card .good { color: #0f7a5f }
.card .bar div { background: #16876b } .card .bar.bad div { background: #c8452b }
.card.small .value, .card.few .figures b, .card.few .figures b.bad { color: #667085 }
</style>"""
#: Of the requests that a service counted itself, the share below which an objective is not sure.
COVERED = 0.99


class Card(NamedTuple):
    """One figure: what it is, its value, a note below, and whether that is bad, good, neither or from too small an n.

    `bar` is a share that is drawn below the value, `href` what the card opens. `figures` are values by name below the
    note, greyed where `few`; one that begins with ▲ is over its limit. `hover` is said on hover.
    """

    label: str
    value: str
    note: str
    verdict: Literal["bad", "good", "none", "small"] = "none"
    bar: float | None = None
    href: str = ""
    figures: Mapping[str, str] = {}
    few: bool = False
    hover: str = ""


def show(row: Sequence[Card]) -> None:
    """Draw cards side by side, of one height; on a narrow screen two in a row, one where they have figures."""
    style = STYLE + LIGHT if is_light() else STYLE
    kind = "cards wide" if any(card.figures for card in row) else "cards"
    st.html(f'{style}<div class="{kind}">{"".join(map(_html, row))}</div>')


def _html(card: Card) -> str:
    label, value, note = escape(card.label), escape(card.value), escape(card.note)
    kind = f"card{' small' if card.verdict == 'small' else ''}{' few' if card.few else ''}"
    hover = f' title="{escape(card.hover)}"' if card.hover else ""
    tag = f'a class="{kind}" target="_self" href="{escape(card.href)}"' if card.href else f'div class="{kind}"'
    bar = ""
    if card.bar is not None:
        bar = f'<div class="bar {card.verdict}"><div style="width: {100 * min(max(card.bar, 0), 1):.0f}%"></div></div>'
    figures = "".join(
        f"<span>{escape(name)} <b{' class=bad' if said.startswith('▲') else ''}>{escape(said)}</b></span> "
        for name, said in card.figures.items()
    )
    return (
        f'<{tag}{hover}><div class="label">{label}</div><div class="value">{value}</div>{bar}'
        f'<div class="note {card.verdict}">{note}</div>'
        f"{f'<div class=figures>{figures}</div>' if figures else ''}</{tag.split()[0]}>"
    )


def latency(summary: Mapping[str, Any], told: Mapping[str, Any], *, href: str = "") -> None:
    """Draw p50, p95, p99 of a row of `percentiles` and the share of good requests of a row of `latency_summary`."""
    n = f"n {told['n']:,}" + (", within 1 %" if told["source"] == "roll-up" else "")
    row = [_held(f"p{q} total · {n}", told[f"p{q}_ms"], summary["budget_ms"]) for q in (50, 95, 99)]
    known = [*(_sure(card, told["n"]) for card in row), _sure(_good(summary), summary["counted"])]
    show([card._replace(href=href) for card in known])


def _sure(card: Card, n: int) -> Card:
    """Return the card, greyed where it rests on few."""
    return card if n >= SMALL_N or not n else card._replace(verdict="small", note=f"{card.note}: too few to judge by")


def budgets(rows: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, Any]], *, span: str) -> None:
    """Draw a card an objective: good share, what is left of its budget, how fast it burns, and its clock in `span`.

    `rows` are those of `budgets`, `told` those of `burn.percentiles`. A card opens the latency of exactly
    its requests; of one that is blind, Coverage.
    """
    show([_budget(*both, span)._replace(href=_slice(both[0])) for both in zip(rows, told, strict=True)])


def _slice(row: Mapping[str, Any]) -> str:
    if row["blind_since"] is not None:
        return controls.link("coverage")
    return controls.link("latency", only=f"objective {controls.budget(row)}" if row["slice"] else None)


def _budget(row: Mapping[str, Any], told: Mapping[str, Any], span: str) -> Card:
    label = f"{controls.budget(row)} · {row['goal']} · n {row['n']:,} in {row['period']}"
    margin = f" ± {100 * row['margin']:.1f}" if row.get("margin") else ""  # of sampled traces
    good = Card(label, f"{share(row['good_share'], 1)}{margin} good", "", "small", row["budget_left"])
    good = good._replace(figures=_clock(row, told, span), few=told["n"] < SMALL_N)
    if row["blind_since"] is not None:
        blind = f"▲ no event since {clock(row['blind_since'])}: see Coverage"
        return good._replace(value="blind", note=blind, verdict="bad", bar=None, hover=utc(row["blind_since"]))
    if row["n"] < SMALL_N and not row["firing"]:  # an alert has weighed how few they are
        return good._replace(note=f"n {row['n']}: too few to judge by")
    left = row["budget_left"]
    words = f"{100 * left:.0f} % of the budget left" if left > 0 else f"▲ overspent by {-100 * left:.0f} %"
    burn = "" if row["burn_1h"] is None else f", burns {row['burn_1h']:.1f}x"
    fires = f" · ▲ {', '.join(row['firing'])}" if row["firing"] else ""
    return good._replace(note=words + burn + fires, verdict="bad" if fires or left <= 0 else "good")


def _clock(row: Mapping[str, Any], told: Mapping[str, Any], span: str) -> dict[str, str]:
    """Return an objective's percentiles, n, coverage, and how many over their limit still run, by name."""
    limit_ms = row["limit_ms"] or float("inf")
    figures = {f"p{q}": told[f"p{q}_ms"] for q in (50, 95, 99)}
    said = {name: f"{'▲ ' if (ms or 0) > limit_ms else ''}{duration(ms)}" for name, ms in figures.items()}
    covered = row.get("coverage")
    known = {} if covered is None else {"coverage": f"{'▲ ' if covered < COVERED else ''}{share(covered, 1)}"}
    hanging = {"still running": f"▲ {row['running']:,}"} if row.get("running") else {}
    return {**said, **known, **hanging, f"n {told['n']:,} in {span}": ""}


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
    return Card(f"good · n {counted:,}", share(good, counted), f"{good:,} in budget{lost}")


def _blamed(row: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> Card:
    blamed = row["over_stage"]
    if not blamed:
        return Card("to blame", "no stage", "all budgets kept", "good")
    over_ms = next((stage["over_ms"] for stage in stages if stage["stage"] == blamed), None)
    note = "furthest above its usual time" if over_ms is None else f"▲ {duration(over_ms)} over its budget"
    return Card("to blame", blamed, note, "bad")
