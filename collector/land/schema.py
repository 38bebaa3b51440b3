"""Creates the tables of `schema.sql` and the views of `views/`, whose comments become `comment on`."""

import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.instrument.errors import UserError

from ..seal.views import create_views, quoted, rename_bulk

SCHEMA: Final = Path(__file__).with_name("schema.sql")
VIEWS: Final = tuple(sorted(SCHEMA.with_name("views").glob("*.sql")))
#: Raised by every change of schema.sql: tables and columns are added, never renamed.
VERSION: Final = 3

UPGRADED: Final = "update meta set schema_version = $1, collector_id = coalesce(collector_id, $2)"
#: The time by which links are sealed, of those that landed before they had it.
LINKS_STARTED: Final = """
    update span_links_open as link set started = span.started
    from spans_open as span
    where link.started is null and link.trace_id = span.trace_id and link.span_id = span.span_id
"""

_STATEMENT: Final = re.compile(
    r"((?:^--[^\n]*\n)+)(create (?:or replace )?(table|macro|view) (\w+).*?;)[ \t]*$", re.MULTILINE | re.DOTALL
)
#: A column's name stands first on its line in a table, and last before the comment in a view.
_COLUMN: Final = {
    "table": re.compile(r"^    (\w+) [^\n]*?-- ([^\n]+)$", re.MULTILINE),
    "view": re.compile(r"^    [^\n]*?(\w+),? +-- ([^\n]+)$", re.MULTILINE),
}

#: Name and type of a column of a table.
_DECLARED: Final = re.compile(r"^    (\w+) ([^\n]*?),? +-- [^\n]+$", re.MULTILINE)


def create_or_check(connection: duckdb.DuckDBPyConnection, *, name: str) -> None:
    """Create all tables in an empty file, and in an older one what it lacks; make the views in both.

    Raises UserError, naming the file as `name`, when a newer tailbudget wrote it.
    """
    new = not connection.execute("select 1 from duckdb_tables() where table_name = 'meta'").fetchall()
    version = VERSION if new else _version(connection, name=name)
    connection.execute("begin")
    if new:
        for statement in statements(SCHEMA):
            connection.execute(statement)
        connection.execute("insert into meta values ($1, 0, 0, $2)", [VERSION, secrets.token_hex(4)])
    else:
        if version < VERSION:
            rename_bulk(connection)
        for statement in _missing(connection):
            connection.execute(statement)
        if version < VERSION:
            connection.execute(UPGRADED, [VERSION, secrets.token_hex(4)])
            connection.execute(LINKS_STARTED)
    create_views(connection)
    for file in VIEWS:
        for statement in statements(file):
            connection.execute(statement)
    connection.execute("commit")


def _version(connection: duckdb.DuckDBPyConnection, *, name: str) -> int:
    (version,) = connection.execute("select max(schema_version) from meta").fetchall()[0]
    if not isinstance(version, int) or version > VERSION:
        raise UserError(
            f"{name} has schema version {version!r}, this tailbudget expects {VERSION}: "
            "install the tailbudget that wrote it, or name another folder with --data"
        )
    return version


def _missing(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    """Yield what gives an older file the tables and columns that it lacks, then macros and all comments."""
    rows = connection.execute("select table_name, column_name from duckdb_columns() where not internal").fetchall()
    existing = {(str(table), str(column)) for table, column in rows}
    tables = {table for table, _ in existing}
    declared = _STATEMENT.findall(SCHEMA.read_text(encoding="utf-8"))
    lacking = [statement for _, statement, kind, name in declared if kind == "table" and name not in tables] + [
        f"alter table {name} add column {column} {type_.removesuffix('not null')}"
        for _, statement, kind, name in declared
        if kind == "table" and name in tables
        for column, type_ in _DECLARED.findall(statement)
        if (name, column) not in existing
    ]
    if not lacking:
        return
    yield from lacking
    for _, statement, kind, _ in declared:
        if kind != "table":
            yield statement.replace("create macro", "create or replace macro", 1)
    yield from (statement for statement in statements(SCHEMA) if statement.startswith("comment on"))


def table_statements(name: str) -> Iterator[str]:
    """Yield the statement that creates a table of the schema, and the comments on it."""
    text = SCHEMA.read_text(encoding="utf-8")
    yield from _commented(found for found in _STATEMENT.findall(text) if found[2:] == ("table", name))


def statements(file: Path) -> Iterator[str]:
    """Yield the statements of the file, each followed by the comments on what it creates."""
    yield from _commented(_STATEMENT.findall(file.read_text(encoding="utf-8")))


def _commented(found: Iterable[tuple[str, str, str, str]]) -> Iterator[str]:
    for comment, statement, kind, name in found:
        yield statement
        if kind in _COLUMN:
            text = " ".join(line.removeprefix("--").strip() for line in comment.splitlines())
            yield f"comment on {kind} {name} is {quoted(text)}"
            columns = statement if kind == "table" else statement[max(statement.rfind("\nselect"), 0) :]
            for column, meaning in _COLUMN[kind].findall(columns):
                yield f"comment on column {name}.{column} is {quoted(meaning)}"
