"""Budgets that bite: what is left of them, and the cap under which a stage runs."""

import asyncio
import contextvars
import inspect
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from opentelemetry.trace import Span

from .budget import OnOver, OverBudgetError, policy_for
from .guard import Guard
from .request import RequestState, current_request
from .vocabulary import OVER_ACTION, REMAINING_HEADER, TOOL_ROUNDS, Stage, convert
from .work import CLOCKS

P = ParamSpec("P")
R = TypeVar("R")

#: Says of a cap whether it has run out.
RanOut = Callable[[], bool]
#: The caps around this task or thread.
_around: contextvars.ContextVar[tuple[RanOut, ...]] = contextvars.ContextVar("tailbudget-caps", default=())


@dataclass(frozen=True)
class Cap:
    """The budget that ends first of those that bite here; `left_s` may be negative."""

    name: str
    left_s: float
    policy: OnOver
    request: RequestState
    span: Span

    def over(self) -> OverBudgetError:
        """Return the error, with what was spent until now, and note on the span what is done about it."""
        action = "fallback" if callable(self.policy) else "raise"
        self.span.set_attribute(OVER_ACTION, action)
        if self.name == TOOL_ROUNDS:
            return OverBudgetError(
                self.name, spent=self.request.work.tool_rounds, budget=float(self.request.tool_rounds or 0)
            )
        limit_ms = limit_of(self.request, self.name)
        return OverBudgetError(self.name, spent=limit_ms - left_ms(self.request, self.name), budget=limit_ms)

    def answer(self) -> Any:
        """Return the fallback's answer; raises OverBudgetError where there is none."""
        error = self.over()
        if callable(self.policy):
            return self.policy(error)
        raise error

    async def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Await `work` at most as long as is left; then the fallback's answer, awaited if it can be, or the error."""
        if self.left_s <= 0:
            work.close()
        else:
            try:
                async with asyncio.timeout(self.left_s) as timeout:
                    with _inside(timeout.expired):
                        return await work
            except TimeoutError:
                if not timeout.expired():
                    raise
        answer = self.answer()
        return await answer if inspect.isawaitable(answer) else answer

    @asynccontextmanager
    async def around(self) -> AsyncIterator[None]:
        """Cancel the body when the time is over and raise OverBudgetError: a block has no value to replace."""
        if self.left_s <= 0:
            raise self.over()
        try:
            async with asyncio.timeout(self.left_s) as timeout:
                with _inside(timeout.expired):
                    yield
        except TimeoutError:
            if timeout.expired():
                raise self.over() from None
            raise


@contextmanager
def _inside(ran_out: RanOut) -> Iterator[None]:
    before = _around.get()
    _around.set((*before, ran_out))
    try:
        yield
    finally:
        _around.set(before)


def caps_around() -> tuple[RanOut, ...]:
    """Return the caps under which this runs."""
    return _around.get()


def cut_short(request: RequestState | None, caps: tuple[RanOut, ...]) -> bool:
    """Say whether what ends now, having begun under these caps, was ended by a budget that bites."""
    if any(ran_out() for ran_out in (*caps, *_around.get())):
        return True
    return request is not None and total_bites(request) and left_ms(request, "total") <= 0


def limit_of(request: RequestState, name: str) -> float:
    """Return the budget of `name` in milliseconds; infinite where there is none."""
    if name == "total":
        if request.deadline_ns is None:
            return math.inf
        return convert(request.deadline_ns - request.started_ns, "ns", "ms")
    return request.budgets_ms.get(name, math.inf)


def total_bites(request: RequestState) -> bool:
    """Say whether somebody stops waiting when the total is spent: this service, or its caller."""
    return request.hurried or policy_for(request.on_over, "total") != "record"


def left_ms(request: RequestState, name: str) -> float:
    """Return what is left of the budget of `name` in milliseconds: negative when it is over, infinite without one.

    A stage has spent the time in which it was open at least once, which is never less than its critical time.
    """
    clock = next((clock for clock in CLOCKS if clock == name), None)
    spent_ns = request.work.spent_ns(clock) if clock else time.perf_counter_ns() - request.started_ns
    return limit_of(request, name) - convert(spent_ns, "ns", "ms")


@Guard("budget")
def cap_of(stage: Stage | None, span: Span) -> Cap | None:
    """Return the cap under which `stage`, just begun, or the whole request runs; None where no budget bites."""
    request = current_request()
    if request is None:
        return None
    caps = [
        Cap(name, convert(left_ms(request, name), "ms", "s"), policy, request, span)
        for name in ("total", stage)
        if name and (policy := policy_for(request.on_over, name)) != "record"
    ]
    rounds = policy_for(request.on_over, TOOL_ROUNDS)
    if stage == "tools" and rounds != "record" and request.too_many_rounds:
        caps.append(Cap(TOOL_ROUNDS, -math.inf, rounds, request, span))
    nearest = min(caps, key=lambda cap: cap.left_s, default=None)
    return nearest if nearest and nearest.left_s < math.inf else None


def async_cap_of(stage: Stage | None, span: Span) -> Cap | None:
    """Return `cap_of` where asyncio runs this; None under any other loop, which has no `asyncio.timeout`."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    return cap_of(stage, span)


def call_in_worker(cap: Cap, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a blocking function in a thread and wait at most as long as is left; then the fallback's answer or the error.

    Nothing can stop the thread: the function goes on and its result is thrown away.
    """
    if cap.left_s <= 0:
        return cap.answer()
    done: Future[Any] = Future()
    given_up = threading.Event()

    def work() -> None:
        try:
            done.set_result(function(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            done.set_exception(error)

    # A daemon, so that a function that never returns does not hold the process at its end.
    with _inside(given_up.is_set):
        context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), name="tailbudget-cap", daemon=True).start()
    try:
        return done.result(cap.left_s)
    except TimeoutError:
        if done.done():
            raise
    given_up.set()
    return cap.answer()


def remaining_ms(name: str = "total") -> float:
    """Return how many milliseconds are left of the request's budget of `name` and of its total, whichever ends first.

    Infinite without a budget and outside of a request, never negative. Names are those of `Budget`, without `_ms`.
    """
    request = current_request()
    return max(0.0, min(left_ms(request, name), left_ms(request, "total"))) if request else math.inf


def deadline_s() -> float | None:
    """Return when the request's total budget ends, in unix seconds; None where nothing limits it."""
    left = remaining_ms()
    return None if left == math.inf else time.time() + convert(left, "ms", "s")


def check() -> None:
    """Raise OverBudgetError when the request has spent its total, a stage's budget, or its rounds of tools.

    For loops that have no stage to interrupt. It raises whatever `on_over` says; outside of a request it does nothing.
    """
    request = current_request()
    if request is None:
        return
    for name in ("total", *(name for name in request.budgets_ms if name in CLOCKS)):
        if (left := left_ms(request, name)) < 0:
            limit_ms = limit_of(request, name)
            raise OverBudgetError(name, spent=limit_ms - left, budget=limit_ms)
    if request.too_many_rounds:
        raise OverBudgetError(TOOL_ROUNDS, spent=request.work.tool_rounds, budget=float(request.tool_rounds or 0))


def outgoing() -> Mapping[str, str]:
    """Return the header that tells the next service how many milliseconds are left, where the total budget bites.

    It is relative, so that clocks need not agree. Empty where going over is only recorded.
    """
    request = current_request()
    if request is None or request.deadline_ns is None or not total_bites(request):
        return {}
    return {REMAINING_HEADER: str(int(remaining_ms()))}
