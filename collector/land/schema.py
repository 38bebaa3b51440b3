"""Creates the tables of `schema.sql` and the views of `views.sql`, whose comments become `comment on`."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.instrument.errors import UserError

SCHEMA: Final = Path(__file__).with_name("schema.sql")
VIEWS: Final = Path(__file__).with_name("views.sql")
#: Raised by every change of schema.sql.
VERSION: Final = 2

_STATEMENT: Final = re.compile(
    r"((?:^--[^\n]*\n)+)(create (?:or replace )?(table|macro|view) (\w+).*?;)[ \t]*$", re.MULTILINE | re.DOTALL
)
#: A column's name stands first on its line in a table, and last before the comment in a view.
_COLUMN: Final = {
    "table": re.compile(r"^    (\w+) [^\n]*?-- ([^\n]+)$", re.MULTILINE),
    "view": re.compile(r"^    [^\n]*?(\w+),? +-- ([^\n]+)$", re.MULTILINE),
}


def create_or_check(connection: duckdb.DuckDBPyConnection, *, name: str) -> None:
    """Create all tables in an empty file; of a file that has them check the version. Make the views in both.

    Raises UserError, naming the file as `name`, when a newer tailbudget wrote it.
    """
    new = not connection.execute("select 1 from duckdb_tables() where table_name = 'meta'").fetchall()
    if not new:
        _check(connection, name=name)
    connection.execute("begin")
    for statement in (*(statements(SCHEMA) if new else ()), *statements(VIEWS)):
        connection.execute(statement)
    if new:
        connection.execute("insert into meta values ($1, 0, 0)", [VERSION])
    connection.execute("commit")


def _check(connection: duckdb.DuckDBPyConnection, *, name: str) -> None:
    (version,) = connection.execute("select max(schema_version) from meta").fetchall()[0]
    if version != VERSION:
        raise UserError(
            f"{name} has schema version {version!r}, this tailbudget expects {VERSION}: "
            "install the tailbudget that wrote it, or name another folder with --data"
        )


def statements(file: Path) -> Iterator[str]:
    """Yield the statements of the file, each followed by the comments on what it creates."""
    for comment, statement, kind, name in _STATEMENT.findall(file.read_text(encoding="utf-8")):
        yield statement
        if kind in _COLUMN:
            text = " ".join(line.removeprefix("--").strip() for line in comment.splitlines())
            yield f"comment on {kind} {name} is {_quoted(text)}"
            columns = statement if kind == "table" else statement[statement.rindex("\nselect") :]
            for column, meaning in _COLUMN[kind].findall(columns):
                yield f"comment on column {name}.{column} is {_quoted(meaning)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
