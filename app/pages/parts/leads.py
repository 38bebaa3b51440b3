"""Where a picture leads to: links to other pages that keep the range and the route."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from html import escape
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

import pyarrow as pa
import streamlit as st

from .charts import is_light
from .controls import link, stretch
from .words import clock, html_clock

#: What is shown before and after a request that leads to its route.
AROUND: Final = timedelta(minutes=5)
STYLE = """<style>
.leads { font-size: 13px; display: flex; flex-wrap: wrap; gap: 4px 16px }
.leads a { color: #f2b84b; text-decoration: underline; text-underline-offset: 3px }
</style>"""
#: The same in the light theme.
LIGHT = "<style>.leads a { color: #96660a }</style>"


def show(places: Mapping[str, str], *, before: str = "") -> None:
    """Draw links side by side: words -> address, after the HTML `before`; a stretch of time in one is told on hover."""
    st.html(f'{STYLE}{LIGHT if is_light() else ""}<div class="leads">{before}{"".join(_links(places))}</div>')


def _links(places: Mapping[str, str]) -> Iterator[str]:
    for words, href in places.items():
        (between,) = parse_qs(urlsplit(href).query).get("between", [""])
        hover = f' title="{escape(between)} UTC"' if between else ""
        yield f'<a target="_self" href="{escape(href)}"{hover}>{escape(words)} →</a>'


def request(row: Mapping[str, Any]) -> None:
    """Offer the link to a request's trace, say when it began, and lead to its spans in SQL and its route around it."""
    here = urlsplit(str(st.context.url or ""))
    address = f"{here.scheme}://{here.netloc}" if here.netloc else ""
    spans = urlencode({"sql": f"from trace('{row['trace_id']}')"})
    then = link("latency", route=row["route"], between=stretch(row["started"] - AROUND, row["started"] + AROUND))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        with st.popover("Copy link", type="tertiary", width="content"):
            st.code(f"{address}/trace?{urlencode({'request': row['request_id']})}", language=None, wrap_lines=True)
        started = f"<span>started {html_clock(row['started'])}</span>"
        show({"Its spans in SQL": f"/sql?{spans}", "Latency of its route around then": then}, before=started)


def latency(alerts: pa.Table, *, to_ts: datetime) -> None:
    """Lead to Latency: of the range, and while each alert of kind sag lasted."""
    sags = (row for row in alerts.to_pylist() if row["kind"] == "sag")
    show({"Latency of this range": link("latency"), **{_words(row): _during(row, to_ts) for row in sags}})


def _words(row: Mapping[str, Any]) -> str:
    return f"Latency during the sag of {clock(row['opened'])}, {row['model'] or row['instance'] or 'all'}"


def _during(row: Mapping[str, Any], to_ts: datetime) -> str:
    return link("latency", between=stretch(row["opened"], row["closed"] or to_ts))
