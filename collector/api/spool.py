"""Holds one answer until it is whole: in memory at first, beyond that in a file without a name.

A client that reads slowly keeps neither a transaction nor a slot, and an answer that fails half-way has a status.
"""

import os
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Final

MIB: Final = 1024 * 1024
#: Kept in memory; beyond it the file begins.
MEMORY_BYTES: Final = 4 * MIB
#: Between two looks at how much of the disk is free.
STEP_BYTES: Final = 16 * MIB


class AnswerTooLargeError(Exception):
    """The answer has more bytes than it may have, or than the disk can hold."""


class Spool:
    """Takes at most `max_bytes`; on disk it leaves `reserve_bytes` to the journal and the data file."""

    def __init__(self, folder: Path | None, *, max_bytes: int, reserve_bytes: int) -> None:
        self._file = SpooledTemporaryFile(max_size=MEMORY_BYTES, dir=None if folder is None else str(folder))  # noqa: SIM115 - closed by its reader
        self._folder = folder or Path()
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._look_at = MEMORY_BYTES
        self.size = 0

    def write(self, data: bytes, /) -> None:
        """Append. Raises AnswerTooLargeError, and OSError when the disk fails."""
        self.size += len(data)
        if self.size > self._max_bytes:
            raise AnswerTooLargeError(f"the answer has more than {self._max_bytes} bytes")
        if self.size > self._look_at:
            self._look_at = self.size + STEP_BYTES
            disk = os.statvfs(self._folder)
            if disk.f_bavail * disk.f_frsize < self._reserve_bytes + STEP_BYTES:
                raise AnswerTooLargeError(f"the disk has no room for an answer of more than {self.size} bytes")
        self._file.write(data)

    @property
    def in_memory(self) -> bool:
        """Whether reading it never waits for the disk."""
        return self.size <= MEMORY_BYTES

    def rewind(self) -> "Spool":
        """Go to the first byte, to read from there."""
        self._file.seek(0)
        return self

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`."""
        return self._file.read(size)

    def close(self) -> None:
        """Let go of memory and file."""
        self._file.close()
