"""Writes `forensics.duckdb`: views over the sealed files that any duckdb shell opens while the collector runs."""

from datetime import datetime
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.analytics.duck import connect

from ..land.database import STORAGE_VERSION
from ..land.schema import SCHEMA, statements
from .tables import SEALED_VIEWS, columns
from .views import comments, quoted, reading, sealed_files

NAME: Final = "forensics.duckdb"
#: Small tables that go along as they are.
COPIED: Final = ("resources", "sealed_files")
#: Macros of the schema that read nothing but what is there.
MACROS: Final = ("create macro trace(", "create macro since(")


class Forensics:
    """Renews the file whenever the list of sealed files has changed; used by the thread that owns `connection`.

    Paths in it are absolute, so that a shell may be started anywhere; of a folder that was moved it is renewed at the
    next start. A shell that has the file open keeps what it opened.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, data: Path) -> None:
        self._connection = connection
        self._data = data.resolve()
        self._written: object = None

    def tick(self, _: datetime) -> None:
        """Write the file when it is not what it should be. Raises duckdb.Error and OSError, the old file in place."""
        wanted = self._connection.execute("select file from sealed_files order by file").fetchall()
        if wanted == self._written:
            return
        new = self._data / f"{NAME}.new"
        new.unlink(missing_ok=True)
        config: dict[str, str | bool | int | float | list[str]] = {
            "storage_compatibility_version": STORAGE_VERSION,
            "memory_limit": "64MB",
            "threads": "1",
        }
        with connect(new, config=config) as target:
            self._fill(target)
        new.replace(self._data / NAME)
        self._written = wanted

    def _fill(self, target: duckdb.DuckDBPyConnection) -> None:
        target.execute("begin")
        for table in COPIED:
            rows = self._connection.cursor().sql(f"from {table}").to_arrow_table()
            target.register("rows_of_it", rows)
            target.execute(f"create table {table} as from rows_of_it")
            target.unregister("rows_of_it")
        listed = sealed_files(self._connection)
        for bulk in SEALED_VIEWS:
            types = columns(self._connection, bulk)
            empty = ", ".join(f'null::{kind} as "{name}"' for name, kind in types.items())
            files = {
                names: [str(self._data / file) for file in some] for names, some in listed.get(bulk.view, {}).items()
            }
            target.execute(f"create view {bulk.view} as {reading(f'(select {empty} where false)', files)}")
            for what, comment in comments(self._connection, bulk.view):
                target.execute(f"comment on {what} is {quoted(comment)}")
        for statement in statements(SCHEMA):
            if statement.startswith(MACROS):
                target.execute(statement)
        target.execute("commit")
