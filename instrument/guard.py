"""The one place where errors of the telemetry itself end: counted, logged once a window, never seen by the host."""

import functools
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, ParamSpec, TypeVar

from .errors import UserError

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("tailbudget")
#: A broken exporter or a surprising SDK version fails at every request; one line a minute is enough to be noticed.
WINDOW_S = 60.0


class Guard:
    """Context manager and decorator that lets no `Exception` of ours reach the host.

    A guarded function answers None when it failed. `BaseException` (cancellation, Ctrl-C) passes through.
    """

    #: Tests set it, so that a swallowed error cannot hide.
    reraise: ClassVar[bool] = False
    #: Errors swallowed so far, by place.
    failures: ClassVar[dict[str, int]] = {}
    _logged_s: ClassVar[dict[str, float]] = {}

    __slots__ = ("_where",)

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            return self.swallow(error)
        return False

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                if not self.swallow(error):
                    raise
                return None

        return guarded

    def swallow(self, error: Exception) -> bool:
        """Count and log `error`; False when it must be raised: in tests, and for a setting that a user can mend."""
        if Guard.reraise or isinstance(error, UserError):
            return False
        Guard.failures[self._where] = Guard.failures.get(self._where, 0) + 1
        now_s = time.monotonic()
        if now_s - Guard._logged_s.get(self._where, -WINDOW_S) >= WINDOW_S:
            Guard._logged_s[self._where] = now_s
            logger.warning(
                "telemetry failed in %s (the service goes on without it; repeats are logged once in %.0f s)",
                self._where,
                WINDOW_S,
                exc_info=error,
            )
        return True
