"""Ends what is older than it is to be kept, and the oldest spans when the folder takes more of the disk than it may."""

import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb

from ..counters import Counters
from ..land.transaction import transaction
from .sealer import to_us
from .tables import SEALED_VIEWS, fill
from .views import create_views

log: Final = logging.getLogger(__name__)

#: So much of a table goes in one transaction.
MINUTES: Final = 1
#: The same of a table that must shrink, and the youngest rows that are left to it: they may wait to be assembled.
MINUTES_FOR_ROOM: Final = 10
YOUNG: Final = timedelta(minutes=10)
#: A file is deleted so long after no view reads it: a question that began before may be reading it.
GRACE_S: Final = 660.0
GB: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Keep:
    """How long rows are kept, by kind, and how much of the disk the data folder may take."""

    spans: timedelta = timedelta(days=7)
    requests: timedelta = timedelta(days=35)  # budgets of 30 days are counted from them
    rollups: timedelta = timedelta(days=400)
    max_disk_bytes: int = 20 * GB


@dataclass(frozen=True, slots=True)
class Kept:
    """A table, the column that says how old a row is, and the field of Keep that says how old it may get."""

    table: str
    time: str
    kind: str

    @property
    def relation(self) -> str:
        """Return the name by which it is asked."""
        return self.table.removesuffix("_open")

    def length(self, keep: Keep) -> timedelta:
        """Return how long its rows are kept."""
        found: timedelta = getattr(keep, self.kind)
        return found


#: Every table that grows with time; the rest has a row a process, a trace that waits, or a body of the last day.
RETENTION: Final = (
    *(Kept(bulk.table, bulk.time, "spans") for bulk in SEALED_VIEWS),
    Kept("requests", "started", "requests"),
    Kept("calls", "started", "requests"),
    Kept("streams", "started", "requests"),
    Kept("stages", "started", "requests"),
    Kept("stage_spans", "started", "requests"),
    Kept("violations", "started", "requests"),
    Kept("feedback", "t", "requests"),
    Kept("slo_minute", "minute", "requests"),
    Kept("decode_rate", "t", "requests"),
    Kept("engine", "t", "requests"),
    Kept("gpu", "sampled_at", "requests"),
    Kept("ingest_health", "minute", "requests"),
    Kept("rollup_minute", "minute", "rollups"),
    Kept("alerts", "opened", "rollups"),
    Kept("deliveries", "created", "rollups"),
    Kept("silences", "until", "rollups"),
    Kept("marks", "t", "rollups"),
)


class Retention:
    """Works through the connection that owns the data file; used by its one thread.

    What goes is counted by view or table, with the reason `expired` or `max_disk`.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, data: Path, *, keep: Keep, counters: Counters) -> None:
        self._connection = connection
        self._data = data
        self._keep = keep
        self._counters = counters
        self._trash: list[tuple[float, Path]] = []  # from when (monotonic) a file may be deleted

    def tick(self, now: datetime) -> bool:
        """Do one step; return whether there is more to do. Raises duckdb.Error and OSError with nothing changed."""
        self._empty_trash()
        expired = self._rows("expired_files", until_us=to_us(now - self._keep.spans))
        if expired:
            self._drop(expired, "expired")
            return True
        if any(self._expire(kept, now) for kept in RETENTION):
            return True
        return self._make_room(now)

    def _expire(self, kept: Kept, now: datetime) -> bool:
        return self._delete(kept, until=now - kept.length(self._keep), minutes=MINUTES, reason="expired") > 0

    def _delete(self, kept: Kept, *, until: datetime, minutes: int, reason: str) -> int:
        delete = fill("expire", table=kept.table, time=kept.time)
        bounds = {"until_us": to_us(until), "minutes": minutes}
        with transaction(self._connection):
            ((rows,),) = self._connection.execute(delete, bounds).fetchall()
            if rows:
                words = {"relation": kept.relation, "table": kept.table, "time": kept.time}
                self._connection.execute(fill("retained", **words), {"until_us": to_us(until)})
        if rows:
            self._counters.dropped(kept.relation, reason, rows)
        return int(rows)

    def _drop(self, files: Sequence[tuple[Any, ...]], reason: str) -> None:
        with transaction(self._connection):
            for file, _, _ in files:
                self._rows("retained_file", file=file)
                self._rows("unlist", file=file)
            create_views(self._connection, sorted({view for _, view, _ in files}))
        for file, view, rows in files:
            log.info("%s: %d rows ended (%s)", file, rows, reason)
            self._counters.dropped(view, reason, rows)
            self._trash.append((time.monotonic() + GRACE_S, self._data / file))

    def _make_room(self, now: datetime) -> bool:
        """End the oldest file while the folder is too large, or where none is left the oldest rows of its tables."""
        if self._used_bytes() <= self._keep.max_disk_bytes:
            return False
        if oldest := self._rows("oldest_file"):
            self._drop(oldest, "max_disk")
            return True
        bulk = [kept for kept in RETENTION if kept.kind == "spans"]
        if not sum(
            [self._delete(kept, until=now - YOUNG, minutes=MINUTES_FOR_ROOM, reason="max_disk") for kept in bulk]
        ):
            log.warning("%s takes more of the disk than it may, and no spans are left to end", self._data)
            return False
        with suppress(duckdb.TransactionException):  # while a question runs; what is free shows later then
            self._connection.execute("checkpoint").fetchall()
        return False

    def _used_bytes(self) -> int:
        """Return what the folder takes, without free blocks of the data file and files that are about to go."""
        ((free,),) = self._rows("free_bytes")
        going = {path for _, path in self._trash}
        return sum(_size(path) for path in self._data.rglob("*") if path not in going) - int(free)

    def _empty_trash(self) -> None:
        while self._trash and self._trash[0][0] <= time.monotonic():
            self._trash[0][1].unlink(missing_ok=True)
            del self._trash[0]

    def _rows(self, name: str, **params: object) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = self._connection.execute(fill(name), params).fetchall()
        return rows


def _size(path: Path) -> int:
    """Return the bytes of a file, 0 of a folder and of what went meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
