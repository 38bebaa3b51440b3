"""What a window looks like as a whole: percentiles, heatmap, alerts, and how far assembly is behind."""

from datetime import datetime

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .window import Window


def latency_summary(reader: Reader, window: Window) -> pa.Table:
    """Return one row: n, stands_for, p50_ms, p95_ms, p99_ms, budget_ms, budgets, counted, good, dropped, failed.

    Percentiles are exact, over all `n` requests that are not synthetic, and null when n is 0; where traces are sampled
    the requests stand for more, which percentiles leave out of account. `budget_ms` is the commonest budget of the
    total, `budgets` how many different ones there are. `counted` requests have a budget and were not rejected; `good`
    of them ended ok, or with a client that left content, within it.
    """
    return ask(reader, "latency_summary", window.params())


def latency_heatmap(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a cell that holds requests.

    Columns: t, t2, lo_ms, hi_ms, n, budget_ms (the commonest of the window), clock (t as UTC text), window_from,
    window_to.
    """
    return ask(reader, "latency_heatmap", {**window.params(), "bucket_s": bucket_s})


def filter_values(reader: Reader, *, now: datetime, rows: int = 200) -> pa.Table:
    """Return the busiest `rows` routes, tenants and models of the last seven days, busiest first: name, value, n.

    `name` is route, tenant or model; `n` is requests.
    """
    return ask(reader, "filter_values", {"now": now, "rows": rows})


def alerts(reader: Reader, window: Window) -> pa.Table:
    """Return one row an alert open in the window: the columns of table `alerts`, open ones (closed is null) first."""
    return ask(reader, "alerts", window.span())


def budgets(reader: Reader) -> pa.Table:
    """Return one row an objective and part, what fires first: columns of `slo_status`, none without objectives."""
    return ask(reader, "budgets")


def running(reader: Reader, window: Window, *, now: datetime) -> pa.Table:
    """Return one row a request that runs too long or whose stream stalls, oldest first, whenever it began.

    Columns: request_id, route, tenant, service, stage, age_s, started, stalled, silence_ms, projected_ms (what its
    total comes to), budget_ms; the last three are null where they cannot be told. A model is that of the stream that
    is read now.
    """
    return ask(reader, "running", {**window.only(), "now": now})


def assembly_lag(reader: Reader, *, now: datetime) -> pa.Table:
    """Return one row: lag_s, seconds since the longest waiting trace was ripe for assembly, null when none waits."""
    return ask(reader, "assembly_lag", {"now": now})
