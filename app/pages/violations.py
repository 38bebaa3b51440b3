"""Which requests went over a budget, when, for how long, and whose fault is it?"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import streamlit as st

from tailbudget.analytics import overview, violations

from .parts import charts, controls, empty, fault, refresh, tables, words
from .parts.answers import answer


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, chosen = controls.window(), controls.chosen_range()
    fault.budgets(answer(violations.burn_down))
    n = answer(overview.latency_summary, window).to_pylist()[0]["n"]
    if not n:
        empty.no_request()
        return
    blamed = answer(violations.violations_by_stage, window).to_pylist()
    total = sum(row["n"] for row in blamed)
    if not total:
        st.success(f"No request over a budget in {chosen.words} (n {n:,}).")
        return
    timeline = answer(violations.violations_timeline, window, bucket_s=chosen.bucket_s)
    worst, spell = blamed[0], fault.spell(timeline, blamed[0]["stage"])
    st.markdown(
        f"**{words.share(total, n)}** of requests over a budget ({total:,} of {words.counted(n)}); {_blame(worst)} "
        f"{worst['n']:,} of them, {words.duration(worst['over_p50_ms'])} over at the median{_lasted(spell)}.",
        help=words.utc(spell.from_ts, spell.to_ts) if spell else None,
    )
    title = f"Violations by time and blamed stage, ▼ marks · n {total:,} · drag to look into a stretch of time"
    charts.draw("violations_timeline", timeline, title, brush="time", on_brush=controls.drag)
    fault.report(window, n=n)
    suspect = fault.suspects(n=n, window=replace(window, from_ts=spell.from_ts, to_ts=spell.to_ts) if spell else None)
    shown = fault.named(answer(violations.violations, window), suspect)
    charts.tools(
        shown, f"The newest {shown.num_rows:,} of {total:,} · a request's id opens its trace", name="violations"
    )
    tables.violations(shown)


def _blame(worst: Mapping[str, Any]) -> str:
    return "no stage stands out in" if worst["stage"] == "none" else f"**{worst['stage']}** is to blame for"


def _lasted(spell: fault.Spell | None) -> str:
    if spell is None:
        return ""
    lasted = words.duration((spell.to_ts - spell.from_ts).total_seconds() * 1000)
    return f": {spell.n:,} from {words.clock(spell.from_ts)} to {words.clock(spell.to_ts)} ({lasted})"
