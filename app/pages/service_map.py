"""What does a request touch, how long does each hop take, and what changed against last week?"""

import streamlit as st

from tailbudget.analytics import service_map

from .parts import charts, empty, refresh, tables, words
from .parts.answers import KEPT_S, joined, kept, old_since


def page() -> None:
    """Draw the page, again every minute while it is live: it shows a day."""
    refresh.live(_body, every_s=KEPT_S)


def _body() -> None:
    services = kept(service_map.services)
    if not services.num_rows:
        empty.no_request()
        return
    edges = kept(service_map.edges)
    since = old_since(services, edges)
    hover = words.utc(since) if since else None
    if edges.num_rows:
        n = f"n {sum(edges['n'].to_pylist()):,}{words.one_in(max(edges['one_in'].drop_null().to_pylist(), default=1))}"
        title = f"Hops of the day before the newest span, the slowest first · {n}{words.as_of(since)}"
        charts.draw("map_edges", edges, title, hover=hover)
        charts.tools(edges, f"**Hops, against the week before** · n {edges.num_rows}", name="hops")
        tables.hops(edges)
    else:
        st.info("No hop was seen: `tailbudget.init()` hooks httpx, aiohttp, requests and model SDKs.")
    nodes = joined(service_map.nodes(services, edges), services, edges)
    title = f"**Services and what they call** · n {nodes.num_rows}{words.as_of(since)}"
    charts.tools(nodes, title, name="nodes", hover=hover)
    tables.nodes(nodes)
