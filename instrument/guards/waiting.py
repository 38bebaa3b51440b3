"""A bounded queue before something that serves a few at once, which refuses work that it could not begin in time."""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Protocol, Self

from ..caps import remaining_ms
from ..errors import UserError
from ..stages import OpenStage
from ..vocabulary import QUEUE_DEPTH, convert
from .errors import QueueFullError
from .figures import Figure, Reporting
from .timing import entered, left

#: Completions whose mean time is taken: recent, and enough to be no accident.
REMEMBERED: Final = 50


class _Place(Protocol):
    """Somebody who waits."""

    def call(self) -> bool:
        """Wake it, its turn has come; false when it is not there any more."""


class _AsyncPlace:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.turn: asyncio.Future[None] = self._loop.create_future()

    def call(self) -> bool:
        if self._loop.is_closed():
            return False
        self._loop.call_soon_threadsafe(self._wake)
        return True

    def _wake(self) -> None:
        if not self.turn.done():
            self.turn.set_result(None)


class _ThreadPlace:
    def __init__(self) -> None:
        self.turn = threading.Event()

    def call(self) -> bool:
        self.turn.set()
        return True


class BoundedQueue(Reporting):
    """Context manager, plain and asynchronous: at most `at_once` inside, at most `most_waiting` before it, in order.

    Entering raises QueueFullError when there is no place, when the wait that Little's law expects is longer than
    `max_wait_s` or than what is left of the request's budget, and when the wait turned out that long. Waiting is a
    stage `queue` of the request.
    """

    def __init__(
        self,
        name: str,
        *,
        at_once: int,
        most_waiting: int = 100,
        max_wait_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name)
        if at_once < 1 or most_waiting < 0 or (max_wait_s is not None and max_wait_s <= 0):
            raise UserError(
                f"BoundedQueue {name!r}: at_once is {at_once!r}, most_waiting {most_waiting!r}, max_wait_s "
                f"{max_wait_s!r}: expected 1 or more, 0 or more, and seconds above 0 or None"
            )
        self._at_once = at_once
        self._most_waiting = most_waiting
        self._max_wait_s = max_wait_s
        self._clock = clock
        self._lock = threading.Lock()
        self._inside = 0
        self._waiting: deque[_Place] = deque()
        self._served_s: deque[float] = deque(maxlen=REMEMBERED)

    @property
    def depth(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def fullness(self) -> float:
        """Share of the waiting places that are taken, 0 to 1."""
        return len(self._waiting) / self._most_waiting if self._most_waiting else 0.0

    def figures(self) -> Iterable[Figure]:
        """Return how many wait."""
        yield QUEUE_DEPTH, self.depth, ()

    def expected_wait_s(self) -> float:
        """Return the wait of one who comes now: those before it divided by the completions a second (Little's law).

        The rate is what `at_once` places complete at the mean time of the last 50, so that idle time does not count.
        0 while there is room inside, and before the first completion.
        """
        with self._lock:
            return self._expected_s()

    def _expected_s(self) -> float:
        if self._inside < self._at_once or not self._served_s:
            return 0.0
        completions_a_s = self._at_once / max(sum(self._served_s) / len(self._served_s), 1e-9)
        return (len(self._waiting) + 1) / completions_a_s

    def _limit_s(self) -> float | None:
        left_s = convert(remaining_ms(), "ms", "s")
        limit_s = min(left_s, self._max_wait_s or left_s)
        return None if limit_s == math.inf else limit_s

    def _enter_or_wait(self, place: Callable[[], _Place], limit_s: float | None) -> _Place | None:
        """Return None when there is room, else the place that was taken in the queue."""
        with self._lock:
            if self._inside < self._at_once and not self._waiting:
                self._inside += 1
                return None
            expected_s = self._expected_s()
            if len(self._waiting) >= self._most_waiting or (limit_s is not None and expected_s > limit_s):
                allowed = "" if limit_s is None else f", {limit_s:.1f} s allowed"
                taken = f"{len(self._waiting)} of {self._most_waiting} wait"
                raise QueueFullError(
                    f"{self.name}: {taken}, {expected_s:.1f} s to wait{allowed}", retry_after_s=expected_s
                )
            mine = place()
            self._waiting.append(mine)
            return mine

    def _leave(self, served_s: float | None) -> None:
        with self._lock:
            if served_s is not None:
                self._served_s.append(served_s)
            while self._waiting:
                if self._waiting.popleft().call():
                    return  # who is called takes the place of the one who leaves
            self._inside -= 1

    def _give_up(self, place: _Place) -> None:
        with self._lock:
            if place in self._waiting:
                self._waiting.remove(place)
                return
        self._leave(None)  # it was called just now

    def __enter__(self) -> Self:
        self.report()
        began_s = self._clock()
        limit_s = self._limit_s()
        place = self._enter_or_wait(_ThreadPlace, limit_s)
        if isinstance(place, _ThreadPlace):
            waiting = OpenStage("queue", self.name, {})
            try:
                if not place.turn.wait(limit_s):
                    raise QueueFullError(f"{self.name}: waited {limit_s:.1f} s, which is all that was allowed")
            except BaseException as error:
                self._give_up(place)
                waiting.end(error)
                raise
            waiting.end(None)
        now_s = self._clock()
        self.waited(now_s - began_s)
        entered(now_s)
        return self

    async def __aenter__(self) -> Self:
        self.report()
        began_s = self._clock()
        limit_s = self._limit_s()
        place = self._enter_or_wait(_AsyncPlace, limit_s)
        if isinstance(place, _AsyncPlace):
            waiting = OpenStage("queue", self.name, {})
            try:
                done, _ = await asyncio.wait([place.turn], timeout=limit_s)
                if not done:
                    raise QueueFullError(f"{self.name}: waited {limit_s:.1f} s, which is all that was allowed")
            except BaseException as error:
                self._give_up(place)
                waiting.end(error)
                raise
            waiting.end(None)
        now_s = self._clock()
        self.waited(now_s - began_s)
        entered(now_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(left(self._clock()))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(left(self._clock()))
