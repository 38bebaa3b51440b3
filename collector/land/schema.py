"""Creates the tables of `schema.sql`, whose comments become `comment on`, and checks the version of a file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.instrument.errors import UserError

SCHEMA: Final = Path(__file__).with_name("schema.sql")
#: Raised by every change of schema.sql.
VERSION: Final = 2

_STATEMENT: Final = re.compile(r"((?:^--[^\n]*\n)+)(create (table|macro) (\w+).*?;)[ \t]*$", re.MULTILINE | re.DOTALL)
_COLUMN: Final = re.compile(r"^    (\w+) [^\n]*?-- ([^\n]+)$", re.MULTILINE)


def create_or_check(connection: duckdb.DuckDBPyConnection, *, name: str) -> None:
    """Create all tables in an empty file; of a file that has them check the version.

    Raises UserError, naming the file as `name`, when a newer tailbudget wrote it.
    """
    if not connection.execute("select 1 from duckdb_tables() where table_name = 'meta'").fetchall():
        _create(connection)
        return
    (version,) = connection.execute("select max(schema_version) from meta").fetchall()[0]
    if version != VERSION:
        raise UserError(
            f"{name} has schema version {version!r}, this tailbudget expects {VERSION}: "
            "install the tailbudget that wrote it, or name another folder with --data"
        )


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("begin")
    for statement in statements():
        connection.execute(statement)
    connection.execute("insert into meta values ($1, 0, 0)", [VERSION])
    connection.execute("commit")


def statements() -> Iterator[str]:
    """Yield the statements of schema.sql, each followed by the comments on what it creates."""
    for comment, statement, kind, name in _STATEMENT.findall(SCHEMA.read_text(encoding="utf-8")):
        yield statement
        if kind == "table":
            text = " ".join(line.removeprefix("--").strip() for line in comment.splitlines())
            yield f"comment on table {name} is {_quoted(text)}"
            for column, meaning in _COLUMN.findall(statement):
                yield f"comment on column {name}.{column} is {_quoted(meaning)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
