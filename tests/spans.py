"""Spans with exact times for tests, landed as the collector lands them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from tailbudget.analytics.recognise import PROMOTED, span_select
from tailbudget.collector.assemble import Assembler, TickReport
from tailbudget.collector.receive.batches import EVENTS, SPANS, spans_schema

SCHEMA = Path(__file__).resolve().parents[1] / "collector" / "land" / "schema.sql"
VIEWS = sorted(SCHEMA.with_name("views").glob("*.sql"))
#: 2026-03-01 12:00 UTC: the zero of every time below.
EPOCH_NS = 1_772_366_400_000_000_000
MS = 1_000_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Span:
    """One span: times in milliseconds since EPOCH_NS, attributes by key, events as (name, milliseconds, attributes)."""

    name: str
    start_ms: float
    end_ms: float
    span_id: int
    parent: int | None = None
    attrs: Mapping[str, object] = field(default_factory=dict)
    events: tuple[tuple[str, float, Mapping[str, object]], ...] = ()
    kind: str = "INTERNAL"
    service: str = "shop"
    scope: str = "test"
    status: str = "UNSET"
    status_message: str | None = None
    trace: int = 1
    resource_id: int = 1

    @property
    def trace_id(self) -> bytes:
        """The 16 bytes."""
        return self.trace.to_bytes(16, "big")


class Trace:
    """Builds the spans of one trace; each `add` returns the new span's id, to be the parent of others."""

    def __init__(self, trace: int = 1) -> None:
        self.trace = trace
        self.spans: list[Span] = []
        self._ids = count(trace * 1000 + 1)

    def add(self, name: str, start_ms: float, end_ms: float, *, under: int | None = None, **more: Any) -> int:
        """Add a span; keyword arguments are fields of Span, except `attrs`, which may hold any JSON value."""
        span_id = next(self._ids)
        self.spans.append(Span(name, start_ms, end_ms, span_id, under, trace=self.trace, **more))
        return span_id


def _ns(ms: float) -> int:
    return EPOCH_NS + round(ms * MS)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def span_table(spans: Iterable[Span]) -> pa.Table:
    """Return what the decoder gives for these spans."""
    rows: list[Row] = [
        {
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "parent_span_id": span.parent,
            "name": span.name,
            "kind": span.kind,
            "start_ns": _ns(span.start_ms),
            "end_ns": _ns(span.end_ms),
            "status": span.status,
            "status_message": span.status_message,
            "service": span.service,
            "scope": span.scope,
            "resource_id": span.resource_id,
            "attrs": json.dumps(dict(span.attrs)),
            **{key: _text(value) for key, value in span.attrs.items() if key in PROMOTED},
        }
        for span in spans
    ]
    return pa.Table.from_pylist(rows, schema=spans_schema(PROMOTED))


def present(table: pa.Table) -> pa.Table:
    """Return the spans without the promoted columns that hold nothing, as the decoder gives them."""
    return table.select(
        [name for name in table.schema.names if name in SPANS.names or table[name].null_count < len(table)]
    )


def promoted(table: pa.Table) -> frozenset[str]:
    """Return the promoted keys that have a column."""
    return frozenset(table.schema.names) - frozenset(SPANS.names)


def event_table(spans: Iterable[Span]) -> pa.Table:
    """Return what the decoder gives for their events."""
    rows = [
        {
            "trace_id": span.trace_id,
            "span_id": span.span_id,
            "name": name,
            "t_ns": _ns(ms),
            "attrs": json.dumps(dict(attrs)),
        }
        for span in spans
        for name, ms, attrs in span.events
    ]
    return pa.Table.from_pylist(rows, schema=EVENTS)


@cache
def _empty_file() -> TemporaryDirectory[str]:
    """Return the folder of a data file with all tables and views: 0.2 CPU seconds to make, 0.03 to copy."""
    folder = TemporaryDirectory(prefix="tailbudget-")
    with duckdb.connect(f"{folder.name}/empty.duckdb") as connection:
        connection.execute("set timezone = 'UTC'")
        for statements in (SCHEMA, *VIEWS):
            connection.execute(statements.read_text(encoding="utf-8"))
    return folder


def database() -> duckdb.DuckDBPyConnection:
    """Return a connection to an empty data file in memory."""
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    connection.execute("set threads = 1")
    connection.execute(f"attach '{_empty_file().name}/empty.duckdb' as empty (read_only)")
    connection.execute("copy from database empty to memory; detach empty")
    return connection


def land(connection: duckdb.DuckDBPyConnection, spans: Iterable[Span], *, at: datetime | None = None) -> None:
    """Store the spans and mark their traces dirty, as the lander does."""
    spans = list(spans)
    landing, events = present(span_table(spans)), event_table(spans)
    connection.register("batch_spans", landing)
    connection.register("batch_events", events)
    connection.execute(f"insert into spans_open by name {span_select(promoted(landing), events=events.num_rows > 0)}")
    connection.execute(
        """insert into dirty
           select trace_id, $at, $at, bool_or(parent_span_id is null), min(start_ns), max(end_ns)
           from batch_spans group by all
           on conflict do update set
             last_arrival = excluded.last_arrival, root_seen = dirty.root_seen or excluded.root_seen,
             first_ns = least(dirty.first_ns, excluded.first_ns),
             last_ns = greatest(dirty.last_ns, excluded.last_ns)""",
        {"at": at or datetime.fromtimestamp(EPOCH_NS / 1e9, UTC)},
    )
    connection.unregister("batch_spans")
    connection.unregister("batch_events")


def later(seconds: float) -> datetime:
    """Return the instant so long after EPOCH_NS."""
    return datetime.fromtimestamp(EPOCH_NS / 1e9 + seconds, UTC)


def assemble(connection: duckdb.DuckDBPyConnection, spans: Iterable[Span]) -> TickReport:
    """Land the spans and run one tick a minute later."""
    land(connection, spans)
    return Assembler(connection).tick(later(60))


def rows(connection: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, object] = {}) -> list[Row]:
    """Return the answer as one dictionary a row."""
    table = connection.cursor().sql(query, params=dict(params)).to_arrow_table()
    return list(_plain(table))


def _plain(table: pa.Table) -> Iterator[Row]:
    yield from table.to_pylist()


def one(connection: duckdb.DuckDBPyConnection, query: str, params: Mapping[str, object] = {}) -> Row:
    """Return the only row of the answer."""
    (row,) = rows(connection, query, params)
    return row
