"""Runs the API's queries in threads: read-only, bounded in time, rows and number."""

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import duckdb

from tailbudget.analytics.formats import Answer, answer

from .guard import check

AT_ONCE: Final = 2
WAIT_S: Final = 5.0
TIMEOUT_S: Final = 30.0
LONGEST_S: Final = 600.0
MAX_ROWS: Final = 1_000_000


class BusyError(Exception):
    """No slot became free in time."""


class TimedOutError(Exception):
    """The query ran longer than it may, or its client left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a client asks."""

    sql: str
    params: Mapping[str, object] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S
    max_rows: int = MAX_ROWS


class Queries:
    """Answers queries through cursors of `connection`, which nobody else uses."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="query")
        self._slots = asyncio.Semaphore(AT_ONCE)
        rows = connection.execute(
            "select function_name from duckdb_functions() where function_type = 'table_macro' and not internal"
        ).fetchall()
        self._macros = frozenset(str(name).lower() for (name,) in rows)

    async def run(self, query: Query, *, gone: asyncio.Event) -> Answer:
        """Return the answer; when `gone` is set the query is stopped.

        Raises RefusedSqlError, duckdb.Error, TooManyRowsError, TimedOutError and BusyError.
        """
        try:
            await asyncio.wait_for(self._slots.acquire(), WAIT_S)
        except TimeoutError as error:
            raise BusyError(f"{AT_ONCE} queries run already, none ended within {WAIT_S} s") from error
        cursor = self._open()
        loop = asyncio.get_running_loop()
        left = loop.create_task(gone.wait())
        left.add_done_callback(lambda task: None if task.cancelled() else cursor.interrupt())
        timer = loop.call_later(query.timeout_s, cursor.interrupt)
        started = time.monotonic()
        try:
            return await loop.run_in_executor(self._pool, self._answer, cursor, query)
        except duckdb.InterruptException as error:
            took_s = time.monotonic() - started
            raise TimedOutError(f"stopped after {took_s:.1f} s of {query.timeout_s:g} s") from error
        finally:
            timer.cancel()
            left.cancel()
            self._slots.release()

    def interrupt(self) -> None:
        """Stop what runs: the collector is shutting down."""
        with self._lock:
            for cursor in self._running:
                cursor.interrupt()

    def close(self) -> None:
        """Wait for the threads and let go of the connection."""
        self.interrupt()
        self._pool.shutdown()
        self._connection.close()

    def _answer(self, cursor: duckdb.DuckDBPyConnection, query: Query) -> Answer:
        try:
            check(cursor, query.sql, macros=self._macros)
            # The guard knows SQL by its shape; this transaction makes the engine refuse what the guard may miss.
            cursor.execute("begin transaction read only")
            return answer(cursor, query.sql, query.params, max_rows=query.max_rows)
        finally:
            self._close(cursor)

    def _open(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            cursor = self._connection.cursor()
            self._running.add(cursor)
        return cursor

    def _close(self, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._lock:
            self._running.discard(cursor)
        cursor.close()
