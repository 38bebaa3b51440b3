"""Opens DuckDB files without its progress bar, which DuckDB 2 draws on stdout amid what a command prints."""

from collections.abc import Mapping
from pathlib import Path

import duckdb

IN_MEMORY = ":memory:"


def connect(
    path: Path | str = IN_MEMORY,
    *,
    read_only: bool = False,
    config: Mapping[str, str | bool | int | float | list[str]] = {},
) -> duckdb.DuckDBPyConnection:
    """Return a connection, its cursors as silent as itself. Raises duckdb.Error as DuckDB does."""
    connection = duckdb.connect(str(path), read_only=read_only, config=dict(config))
    connection.execute("set enable_progress_bar = false")  # no setting of the file's: `config` does not take it
    return connection
