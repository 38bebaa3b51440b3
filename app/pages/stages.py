"""Which stage eats the budget, and what would it be worth to mend it?"""

import streamlit as st

from tailbudget.analytics import stages
from tailbudget.instrument.vocabulary import STAGES

from .parts import charts, controls, empty, leads, refresh, series, wishes, words
from .parts.answers import answer

KINDS = {"typical": "typical requests (around p50)", "slowest": "the slowest (from p95 on)"}


def page() -> None:
    """Draw the page, again every few seconds while it is live."""
    refresh.live(_body)


def _body() -> None:
    window, bucket_s = controls.window(), controls.chosen_range().bucket_s
    waterfall = answer(stages.stage_waterfall, window)
    if not waterfall.num_rows:
        empty.no_request()
        return
    left, right = st.columns([3, 2], gap="medium")
    with left:
        n = words.counted(waterfall["n"][0].as_py(), "request")
        title = f"Around p95, {n} · stage after stage · grey: the budget's room, dashed: the budget of all"
        charts.draw("stage_waterfall", waterfall, title)
    with right:
        wishes.show(window, {row["stage"]: row for row in waterfall.to_pylist()})
    shares = answer(stages.stage_shares, window, bucket_s=bucket_s)
    for column, one in zip(st.columns(2, gap="medium"), series.split_by(shares, "kind"), strict=False):
        kind = str(one["kind"][0])
        n = words.counted(sum(one["n"].to_pylist()) // len(STAGES), "request")
        with column:
            title = f"Share of the critical path of {KINDS[kind]} · {n}"
            charts.draw("stage_shares", one, title, key=kind, brush="time", on_brush=controls.drag)
    leads.show({"Latency of this range": controls.link("latency")})
