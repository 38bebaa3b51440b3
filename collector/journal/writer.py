"""Appends records to segments and acknowledges them once they are on disk."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..giving_way import go_first
from .record import MAGIC, Record, path_of, segments

log: Final = logging.getLogger(__name__)

#: A write is on disk when it returns. As fast as a write and fdatasync of 40 kB (0.56 ms p50 both), in one system call:
#: each gives Python's lock away and waits for it again.
FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_DSYNC
#: Where so much more is free than has to be, the disk is looked at once in so many seconds, during which nobody fills
#: it; nearer to the limit, before every write.
PLENTY_BYTES: Final = 1024 * 1024 * 1024
LOOK_EVERY_S: Final = 1.0


class JournalRefusedError(Exception):
    """The journal cannot take a record now: `str()` says why; sending it again later may work."""


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the journal: a byte of a segment."""

    segment: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the journal may use, in bytes."""

    journal_bytes: int  # not landed yet
    segment_bytes: int  # a file, after which the next begins
    free_bytes: int  # left to others on the disk


#: Called in the writer's thread once the record is on disk (with its start and end) or refused.
Written = Callable[[Position, Position], None]
Refused = Callable[[JournalRefusedError], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    packed: bytes
    written: Written
    refused: Refused


class Journal:
    """The open end of the journal; one thread writes, one synchronous write serves all records that wait for it.

    `unlanded` bytes are left from an earlier run in segments before `segment`, the first one that is written.
    """

    def __init__(self, folder: Path, *, segment: int, limits: Limits, unlanded: int = 0) -> None:
        self._folder = folder
        self._limits = limits
        self._segment = segment
        self._file: int | None = None
        self._offset = 0
        self._look_at_s = 0.0  # monotonic
        self._lock = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._closing = False
        self._rolling = False
        self._rolled = segment
        self._unlanded = unlanded
        self._thread = threading.Thread(target=self._run, name="journal")

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def unlanded_bytes(self) -> int:
        """Bytes that were acknowledged and have not landed."""
        return self._unlanded

    @property
    def fault(self) -> str | None:
        """Why nothing more can be written, until a new start; None while all is well."""
        if self._thread.ident is None or self._thread.is_alive() or self._closing:
            return None
        return "the journal's thread has ended"

    def append(self, record: Record, *, written: Written, refused: Refused) -> None:
        """Write the record; exactly one of the two is called, in the order of appending, from another thread."""
        with self._lock:
            if self._closing:
                refused(JournalRefusedError("the collector is shutting down"))
                return
            self._waiting.append(_Waiting(record.pack(), written, refused))
            self._lock.notify()

    def landed(self, upto: Position, *, nbytes: int) -> None:
        """Forget `nbytes` that landed and delete the segments that end before or at `upto`."""
        with self._lock:
            self._unlanded -= nbytes
            open_segment = self._segment
        for segment in segments(self._folder):
            if segment < upto.segment and segment < open_segment:
                _delete(path_of(self._folder, segment))

    def roll(self) -> int:
        """Let what comes from now on go to a new segment; return its number, which may not be there yet."""
        with self._lock:
            self._rolling = self._thread.is_alive() and not self._closing
            self._lock.notify()
            self._lock.wait_for(lambda: not self._rolling)
            return self._rolled

    def discard_before(self, segment: int) -> None:
        """Delete the segments before `segment`, all of which must have landed, and copies of damaged ones."""
        for number in segments(self._folder):
            if number < segment:
                _delete(path_of(self._folder, number))
        for copy in self._folder.glob("*.damaged"):
            _delete(copy)

    def close(self) -> None:
        """Write what waits, then end the thread."""
        with self._lock:
            self._closing = True
            self._lock.notify()
        self._thread.join()

    def discard(self) -> None:
        """Delete all segments: to be called when everything has landed and the journal is closed."""
        for segment in segments(self._folder):
            _delete(path_of(self._folder, segment))

    def _run(self) -> None:
        go_first()
        while True:
            with self._lock:
                while not self._waiting and not self._closing and not self._rolling:
                    self._lock.wait()
                if self._rolling:
                    self._end_segment()
                    self._rolled = self._segment
                    self._rolling = False
                    self._lock.notify_all()
                    continue
                group, self._waiting = self._waiting, []
            if not group:
                break
            self._write_group(group)
        if self._file is not None:
            os.close(self._file)

    def _write_group(self, group: Sequence[_Waiting]) -> None:
        data = b"".join(item.packed for item in group)
        try:
            self._make_room(len(data))
            start = self._append(data)
        except JournalRefusedError as error:
            _refuse(group, error)
            return
        except OSError as error:
            log.error("the journal cannot be written: %s", error)
            self._give_up_segment()
            _refuse(group, JournalRefusedError(f"the journal cannot be written: {error.strerror}"))
            return
        for item in group:
            end = replace(start, offset=start.offset + len(item.packed))
            item.written(start, end)
            start = end

    def _make_room(self, nbytes: int) -> None:
        if self._unlanded + nbytes > self._limits.journal_bytes:
            raise JournalRefusedError(
                f"{self._unlanded} bytes wait to land, of at most {self._limits.journal_bytes} (--max-journal)"
            )
        if (now_s := time.monotonic()) < self._look_at_s:
            return
        disk = os.statvfs(self._folder)
        spare = disk.f_bavail * disk.f_frsize - self._limits.free_bytes - nbytes
        if spare < 0:
            raise JournalRefusedError(
                f"less than {self._limits.free_bytes} bytes are free on the disk of the data folder (--keep-free)"
            )
        if spare > PLENTY_BYTES:
            self._look_at_s = now_s + LOOK_EVERY_S

    def _append(self, data: bytes) -> Position:
        """Write `data` to the disk, return where it starts."""
        if self._offset >= self._limits.segment_bytes:
            with self._lock:
                self._end_segment()
        if self._file is None:
            self._open()
        assert self._file is not None
        start = self._offset
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        self._offset = start + len(data)
        with self._lock:
            self._unlanded += len(data)
        return Position(self._segment, start)

    def _end_segment(self) -> None:
        """Close the file, so that the next record opens one; to be called with the lock held."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
            self._segment += 1
        self._offset = 0

    def _open(self) -> None:
        path = path_of(self._folder, self._segment)
        self._file = os.open(path, FLAGS, 0o600)
        self._offset = 0
        self._offset = os.write(self._file, MAGIC)
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _give_up_segment(self) -> None:
        """Cut what was refused and go on in a new segment: after a failed sync a file's state is not known."""
        if self._file is None:
            return
        with suppress(OSError):
            os.ftruncate(self._file, self._offset)
        with suppress(OSError):
            os.close(self._file)
        self._file = None
        with self._lock:
            self._segment += 1


def _delete(path: Path) -> None:
    """A segment that cannot be deleted is deleted later: a start tries again, and nothing of it lands twice."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s has landed and cannot be deleted: %s", path.name, error.strerror)


def _refuse(group: Sequence[_Waiting], error: JournalRefusedError) -> None:
    for item in group:
        item.refused(error)
