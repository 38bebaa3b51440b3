"""Parallel branches with a timeout each: what came in time is used, what comes later can still be patched in."""

import asyncio
import contextvars
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from ..caps import remaining_ms
from ..errors import UserError
from ..guard import Guard
from ..vocabulary import BRANCHES, BRANCHES_FAILED, BRANCHES_LATE, BRANCHES_PATCHED, convert
from .figures import Figure, Reporting

T = TypeVar("T")
#: Called with a branch's name and result when it ends after its timeout.
Patch = Callable[[str, Any], object]
DEFAULT: Final = "*"
#: Under which a fan-out reports that was given no name.
FAN_OUT: Final = "fan-out"

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


class _Counts(Reporting):
    """What became of the branches of all fan-outs of one name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._lock = threading.Lock()
        self._counted: Counter[str] = Counter()

    def count(self, metric: str, n: int = 1) -> None:
        self.report()
        with self._lock:
            self._counted[metric] += n

    def figures(self) -> Iterable[Figure]:
        for metric, n in self._counted.copy().items():
            yield metric, n, ()


_counts: dict[str, _Counts] = {}


def _counts_of(name: str) -> _Counts:
    return _counts.get(name) or _counts.setdefault(name, _Counts(name))


async def fan_out(
    branches: Mapping[str, Callable[[], Awaitable[T]]],
    *,
    timeouts_ms: Mapping[str, float] | float,
    on_late: Patch | None = None,
    name: str = FAN_OUT,
) -> Branches[T]:
    """Run all branches at once and return what came in time; no branch's error or delay is another's.

    `timeouts_ms` is one for all or a mapping, in which `*` stands for the others; none is longer than what is left of
    the request's budget. A late branch is cancelled, or with `on_late` goes on and is handed to it when it ends well:
    the follow-up patch. What became of the branches is counted under `name`. UserError when a branch has no timeout.
    """
    counts = _counts_of(name)
    began_s = time.monotonic()
    limits_s = {branch: _limit_s(branch, timeouts_ms) for branch in branches}
    tasks = {branch: asyncio.ensure_future(begin()) for branch, begin in branches.items()}
    counts.count(BRANCHES, len(tasks))
    result: Branches[T] = Branches()
    try:
        for branch in sorted(tasks, key=limits_s.__getitem__):
            left_s = max(0.0, limits_s[branch] - (time.monotonic() - began_s))
            await asyncio.wait([tasks[branch]], timeout=left_s)
            if tasks[branch].done():
                _take(result, branch, tasks[branch], counts)
            else:
                counts.count(BRANCHES_LATE)
                result.missing[branch] = TimeoutError(f"{branch} took longer than {limits_s[branch] * 1e3:.0f} ms")
    except BaseException:
        on_late = None
        raise
    finally:
        for branch, task in tasks.items():
            if not task.done():
                _send_away(branch, task, on_late, counts)
    return result


def _take(result: Branches[T], name: str, task: "asyncio.Future[T]", counts: _Counts) -> None:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        result.values[name] = task.result()
    else:
        counts.count(BRANCHES_FAILED)
        result.missing[name] = error


def _send_away(name: str, task: "asyncio.Future[Any]", on_late: Patch | None, counts: _Counts) -> None:
    if on_late is None:
        task.cancel()
        return
    patch = on_late

    def ended(late: "asyncio.Future[Any]") -> None:
        _late.discard(late)
        if not late.cancelled() and late.exception() is None:
            counts.count(BRANCHES_PATCHED)
            with Guard("fan-out"):
                patch(name, late.result())

    _late.add(task)
    task.add_done_callback(ended)


def fan_out_sync(
    branches: Mapping[str, Callable[[], T]],
    *,
    timeouts_ms: Mapping[str, float] | float,
    on_late: Patch | None = None,
    name: str = FAN_OUT,
) -> Branches[T]:
    """Return what `fan_out` does, each branch in a thread of its own with the caller's context.

    A thread cannot be cancelled: a late one goes on, and `on_late` is called from it.
    """
    counts = _counts_of(name)
    began_s = time.monotonic()
    limits_s = {branch: _limit_s(branch, timeouts_ms) for branch in branches}
    running = {branch: _thread(begin) for branch, begin in branches.items()}
    counts.count(BRANCHES, len(running))
    result: Branches[T] = Branches()
    for branch in sorted(running, key=limits_s.__getitem__):
        left_s = max(0.0, limits_s[branch] - (time.monotonic() - began_s))
        try:
            result.values[branch] = running[branch].result(left_s)
        except TimeoutError as error:
            own = running[branch].done()
            late = TimeoutError(f"{branch} took longer than {limits_s[branch] * 1e3:.0f} ms")
            result.missing[branch] = error if own else late
            counts.count(BRANCHES_FAILED if own else BRANCHES_LATE)
            if not own and on_late:
                running[branch].add_done_callback(_patched(branch, on_late, counts))
        except Exception as error:  # noqa: BLE001 - the branch's own, handed to the caller as a value
            counts.count(BRANCHES_FAILED)
            result.missing[branch] = error
    return result


def _patched(name: str, on_late: Patch, counts: _Counts) -> "Callable[[Future[Any]], None]":
    def ended(late: "Future[Any]") -> None:
        if late.exception() is None:
            counts.count(BRANCHES_PATCHED)
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
