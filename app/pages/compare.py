"""Did the release change anything?"""

import streamlit as st

from tailbudget.analytics import compare, overview

from .parts import charts, comparisons, controls, empty, refresh, words
from .parts.answers import answer, table

SEGMENTS = ("version", "model", "tenant", "route", "region", "run_id")
#: Instead of a segment: the chosen range against an earlier one of the same length.
TIME = "time"
#: Requests that are drawn again and again while a person waits.
MOST = 50_000


def page() -> None:
    """Draw the two sides and what differs, once: an interval that moves every few seconds is read by nobody."""
    refresh.once(_body)


def _body() -> None:
    window = controls.window()
    if not controls.known().num_rows:
        empty.no_request()
        return
    columns = st.columns(3)
    by = columns[0].selectbox("Compare", (*SEGMENTS, TIME), key="by", bind="query-params")
    sides = comparisons.times(columns, window) if by == TIME else comparisons.values(columns, window, by=by)
    if sides is None:
        return
    n = sum(answer(overview.latency_summary, one)["n"][0].as_py() for one in {side.side.window for side in sides})
    if n > MOST:
        st.info(f"More than {MOST:,} requests take too long to draw again and again: choose a shorter range.")
        return
    a, b = sides
    changes = table(comparisons.rows, compare.compare, a.side, b.side)
    if changes.num_rows:
        title = f"From {words.plain(a.words)} to {words.plain(b.words)}: change with its 95 % interval"
        charts.draw("comparison", changes, title, hover=comparisons.hover(a, b) if by == TIME else None)
        comparisons.lead(a, b)
    else:
        st.info("Too few requests on one side: a p95 needs 200, a p50 20. Choose a longer range.")
