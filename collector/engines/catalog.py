"""What an answer looks like: the columns and types that DuckDB gives a question, whichever engine answers it."""

import threading
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from tailbudget.analytics.duck import connect
from tailbudget.analytics.reader import QueryError

from ..land.schema import create_or_check

#: Tables of a collector's own bookkeeping, which no other engine has.
OWN: Final = ("bodies", "dirty", "meta", "sealed_files", "retained", "deliveries", "silences")


class Catalog:
    """The tables, views and macros of a data file, without a row."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.connection = connect()
        self.connection.execute("set timezone = 'UTC'")
        create_or_check(self.connection, name="the catalog")

    def shape(self, sql: str, params: Mapping[str, object]) -> pa.Table:
        """Return the answer over no rows: its schema is the question's; raises QueryError as DuckDB words it."""
        with self._lock:
            cursor = self.connection.cursor()
            try:
                return cursor.sql(sql, params=dict(params)).to_arrow_table()
            except duckdb.Error as error:
                raise QueryError(str(error)) from error
            finally:
                cursor.close()

    def columns(self) -> Mapping[str, Mapping[str, tuple[str, bool]]]:
        """Return the stored tables by their public names: column -> its DuckDB type, and whether it may be null."""
        with self._lock:
            rows = self.connection.execute(
                "select table_name, column_name, data_type, is_nullable from duckdb_columns() "
                "where not internal and table_name in (select table_name from duckdb_tables()) "
                "order by table_name, column_index"
            ).fetchall()
        found: dict[str, dict[str, tuple[str, bool]]] = {}
        for table, column, kind, nullable in rows:
            name = str(table).removesuffix("_open")
            if name not in OWN:
                found.setdefault(name, {})[str(column)] = (str(kind), bool(nullable))
        return found


@cache
def catalog() -> Catalog:
    """Return the one catalog of this process."""
    return Catalog()


def conformed(found: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of `found`, by place, with the names and types of `schema`; raises QueryError."""
    if found.num_columns != len(schema):
        raise QueryError(f"the engine answered {found.num_columns} columns, expected {', '.join(schema.names)}")
    columns = [_as(column, field.type) for column, field in zip(found.columns, schema, strict=True)]
    return pa.table(columns, schema=pa.schema([pa.field(field.name, field.type) for field in schema]))


def _as(column: Any, wanted: Any) -> Any:
    kind = column.type
    if kind == wanted:
        return column
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([_texts(chunk) for chunk in column.chunks], pa.string())
    elif pa.types.is_decimal(kind) and pa.types.is_floating(wanted):
        column = column.cast(pa.float64())
    elif pa.types.is_timestamp(kind) and kind.tz is None and pa.types.is_timestamp(wanted):
        column = pc.assume_timezone(column, "UTC")
    elif pa.types.is_floating(kind) and pa.types.is_integer(wanted):
        column = pc.round(column)
    return column.cast(wanted)


def reason(error: Exception) -> str:
    """Return the first line of what an engine says."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _texts(chunk: Any) -> Any:
    return pa.array([None if one is None else str(one) for one in chunk.to_pylist()], pa.string())
