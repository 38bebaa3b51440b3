"""One request from its start to its end."""

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
    stage), room_from_ms and room_to_ms (the stage's budget from its first start, on its first row only).
    """
    return ask(reader, "request_spans", {"request_id": request_id, "trace_id": trace_id})


def request_stages(reader: Reader, request_id: str, *, trace_id: str) -> pa.Table:
    """Return nine rows, the stages in order: stage, spans, busy_ms, critical_ms, budget_ms, over_ms."""
    return ask(reader, "request_stages", {"request_id": request_id, "trace_id": trace_id, "stages": list(STAGES)})


def request_attributes(reader: Reader, *, trace_id: str) -> pa.Table:
    """Return one row an attribute of a span of the trace: span, service, stage, key, value (text)."""
    return ask(reader, "request_attributes", {"trace_id": trace_id})
