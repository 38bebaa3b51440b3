"""Copies all that a connection sees at one instant into a new data file, sealed rows included."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.analytics.duck import connect

from ..land.database import STORAGE_VERSION
from ..land.schema import create_or_check
from ..land.transaction import transaction
from .views import BULK, quoted

#: The catalogue under which the new file is filled.
TARGET: Final = "snapshot"
#: A copy lists no files, since it has their rows, and is a data file of its own.
LEFT_OUT: Final = ("sealed_files", "meta")


class Snapshots:
    """Makes copies through cursors of `connection`, one at a time; `stop` ends the one that runs."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        ((self._source,),) = connection.execute("select current_database()").fetchall()
        self._lock = threading.Lock()
        self._cursor: duckdb.DuckDBPyConnection | None = None

    def write(self, path: Path) -> None:
        """Write a copy to `path`, which must not exist. Raises duckdb.Error with nothing left behind."""
        with self._lock, self._connection.cursor() as cursor:
            self._cursor = cursor
            try:
                _create(path)
                _fill(cursor, path, source=self._source)
            except BaseException:
                for name in (path, path.with_name(f"{path.name}.wal")):
                    name.unlink(missing_ok=True)
                raise
            finally:
                self._cursor = None

    def stop(self) -> None:
        """Interrupt the copy that is being written, if any."""
        if (cursor := self._cursor) is not None:
            cursor.interrupt()


def _create(path: Path) -> None:
    """Make a data file with all tables, views, macros and comments, and no rows."""
    with connect(path, config={"storage_compatibility_version": STORAGE_VERSION}) as target:
        create_or_check(target, name=str(path))


def _fill(cursor: duckdb.DuckDBPyConnection, path: Path, *, source: str) -> None:
    cursor.execute(f"attach {quoted(str(path))} as {TARGET}")
    try:
        with transaction(cursor):
            for table in _tables(cursor, source):
                read = table.removesuffix("_open") if table.removesuffix("_open") in BULK else table
                cursor.execute(f'insert into {TARGET}."{table}" by name from "{source}"."{read}"').fetchall()
    finally:
        with suppress(duckdb.Error):
            cursor.execute(f"detach {TARGET}")


def _tables(cursor: duckdb.DuckDBPyConnection, source: str) -> list[str]:
    query = "select table_name from duckdb_tables() where database_name = $1 and not internal and not temporary"
    return sorted({str(name) for (name,) in cursor.execute(query, [source]).fetchall()} - set(LEFT_OUT))
