"""The controls that all pages share, each bound to the address so that every view is a link: range, filter, live."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

import pyarrow as pa
import streamlit as st

from tailbudget.analytics import overview, slices
from tailbudget.analytics.reader import QueryError
from tailbudget.analytics.window import Box, Window

from . import picked
from .answers import REFRESH_S, kept
from .words import clock, duration, plain

#: What requests are filtered by, and what stands for any.
FILTERS: Final = {"route": "all routes", "tenant": "all tenants", "model": "all models"}
#: What else a link narrows to: `objective NAME`, `service NAME`, `hop SERVICE > CALLEE`, `version X` or `region X`.
ONLY: Final = "only"
EVERY: Final = "all requests"
#: Three of them fit side by side on a phone.
FILTER_PX: Final = 114


@dataclass(frozen=True)
class Range:
    """A length of time, and the bucket that makes 30 to 60 columns of it; buckets are whole bins of 10 s."""

    length_s: int
    bucket_s: int
    words: str


RANGES = {
    "5m": Range(300, 10, "the last 5 minutes"),
    "15m": Range(900, 20, "the last 15 minutes"),
    "1h": Range(3600, 60, "the last hour"),
    "6h": Range(21_600, 360, "the last 6 hours"),
    "24h": Range(86_400, 1800, "the last 24 hours"),
    "7d": Range(604_800, 14_400, "the last 7 days"),
}
DEFAULT_RANGE = "15m"
#: Buckets of a range that was dragged: the first that makes at most 60 columns.
BUCKETS_S = (10, 20, 30, 60, 120, 360, 900, 1800, 3600, 14_400, 86_400)


def show(title: str, *, filters: Collection[str] = FILTERS) -> None:
    """Draw the page's title with the controls beside it; what is not in `filters` narrows nothing on this page."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.header(title, width="stretch")
        st.text_input(
            "From/to (UTC)",
            key="between",
            bind="query-params",
            placeholder="from/to, or drag",
            label_visibility="collapsed",
            width=325 if st.session_state.get("between") or st.query_params.get("between") else 130,
            help="A stretch of time in UTC, as 2026-03-01T12:00/2026-03-01T12:05; emptied, the range beside it holds.",
        )
        _filters(filters)
        _ranges()
        st.toggle("Live", value=True, key="live", bind="query-params", help=f"Ask again every {REFRESH_S} s.")
    narrowed = set(FILTERS) <= set(filters)
    st.session_state["slice"] = _slice(only()) if narrowed else ""
    unheeded = [f"{name} {plain(value)}" for name, value in chosen().items() if name not in filters]
    unheeded += [plain(only())] if only() and not narrowed else []
    if unheeded:
        st.caption(f"Not narrowed to {', '.join(unheeded)}: what {title} shows is of all of them.")


def _filters(filters: Collection[str]) -> None:
    if named := st.query_params.get(ONLY) or st.session_state.get("named"):  # once there, it stays at hand
        st.session_state["named"] = named
        st.selectbox("Only", [EVERY, named], key=ONLY, bind="query-params", label_visibility="collapsed", width=230)
    values = _values()
    for name, every in FILTERS.items():
        st.selectbox(
            name.capitalize(),
            [every, *values[name]],
            key=name,
            bind="query-params",
            label_visibility="collapsed",
            width=FILTER_PX,
            disabled=name not in filters,
        )


def _ranges() -> None:
    if between():  # none of them holds: the range waits out of sight until the stretch of time is ended
        st.html("<style>.st-key-range { display: none }</style>")
        st.segmented_control("Range", list(RANGES), key="instead", label_visibility="collapsed", on_change=_end_between)
    st.segmented_control(
        "Range", list(RANGES), default=DEFAULT_RANGE, required=True, key="range", bind="query-params",
        label_visibility="collapsed",
    )  # fmt: skip


def only() -> str:
    """Return what a link narrows to beside the filter, in words; empty for nothing."""
    named = str(st.session_state.get(ONLY) or "")
    return "" if named == EVERY else named


def _slice(named: str) -> str:
    """Return the condition over `requests` of what a link narrows to; empty for nothing, and for what is not known."""
    kind, _, name = named.partition(" ")
    if kind in slices.COLUMNS:
        return slices.having(kind, name)
    if kind == "service" and name:
        return slices.touching(name)
    service, is_hop, callee = name.partition(" > ")
    if kind == "hop" and is_hop:
        return slices.touching(service, callee)
    try:
        known = {budget(row): str(row["slice"] or "") for row in kept(overview.budgets).to_pylist()} if named else {}
    except QueryError:  # which the page itself says
        return ""
    if named and not known.get(name):
        st.warning(f"Nothing is known of {plain(named)}: the page shows all requests.")
    return known.get(name, "")


def budget(row: Mapping[str, Any]) -> str:
    """Return what a row of `budgets` is called: the objective, with its part where it has parts."""
    return f"{row['objective']} · {row['part']}" if row["part"] else str(row["objective"])


def _end_between() -> None:
    st.session_state.update({"range": st.session_state["instead"], "between": ""})


def between() -> tuple[datetime, datetime] | None:
    """Return the stretch of time in the address, `2026-03-01T12:00:00/2026-03-01T12:05:00` in UTC; None for another."""
    begin, _, end = str(st.session_state.get("between") or "").partition("/")
    try:
        from_ts, to_ts = (datetime.fromisoformat(text.strip()) for text in (begin, end))
    except ValueError:
        return None
    from_ts, to_ts = (one if one.tzinfo else one.replace(tzinfo=UTC) for one in (from_ts, to_ts))
    return (from_ts, to_ts) if from_ts < to_ts else None


def stretch(from_ts: datetime, to_ts: datetime) -> str:
    """Return the stretch of time as `between` reads it."""
    return "/".join(f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%S}" for instant in (from_ts, to_ts))


def drag(found: Mapping[str, Any]) -> None:
    """Make the stretch of time that was dragged over a picture the range of all pages."""
    if times := time_of(found):
        st.session_state["between"] = stretch(*times)


def time_of(bounds: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    """Return the stretch of time of a selection, to the second; None without one."""
    if "t" not in bounds:
        return None
    begin_s, end_s = (ms / 1000 for ms in sorted(bounds["t"]))
    return datetime.fromtimestamp(int(begin_s), UTC), datetime.fromtimestamp(int(end_s) + 1, UTC)


def box(heatmap: pa.Table) -> Box:
    """Draw the box's lower end, and return the box that was dragged over the heatmap.

    Without one it is what is slower than what was typed, which stands in the address, else over budget, else, where
    nothing is, the slowest tenth.
    """
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        typed_ms = st.number_input(
            "Slower than, ms", min_value=0, value=None, step=100, key="over_ms", bind="query-params", width=290,
            placeholder="slower than … ms, or drag a box", label_visibility="collapsed",
        )  # fmt: skip
        picked.ending()
    bounds = picked.bounds()
    if "t" in bounds:
        from_ts, to_ts = (datetime.fromtimestamp(ms / 1000, UTC) for ms in bounds["t"])
        return Box(from_ts, to_ts, *bounds["lo_ms"])
    first = heatmap.slice(0, 1).to_pylist()[0]
    lo_ms = typed_ms or _over_ms(heatmap) or _slow_ms(heatmap)
    return Box(first["window_from"], first["window_to"], float(lo_ms), float("inf"))


def _over_ms(heatmap: pa.Table) -> float | None:
    """Return the budget where a cell lies over it."""
    budget_ms = heatmap["budget_ms"][0].as_py()
    return budget_ms if budget_ms and max(heatmap["lo_ms"].to_pylist()) >= budget_ms else None


def _slow_ms(heatmap: pa.Table) -> float:
    cells = sorted(zip(heatmap["lo_ms"].to_pylist(), heatmap["n"].to_pylist(), strict=True), reverse=True)
    left = sum(n for _, n in cells) / 10
    for lo_ms, n in cells:
        left -= n
        if left <= 0:
            return float(lo_ms)
    return 0.0


def chosen_range() -> Range:
    """Return the range that is chosen, or was dragged."""
    if found := between():
        length_s = (found[1] - found[0]).total_seconds()
        bucket_s = next((one for one in BUCKETS_S if length_s / one <= 60), BUCKETS_S[-1])
        return Range(round(length_s), bucket_s, f"{clock(found[0])} to {clock(found[1])}")
    return RANGES[st.session_state.get("range") or DEFAULT_RANGE]


def now(*, rhythm_s: int = REFRESH_S) -> datetime:
    """Return the time, rounded up to the refresh rhythm, so that viewers share answers."""
    return datetime.fromtimestamp((datetime.now(UTC).timestamp() // rhythm_s + 1) * rhythm_s, UTC)


def window(*, rhythm_s: int = REFRESH_S) -> Window:
    """Return the chosen range up to now, rounded up to the refresh rhythm, of what is chosen in the filter.

    While something is picked the window stays where it was.
    """
    narrowed = {**chosen(), "slice": str(st.session_state.get("slice", ""))}
    if found := between():
        return Window(found[0], found[1], **narrowed)
    to_ts = st.session_state[picked.UNTIL] = picked.until() or now(rhythm_s=rhythm_s)
    return Window(to_ts - timedelta(seconds=chosen_range().length_s), to_ts, **narrowed)


def bucket(row: Mapping[str, Any]) -> Window:
    """Return the stretch of time of a bucket, a row with t and t2."""
    return Window(row["t"], row["t2"])


def is_live() -> bool:
    """Return whether the page asks again by itself: switched on, its window ends now, and nothing is picked."""
    return bool(st.session_state.get("live", True)) and not (between() or picked.text() or picked.until())


def chosen() -> dict[str, str]:
    """Return what the filter narrows to, by its names: route, tenant, model."""
    picked = {name: st.session_state.get(name) for name in FILTERS}
    return {name: str(value) for name, value in picked.items() if value not in (None, FILTERS[name])}


def link(path: str, **params: object) -> str:
    """Return the address of another page with the same controls but for `params`, of which None ends one."""
    kept_names = {name: st.session_state.get(name) for name in ("range", "between")} | {ONLY: only()}
    return f"/{path}?" + urlencode(
        {name: value for name, value in {**kept_names, **chosen(), **params}.items() if value}
    )


def known() -> pa.Table:
    """Return the routes, tenants and models that requests have had lately."""
    return kept(overview.filter_values, now=datetime.now(UTC).replace(minute=0, second=0, microsecond=0))


def _values() -> dict[str, list[str]]:
    """Return the values to choose from; none while the API does not answer, which the page itself says.

    What the address names is among them, however rare it is.
    """
    try:
        rows = known().to_pylist()
    except QueryError:
        rows = []
    values = {name: [str(row["value"]) for row in rows if row["name"] == name] for name in FILTERS}
    for name, listed in values.items():
        named = st.query_params.get(name)
        if named and named not in (*listed, FILTERS[name]):
            listed.append(named)
    return values


def request(slowest: list[dict[str, Any]]) -> str | None:
    """Draw the picker of a request and return its id: that in the address, else the slowest; None without any."""
    words_of = {str(row["request_id"]): _request_words(row) for row in slowest}
    named = st.query_params.get("request")
    options = list(words_of) if named is None or named in words_of else [named, *words_of]
    if not options:
        return None
    st.selectbox(
        "Request",
        options,
        index=None if named is None else options.index(named),
        placeholder=f"the slowest of the range: {words_of[options[0]]}" if named is None else "",
        key=f"request {named}",
        on_change=_name_request,
        args=(f"request {named}",),
        format_func=lambda request_id: words_of.get(request_id, request_id),
        label_visibility="collapsed",
    )
    return named or options[0]


def _name_request(key: str) -> None:
    """Write the id of what was picked into the address; a bound picker would write its words."""
    if picked := st.session_state[key]:
        st.query_params["request"] = str(picked)
    else:
        st.query_params.pop("request", None)


def _request_words(row: dict[str, Any]) -> str:
    took, started = duration(row["total_ms"]), clock(row["started"])
    return f"{took} · {row['route']} · {started} · {row['outcome']} · {row['request_id']}"
