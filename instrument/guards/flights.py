"""One call for all who ask the same at once: the first makes it, the others wait for its answer."""

import threading
from collections.abc import Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Generic, TypeVar

from ..budget import OverBudgetError

T = TypeVar("T")
#: What this task or thread is calling for: it must not wait for itself.
_calling: ContextVar[frozenset[tuple[int, Hashable]]] = ContextVar("tailbudget-calling", default=frozenset())


class UnansweredError(Exception):
    """Whoever made the call was cancelled or ran out of its own time: somebody else must make it."""


class Flights(Generic[T]):
    """Calls on their way, by what they are for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on_the_way: dict[Hashable, Future[T]] = {}

    def board(self, key: Hashable) -> tuple[Future[T], bool]:
        """Return where the answer will be, and whether it is the caller's to make, within `led`."""
        with self._lock:
            known = self._on_the_way.get(key)
            if known is not None and (id(self), key) not in _calling.get():
                return known, False
            flight: Future[T] = Future()
            flight.set_running_or_notify_cancel()  # those who wait cannot cancel it
            if known is None:
                self._on_the_way[key] = flight
            return flight, True

    @contextmanager
    def led(self, key: Hashable, flight: Future[T]) -> Iterator[None]:
        """Make the call in the body, which puts the answer into `flight`; its error is that of all who wait."""
        before = _calling.get()
        _calling.set(before | {(id(self), key)})
        try:
            yield
        except BaseException as error:
            own = not isinstance(error, Exception) or isinstance(error, OverBudgetError)
            flight.set_exception(UnansweredError() if own else error)
            raise
        finally:
            _calling.set(before)
            with self._lock:
                if self._on_the_way.get(key) is flight:
                    del self._on_the_way[key]
