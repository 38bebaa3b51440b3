"""The views that read a table of the data file together with its sealed Parquet files."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import duckdb

log: Final = logging.getLogger(__name__)

#: The bulk of what was received: each of these views reads the table `<view>_open` and sealed files.
BULK: Final = ("spans", "span_events", "span_links", "metrics", "logs")
#: Below the data folder; paths in views begin with it, and `analytics.reader.find_sealed` says below what.
SEALED: Final = "sealed"


def rename_bulk(connection: duckdb.DuckDBPyConnection) -> None:
    """Give the tables of an older file, named as the views are now, their suffix."""
    named = connection.execute("select table_name from duckdb_tables() where not internal").fetchall()
    for view in BULK:
        if (view,) in named:
            connection.execute(f"alter table {view} rename to {view}_open")


def create_views(connection: duckdb.DuckDBPyConnection, views: Iterable[str] = BULK) -> None:
    """Make the views read their table and exactly the files that `sealed_files` lists, with the table's comments."""
    listed = sealed_files(connection)
    for view in views:
        connection.execute(f"create or replace view {view} as {reading(f'{view}_open', listed.get(view, {}))}")
        for target, comment in comments(connection, view):
            connection.execute(f"comment on {target} is {quoted(comment)}")


def unlist_missing(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    """Take files that somebody deleted off the list: a view over one of them would answer no question."""
    if not connection.execute("select 1 from duckdb_tables() where table_name = 'sealed_files'").fetchall():
        return
    for file, rows in connection.execute("select file, n from sealed_files").fetchall():
        if not (data / file).exists():
            log.error("%s is missing in %s: its %d rows are lost", file, data, rows)
            connection.execute("delete from sealed_files where file = $1", [file]).fetchall()


def sealed_files(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[tuple[str, ...], list[str]]]:
    """Return the listed files, oldest first, by view and by the columns that they have."""
    found: dict[str, dict[tuple[str, ...], list[str]]] = defaultdict(lambda: defaultdict(list))
    for view, file, columns in connection.execute(
        'select "view", file, columns from sealed_files order by first, file'
    ).fetchall():
        found[view][tuple(columns)].append(file)
    return found


def reading(table: str, files: Mapping[tuple[str, ...], Iterable[str]]) -> str:
    """Return the SQL that reads the table and the files; files with the same columns are one scan."""
    scans = (f"from read_parquet([{', '.join(map(quoted, some))}])" for some in files.values())
    return " union all by name ".join([f"from {table}", *scans])


def quoted(text: str) -> str:
    """Return `text` as SQL writes a string."""
    return "'" + text.replace("'", "''") + "'"


def comments(connection: duckdb.DuckDBPyConnection, view: str) -> list[tuple[str, str]]:
    """Return what is commented on, `view ...` or `column ...`, and the comment, as the view's table has it."""
    table = connection.execute("select comment from duckdb_tables() where table_name = $1", [f"{view}_open"]).fetchall()
    columns = connection.execute(
        "select column_name, comment from duckdb_columns() where table_name = $1 and comment is not null",
        [f"{view}_open"],
    ).fetchall()
    own = [(f"view {view}", str(comment)) for (comment,) in table if comment]
    return own + [(f'column {view}."{name}"', str(comment)) for name, comment in columns]
