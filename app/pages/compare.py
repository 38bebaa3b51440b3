"""Did the release change anything?"""

import streamlit as st

from tailbudget.analytics import breakdown, compare

from .parts import charts, comparisons, controls, refresh, words
from .parts.answers import answer, table

SEGMENTS = ("version", "model", "tenant", "route", "region", "run_id")
#: Requests that are drawn again and again while a person waits.
MOST = 50_000


def page() -> None:
    """Draw the two sides and what differs, once: an interval that moves every few seconds is read by nobody."""
    refresh.once(_body)


def _body() -> None:
    window = controls.window()
    columns = st.columns(3)
    by = columns[0].selectbox("Compare", SEGMENTS, key="by", bind="query-params")
    values = answer(breakdown.segment_values, window, by=by)
    known = [str(value) for value in values["value"].to_pylist()]
    if len(known) < 2:
        st.info(
            f"Requests of {controls.chosen_range().words} have {words.count(len(known), by)}, two are needed: choose "
            "a longer range, another segment, or send it (`service.version`, `slo.tenant`, `cloud.region`)."
        )
        return
    a = columns[1].selectbox("from a", known, index=1, key="a", bind="query-params")
    b = columns[2].selectbox("to b", known, index=0, key="b", bind="query-params")
    if sum(values["n"].to_pylist()) > MOST:
        st.info(f"More than {MOST:,} requests take too long to draw again and again: choose a shorter range.")
        return
    sides = [compare.Side(window, by, value) for value in (a, b)]
    changes = table(comparisons.rows, compare.compare, *sides)
    if changes.num_rows:
        charts.draw("comparison", changes, f"From {words.plain(a)} to {words.plain(b)}: change with its 95 % interval")
    else:
        st.info("Too few requests on one side: a p95 needs 200, a p50 20. Choose a longer range.")
