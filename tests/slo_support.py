"""Requests written straight into the tables, for what is judged over days."""

import uuid
from collections.abc import Iterable
from datetime import datetime

import duckdb
import pyarrow as pa

from tailbudget.instrument.vocabulary import STAGES

from .seed import SCHEMA


def store() -> duckdb.DuckDBPyConnection:
    """Return an empty database in memory with all tables."""
    connection = duckdb.connect(":memory:")
    connection.execute("set timezone = 'UTC'; set threads = 1")
    connection.execute(SCHEMA.read_text(encoding="utf-8"))
    return connection


def write(
    connection: duckdb.DuckDBPyConnection,
    events: Iterable[tuple[datetime, float, str]],
    *,
    tenant: str | None = None,
    stage: str = "decode",
    weight: float | None = None,
) -> None:
    """Write a request an event (started, total_ms, outcome), all of its time in one stage."""
    first = connection.execute("select count(*) from requests").fetchall()[0][0]
    rows = [
        {
            "request_id": f"r{first + index}",
            "trace_id": str(uuid.UUID(int=first + index + 1)),
            "span_id": first + index + 1,
            "started": started,
            "route": "/chat",
            "tenant": tenant,
            "outcome": outcome,
            "total_ms": total_ms,
            **{f"{name}_ms": total_ms if name == stage else 0.0 for name in STAGES},
            "other_ms": 0.0,
            "calls": 1,
            "tool_rounds": 0,
            "synthetic": False,
            "weight": weight,
        }
        for index, (started, total_ms, outcome) in enumerate(events)
    ]
    if rows:
        connection.register("new_rows", pa.Table.from_pylist(rows))
        connection.execute("insert into requests by name select * from new_rows")
        connection.unregister("new_rows")
