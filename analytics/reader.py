"""Where answers come from: one method, `query`, behind which a running collector or a local file stands."""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa

from .duck import connect

ARROW_STREAM = "application/vnd.apache.arrow.stream"
DATABASE_NAME = "tailbudget.duckdb"
UNREADABLE = "the file is damaged, or none that tailbudget wrote: restore it, or name another folder with --data"


class QueryError(Exception):
    """A query that could not be answered: `str()` is the reason, `hint` what mends it (may be empty).

    `unreachable` is true when nothing answered at all, so that another way to the data may be tried.
    """

    def __init__(self, reason: str, hint: str = "", *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.hint = hint
        self.unreachable = unreachable


class NotAnsweredError(QueryError):
    """A question that this engine does not answer, and says so by name; another does."""


class Reader(Protocol):
    """Answers one SQL statement with an Arrow table."""

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return the rows of `sql`, its `$name` placeholders bound from `params`; raises QueryError."""
        ...


class ConnectionReader:
    """Reads through an open DuckDB connection; each query has a cursor of its own, so threads may share it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return the rows of `sql`; raises QueryError with DuckDB's own message."""
        cursor = self.connection.cursor()
        try:
            return cursor.sql(sql, params=dict(params)).to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(str(error)) from error
        finally:
            cursor.close()


def find_sealed(connection: duckdb.DuckDBPyConnection, folders: Iterable[Path]) -> None:
    """Let views find their Parquet files, whose paths begin below a data folder, in one of the folders."""
    paths = ",".join(str(folder.resolve()) for folder in folders).replace("'", "''")
    connection.execute(f"set global file_search_path = '{paths}'")
    connection.execute("set global parquet_metadata_cache = true")  # a question over 200 files: 55 ms, 115 without


class FileReader(ConnectionReader):
    """Reads the database of a data folder that no collector has open, sealed files included."""

    def __init__(self, data: Path) -> None:
        path = data / DATABASE_NAME
        if not path.exists():
            raise QueryError(f"no database at {str(path)!r}", hint="start `tailbudget collector`, or name its --data")
        try:
            connection = connect(path, read_only=True)
            connection.execute("set timezone = 'UTC'")
            find_sealed(connection, [data])
        except duckdb.Error as error:
            locked = "could not set lock" in str(error).lower()
            hint = "a running collector owns the file: use its API instead" if locked else UNREADABLE
            raise QueryError(str(error), hint=hint) from error
        super().__init__(connection)


class ApiReader:
    """Reads through a collector's API on `url` (`http://127.0.0.1:4320`), with the token in TAILBUDGET_TOKEN if any."""

    def __init__(self, url: str, *, timeout_s: float = 30.0, max_rows: int | None = None) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._limit = {} if max_rows is None else {"max_rows": max_rows}

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        """Return the rows of `sql`; raises QueryError when the API refuses it or does not answer."""
        return pa.ipc.open_stream(self.fetch(sql, params)).read_all()

    def fetch(self, sql: str, params: Mapping[str, object] = {}, *, accept: str = ARROW_STREAM) -> bytes:
        """Return the rows of `sql` as `accept` says: an Arrow stream, application/json or text/csv."""
        fields = {"sql": sql, "params": dict(params), "timeout_s": self._timeout_s, **self._limit}
        body = json.dumps(fields, default=str).encode()
        headers = {"Content-Type": "application/json", "Accept": accept, **credentials()}
        request = urllib.request.Request(f"{self.url}/v1/sql", body, headers)  # noqa: S310 - our own API
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s + 5) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise QueryError(*reason(error)) from error
        except OSError as error:
            text = f"no collector answers at {self.url}: {error}"
            raise QueryError(text, "start `tailbudget collector`, or name --api", unreachable=True) from error


def credentials() -> dict[str, str]:
    """Return the header by which a collector with a token knows its readers; empty without TAILBUDGET_TOKEN."""
    token = os.environ.get("TAILBUDGET_TOKEN", "").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def reason(error: urllib.error.HTTPError) -> tuple[str, str]:
    """Return what a collector said was wrong, and what mends it."""
    text = error.read().decode(errors="replace")
    try:
        answer = json.loads(text)
        return str(answer["error"]), str(answer.get("hint") or "")
    except (ValueError, KeyError, TypeError):
        return f"the collector answered {error.code}: {text[:200]}", ""
