"""Where did every millisecond of this request go, and why was it slow?"""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from tailbudget.analytics import traces

from .parts import cards, charts, controls, empty, leads, refresh, tables, words
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
    spans = answer(traces.request_spans, request_id, **named)
    title = f"Spans by their start · n {spans.num_rows} · grey: the room of the stage's budget, tick: its end"
    charts.draw("waterfall", spans, title)
    until_ms = max(spans["until_ms"].to_pylist(), default=request["total_ms"])
    gaps = answer(traces.token_gaps, request_id, started=request["started"], until_ms=until_ms, **named)
    if gaps.num_rows:
        charts.draw("token_timeline", gaps, f"Tokens as they came · n {gaps.num_rows:,} gaps · coral: a stall")
    _beside(request, named)
    tables.calls(answer(traces.request_calls, request_id, **named))
    left, right = st.columns([2, 3], gap="medium")
    with left:
        tables.stages(stages)
    with right:
        tables.attributes(answer(traces.request_attributes, **named))


def _beside(request: Mapping[str, Any], named: Mapping[str, str]) -> None:
    left, right = st.columns(2, gap="medium")
    with left:
        beside = answer(traces.beside_route, request["request_id"], **named)
        charts.draw("beside_route", beside, f"Beside {words.plain(str(request['route']))} in the hour around it")
    with right:
        phases = answer(traces.network_phases, **named)
        if phases.num_rows:
            charts.draw("network_phases", phases, "The network of its calls, in ms, before the server's time")
        else:
            st.caption("No network phases: `tailbudget.init()` and `tailbudget run` measure those of HTTP clients.")
