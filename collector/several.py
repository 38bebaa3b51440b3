"""One reader over several collectors: folders are attached, of running ones the rows that a question needs are fetched.

Every table is the union of all members' rows, so counts add up and percentiles are exact. From a running collector
come the columns that the question names and the rows that its filters on single tables let through (a time window, a
route, a trace): DuckDB's own plan of the question says which. Sums and percentiles are then made here. A question
without such filters fetches whole columns, up to MAX_ROWS rows a table and collector; beyond it the error says so.
"""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import duckdb
import pyarrow as pa

from tailbudget.analytics.duck import connect
from tailbudget.analytics.reader import DATABASE_NAME, ApiReader, QueryError, find_sealed

from .land.schema import SCHEMA, VIEWS, statements
from .offline import offline_folder
from .seal.views import BULK, quoted

#: Rows of one table that one running collector is asked for.
MAX_ROWS: Final = 20_000_000
TIMEOUT_S: Final = 300
#: With these an empty table, which is all that planning sees of a running collector's, would be planned away.
NOT_WHILE_PLANNING: Final = "statistics_propagation,empty_result_pullup,join_filter_pushdown"
#: What rows that were fetched in part cannot hold.
CONSTRAINT: Final = re.compile(r" (?:not null|primary key)(?=[, ])")
_TABLE: Final = re.compile(r"create table (\w+)")

#: Schema and table -> the columns and conditions of each scan of it.
Scans = Mapping[tuple[str, str], Sequence[tuple[frozenset[str], str]]]


class SeveralReader:
    """Answers over data folders (paths) and running collectors (addresses of their APIs), each named once.

    Raises QueryError when a folder cannot be read (a running collector owns it: name its API instead).
    """

    def __init__(self, members: Sequence[Path | str]) -> None:
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._apis: dict[str, ApiReader] = {}
        try:
            self.connection = self._open.enter_context(connect())
            self.connection.execute("set timezone = 'UTC'")
            folders = [self._open.enter_context(offline_folder(one)) for one in members if isinstance(one, Path)]
            find_sealed(self.connection, folders)
            self._make_tables(folders, [one for one in members if isinstance(one, str)])
            self._pool = self._open.enter_context(ThreadPoolExecutor(max(len(self._apis), 1)))
        except BaseException:
            self._open.close()
            raise

    def __enter__(self) -> "SeveralReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return the rows of `sql` over all members; raises QueryError."""
        with self.staged(sql, params) as connection:
            return connection.sql(sql, params=dict(params)).to_arrow_table()

    @contextmanager
    def staged(self, sql: str, params: Mapping[str, object] = {}) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection on which `sql` finds what it needs of every member; raises QueryError, from inside too."""
        with self._lock:
            try:
                fetched = self._fetch(self._scans(sql, params))
                self.connection.execute("begin")
                try:
                    for (schema, table), rows in fetched.items():
                        self.connection.register("fetched", rows)
                        self.connection.execute(f'insert into "{schema}"."{table}" by name from fetched').fetchall()
                        self.connection.unregister("fetched")
                    yield self.connection
                finally:
                    self.connection.execute("rollback")
            except duckdb.Error as error:
                raise QueryError(str(error)) from error

    def _make_tables(self, folders: Sequence[Path], apis: Sequence[str]) -> None:
        """Attach the folders, make empty tables for the APIs, and over both the tables and views of a data file."""
        parts: dict[str, list[str]] = defaultdict(list)
        for number, folder in enumerate(folders):
            self.connection.execute(f"attach {quoted(str(folder / DATABASE_NAME))} as folder{number} (read_only)")
            for name in self._relations(f"folder{number}"):
                parts[name].append(f'folder{number}.main."{name}"')
        declared = list(statements(SCHEMA))
        for number, url in enumerate(apis):
            self._apis[f"api{number}"] = ApiReader(url, timeout_s=TIMEOUT_S, max_rows=MAX_ROWS)
            self.connection.execute(f"create schema api{number}")
            for statement in declared:
                if found := _TABLE.match(statement):
                    name = _public(found[1])
                    bare = CONSTRAINT.sub("", statement.replace(found[0], f"create table api{number}.{name}", 1))
                    self.connection.execute(bare)
                    parts[name].append(f'api{number}."{name}"')
        for name, some in parts.items():
            union = " union all by name ".join(f"from {part}" for part in some)
            self.connection.execute(f'create view "{name}" as {union}')
        macros = [statement for statement in declared if statement.startswith("create macro")]
        for statement in [*macros, *(statement for file in VIEWS for statement in statements(file))]:
            self.connection.execute(statement)

    def _relations(self, catalog: str) -> list[str]:
        """Return the tables of a data file by the names that questions use."""
        rows = self.connection.execute(
            "select table_name from duckdb_tables() where database_name = $1 and not internal", [catalog]
        ).fetchall()
        return sorted({_public(str(name)) for (name,) in rows})

    def _scans(self, sql: str, params: Mapping[str, object]) -> Scans:
        """Return what the plan of the question reads of the running collectors' tables."""
        if not self._apis:
            return {}
        self.connection.execute(f"set disabled_optimizers = '{NOT_WHILE_PLANNING}'")
        try:
            planned = self.connection.execute(f"explain (format json) {sql}", dict(params)).fetchall()
        finally:
            self.connection.execute("reset disabled_optimizers")
        found: dict[tuple[str, str], list[tuple[frozenset[str], str]]] = defaultdict(list)
        for scan in _scans_of(json.loads(planned[0][1])):
            _, schema, table = str(scan.get("Table", "..")).rsplit(".", 2)
            if schema in self._apis:
                found[schema, table].append(_needs(scan))
        return found

    def _fetch(self, scans: Scans) -> Mapping[tuple[str, str], pa.Table]:
        waiting = {
            key: self._pool.submit(self._apis[key[0]].query, self._question(key, needs)) for key, needs in scans.items()
        }
        return {key: future.result() for key, future in waiting.items()}

    def _question(self, key: tuple[str, str], needs: Sequence[tuple[frozenset[str], str]]) -> str:
        """Return what a collector is asked for: the columns of all scans, the rows of any of them."""
        rows = self.connection.execute(
            "select column_name from duckdb_columns() where schema_name = $1 and table_name = $2", list(key)
        ).fetchall()
        words = frozenset().union(*(columns for columns, _ in needs))
        columns = [f'"{name}"' for (name,) in rows if name in words]
        where = " or ".join(f"({condition})" for _, condition in needs)
        return f'select {", ".join(columns) or "1 as trace_id"} from "{key[1]}" where {where}'  # noqa: S608 - of a plan


def _public(table: str) -> str:
    """Return the name by which questions know a table: a view stands before what is sealed."""
    return view if (view := table.removesuffix("_open")) in BULK else table


def _scans_of(nodes: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for node in nodes:
        if node["name"].strip() == "SEQ_SCAN":
            yield node["extra_info"]
        yield from _scans_of(node["children"])


def _needs(scan: Mapping[str, Any]) -> tuple[frozenset[str], str]:
    """Return the words among which are the columns of a scan, and its condition as SQL."""
    filters = [text for text in _listed(scan.get("Filters", [])) if not text.startswith("optional:")]
    words = {word for text in filters for word in re.findall(r"\w+", text)}
    return frozenset(words | set(_listed(scan.get("Projections", [])))), " and ".join(filters) or "true"


def _listed(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
