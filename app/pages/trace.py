"""Where did every millisecond of this request go?"""

import streamlit as st

from tailbudget.analytics import traces

from .parts import cards, charts, controls, empty, refresh, tables, words
from .parts.answers import answer


def page() -> None:
    """Draw one request: the one that the address names, else the slowest of the chosen range."""
    refresh.once(_body)


def _body() -> None:
    slowest = answer(traces.slowest_requests, controls.window()).to_pylist()
    request_id = controls.request(slowest)
    if request_id is None:
        empty.no_request()
        return
    found = answer(traces.request, request_id).to_pylist()
    if not found:
        st.warning(f"No request {request_id!r}: it may be older than what is kept, or not assembled yet.")
        return
    request, trace_id = found[0], str(found[0]["trace_id"])
    stages = answer(traces.request_stages, request_id, trace_id=trace_id)
    cards.request(request, stages.to_pylist())
    spans = answer(traces.request_spans, request_id, trace_id=trace_id)
    title = f"Spans by their start · n {spans.num_rows} · grey: the room of the stage's budget, tick: its end"
    charts.draw("waterfall", spans, title)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        st.caption(f"Stages on the critical path, which add up to {words.duration(request['total_ms'])}")
        tables.stages(stages)
    with right:
        st.caption("Attributes of its spans")
        tables.attributes(answer(traces.request_attributes, trace_id=trace_id))
