"""The format of journal segments: a magic line, then records, each with its length and checksum.

A record is a header of 38 bytes (crc32, payload length, signal, encoding, digest of the body, arrival in unix
nanoseconds, attributes taken out, all little-endian) and the payload: the request body as sent, or without its content
where it had any, so that no content reaches the disk.
The checksum covers all that follows it, so a record that was half written or damaged is known. One that is damaged is
skipped, and what no whole record follows is cut.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, get_args

import numpy as np

from ..unpack import gunzip

#: A record holds the place in this list: append only.
Signal = Literal["traces", "metrics", "logs"]
Encoding = Literal["identity", "gzip"]

MAGIC: Final = b"tailbudget journal 1\n"
SUFFIX: Final = ".journal"
HEADER: Final = struct.Struct("<IIBB16sQI")
SIGNALS: Final[tuple[Signal, ...]] = get_args(Signal)
ENCODINGS: Final[tuple[Encoding, ...]] = get_args(Encoding)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One acknowledged body."""

    signal: Signal
    encoding: Encoding
    digest: bytes  # blake2b-128 of the body that was received
    arrived_ns: int
    content_dropped: int = 0  # attributes that the payload lacks
    payload: bytes

    def pack(self) -> bytes:
        """Return the record as it stands in a segment."""
        signal, encoding = SIGNALS.index(self.signal), ENCODINGS.index(self.encoding)
        head = HEADER.pack(0, len(self.payload), signal, encoding, self.digest, self.arrived_ns, self.content_dropped)
        crc = zlib.crc32(self.payload, zlib.crc32(head[4:]))
        return crc.to_bytes(4, "little") + head[4:] + self.payload

    def body(self) -> bytes:
        """Return the unpacked payload."""
        return gunzip(self.payload) if self.encoding == "gzip" else self.payload


@dataclass(frozen=True, slots=True)
class Found:
    """A whole record of a segment: where it stands, what identifies it and when it came."""

    start: int
    end: int
    digest: bytes
    arrived_ns: int


def path_of(folder: Path, segment: int) -> Path:
    """Return the file of a segment."""
    return folder / f"{segment:010d}{SUFFIX}"


def segments(folder: Path) -> list[int]:
    """Return the numbers of the segments in the folder, oldest first."""
    return sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())


def scan(path: Path, *, offset: int = 0) -> Iterator[Found]:
    """Yield the whole records from `offset` on, skipping damaged ones; ends where no further one begins.

    Where a record is damaged the next one begins at its end, or, since its length may be what was damaged, at the first
    byte behind its start at which a header and a payload agree with their checksum.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start: int | None = max(offset, len(MAGIC))
        while start is not None:
            file.seek(start)
            record = _read(file.read(HEADER.size), file.read)
            if record is None:
                start = _next_whole(file, start, size)
            else:
                end = start + HEADER.size + len(record.payload)
                yield Found(start, end, record.digest, record.arrived_ns)
                start = end


def _next_whole(file: BinaryIO, start: int, size: int) -> int | None:
    """Return where the first whole record behind `start` begins; None when there is none."""
    if (end := _end(file, start)) is not None and end < size and _whole_at(file, end):
        return end
    file.seek(start + 1)
    rest = np.frombuffer(file.read(), np.uint8)
    places = len(rest) - HEADER.size + 1
    if places <= 0:
        return None
    lengths = sum(rest[at : at + places].astype(np.int64) << 8 * (at - 4) for at in range(4, 8))
    likely = (rest[8 : 8 + places] < len(SIGNALS)) & (rest[9 : 9 + places] < len(ENCODINGS))
    likely &= lengths <= len(rest) - HEADER.size - np.arange(places)
    return next((start + 1 + int(at) for at in np.flatnonzero(likely) if _whole_at(file, start + 1 + int(at))), None)


def _whole_at(file: BinaryIO, start: int) -> bool:
    file.seek(start)
    return _read(file.read(HEADER.size), file.read) is not None


def read(path: Path, *, start: int) -> Record:
    """Return the record that begins at `start`. Raises ValueError when none does, OSError when it cannot be read."""
    with path.open("rb") as file:
        file.seek(start)
        record = _read(file.read(HEADER.size), file.read)
    if record is None:
        raise ValueError(f"no whole record at byte {start} of {path}")
    return record


def _end(file: BinaryIO, start: int) -> int | None:
    """Return where the record at `start` says that it ends; None when there is no header."""
    file.seek(start)
    head = file.read(HEADER.size)
    return start + HEADER.size + int(HEADER.unpack(head)[1]) if len(head) == HEADER.size else None


def _read(head: bytes, read_more: Callable[[int], bytes]) -> Record | None:
    if len(head) < HEADER.size:
        return None
    crc, length, signal, encoding, digest, arrived_ns, content_dropped = HEADER.unpack(head)
    if signal >= len(SIGNALS) or encoding >= len(ENCODINGS):
        return None
    payload = read_more(length)
    if len(payload) < length or zlib.crc32(payload, zlib.crc32(head[4:])) != crc:
        return None
    return Record(
        signal=SIGNALS[signal],
        encoding=ENCODINGS[encoding],
        digest=digest,
        arrived_ns=arrived_ns,
        content_dropped=content_dropped,
        payload=payload,
    )
