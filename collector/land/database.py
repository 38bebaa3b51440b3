"""Opens the data file with the settings that hold for every connection of the process."""

import os
import re
import tempfile
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.analytics.duck import connect
from tailbudget.analytics.reader import DATABASE_NAME, find_sealed
from tailbudget.instrument.errors import UserError

from ..seal.views import SEALED, quoted, unlist_missing
from .schema import create_or_check

#: Below the data folder: copies on their way to whoever asked for them.
SNAPSHOTS: Final = "snapshots"
#: Written in a format that the newest packaged duckdb shell (1.5.6) reads; by default only 2.0 could.
STORAGE_VERSION: Final = "v1.5.0"
#: 64 MB keeps the worst commit at 0.27 s.
WAL_AUTOCHECKPOINT: Final = "64MB"
#: A transaction of this many rows is written as row groups, past the write-ahead log: 2.7 us a span, not 4.7. Of 32,768
#: they save 1 % of CPU and take 25 MB more.
ROW_GROUP_ROWS: Final = 20_480
#: In the error of every statement after a checkpoint that failed; DuckDB raises no FatalException for an attached file.
INVALIDATED: Final = "has been invalidated"
#: A start with less would end at the first transaction.
START_BYTES: Final = 4_000_000
#: A second thread costs landing 9 % more cycles and assembly 27 %, and as many more buffers: 328 MB at full speed, not
#: 300. Questions over 3 M spans on two cores took 7.2 ms with one and 13 ms with two.
THREADS: Final = 1
#: What a query may spill: by default 90 % of what is free, so that one large sort would stop acknowledgements.
TEMP_LIMIT: Final = "1GB"


def open_database(
    data: Path, *, memory_limit: str = "256MB", temp_limit: str = TEMP_LIMIT, threads: int = THREADS
) -> duckdb.DuckDBPyConnection:
    """Return the connection that owns the data file of the folder, tables created.

    SQL on it and on its cursors reaches no other file, and no statement can change that. Raises UserError when the
    file is newer than this program, belongs to another process or cannot be opened.
    """
    path = data / DATABASE_NAME
    _check_folder(data)
    settings: dict[str, str | bool | int | float | list[str]] = {
        "storage_compatibility_version": STORAGE_VERSION,
        "wal_autocheckpoint": WAL_AUTOCHECKPOINT,
        "memory_limit": memory_limit,
        "temp_directory": str(data / "tmp"),
        "max_temp_directory_size": temp_limit,
        "threads": str(threads),
        "python_enable_replacements": "false",
    }
    try:
        connection = _connect(path, settings)
    except duckdb.Error as error:
        raise UserError(_reason(path, error)) from error
    try:
        _prepare(connection, data, name=str(path))
    except duckdb.Error as error:
        connection.close()
        raise UserError(_reason(path, error)) from error
    except UserError:
        connection.close()
        raise
    return connection


def is_lost(error: Exception) -> bool:
    """Return whether the error says that no statement can run before the data file is opened anew."""
    return isinstance(error, duckdb.FatalException) or INVALIDATED in str(error)


def _prepare(connection: duckdb.DuckDBPyConnection, data: Path, *, name: str) -> None:
    find_sealed(connection, [data])
    unlist_missing(connection, data)
    create_or_check(connection, name=name)
    for statement in (  # in this order: what follows the lock is refused
        "set timezone = 'UTC'",
        f"set allowed_directories = [{', '.join(quoted(folder) for folder in _allowed(data))}]",
        "set enable_external_access = false",
        "set lock_configuration = true",
    ):
        connection.execute(statement)


def _allowed(data: Path) -> list[str]:
    """Return where SQL of ours reads and writes files: the views name sealed ones by their path below `data`."""
    return [f"{SEALED}/", *(f"{data.resolve() / name}/" for name in (SEALED, SNAPSHOTS))]


def _connect(path: Path, settings: dict[str, str | bool | int | float | list[str]]) -> duckdb.DuckDBPyConnection:
    """Open the file with row groups of a size that only ATTACH takes.

    A cursor begins in the catalog that its connection was opened with, by name: so that is opened empty, and the file
    put in its place.
    """
    with tempfile.TemporaryDirectory() as folder:
        connection = connect(Path(folder) / DATABASE_NAME, config=settings)
        try:
            (name,) = connection.execute("select current_database()").fetchall()[0]
            for statement in (
                "attach ':memory:' as aside",
                "use aside",
                f"detach {name}",
                f"attach {quoted(str(path))} as {name} (row_group_size {ROW_GROUP_ROWS})",
                f"use {name}",
                "detach aside",
            ):
                connection.execute(statement)
        except duckdb.Error:
            connection.close()
            raise
    return connection


def _check_folder(data: Path) -> None:
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        disk = os.statvfs(data)
    except OSError as error:
        raise UserError(
            f"the data folder {data} cannot be made or read ({error.strerror}): name another with --data"
        ) from error
    free = disk.f_bavail * disk.f_frsize
    if free < START_BYTES:
        raise UserError(
            f"the disk of {data} has {free} bytes free, at least {START_BYTES} are needed: "
            "free some, or name another folder with --data"
        )


def _reason(path: Path, error: duckdb.Error) -> str:
    text = str(error).splitlines()[0]
    if "lock" in text.lower():
        owner = re.search(r"PID (\d+)", str(error))
        who = f"the process {owner[1]}" if owner else "another process"
        return f"{path} is open in {who}: end it, or name another folder with --data"
    if "version" in text.lower():
        return f"{path} was written by a newer DuckDB: install the tailbudget that wrote it, or name another --data"
    return f"{path} cannot be opened ({text}): mend it, or name another folder with --data"
