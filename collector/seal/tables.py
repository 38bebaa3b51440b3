"""What is sealed and how, as data, and the SQL of this folder for each of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import duckdb

from .views import quoted

#: Repeats of a span lie in one slice, since they started at one time; events, points and records have no identity.
LATEST: Final = "qualify row_number() over (partition by trace_id, span_id order by end_ns desc, hash(slice)) = 1"


@dataclass(frozen=True, slots=True)
class Bulk:
    """How the rows of one view are told apart: by time, and by the columns whose hashes are compared before a delete.

    Rows that are not `eligible` stay in the table for now.
    """

    view: str
    time: str
    key: str
    eligible: str = "true"
    unique: bool = False  # a row a (trace_id, span_id)

    @property
    def table(self) -> str:
        """The table that has what is not sealed yet."""
        return f"{self.view}_open"


#: Of spans those are left that the assembler has not seen.
SEALED_VIEWS: Final = (
    Bulk("spans", "started", "trace_id, span_id", "trace_id not in (select trace_id from dirty)", unique=True),
    Bulk("span_events", "t", "trace_id, span_id, t_ns, name"),
    Bulk("span_links", "started", "trace_id, span_id, linked_trace_id, linked_span_id"),
    Bulk("metrics", "t", "name, t, resource_id, attrs"),
    Bulk("logs", "t", "t, resource_id, body, attrs"),
)


def columns(connection: duckdb.DuckDBPyConnection, bulk: Bulk) -> Mapping[str, str]:
    """Return the names and types of the columns, in their order."""
    query = "select column_name, data_type from duckdb_columns() where table_name = $1 order by column_index"
    return {str(name): str(kind) for name, kind in connection.execute(query, [bulk.table]).fetchall()}


def fill(name: str, **words: str) -> str:
    """Return the SQL of one file, `{words}` filled in."""
    return _text(name).format_map(words)


def statement(name: str, bulk: Bulk, **more: str) -> str:
    """Return the SQL of one file for that table."""
    return fill(name, table=bulk.table, time=bulk.time, key=bulk.key, eligible=bulk.eligible, **more)


def uuid_blobs(types: Mapping[str, str], bulk: Bulk) -> str:
    """Return what `select * replace` needs so that UUIDs come as 16 bytes; it must not be empty."""
    uuids = [name for name, kind in types.items() if kind == "UUID"]
    return ", ".join(f"{name}::blob as {name}" for name in uuids) or f"{bulk.time} as {bulk.time}"


def select_slice(bulk: Bulk, types: Mapping[str, str], *, sealed: Sequence[str], repeated: bool) -> str:
    """Return the SQL that reads a slice without what the files `sealed` have; UUIDs come as 16 bytes."""
    return statement(
        "slice",
        bulk,
        blobs=uuid_blobs(types, bulk),
        unsealed=statement("unsealed", bulk, files=", ".join(map(quoted, sealed))) if sealed else "true",
        latest=LATEST if repeated else "",
    )


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8")
