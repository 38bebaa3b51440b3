"""The controls that all pages share, each bound to the address so that every view is a link: range, route, live."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import streamlit as st

from tailbudget.analytics import overview
from tailbudget.analytics.reader import QueryError
from tailbudget.analytics.window import Window

from .answers import REFRESH_S, answer
from .words import clock, duration

ALL_ROUTES = "all routes"


@dataclass(frozen=True)
class Range:
    """A length of time, and the bucket that makes 30 to 60 columns of it; buckets are whole bins of 10 s."""

    length_s: int
    bucket_s: int
    words: str


RANGES = {
    "5m": Range(300, 10, "5 minutes"),
    "15m": Range(900, 20, "15 minutes"),
    "1h": Range(3600, 60, "hour"),
    "6h": Range(21_600, 360, "6 hours"),
    "24h": Range(86_400, 1800, "24 hours"),
}
DEFAULT_RANGE = "15m"


def show(title: str) -> None:
    """Draw the page's title with the controls beside it."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.header(title, width="stretch")
        st.selectbox(
            "Route",
            [ALL_ROUTES, *_routes()],
            key="route",
            bind="query-params",
            label_visibility="collapsed",
            width=170,
        )
        st.segmented_control(
            "Range",
            list(RANGES),
            default=DEFAULT_RANGE,
            required=True,
            key="range",
            bind="query-params",
            label_visibility="collapsed",
        )
        st.toggle("Live", value=True, key="live", bind="query-params", help=f"Ask again every {REFRESH_S} s.")


def chosen_range() -> Range:
    """Return the range that is chosen."""
    return RANGES[st.session_state.get("range") or DEFAULT_RANGE]


def window() -> Window:
    """Return the chosen range up to now, rounded up to the refresh rhythm, for the chosen route."""
    rounded_s = (datetime.now(UTC).timestamp() // REFRESH_S + 1) * REFRESH_S
    to_ts = datetime.fromtimestamp(rounded_s, UTC)
    route = st.session_state.get("route", ALL_ROUTES)
    return Window(
        to_ts - timedelta(seconds=chosen_range().length_s), to_ts, None if route in (None, ALL_ROUTES) else str(route)
    )


def is_live() -> bool:
    """Return whether the page asks again by itself."""
    return bool(st.session_state.get("live", True))


def _routes() -> list[str]:
    """Return the routes to choose from; none while the API does not answer, which the page itself says."""
    try:
        known = answer(overview.routes, now=datetime.now(UTC).replace(minute=0, second=0, microsecond=0))
    except QueryError:
        return []
    return [str(route) for route in known["route"].to_pylist()]


def request(slowest: list[dict[str, Any]]) -> str | None:
    """Draw the picker of a request and return its id: that in the address, else the slowest; None without any."""
    words_of = {str(row["request_id"]): _request_words(row) for row in slowest}
    named = st.session_state.get("request") or st.query_params.get("request")
    options = list(words_of) if named is None or named in words_of else [str(named), *words_of]
    if not options:
        return None
    # Without a default of its own: a value that is the default would be left out of the address.
    picked = st.selectbox(
        "Request",
        options,
        index=None,
        placeholder=f"the slowest of the range: {words_of[options[0]]}" if named is None else "",
        key="request",
        bind="query-params",
        format_func=lambda request_id: words_of.get(request_id, request_id),
        label_visibility="collapsed",
    )
    return options[0] if picked is None else str(picked)


def _request_words(row: dict[str, Any]) -> str:
    took, started = duration(row["total_ms"]), clock(row["started"])
    return f"{took} · {row['route']} · {started} · {row['outcome']} · {row['request_id']}"
