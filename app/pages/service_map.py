"""What does a request touch, how long does each hop take, and what changed against last week?"""

import streamlit as st

from tailbudget.analytics import service_map

from .parts import charts, empty, refresh, tables, words
from .parts.answers import KEPT_S, joined, kept


def page() -> None:
    """Draw the page, again every minute while it is live: it shows a day."""
    refresh.live(_body, every_s=KEPT_S)


def _body() -> None:
    services = kept(service_map.services)
    if not services.num_rows:
        empty.no_request()
        return
    edges = kept(service_map.edges)
    if edges.num_rows:
        n = f"n {sum(edges['n'].to_pylist()):,}{words.one_in(max(edges['one_in'].drop_null().to_pylist(), default=1))}"
        charts.draw("map_edges", edges, f"Hops of the day before the newest span, the slowest first · {n}")
        charts.tools(edges, f"**Hops, against the week before** · n {edges.num_rows}", name="hops")
        tables.hops(edges)
    else:
        st.info("No hop was seen: `tailbudget.init()` hooks httpx, aiohttp, requests and model SDKs.")
    nodes = joined(service_map.nodes(services, edges), services, edges)
    charts.tools(nodes, f"**Services and what they call** · n {nodes.num_rows}", name="nodes")
    tables.nodes(nodes)
