"""What ends when the garbage collector finds it, but never inside a lock that its end needs."""

import sys
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from .guard import Guard

#: Modules that hold locks, which are not reentrant, while they allocate; none of them calls the host's code meanwhile.
LOCKING = ("opentelemetry.sdk.", f"{__package__}.spans", f"{__package__}.losses")

#: Its `put` may interrupt itself.
_put_off: SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]] = SimpleQueue()
guard = Guard("collected")


def when_collected(held: object, end: Callable[..., object], *args: Any) -> "weakref.finalize[..., object]":
    """Call `end(*args)` once `held` is gone, as `weakref.finalize` does, which is returned.

    A stream that is part of a cycle is collected wherever memory happens to be allocated, in the middle of
    OpenTelemetry's `record` too; to record there again would wait for ever. Then `end` is put off until `end_rest`.
    """
    return weakref.finalize(held, _end, end, args)


def _end(end: Callable[..., object], args: tuple[Any, ...]) -> None:
    if _may_hold_a_lock():
        _put_off.put((end, args))
    else:
        end(*args)


def _may_hold_a_lock() -> bool:
    frame = sys._getframe(1)  # noqa: SLF001 - documented, and `inspect` reads source files
    while frame:
        if str(frame.f_globals.get("__name__")).startswith(LOCKING):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def end_rest() -> None:
    """End what was put off: within a second, in the thread that watches running requests."""
    while not _put_off.empty():
        end, args = _put_off.get()
        with guard:
            end(*args)


def forget() -> None:
    """Leave what was put off to the parent of a forked process."""
    global _put_off
    _put_off = SimpleQueue()
