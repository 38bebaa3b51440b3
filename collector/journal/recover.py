"""What an earlier run acknowledged and did not land."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .record import path_of, scan, segments
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
    """The records to land, oldest first, and the segment at which writing goes on."""

    records: list[Left]
    next_segment: int


def recover(folder: Path, *, landed: Position) -> Recovered:
    """Return what stands behind `landed`; torn tails are cut, segments that landed whole are deleted.

    Raises OSError when the folder cannot be read or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    records: list[Left] = []
    found = segments(folder)
    for segment in found:
        path = path_of(folder, segment)
        if segment < landed.segment:
            path.unlink()
            continue
        end = landed.offset if segment == landed.segment else 0
        for record in scan(path, offset=end):
            start = Position(segment, record.start)
            records.append(Left(start, Position(segment, record.end), record.digest, record.arrived_ns))
            end = record.end
        _cut(path, end)
    return Recovered(records, max([landed.segment, *found]) + 1)


def _cut(path: Path, end: int) -> None:
    torn = path.stat().st_size - end
    if torn > 0 and end > 0:
        log.warning("%s: cut %d bytes behind the last whole record; none of them was acknowledged", path.name, torn)
        os.truncate(path, end)
