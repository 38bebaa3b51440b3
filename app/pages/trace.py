"""Where did every millisecond of this request go, and why was it slow?"""

import streamlit as st

from tailbudget.analytics import traces

from .parts import cards, controls, empty, leads, refresh, spans, tables
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
    if not (found := answer(traces.request, request_id).to_pylist()):
        st.warning(f"No request {request_id!r}: it may be older than what is kept, or not assembled yet.")
        return
    request, named = found[0], {"trace_id": str(found[0]["trace_id"])}
    stages = answer(traces.request_stages, request_id, **named)
    cards.request(request, stages.to_pylist())
    leads.request(request)
    spans.timeline(request, named)
    spans.beside(request, named)
    tables.calls(answer(traces.request_calls, request_id, **named))
    left, right = st.columns([2, 3], gap="medium")
    with left:
        tables.stages(stages)
    with right:
        tables.attributes(answer(traces.request_attributes, **named))
