"""One request from its start to its end."""

from datetime import datetime

import pyarrow as pa

from tailbudget.instrument.vocabulary import STAGES

from .questions import ask
from .reader import Reader
from .window import Window


def slowest_requests(reader: Reader, window: Window, *, rows: int = 50) -> pa.Table:
    """Return at most `rows` requests, slowest first: request_id, started, route, outcome, total_ms."""
    return ask(reader, "slowest_requests", {**window.params(), "rows": rows})


def request(reader: Reader, request_id: str) -> pa.Table:
    """Return the newest request with this id, all columns of table `requests`; no row when there is none."""
    return ask(reader, "request", {"request_id": request_id})


def request_spans(reader: Reader, request_id: str, *, trace_id: str) -> pa.Table:
    """Return one row a span in a stage, by start, milliseconds since the request's start.

    Columns: row, stage, name, peer, outcome, from_ms, to_ms, duration_ms, critical_ms, budget_ms and over_ms (of the
    stage), room_from_ms and room_to_ms (the stage's budget from its first start, on its first row only), until_ms (the
    last end of them all).
    """
    return ask(reader, "request_spans", {"request_id": request_id, "trace_id": trace_id})


def token_gaps(
    reader: Reader, request_id: str, *, trace_id: str, started: datetime, until_ms: float | None = None
) -> pa.Table:
    """Return one row a gap between two chunks of a stream of the request, of each stream at most the first 4,096.

    Columns: lane (1 a stream), side, model, number, from_ms and to_ms (since the request's start), gap_ms, stalled
    (longer than a second and than eight times the stream's median gap), chunks and chunks_per_s (of the stream),
    until_ms as given. Empty when no span told `slo.stream.gaps`.
    """
    params = {"request_id": request_id, "trace_id": trace_id, "started": started, "until_ms": until_ms}
    return ask(reader, "token_gaps", params)


def network_phases(reader: Reader, *, trace_id: str) -> pa.Table:
    """Return one row a network phase that a client of the trace measured, in order.

    Columns: lane (1 a call), name, peer, phase (pool wait, dns, connect, tls or send), place, from_ms and to_ms (since
    the call began), ms, phases (of its call, in words), reused, http_version, attempts, backoff_ms, wait_headers_ms
    (which is the server's time).
    """
    return ask(reader, "network_phases", {"trace_id": trace_id})


def beside_route(reader: Reader, request_id: str, *, trace_id: str) -> pa.Table:
    """Return one row the total and each stage that took time: part, ms, and what its route took in the hour around it.

    Further columns: p50_ms, p95_ms, p99_ms over the n requests that have the part, slower_than (share of them).
    """
    params = {"request_id": request_id, "trace_id": trace_id, "stages": list(STAGES)}
    return ask(reader, "beside_route", params)


def request_calls(reader: Reader, request_id: str, *, trace_id: str) -> pa.Table:
    """Return one row a model call: columns of `calls`, spans (how many became it) and told_by (who sent them)."""
    return ask(reader, "request_calls", {"request_id": request_id, "trace_id": trace_id})


def request_stages(reader: Reader, request_id: str, *, trace_id: str) -> pa.Table:
    """Return nine rows, the stages in order: stage, spans, busy_ms, critical_ms, budget_ms, over_ms."""
    return ask(reader, "request_stages", {"request_id": request_id, "trace_id": trace_id, "stages": list(STAGES)})


def request_attributes(reader: Reader, *, trace_id: str) -> pa.Table:
    """Return one row an attribute of a span of the trace: span, service, stage, key, value (text)."""
    return ask(reader, "request_attributes", {"trace_id": trace_id})
