"""Runs the API's queries in threads: read-only, bounded in time, rows, bytes and number."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.analytics.formats import Answer, Sink, stream

from ..giving_way import give_way, thread_cpu_s
from .guard import Guard
from .spool import MIB, Spool
from .turns import SLOTS, BusyError, Costs, Turns

WAIT_S: Final = 5.0
#: For what needs the data file to itself; queries end within their timeout.
ALONE_WAIT_S: Final = 60.0
TIMEOUT_S: Final = 30.0
LONGEST_S: Final = 600.0
MAX_ROWS: Final = 1_000_000
#: A million rows of `requests` are 1.2 GB of JSON.
MAX_BYTES: Final = 2048 * MIB
#: Answers that clients have not read to the end yet; each may hold a file.
UNREAD: Final = 32
RESERVE_BYTES: Final = 256 * MIB
#: A query that is between two statements does not hear an interrupt: it is told again.
STOP_AGAIN_S: Final = 0.2


class TimedOutError(Exception):
    """The query ran longer than it may, or its client left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What a client asks; `write` gives the answer its form."""

    sql: str
    params: Mapping[str, object] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S
    max_rows: int = MAX_ROWS
    max_bytes: int = MAX_BYTES
    write: Callable[[Answer, Sink], None] = Answer.write_arrow


class Queries:
    """Answers queries through cursors of `connection`, which nobody else uses; long answers wait in `folder`."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        *,
        folder: Path | None = None,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        self._connection = connection
        self._folder = folder
        self._reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._running: set[duckdb.DuckDBPyConnection] = set()
        self._stopped: set[duckdb.DuckDBPyConnection] = set()
        self._pool = ThreadPoolExecutor(SLOTS, thread_name_prefix="query", initializer=give_way)
        self._turns = Turns()
        self._costs = Costs()
        self._guard = Guard(connection)
        self.unread = 0  # answers that are being sent

    async def run(self, query: Query, *, gone: asyncio.Event) -> Spool:
        """Return the whole answer, to be closed; when `gone` is set the query is stopped.

        Raises RefusedSqlError, duckdb.Error, TooManyRowsError, AnswerTooLargeError, TimedOutError and BusyError.
        """
        if self.unread >= UNREAD:
            raise BusyError(f"{UNREAD} answers are being sent already")
        async with self._turns.turn(short=self._costs.is_short(query.sql), within_s=WAIT_S):
            cursor = self._open()
            loop = asyncio.get_running_loop()
            stopping = loop.create_task(self._stop_when(gone, cursor, timeout_s=query.timeout_s))
            started = time.monotonic()
            try:
                return await loop.run_in_executor(self._pool, self._answer, cursor, query)
            except duckdb.InterruptException as error:
                took_s = time.monotonic() - started
                raise TimedOutError(f"stopped after {took_s:.1f} s of {query.timeout_s:g} s") from error
            finally:
                stopping.cancel()

    async def _stop_when(self, gone: asyncio.Event, cursor: duckdb.DuckDBPyConnection, *, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await gone.wait()
        while True:
            self._stop(cursor)
            await asyncio.sleep(STOP_AGAIN_S)

    def alone(self) -> AbstractAsyncContextManager[None]:
        """Wait until no query runs, and let none begin meanwhile. Raises BusyError."""
        return self._turns.alone(within_s=ALONE_WAIT_S)

    def interrupt(self) -> None:
        """Stop what runs: the collector is shutting down."""
        for cursor in list(self._running):
            self._stop(cursor)

    def close(self) -> None:
        """Wait for the threads and let go of the connection."""
        self.interrupt()
        self._pool.shutdown()
        self._connection.close()

    def _answer(self, cursor: duckdb.DuckDBPyConnection, query: Query) -> Spool:
        spool = Spool(self._folder, max_bytes=query.max_bytes, reserve_bytes=self._reserve_bytes)
        began_s = thread_cpu_s()
        try:
            statement = self._guard.check(cursor, query.sql)
            if cursor in self._stopped:
                raise duckdb.InterruptException
            # The guard knows SQL by its shape; this transaction makes the engine refuse what the guard may miss.
            cursor.execute("begin transaction read only")
            query.write(stream(cursor, statement, query.params, max_rows=query.max_rows), spool)
            return spool.rewind()
        except BaseException:
            spool.close()
            raise
        finally:
            self._costs.took(query.sql, thread_cpu_s() - began_s)
            self._close(cursor)

    def _open(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            cursor = self._connection.cursor()
            self._running.add(cursor)
        return cursor

    def _stop(self, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._lock:
            if cursor in self._running:
                self._stopped.add(cursor)
                cursor.interrupt()

    def _close(self, cursor: duckdb.DuckDBPyConnection) -> None:
        with self._lock:
            self._running.discard(cursor)
            self._stopped.discard(cursor)
        cursor.close()
