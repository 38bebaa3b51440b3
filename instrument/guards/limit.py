"""An adaptive concurrency limit: as much in flight as keeps p95 within its target."""

import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from ..errors import UserError
from ..spans import stopped
from ..vocabulary import LIMIT_CURRENT, LIMIT_IN_FLIGHT
from .errors import LimitReachedError
from .figures import Figure, Reporting
from .timing import entered, left

#: The limit is looked at after so many calls: p95 of fewer is one call's word.
WINDOW_CALLS: Final = 20
#: Beyond the target the limit falls to this share at once; within it, it grows by one (AIMD, as TCP does).
BACK_OFF: Final = 0.8
#: It grows only where it was needed: calls in flight came this near to it.
NEAR: Final = 0.9


class AdaptiveLimit(Reporting):
    """Context manager, plain and asynchronous, that raises LimitReachedError when as much as allowed is in flight.

    After every 20 calls their p95 is held against `target_s`: beyond it, or with an error among them that says overload
    (`overloads`, TimeoutError by default), the limit falls by a fifth; within it, and used, it grows by one.
    """

    def __init__(
        self,
        name: str,
        *,
        target_s: float,
        initial: int = 10,
        least: int = 1,
        most: int = 200,
        overloads: tuple[type[BaseException], ...] = (TimeoutError,),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name)
        if target_s <= 0 or not 1 <= least <= initial <= most:
            raise UserError(
                f"AdaptiveLimit {name!r}: target_s is {target_s!r}, least {least!r}, initial {initial!r}, most "
                f"{most!r}: expected seconds above 0 and 1 <= least <= initial <= most"
            )
        self._target_s = target_s
        self._least = least
        self._most = most
        self._overloads = overloads
        self._clock = clock
        self._lock = threading.Lock()
        self._limit = float(initial)
        self._seen_s: list[float] = []
        self._overloaded = False
        self._peak = 0
        self.in_flight = 0

    @property
    def limit(self) -> int:
        """Calls that may be in flight now."""
        return int(self._limit)

    def figures(self) -> Iterable[Figure]:
        """Return the limit and what is in flight."""
        yield LIMIT_CURRENT, self.limit, ()
        yield LIMIT_IN_FLIGHT, self.in_flight, ()

    def __enter__(self) -> Self:
        self.report()
        with self._lock:
            if self.in_flight >= self.limit:
                raise LimitReachedError(
                    f"{self.name}: {self.in_flight} in flight, {self.limit} allowed", retry_after_s=self._target_s
                )
            self.in_flight += 1
            self._peak = max(self._peak, self.in_flight)
        entered(self._clock())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took_s = left(self._clock())
        with self._lock:
            self.in_flight -= 1
            if took_s is None or (error is not None and stopped(error)):
                return
            self._overloaded |= isinstance(error, self._overloads)
            self._seen_s.append(took_s)
            if len(self._seen_s) >= WINDOW_CALLS:
                self._adapt()

    def _adapt(self) -> None:
        p95_s = sorted(self._seen_s)[int(len(self._seen_s) * 0.95) - 1]
        if self._overloaded or p95_s > self._target_s:
            self._limit = max(self._least, self._limit * BACK_OFF)
        elif self._peak >= self._limit * NEAR:
            self._limit = min(self._most, self._limit + 1)
        self._seen_s.clear()
        self._overloaded = False
        self._peak = self.in_flight

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
