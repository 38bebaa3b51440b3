"""What do we not see, and which line adds it?"""

from datetime import timedelta

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import coverage

from .parts import charts, controls, empty, refresh, tables, words
from .parts.answers import answer


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, chosen = controls.window(), controls.chosen_range()
    seen = answer(coverage.coverage, span=timedelta(seconds=chosen.length_s))
    if seen.num_rows:
        _services(seen)
    else:
        empty.no_request()
    arrived, unstored = answer(coverage.arrivals, window), answer(coverage.unstored, window)
    if not arrived.num_rows and not unstored.num_rows:
        return
    left, right = st.columns(2, gap="medium")
    with left:
        charts.tools(arrived, "What arrived, and how late (negative: the sender's clock is ahead)", name="arrivals")
        tables.named(arrived)
    with right:
        charts.tools(unstored, f"What was received and not stored as it came, in {chosen.words}", name="unstored")
        tables.named(unstored)


def _services(seen: pa.Table) -> None:
    calls, requests = (sum(seen[name].to_pylist()) for name in ("calls", "requests"))
    n = f"n {words.count(calls, 'call')}, {words.count(requests, 'request')}"
    charts.draw("coverage", seen, f"Services and what they tell, up to the newest span · {n} · ▲ too little")
    missing = tables.missing(seen)
    charts.tools(
        missing,
        f"**What is missing, and the line that adds it** (docs/instrumenting.md) · n {missing.num_rows}",
        name="missing",
    )
    if missing.num_rows:
        tables.plain(missing)
    else:
        st.success("Nothing is missing: every service tells first tokens, tokens, budgets and its count of requests.")
