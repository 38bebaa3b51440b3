"""Sends the requests of a step: at instants fixed before (open loop), or from clients that wait (closed loop)."""

import asyncio
import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from .client import Client, Clock, Order
from .plan import Planned, Traffic
from .results import Result
from .target import Target
from .telemetry import Sender

Unit = Literal["requests/s", "clients"]
#: Measured at 200 requests a second: a thread that packs spans holds the interpreter for 5 ms by default.
SWITCH_S: Final = 0.0005
#: A run that is told to stop notices within this; a plain sleep wakes sooner than waiting for an event with a limit.
LONGEST_SLEEP_S: Final = 0.5
#: A client of a closed loop whose request failed at once does not spin.
AFTER_FAULT_S: Final = 0.1
#: More requests than this at once are not sent, and count as bad: the load stays bounded whatever the server does.
MOST_AT_ONCE: Final = 10_000


@dataclass(frozen=True)
class Step:
    """One level of load: `offered` requests a second or clients (None: the trace's own times), until `lasts_s` are over
    or `requests` are sent."""

    number: int
    unit: Unit
    offered: float | None
    lasts_s: float
    requests: int | None = None


class Runner:
    """Sends steps to one target and hands each result to `keep`, in the order in which they end."""

    def __init__(
        self,
        target: Target,
        traffic: Traffic,
        *,
        client: Client,
        sender: Sender,
        clock: Clock,
        numbers: Iterator[int],
        keep: Callable[[Result], None],
    ) -> None:
        self._target = target
        self._traffic = traffic
        self._client = client
        self._sender = sender
        self._clock = clock
        self._keep = keep
        self._numbers = numbers
        self.running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._fault: BaseException | None = None
        self._stop = False

    async def run(self, step: Step) -> float:
        """Send a step and wait until all of it has ended; return how many seconds it was sent for."""
        with _undisturbed():
            began_ns = self._clock.now_ns()
            if step.unit == "clients":
                await self._closed(step, began_ns)
            else:
                await self._open(step, began_ns)
            sent_ns = self._clock.now_ns()
            if self._tasks:
                await asyncio.wait(self._tasks)
        if self._fault:
            raise self._fault
        return max((sent_ns - began_ns) / 1e9, 1e-9)

    async def _open(self, step: Step, began_ns: int) -> None:
        plan = itertools.islice(self._traffic.at_rate(step.offered), step.requests)
        for planned in itertools.takewhile(lambda one: one.at_s < step.lasts_s, plan):
            planned_ns = began_ns + int(planned.at_s * 1e9)
            result, body = self._prepared(planned, step, planned_ns)
            if await self._stopped((planned_ns - self._clock.now_ns()) / 1e9):
                return
            if self.running >= MOST_AT_ONCE:
                result.outcome, result.error = "unsent", "too many at once"
                self._keep(result)
                continue
            task = asyncio.create_task(self._send(planned, result, body, step))
            self._tasks.add(task)
            task.add_done_callback(self._ended)
        if step.requests is None:
            await self._stopped(step.lasts_s - (self._clock.now_ns() - began_ns) / 1e9)

    def stop(self) -> None:
        """Send nothing more; what runs is waited for."""
        self._stop = True

    async def _stopped(self, wait_s: float) -> bool:
        """Wait so long, at least until others had their turn, or until the run is stopped; return whether it is."""
        until_s = time.perf_counter() + wait_s
        await asyncio.sleep(min(max(wait_s, 0.0), LONGEST_SLEEP_S))
        while not self._stop and (left_s := until_s - time.perf_counter()) > 0:  # noqa: ASYNC110 - see LONGEST_SLEEP_S
            await asyncio.sleep(min(left_s, LONGEST_SLEEP_S))
        return self._stop

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            self._fault = self._fault or task.exception()

    async def _closed(self, step: Step, began_ns: int) -> None:
        plan = itertools.islice(self._traffic.requests(), step.requests)
        clients = (self._client_of(plan, step, began_ns) for _ in range(round(step.offered or 1)))
        await asyncio.gather(*clients)

    async def _client_of(self, plan: Iterator[Planned], step: Step, began_ns: int) -> None:
        for planned in plan:
            now_ns = self._clock.now_ns()
            if now_ns - began_ns >= step.lasts_s * 1e9 or self._stop:
                return
            result, body = self._prepared(planned, step, now_ns)
            result.planned_ns = self._clock.now_ns()
            await self._send(planned, result, body, step)
            await self._stopped(max(self._traffic.think_s, AFTER_FAULT_S if result.outcome == "error" else 0.0))

    def _prepared(self, planned: Planned, step: Step, planned_ns: int) -> tuple[Result, bytes]:
        """Make a request before its time, since its prompt takes a while."""
        number = next(self._numbers)
        result = Result(number, step.number, planned_ns, tenant=planned.tenant)
        result.planned_to_leave = planned.behaviour.leaves
        return result, self._target.body(planned.shape, number)

    async def _send(self, planned: Planned, result: Result, body: bytes, step: Step) -> None:
        span, headers = self._sender.begin(result, planned.behaviour, offered=step.offered or 0.0)
        order = Order(body, {**self._target.headers, **headers}, planned.behaviour)
        self.running += 1
        try:
            await self._client.send(order, result)
        finally:
            self.running -= 1
            self._sender.end(span, result)
            self._keep(result)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let threads share the interpreter in short turns, and the collector of garbage pass what was there before."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        sys.setswitchinterval(interval_s)
