"""Who goes first where threads want the same CPUs: an acknowledgement is short and waited for, a question can wait."""

import ctypes
import os
import platform
import struct
import sys
import threading
from contextlib import suppress
from typing import Final

#: Steps of niceness of a collector's threads that acknowledge nothing: those that land and those that answer. All of
#: them hold the interpreter now and then, so all are equally nice: with the latter alone ten steps nicer than the
#: former, an acknowledgement waited for an interpreter whose holder was kept off its CPU. Beside ten live viewers, the
#: folder in memory, the p99 of acknowledgements is 11.4 ms with no steps, 10.3 with ten of those that answer, 8.9 with
#: five of all and 8.4 with ten of all, where it is 7.8 without viewers. Beside two programs that want both CPUs for
#: themselves it is 18, 71, 22 and 2,050 ms: with ten steps nothing is landed in time, with five SQL sees a span after
#: 1.4 s, not 0.6.
STEPS: Final = 5
#: Of a dashboard, which holds no interpreter but its own.
DASHBOARD_STEPS: Final = 10
#: Seconds after which a thread that runs Python hands the interpreter on to another that waits, 0.005 by default.
#: Beside ten live viewers, with the folder in memory, the p99 of acknowledgements falls from 20 to 13 ms with 0.0005,
#: and from there by 15 % with 0.0002; with half and a quarter of that it is 10 % higher again.
TURN_S: Final = 0.0002
#: What a thread that goes first asks of a CPU at a time, in nanoseconds. Others ask for 1.4 ms on two cores, and run to
#: the next tick of the clock (4 ms), however nice they are, unless one wakes up that asks for less. Beside ten viewers,
#: the folder in memory, p90 and p99 of acknowledgements fall by 17 and 11 %; at full speed a span costs 4 % more CPU.
SLICE_NS: Final = 300_000
#: Numbers of the system call `sched_setattr`, which libraries lack before glibc 2.41.
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
#: `struct sched_attr`: size, policy, flags, nice, priority, and in nanoseconds runtime (of an ordinary thread its
#: slice), deadline, period.
SCHED_ATTR: Final = struct.Struct("=IIQiIQQQ")
RESET_ON_FORK: Final = 1


def give_way(steps: int = STEPS) -> None:
    """Make the calling thread, and those that it will start, so many steps nicer; does so on Linux alone.

    Elsewhere threads have no priority of their own.
    """
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + steps, 19))


def go_first() -> None:
    """Let the calling thread, and none that it starts, have a CPU as soon as it wakes up, for short turns.

    Its share of the CPUs stays the same. Linux does so from 6.12 on; elsewhere, and for a thread that somebody gave
    another policy, nothing changes.
    """
    machine = platform.machine()
    if sys.platform != "linux" or machine not in SCHED_SETATTR or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return
    nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    wanted = SCHED_ATTR.pack(SCHED_ATTR.size, os.SCHED_OTHER, RESET_ON_FORK, nice, 0, SLICE_NS, 0, 0)
    # Refused by sandboxes; older kernels take it and do nothing.
    ctypes.CDLL(None).syscall(SCHED_SETATTR[machine], 0, wanted, 0)


def take_short_turns() -> None:
    """Let the threads of this process share the interpreter in short turns: an acknowledgement needs three of them."""
    sys.setswitchinterval(TURN_S)
