"""Forgets tenants and requests in the thread that lands: once all that came before has landed, journal included."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from .land.database import is_lost
from .land.forgetting import Forget, Forgotten, forget

log: Final = logging.getLogger(__name__)


@dataclass(slots=True)
class _Asked:
    what: Forget
    done: "Future[Forgotten]" = field(default_factory=Future)
    segment: int | None = None  # of the journal: everything before it has to land, then goes


class Erasures:
    """Takes requests to forget from any thread; `run` is a chore of the lander's.

    `abandon()` lets go of what is being sealed, `roll()` begins a segment of the journal and returns its number,
    `waits(segment)` says whether a body from before it has not landed, `discard(segment)` deletes what came before it.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        data: Path,
        *,
        abandon: Callable[[], None],
        roll: Callable[[], int],
        waits: Callable[[int], bool],
        discard: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._data = data
        self._abandon = abandon
        self._roll = roll
        self._waits = waits
        self._discard = discard
        self._lock = threading.Lock()
        self._asked: deque[_Asked] = deque()

    def ask(self, what: Forget) -> "Future[Forgotten]":
        """Return what will hold the result, or duckdb.Error; other transactions must have ended by then."""
        asked = _Asked(what)
        with self._lock:
            self._asked.append(asked)
        return asked.done

    def run(self) -> bool:
        """Forget what was asked for; return whether some of it waits for bodies to land."""
        while self._asked:
            asked = self._asked[0]
            if asked.segment is None:
                asked.segment = self._roll()
            if self._waits(asked.segment):
                return True
            self._forget(asked, asked.segment)
            self._asked.popleft()
        return False

    def _forget(self, asked: _Asked, segment: int) -> None:
        try:
            self._abandon()
            found = forget(self._connection, asked.what, data=self._data)
            self._discard(segment)
        except (duckdb.Error, OSError) as error:
            log.error("forgetting failed: %s", error)
            asked.done.set_exception(error)
            if is_lost(error):
                raise
        else:
            log.info("forgot %d traces, %d rows", found.traces, sum(found.rows.values()))
            asked.done.set_result(found)
