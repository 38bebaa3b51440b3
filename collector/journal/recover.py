"""What an earlier run acknowledged and did not land."""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .record import HEADER, MAGIC, path_of, scan, segments
from .writer import Position

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """One record that has to land."""

    start: Position
    end: Position
    digest: bytes
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class Recovered:
    """The records to land, oldest first, and the segment at which writing goes on.

    `damaged` is the number of stretches that cannot be read although something in them was acknowledged.
    """

    records: list[Left]
    next_segment: int
    damaged: int


def recover(folder: Path, *, landed: Position) -> Recovered:
    """Return what stands behind `landed`; torn tails are cut, segments that landed whole are deleted.

    Of a damaged segment a copy is kept. Raises OSError when the folder cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[Left] = []
    damaged = 0
    found = segments(folder)
    for segment in found:
        path = path_of(folder, segment)
        if segment < landed.segment:
            path.unlink()
            continue
        end = max(landed.offset if segment == landed.segment else 0, len(MAGIC))
        lost: list[int] = []  # bytes
        for record in scan(path, offset=end):
            if record.start > end:
                lost.append(record.start - end)
            start = Position(segment, record.start)
            records.append(Left(start, Position(segment, record.end), record.digest, record.arrived_ns))
            end = record.end
        torn = path.stat().st_size - end
        if torn > 0 and _is_whole_in_length(path, end):
            lost.append(torn)
        if lost:
            damaged += len(lost)
            _keep_copy(path, sum(lost))
        _cut(path, end)
    return Recovered(records, max([landed.segment, *found]) + 1, damaged)


def _is_whole_in_length(path: Path, start: int) -> bool:
    """Whether what begins at `start` was damaged rather than torn: a torn record is shorter than it says."""
    with path.open("rb") as file:
        file.seek(start)
        head = file.read(HEADER.size)
    return len(head) == HEADER.size and 0 < HEADER.unpack(head)[1] <= path.stat().st_size - start - HEADER.size


def _keep_copy(path: Path, nbytes: int) -> None:
    copy = path.with_name(f"{path.name}.damaged")
    log.error("%s: %d acknowledged bytes are damaged and cannot land; %s is a copy", path.name, nbytes, copy.name)
    try:
        shutil.copy(path, copy)
    except OSError as error:
        log.error("%s cannot be written: %s", copy.name, error.strerror)


def _cut(path: Path, end: int) -> None:
    torn = path.stat().st_size - end
    if torn > 0:
        log.warning("%s: cut %d bytes behind the last whole record", path.name, torn)
        os.truncate(path, end)
