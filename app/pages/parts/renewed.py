"""Answers that are asked for anew behind who looks: an old one is given until the new one is there."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Answer:
    """One that is there: when it was asked for, and from when on it is asked for anew."""

    found: Future[Any]
    at_s: float
    due_s: float


class Renewed:
    """At most `most` answers by key, shared between threads; one thread at a time asks for each.

    From `fresh_s` on an answer is old. Up to the age of `given_s` it is given where the new one takes longer than
    `wait_s`, or fails: then the next try is `fresh_s` later. An old one that is not `worth` it is never given.
    Everybody is given the same object.
    """

    def __init__(
        self,
        *,
        fresh_s: float,
        given_s: float,
        wait_s: float,
        most: int,
        worth: Callable[[Any], bool] = lambda _: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh_s, self._given_s, self._wait_s, self._most = fresh_s, given_s, wait_s, most
        self._worth = worth
        self._clock = clock
        self._answers: OrderedDict[str, _Answer] = OrderedDict()  # the one that was wanted last comes last
        self._asked: dict[str, Future[Any]] = {}
        self._lock = threading.Lock()

    def get(self, key: str, ask: Callable[[], T]) -> T:
        """Return the answer of `key`, which `ask` gives, in a thread of its own.

        Raises what `ask` raises where there is no answer that may still be given.
        """
        with self._lock:
            last = self._last(key)
            is_fresh = last is not None and self._clock() < last.due_s
            found: Future[T] = last.found if last and is_fresh else self._ask(key, ask, fresh_s=self._fresh_s)
        if last:
            wait([found], self._wait_s)
            if not found.done() or found.exception():
                found = last.found
        return found.result()

    def prepare(self, key: str, ask: Callable[[], object]) -> None:
        """Ask before anybody wants to know; return when the answer is there, raise what `ask` raises.

        The answer is old from the start: who wants it is given a newer one where that takes no time.
        """
        with self._lock:
            found = self._ask(key, ask, fresh_s=0)
        found.result()

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._answers.clear()

    def _last(self, key: str) -> _Answer | None:
        last = self._answers.get(key)
        if last is None or self._clock() - last.at_s > self._given_s:
            return None
        if self._clock() >= last.due_s and not self._worth(last.found.result()):
            return None
        self._answers.move_to_end(key)
        return last

    def _ask(self, key: str, ask: Callable[[], T], *, fresh_s: float) -> Future[T]:
        if key not in self._asked:
            found: Future[T] = Future()
            # Not a pool's thread: for those Python waits when it ends.
            threading.Thread(target=self._run, args=(key, ask, found, fresh_s), name="renewed", daemon=True).start()
            self._asked[key] = found
        return self._asked[key]

    def _run(self, key: str, ask: Callable[[], object], found: Future[Any], fresh_s: float) -> None:
        at_s, answer = self._clock(), None
        error: BaseException | None = None
        try:
            answer = ask()
        except BaseException as raised:  # noqa: BLE001 - raised again where somebody waits for it
            error = raised
        with self._lock:
            del self._asked[key]
            if error is None:
                found.set_result(answer)
                self._keep(key, _Answer(found, at_s, at_s + fresh_s))
                return
            found.set_exception(error)
            if last := self._answers.get(key):
                self._answers[key] = replace(last, due_s=self._clock() + self._fresh_s)

    def _keep(self, key: str, answer: _Answer) -> None:
        self._answers[key] = answer
        self._answers.move_to_end(key)
        for old in [one for one, kept in self._answers.items() if self._clock() - kept.at_s > self._given_s]:
            del self._answers[old]
        while len(self._answers) > self._most:
            self._answers.popitem(last=False)
