"""Who goes first where threads want the same CPUs: an acknowledgement is short and waited for, a question can wait."""

import ctypes
import os
import platform
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Final

if sys.platform == "linux":
    import resource

#: The least real-time priority there is. Beside ten live viewers, the folder in memory, the p99 of acknowledgements is
#: 7.5 ms with it, 8.5 with slices and five steps, 10 with slices and two, 10 to 12 with slices alone, where it is 7.2
#: without viewers. Beside two programs that want both CPUs for themselves it is 8 to 17 ms, 29 to 5,500, 18 to 25 and
#: 17 to 29.
PRIORITY: Final = 1
#: Steps of niceness of a collector's threads that acknowledge nothing, where none may have real-time priority: those
#: that land and those that answer. All of them hold the interpreter now and then: with the latter alone nicer than the
#: former an acknowledgement waited for an interpreter whose holder was kept off its CPU by what lands, and with five
#: steps, and another program's threads at none, by that program.
STEPS: Final = 2
#: Of a dashboard, which holds no interpreter but its own.
DASHBOARD_STEPS: Final = 10
#: Seconds after which a thread that runs Python hands the interpreter on to another that waits, 0.005 by default.
#: Beside ten live viewers, with the folder in memory, the p99 of acknowledgements falls from 20 to 13 ms with 0.0005,
#: and from there by 15 % with 0.0002; with half and a quarter of that it is 10 % higher again.
TURN_S: Final = 0.0002
#: What a thread that goes first asks of a CPU at a time, in nanoseconds, where it has no real-time priority. Others ask
#: for 1.4 ms on two cores, and run to the next tick of the clock (4 ms), however nice they are, unless one wakes up
#: that asks for less. Beside ten viewers, the folder in memory, p90 and p99 of acknowledgements fall by 17 and 11 %; at
#: full speed a span costs 4 % more CPU.
SLICE_NS: Final = 300_000
#: Numbers of the system call `sched_setattr`, which libraries lack before glibc 2.41.
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
#: `struct sched_attr`: size, policy, flags, nice, priority, and in nanoseconds runtime (of an ordinary thread its
#: slice), deadline, period.
SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
RESET_ON_FORK: Final = 1


@cache
def may_interrupt() -> bool:
    """Whether threads of this process may have real-time priority: as root, or by `ulimit -r` of one at least."""
    if sys.platform != "linux":
        return False
    with ThreadPoolExecutor(1) as tried:
        return tried.submit(_interrupt).result()


def _interrupt() -> bool:
    """Give the calling thread, and none that it starts, real-time priority, if that is permitted."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(PRIORITY))
    except OSError:
        return False
    return True


def give_way(steps: int | None = None) -> None:
    """Make the calling thread, and those that it will start, so many steps nicer; does so on Linux alone.

    Elsewhere threads have no priority of their own. Without a number these are STEPS, and none where those that go
    first interrupt all others anyway.
    """
    steps = (0 if may_interrupt() else STEPS) if steps is None else steps
    if sys.platform == "linux" and steps:
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + steps, 19))


def go_first() -> None:
    """Let the calling thread, and none that it starts, have a CPU as soon as it wakes up, and until it sleeps.

    That is real-time priority. Where it is not permitted it is short turns, in which its share of the CPUs stays the
    same: Linux has them from 6.12 on; elsewhere, and for a thread that somebody gave another policy, nothing changes.
    """
    if sys.platform != "linux" or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    if not (may_interrupt() and _interrupt()):
        _take_slices()


def _take_slices() -> None:
    machine = platform.machine()
    if machine not in SCHED_SETATTR:
        return
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    wanted = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, RESET_ON_FORK, nice, 0, SLICE_NS, 0, 0)
    # Refused by sandboxes; older kernels take it and do nothing.
    ctypes.CDLL(None).syscall(SCHED_SETATTR[machine], 0, wanted, 0)


def take_short_turns() -> None:
    """Let the threads of this process share the interpreter in short turns: an acknowledgement needs three of them."""
    sys.setswitchinterval(TURN_S)


def thread_cpu_s() -> float:
    """Return the CPU time of the calling thread; on Linux what it took since the clock's last tick (4 ms) may lack.

    `time.thread_time` makes the kernel bring its accounts up to date. It then finds that the thread's turn is over and
    takes the CPU from it, with Python's lock in its hands: acknowledgements waited 3 to 6 ms for its next turn.
    """
    if sys.platform != "linux":
        return time.thread_time()
    used = resource.getrusage(resource.RUSAGE_THREAD)
    return used.ru_utime + used.ru_stime
