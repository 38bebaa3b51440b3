"""Requests written straight into the tables, for what is judged over days."""

import math
import uuid
from collections.abc import Iterable
from datetime import datetime

import duckdb
import pyarrow as pa

from tailbudget.instrument.vocabulary import STAGES

from .spans import database


def store() -> duckdb.DuckDBPyConnection:
    """Return an empty database in memory with all tables."""
    return database()


def odds(n: int, bad: int, target: float) -> float:
    """Return the logarithm of how much likelier so many bad ones are at their own share than at half the budget."""
    well, ill = 0.5 * (1 - target), bad / n
    return bad * math.log(ill / well) + (n - bad) * (math.log((1 - ill) / (1 - well)) if ill < 1 else 0)


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
