"""Work that anybody may ask of the thread that owns the data file."""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Final

import duckdb

from .land.database import is_lost

log: Final = logging.getLogger(__name__)


class Errands:
    """Takes work from any thread; `run` is a chore of the lander's that does it."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._asked: deque[tuple[Callable[[duckdb.DuckDBPyConnection, datetime], Any], Future[Any]]] = deque()

    def ask(self, work: Callable[[duckdb.DuckDBPyConnection, datetime], Any]) -> "Future[Any]":
        """Return what will hold the result of `work`, or what it raised."""
        done: Future[Any] = Future()
        self._asked.append((work, done))
        return done

    def run(self, now: datetime) -> None:
        """Do all that was asked."""
        while self._asked:
            work, done = self._asked.popleft()
            try:
                done.set_result(work(self._connection, now))
            except Exception as error:  # whoever asked hears of it
                done.set_exception(error)
                if is_lost(error):
                    raise
