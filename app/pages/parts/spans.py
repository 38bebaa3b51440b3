"""The pictures of one request: its spans and tokens on one axis of time, its route beside it, its network."""

from collections.abc import Mapping
from typing import Any

import streamlit as st

from tailbudget.analytics import traces

from . import charts, words
from .answers import answer


def timeline(request: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Draw the spans of a row of `request` and its tokens; say so where no span is left of it."""
    spans = answer(traces.request_spans, request["request_id"], **named)
    if not spans.num_rows:
        st.info("No span of it is left: they are kept for fewer days than requests. Its figures below are whole.")
        return
    title = f"Spans by their start · n {spans.num_rows} · grey: the room of the stage's budget, tick: its end"
    charts.draw("waterfall", spans, title)
    until_ms = max(spans["until_ms"].to_pylist())
    gaps = answer(traces.token_gaps, request["request_id"], started=request["started"], until_ms=until_ms, **named)
    if gaps.num_rows:
        charts.draw("token_timeline", gaps, f"Tokens as they came · n {gaps.num_rows:,} gaps · coral: a stall")


def beside(request: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Draw a request beside its route, and the network of its calls."""
    left, right = st.columns(2, gap="medium")
    with left:
        route = answer(traces.beside_route, request["request_id"], **named)
        charts.draw("beside_route", route, f"Beside {words.plain(str(request['route']))} in the hour around it")
    with right:
        phases = answer(traces.network_phases, **named)
        if phases.num_rows:
            n = words.count(phases.num_rows, "phase")
            charts.draw("network_phases", phases, f"The network of its calls, in ms, before the server's time · n {n}")
        else:
            st.caption("No network phases: `tailbudget.init()` and `tailbudget run` measure those of HTTP clients.")
