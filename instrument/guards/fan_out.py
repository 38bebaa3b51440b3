"""Parallel branches with a timeout each: what came in time is used, what comes later can still be patched in."""

import asyncio
import contextvars
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from ..caps import remaining_ms
from ..errors import UserError
from ..guard import Guard
from ..vocabulary import convert

T = TypeVar("T")
#: Called with a branch's name and result when it ends after its timeout.
Patch = Callable[[str, Any], object]
DEFAULT: Final = "*"

#: Late branches that somebody still wants; asyncio itself keeps no task alive.
_late: "set[asyncio.Future[Any]]" = set()


@dataclass
class Branches(Generic[T]):
    """What came in time, and why the rest did not: the error, or a TimeoutError."""

    values: dict[str, T] = field(default_factory=dict)
    missing: dict[str, BaseException] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every branch came in time."""
        return not self.missing


async def fan_out(
    branches: Mapping[str, Callable[[], Awaitable[T]]],
    *,
    timeouts_ms: Mapping[str, float] | float,
    on_late: Patch | None = None,
) -> Branches[T]:
    """Run all branches at once and return what came in time; no branch's error or delay is another's.

    `timeouts_ms` is one for all or a mapping, in which `*` stands for the others; none is longer than what is left of
    the request's budget. A late branch is cancelled, or with `on_late` goes on and is handed to it when it ends well:
    the follow-up patch. UserError when a branch has no timeout.
    """
    began_s = time.monotonic()
    limits_s = {name: _limit_s(name, timeouts_ms) for name in branches}
    tasks = {name: asyncio.ensure_future(branch()) for name, branch in branches.items()}
    result: Branches[T] = Branches()
    try:
        for name in sorted(tasks, key=limits_s.__getitem__):
            left_s = max(0.0, limits_s[name] - (time.monotonic() - began_s))
            await asyncio.wait([tasks[name]], timeout=left_s)
            if tasks[name].done():
                _take(result, name, tasks[name])
            else:
                result.missing[name] = TimeoutError(f"{name} took longer than {limits_s[name] * 1e3:.0f} ms")
    except BaseException:
        on_late = None
        raise
    finally:
        for name, task in tasks.items():
            if not task.done():
                _send_away(name, task, on_late)
    return result


def _take(result: Branches[T], name: str, task: "asyncio.Future[T] | Future[T]") -> None:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        result.values[name] = task.result()
    else:
        result.missing[name] = error


def _send_away(name: str, task: "asyncio.Future[Any]", on_late: Patch | None) -> None:
    if on_late is None:
        task.cancel()
        return
    patch = on_late

    def ended(late: "asyncio.Future[Any]") -> None:
        _late.discard(late)
        if not late.cancelled() and late.exception() is None:
            with Guard("fan-out"):
                patch(name, late.result())

    _late.add(task)
    task.add_done_callback(ended)


def fan_out_sync(
    branches: Mapping[str, Callable[[], T]],
    *,
    timeouts_ms: Mapping[str, float] | float,
    on_late: Patch | None = None,
) -> Branches[T]:
    """Return what `fan_out` does, each branch in a thread of its own with the caller's context.

    A thread cannot be cancelled: a late one goes on, and `on_late` is called from it.
    """
    began_s = time.monotonic()
    limits_s = {name: _limit_s(name, timeouts_ms) for name in branches}
    running = {name: _thread(branch) for name, branch in branches.items()}
    result: Branches[T] = Branches()
    for name in sorted(running, key=limits_s.__getitem__):
        left_s = max(0.0, limits_s[name] - (time.monotonic() - began_s))
        try:
            result.values[name] = running[name].result(left_s)
        except TimeoutError as error:
            own = running[name].done()
            late = TimeoutError(f"{name} took longer than {limits_s[name] * 1e3:.0f} ms")
            result.missing[name] = error if own else late
            if not own and on_late:
                running[name].add_done_callback(_patched(name, on_late))
        except Exception as error:  # noqa: BLE001 - the branch's own, handed to the caller as a value
            result.missing[name] = error
    return result


def _patched(name: str, on_late: Patch) -> "Callable[[Future[Any]], None]":
    def ended(late: "Future[Any]") -> None:
        if late.exception() is None:
            with Guard("fan-out"):
                on_late(name, late.result())

    return ended


def _thread(branch: Callable[[], T]) -> "Future[T]":
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(branch())
        except BaseException as error:  # noqa: BLE001 - the branch's own, handed to the caller
            done.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), name="tailbudget-branch", daemon=True).start()
    return done


def _limit_s(name: str, timeouts_ms: Mapping[str, float] | float) -> float:
    given = timeouts_ms.get(name, timeouts_ms.get(DEFAULT)) if isinstance(timeouts_ms, Mapping) else timeouts_ms
    if given is None or given <= 0:
        raise UserError(f"fan_out: the timeout of {name!r} is {given!r}: expected milliseconds above 0")
    return convert(min(given, remaining_ms()), "ms", "s")
