"""Instructions and cycles of a process, in user space or in the kernel; other work hardly moves the first."""

import ctypes
import os
import platform
import struct
import sys
from pathlib import Path

#: Number of the system call `perf_event_open`.
SYSTEM_CALLS = {"x86_64": 298, "aarch64": 241}
#: PERF_TYPE_HARDWARE and its events; threads that start later count too, the kernel does not.
HARDWARE, CYCLES, INSTRUCTIONS = 0, 0, 1
INHERIT, EXCLUDE_USER, EXCLUDE_KERNEL, EXCLUDE_HYPERVISOR = 1 << 1, 1 << 4, 1 << 5, 1 << 6
ATTRIBUTES_BYTES = 128


class Counter:
    """Counts an event for all threads of a process, those that are there and those that they start, or for one of them.

    In user space, or with `kernel` in the kernel alone, which needs /proc/sys/kernel/perf_event_paranoid at 1 or root.
    """

    def __init__(self, pid: int, event: int, *, kernel: bool = False, thread: int | None = None) -> None:
        without = EXCLUDE_USER if kernel else EXCLUDE_KERNEL
        threads = [thread] if thread else [int(found.name) for found in Path(f"/proc/{pid}/task").iterdir()]
        self._files = [_open(found, event, without) for found in threads]

    def total(self) -> float:
        """Return the count since this began; NaN where the machine lets nobody count."""
        if None in self._files:
            return float("nan")
        return sum(int.from_bytes(os.read(file, 8), sys.byteorder) for file in self._files if file is not None)


def _open(thread: int, event: int, without: int) -> int | None:
    number = SYSTEM_CALLS.get(platform.machine())
    if number is None:
        return None
    flags = INHERIT | without | EXCLUDE_HYPERVISOR
    asked = bytearray(ATTRIBUTES_BYTES)
    struct.pack_into("<IIQQQQQ", asked, 0, HARDWARE, ATTRIBUTES_BYTES, event, 0, 0, 0, flags)
    buffer = (ctypes.c_char * ATTRIBUTES_BYTES).from_buffer(asked)
    file: int = ctypes.CDLL(None).syscall(number, buffer, thread, -1, -1, 0)
    return file if file >= 0 else None
