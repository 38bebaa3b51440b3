"""The one thread that owns the data file: lands what was acknowledged, then lets assembly and alerts run."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

import duckdb

from ..counters import Counters
from ..giving_way import give_way, thread_cpu_s
from ..journal.writer import Position
from ..receive.batches import Batches
from .database import is_lost
from .landing import Landing
from .portion import Entry, Portion, row_groups

log: Final = logging.getLogger(__name__)

#: A transaction once a row group is full, or this long after its first body.
EVERY_S: Final = 0.2
#: A landing costs 20 ms of CPU time however small: it waits ten times as long as the last one cost, but no longer than
#: this. One a body took 0.4 of a core at 20 bodies a second, and ten readers beside it trebled the time until SQL sees
#: a span.
AT_MOST_EVERY_S: Final = 1.0
#: What nobody needed of these pauses is kept, up to so much: bodies that come now and then land at once.
SAVED_S: Final = 1.0
RETRY_S: Final = 1.0
#: Counts are stored with the next bodies, or this late without any; a kill loses as much of them, and no span.
COUNTS_EVERY_S: Final = 5.0
#: A chore that takes over 10 % of its period runs this seldom: requests are promised within 5 s of their last span.
SLOW_CHORE_EVERY_S: Final = 4.0
#: DuckDB's own faults are tried again so often: they may come from short memory, or from a body.
INTERNAL_TRIES: Final = 5
#: What is wrong with the machine rather than with a body: the same bodies are tried again.
ENVIRONMENT: Final = (
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.TransactionException,
    duckdb.InternalException,
    OSError,
)


class LostFileError(Exception):
    """No statement can run before the data file is opened anew."""


@dataclass(slots=True)
class Chore:
    """Work that the thread does every `every_s` between landings; what it raises is logged and counted.

    `run` returns True when it left some of its work: then it goes on after the next landing.
    """

    name: str
    every_s: float
    run: Callable[[datetime], object]
    share: float = 1.0  # of the thread's time, at most; one that takes longer runs more seldom
    due_s: float = 0.0  # monotonic


class Lander:
    """Lands entries in the order in which they were put; `close` lands what waits and ends the thread.

    `load` reads and decodes an entry whose batches were not kept; `landed` is told what need not be kept any more.
    """

    def __init__(
        self,
        landing: Landing,
        *,
        load: Callable[[Entry], Batches],
        landed: Callable[[Position, int], None],
        counters: Counters,
        chores: Sequence[Chore] = (),
        queue_bytes: int,
        backlog: Sequence[Entry] = (),
    ) -> None:
        self._landing = landing
        self._load = load
        self._landed = landed
        self._counters = counters
        self._chores = (Chore("counts", COUNTS_EVERY_S, lambda _: self._store_counts()), *chores)
        self._queue_bytes = queue_bytes
        self._lock = threading.Condition()
        self._queue: deque[Entry] = deque(backlog)
        self._decoded_bytes = 0
        self._decoded_rows = 0
        self._close_by_s: float | None = None  # monotonic
        self._fault: str | None = None
        self._finished = False
        self._next_s = 0.0  # monotonic: before the next transaction more bodies come, and it costs the same
        self._internal = 0  # faults of DuckDB's own since the last transaction that landed
        self._groups: list[int] = []  # numbers of bodies in the next transactions, last first, after one that failed
        self._thread = threading.Thread(target=self._run, name="lander")
        counters.queue.set_function(lambda: len(self._queue))
        counters.queue_bytes.set_function(lambda: self._decoded_bytes)
        counters.lag_s.set_function(self._lag_s)

    def start(self) -> None:
        """Begin to land."""
        self._thread.start()

    @property
    def fault(self) -> str | None:
        """Why nothing more will land, until a new start; None while all is well. What was acknowledged is journaled."""
        if self._fault is None and self._thread.ident is not None and not (self._thread.is_alive() or self._finished):
            return "the thread that lands has ended"
        return self._fault

    @property
    def _enough(self) -> bool:
        """Whether a transaction's worth waits: to wait for more would keep senders waiting for room."""
        return row_groups(self._decoded_rows) > 0 or self.full

    @property
    def full(self) -> bool:
        """Whether what waits holds as much memory as it may: batches of further entries are let go."""
        return self._decoded_bytes > self._queue_bytes

    def has_before(self, segment: int) -> bool:
        """Whether an entry of an earlier segment of the journal waits."""
        with self._lock:
            return bool(self._queue) and self._queue[0].start.segment < segment

    def put(self, entry: Entry) -> None:
        """Take an acknowledged body; its batches are let go when the queue holds too much already."""
        with self._lock:
            if self.full:
                entry = replace(entry, batches=None)
            self._decoded_bytes += entry.decoded_bytes
            self._decoded_rows += entry.decoded_rows
            self._queue.append(entry)
            if len(self._queue) == 1 or self._enough:
                self._lock.notify()

    def close(self, *, within_s: float) -> bool:
        """Land what waits, for at most `within_s` and one transaction, and end the thread; return whether all landed.

        What did not land is in the journal.
        """
        with self._lock:
            self._close_by_s = time.monotonic() + within_s
            self._lock.notify()
        self._thread.join()
        return self._finished and not self._queue

    def _run(self) -> None:
        give_way()
        try:
            self._land_until_closed()
            self._finished = True
        except LostFileError as error:
            self._fault = f"the data file cannot be used any more ({_line(error)})"
            log.error("landing has ended: %s", self._fault)

    def _land_until_closed(self) -> None:
        while True:
            with self._lock:
                if not self._queue and self._close_by_s is None:
                    self._lock.wait(self._idle_s())
                if self._queue:
                    left_s = max(self._next_s - time.monotonic(), 0.0)
                    self._lock.wait_for(lambda: self._close_by_s is not None or self._enough, timeout=left_s)
                waiting, closing = bool(self._queue), self._close_by_s
            if closing is not None and (not waiting or time.monotonic() > closing):
                self._store_counts()
                return
            if waiting:
                self._land_some()
            if closing is None:
                self._do_chores()

    def _lag_s(self) -> float:
        try:
            return time.time() - self._queue[0].arrived_s
        except IndexError:
            return 0.0

    def _idle_s(self) -> float:
        due_s = min((chore.due_s for chore in self._chores), default=time.monotonic() + 1.0)
        return max(due_s - time.monotonic(), 0.0)

    def _land_some(self) -> None:
        """Land one transaction; bodies leave the queue once they are stored, or known not to be storable."""
        try:
            portion = self._next_portion()
        except OSError as error:
            self._failed(error)
            self._next_s = time.monotonic() + RETRY_S
            return
        entries = portion.entries
        unstored = self._counters.take_unstored()
        started, cpu_s = time.monotonic(), thread_cpu_s()
        try:
            counted = self._landing.land(portion.readable, position=portion.position, health=unstored)
        except ENVIRONMENT as error:
            _raise_if_lost(error)
            self._counters.give_back(unstored)
            self._failed(error)
            self._internal += isinstance(error, duckdb.InternalException)
            if isinstance(error, duckdb.OutOfMemoryException) and len(entries) > 1:
                self._isolate(entries, error)  # smaller transactions need less
            elif self._internal >= INTERNAL_TRIES:
                self._isolate(entries, error)
            else:
                self._next_s = time.monotonic() + RETRY_S
            return
        except Exception as error:  # noqa: BLE001 - whatever one body does to it, the thread lives on
            _raise_if_lost(error)
            self._counters.give_back(unstored)
            self._failed(error)
            self._isolate(entries, error)
            return
        self._internal = 0
        self._counters.work_s.labels("landing").observe(time.monotonic() - started)
        self._counters.stored(counted)
        self._leave(entries, rest=portion.rest)
        self._pause(thread_cpu_s() - cpu_s, spans=portion.spans)

    def _pause(self, cpu_s: float, *, spans: int) -> None:
        """Set when the next transaction begins, unless enough waits before."""
        now_s = time.monotonic()
        if row_groups(2 * spans) and not self._groups:
            self._next_s = now_s + AT_MOST_EVERY_S  # by then so fast a sender has filled a row group
            return
        pause_s = 0.0 if self._groups else min(max(EVERY_S, 10 * cpu_s), AT_MOST_EVERY_S)
        self._next_s = min(max(self._next_s, now_s - SAVED_S), now_s) + pause_s

    def _store_counts(self) -> None:
        """Store what was counted of bodies that never came to land."""
        unstored = self._counters.take_unstored()
        if not unstored:
            return
        try:
            self._counters.stored(self._landing.land([], health=unstored))
        except Exception as error:  # noqa: BLE001 - as in _land_some
            _raise_if_lost(error)
            self._counters.give_back(unstored)
            self._failed(error)

    def _next_portion(self) -> Portion:
        """Return the entries of the next transaction, and what of them can be decoded."""
        portion = Portion()
        size = self._groups[-1] if self._groups else None
        for entry in list(self._queue):
            if len(portion.entries) == size or (size is None and portion.is_full):
                break
            portion.add(entry, entry.batches or self._reload(entry))
        if size is None:
            portion.shorten()
        return portion

    def _reload(self, entry: Entry) -> Batches | None:
        try:
            return self._load(entry)
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise  # it may be read later
            log.error("a journaled body cannot be read back: %s", error)
            self._counters.dropped("journal", "unreadable")
            return None

    def _isolate(self, entries: Sequence[Entry], error: Exception) -> None:
        """Land the bodies of a failed transaction half by half; one that fails alone is dropped, counted and logged."""
        self._next_s = 0.0
        if len(entries) == 1:
            log.error("a body that does not fit the tables was dropped: %s", error)
            self._counters.dropped("journal", "unlandable")
            self._leave(entries)
            return
        if self._groups:
            self._groups.pop()
        half = len(entries) // 2
        self._groups += [len(entries) - half, half]

    def _leave(self, entries: Sequence[Entry], *, rest: Entry | None = None) -> None:
        """Take entries from the queue, of the last one all but `rest`."""
        with self._lock:
            for entry in entries:
                self._queue.popleft()
                self._decoded_bytes -= entry.decoded_bytes
                self._decoded_rows -= entry.decoded_rows
            if rest is not None:
                self._queue.appendleft(rest)
                self._decoded_bytes += rest.decoded_bytes
                self._decoded_rows += rest.decoded_rows
        if self._groups:
            self._groups.pop()
        if gone := entries[: len(entries) - (rest is not None)]:
            self._landed(gone[-1].end, sum(entry.nbytes for entry in gone))

    def _failed(self, error: Exception) -> None:
        self._counters.failures.labels("landing").inc()
        log.error("a transaction failed: %s", _line(error))

    def _do_chores(self) -> None:
        for chore in self._chores:
            started = time.monotonic()
            if started < chore.due_s:
                continue
            unfinished = False
            try:
                with self._counters.work_s.labels(chore.name).time():
                    unfinished = chore.run(datetime.now(UTC)) is True
            except Exception as error:
                _raise_if_lost(error)
                of_ours = not isinstance(error, ENVIRONMENT)  # a full disk needs no stack trace
                log.error("%s failed; landing goes on: %s", chore.name, _line(error), exc_info=of_ours)
                self._counters.failures.labels(chore.name).inc()
            took_s = time.monotonic() - started
            pause_s = chore.every_s if took_s <= chore.every_s / 10 else max(SLOW_CHORE_EVERY_S, chore.every_s)
            chore.due_s = started if unfinished else started + max(pause_s, took_s / chore.share)


def _raise_if_lost(error: Exception) -> None:
    """Raise LostFileError when the error says that the data file cannot be used any more."""
    if is_lost(error):
        raise LostFileError(str(error)) from error


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
