"""A circuit breaker: what keeps failing is not called for a while."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Self

from ..errors import UserError
from ..spans import error_type, stopped
from ..vocabulary import BREAKER_STATE
from .errors import CircuitOpenError
from .figures import Figure, Reporting
from .timing import entered, left

logger = logging.getLogger("tailbudget.guards")
CLOSED, HALF_OPEN, OPEN = 0, 1, 2
STATES: Final = ("closed", "half open", "open")


class CircuitBreaker(Reporting):
    """Context manager, plain and asynchronous, around calls of something that may be down.

    After `failures` errors in a row it is open: entering raises CircuitOpenError for `open_s` seconds. Then one call is
    let through; its success closes the circuit, its failure opens it again. Errors in `ignored` (a caller's mistake),
    cancellations, and calls sent before the circuit opened count neither way.
    """

    def __init__(
        self,
        name: str,
        *,
        failures: int = 5,
        open_s: float = 60.0,
        ignored: tuple[type[BaseException], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name)
        if failures < 1 or open_s <= 0:
            raise UserError(
                f"CircuitBreaker {name!r}: failures is {failures!r} and open_s {open_s!r}: expected 1 or more, and "
                "seconds above 0"
            )
        self._allowed = failures
        self._open_s = open_s
        self._ignored = ignored
        self._clock = clock
        self._lock = threading.Lock()
        self._failed = 0
        self._opened_s: float | None = None
        self._openings = 0
        self._trying = False
        self._causes: Counter[str] = Counter()

    @property
    def state(self) -> int:
        """Return CLOSED, HALF_OPEN or OPEN."""
        with self._lock:
            return self._state()

    def _state(self) -> int:
        if self._opened_s is None:
            return CLOSED
        return OPEN if self._clock() - self._opened_s < self._open_s else HALF_OPEN

    def figures(self) -> Iterable[Figure]:
        """Return the state: 0 closed, 1 half open, 2 open."""
        yield BREAKER_STATE, self.state, ()

    def __enter__(self) -> Self:
        self.report()
        with self._lock:
            state = self._state()
            if state == OPEN or (state == HALF_OPEN and self._trying):
                left_s = max(0.0, (self._opened_s or 0.0) + self._open_s - self._clock())
                causes = ", ".join(f"{cause} x{n}" for cause, n in self._causes.most_common(3))
                raise CircuitOpenError(f"{self.name} is open after: {causes}", retry_after_s=left_s)
            self._trying = state == HALF_OPEN
            openings = self._openings
        entered(openings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        opened_meanwhile = left(self._openings)
        with self._lock:
            if opened_meanwhile:
                return  # it was sent before the circuit opened, and says nothing of what is called now
            tried, self._trying = self._trying, False
            if error is None:
                self._failed, self._opened_s = 0, None
                self._causes.clear()
            elif isinstance(error, Exception) and not stopped(error) and not isinstance(error, self._ignored):
                self._fail(error, tried=tried)

    def _fail(self, error: BaseException, *, tried: bool) -> None:
        self._failed += 1
        self._causes[error_type(error)] += 1
        if tried or self._failed >= self._allowed:
            self._opened_s = self._clock()
            self._openings += 1
            logger.warning("%s is open for %.0f s after %s", self.name, self._open_s, error_type(error))

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)
