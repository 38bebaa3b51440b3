"""Where is the tail, and who is in it?"""

import streamlit as st

from tailbudget.analytics import drill, latency, overview
from tailbudget.analytics.window import Box, Window

from .parts import charts, controls, empty, fault, picked, refresh, tables, words
from .parts.answers import answer, table


def page() -> None:
    """Draw the page, again every few seconds while it is live and nothing is selected."""
    refresh.live(_body)


def _body() -> None:
    window, bucket_s = controls.window(), controls.chosen_range().bucket_s
    heatmap = answer(overview.latency_heatmap, window, bucket_s=bucket_s)
    if not heatmap.num_rows:
        empty.no_request()
        return
    n = sum(heatmap["n"].to_pylist())
    left, right = st.columns(2, gap="medium")
    with left:
        title = f"Total latency by time · n {n:,} · drag a box over cells to see who is in them"
        charts.draw("heatmap", heatmap, title, brush="box")
    with right:
        box = controls.box(heatmap)
        found = answer(latency.box_requests, window, box=box)
        at_most = f" · the slowest {found.num_rows}" if found.num_rows == latency.MOST_REQUESTS else ""
        title = f"**Who took {words.box(box)}**{at_most} · an id opens its trace"
        charts.tools(found, title, name="requests", hover=words.utc(box.from_ts, box.to_ts))
        tables.requests(tables.linked(found))
    left, right = st.columns(2, gap="medium")
    with left:
        title = f"Line p50, bands to p95 and p99 · {words.counted(n)} · drag to look into a stretch of time"
        bands = answer(latency.latency_bands, window, bucket_s=bucket_s)
        charts.draw("latency_bands", bands, title, brush="time", on_brush=controls.drag)
        fault.suspects(n=n, window=box.window(window) if picked.text() else None)
    with right:
        _apart(window, box)
        _stages(window, box)


def _stages(window: Window, box: Box) -> None:
    stages = answer(latency.box_stages, window, box=box)
    n, rest_n = stages["n"][0].as_py(), stages["rest_n"][0].as_py()
    charts.draw(
        "box_stages", stages, f"Mean time a request: bar theirs ({words.counted(n)}), tick the rest's (n {rest_n:,})"
    )


def _apart(window: Window, box: Box) -> None:
    found = table(tables.findings, drill.drill, window, box=box)
    if found.num_rows:
        charts.draw("findings", found, "What they are more often: bar the share that is here, tick of all others")
    else:
        st.info("Nothing sets them apart: no tenant, model, route, version, region, instance or size is commoner.")
