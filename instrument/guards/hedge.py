"""A hedged call: a second attempt when the first takes long, the slower one cancelled and what it wasted counted."""

import asyncio
import contextvars
import queue
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from opentelemetry import context as otel_context

from ..attempts import ATTEMPT_KEY, Attempt
from ..errors import UserError
from ..guard import Guard
from ..vocabulary import HEDGE_SENT, HEDGE_WASTED_TOKENS, HEDGE_WON
from .figures import Figure, Reporting

T = TypeVar("T")

#: Calls whose durations give the delay, and how many are needed before one is guessed from them.
REMEMBERED: Final = 200
NEEDED: Final = 20
#: Hedges that may be saved up: a burst of slow calls gets this many.
MOST_CREDIT: Final = 10.0


class Hedge(Reporting):
    """Sends a second attempt of an idempotent call that has not answered after `delay_s`, for a share of the traffic.

    Without `delay_s` the delay is the p95 of the last 200 calls. `max_share` of the calls may be hedged: each call
    earns that much of one. The first success wins; when all attempts fail, the first error is raised. An error before
    the delay is raised at once: a hedge is no retry.
    """

    def __init__(
        self,
        name: str,
        *,
        delay_s: float | None = None,
        max_share: float = 0.05,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name)
        if not 0 < max_share <= 1 or (delay_s is not None and delay_s < 0):
            raise UserError(
                f"Hedge {name!r}: delay_s is {delay_s!r} and max_share {max_share!r}: expected seconds of 0 or "
                "more, or None, and a share above 0 and up to 1"
            )
        self._delay_s = delay_s
        self._share = max_share
        self._clock = clock
        self._lock = threading.Lock()
        self._credit = 1.0
        self._durations_s: deque[float] = deque(maxlen=REMEMBERED)
        self.sent = 0
        self.won = 0
        self.wasted_tokens = 0

    def figures(self) -> Iterable[Figure]:
        """Return what was sent, won and wasted."""
        yield HEDGE_SENT, self.sent, ()
        yield HEDGE_WON, self.won, ()
        yield HEDGE_WASTED_TOKENS, self.wasted_tokens, ()

    def delay_s(self) -> float | None:
        """Return after how many seconds a second attempt is sent; None while too few calls were seen to know."""
        if self._delay_s is not None:
            return self._delay_s
        with self._lock:
            known = sorted(self._durations_s)
        return known[int(len(known) * 0.95)] if len(known) >= NEEDED else None

    async def run(self, call: Callable[[Attempt], Awaitable[T]], *, idempotent: bool) -> T:
        """Return the answer of the attempt that succeeds first; the other is cancelled.

        `call` is called once an attempt. One that is not idempotent is never hedged.
        """
        delay_s = self._begin(idempotent=idempotent)
        began_s = self._clock()
        if delay_s is None:
            answer = await call(Attempt(1))
            self._took(began_s)
            return answer
        attempts = [Attempt(1)]
        tasks = [_task(call, attempts[0])]
        try:
            done, _ = await asyncio.wait(tasks, timeout=delay_s)
            if not done and self._spend():
                attempts[0].hedged()
                attempts.append(Attempt(2))
                tasks.append(_task(call, attempts[1]))
            winner = await _first_success(tasks)
        finally:
            for attempt, task in zip(attempts, tasks, strict=True):
                if not task.done():
                    self._lose(attempt, task)
                elif not task.cancelled():
                    task.exception()  # an error that nobody asks for would be logged by asyncio
        answer = winner.result()
        self.won += winner is not tasks[0]
        self._took(began_s)
        return answer

    def _lose(self, attempt: Attempt, task: "asyncio.Task[Any]") -> None:
        def ended(lost: "asyncio.Task[Any]") -> None:
            if not lost.cancelled():
                lost.exception()
            self._waste(attempt)

        attempt.cancel()
        task.cancel()
        task.add_done_callback(ended)

    def run_sync(self, call: Callable[[Attempt], T], *, idempotent: bool) -> T:
        """Return the answer of the attempt that succeeds first, each in a thread of its own.

        A thread cannot be cancelled: what the loser hung on `Attempt.on_cancel` is called, and `Attempt.cancelled` is
        true from then on.
        """
        delay_s = self._begin(idempotent=idempotent)
        began_s = self._clock()
        if delay_s is None:
            answer = call(Attempt(1))
            self._took(began_s)
            return answer
        results: queue.SimpleQueue[tuple[Attempt, Any, BaseException | None]] = queue.SimpleQueue()
        attempts = [self._thread(call, Attempt(1), results)]
        try:
            first = results.get(timeout=delay_s)
        except queue.Empty:
            if self._spend():
                attempts[0].hedged()
                attempts.append(self._thread(call, Attempt(2), results))
            first = results.get()
        ended = [first]
        while ended[-1][2] is not None and len(ended) < len(attempts):
            ended.append(results.get())
        winner, answer, error = ended[-1]
        for attempt in attempts:
            if attempt not in [each[0] for each in ended]:
                attempt.cancel()
        if error is not None:
            raise ended[0][2] or error
        self.won += winner.number > 1
        self._took(began_s)
        return answer

    def _thread(self, call: Callable[[Attempt], T], attempt: Attempt, results: Any) -> Attempt:
        def work() -> None:
            answer, error = None, None
            token = otel_context.attach(otel_context.set_value(ATTEMPT_KEY, attempt))
            try:
                answer = call(attempt)
            except BaseException as raised:  # noqa: BLE001 - raised again in the caller's thread
                error = raised
            finally:
                otel_context.detach(token)
            if attempt.cancelled:
                self._waste(attempt)
            results.put((attempt, answer, error))

        threading.Thread(
            target=contextvars.copy_context().run, args=(work,), name="tailbudget-hedge", daemon=True
        ).start()
        return attempt

    def _begin(self, *, idempotent: bool) -> float | None:
        self.report()
        with self._lock:
            self._credit = min(MOST_CREDIT, self._credit + self._share)
        return self.delay_s() if idempotent else None

    def _spend(self) -> bool:
        with self._lock:
            if self._credit < 1:
                return False
            self._credit -= 1
            self.sent += 1
            return True

    def _took(self, began_s: float) -> None:
        with self._lock:
            self._durations_s.append(self._clock() - began_s)

    def _waste(self, attempt: Attempt) -> None:
        with Guard("hedge"):
            self.wasted_tokens += attempt.tokens()


def _task(call: Callable[[Attempt], Awaitable[T]], attempt: Attempt) -> "asyncio.Task[T]":
    async def run() -> T:
        token = otel_context.attach(otel_context.set_value(ATTEMPT_KEY, attempt))
        try:
            return await call(attempt)
        finally:
            otel_context.detach(token)

    return asyncio.ensure_future(run())


async def _first_success(tasks: "list[asyncio.Task[T]]") -> "asyncio.Task[T]":
    """Return the first task that ends without an error; the first task when none does."""
    running = set(tasks)
    while running:
        done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done and not task.cancelled() and task.exception() is None:
                return task
    return tasks[0]
