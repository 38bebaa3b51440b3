"""What does a request touch, how long does each hop take, and what changed against last week?"""

import streamlit as st

from tailbudget.analytics import service_map

from .parts import charts, empty, refresh, tables
from .parts.answers import KEPT_S, kept


def page() -> None:
    """Draw the page, again every minute while it is live: it shows a day."""
    refresh.live(_body, every_s=KEPT_S)


def _body() -> None:
    nodes = kept(service_map.nodes)
    if not nodes.num_rows:
        empty.no_request()
        return
    edges = kept(service_map.edges)
    if edges.num_rows:
        n = sum(edges["n"].to_pylist())
        charts.draw("map_edges", edges, f"Hops of the day before the newest span, the slowest first · n {n:,}")
        charts.tools(edges, f"**Hops, against the week before** · n {edges.num_rows}", name="hops")
        tables.hops(edges)
    else:
        st.info("No hop was seen: `tailbudget.init()` hooks httpx, aiohttp, requests and model SDKs.")
    charts.tools(nodes, f"**Services and what they call** · n {nodes.num_rows}", name="nodes")
    tables.nodes(nodes)
