"""Requests that are still running: known without a lock, and told of every 5 s once they are older than they should be.

A hang is then visible while it hangs, and a worker that was killed leaves requests of which nothing more is heard.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.trace import Span, format_span_id, set_span_in_context

from . import collected, providers
from .gaps import STALL_MIN_NS
from .guard import Guard
from .vocabulary import (
    REQUEST,
    REQUEST_AGE,
    REQUEST_BEGAN,
    REQUEST_ID,
    RUNNING_EVENT,
    STAGE,
    STREAM_CHUNKS,
    STREAM_SILENCE,
    STREAM_STALL_TIME,
    STREAM_STALLS,
    STREAM_USUAL_GAP,
    TENANT,
    TIME_TO_FIRST_TOKEN,
    Stage,
    budget_attribute,
    convert,
)
from .work import Stream, Work

#: Requests watched at once; more are counted by `slo.requests.*` alone.
MAX_WATCHED = 2_000
BEAT_NS = 5_000_000_000
#: How often the watch looks: a request is told of so soon after it has become too old.
TICK_S = 1.0
#: Age from which a request without a `ttft` budget is told of.
DEFAULT_PATIENCE_MS = 5_000.0


class Watched(Protocol):
    """What the watch reads of a request; `started_ns` is of `perf_counter_ns`."""

    span: Span
    started_ns: int
    route: str
    tenant: str
    request_id: str
    budgets_ms: dict[str, float]
    first_token_ns: int | None
    last_beat_ns: int
    told_stalled: bool
    work: Work

    def stage_now(self) -> Stage:
        """Return what it is doing."""


class Registry:
    """The running requests. Entering and leaving are one dictionary operation each; nothing here keeps one alive."""

    def __init__(self) -> None:
        self._requests: dict[int, weakref.ref[Watched]] = {}
        #: Requests that found no place.
        self.unwatched = 0

    def enter(self, request: Watched) -> None:
        """Watch `request` from now on, if there is room."""
        if len(self._requests) >= MAX_WATCHED:
            self.unwatched += 1
            return
        self._requests[id(request)] = weakref.ref(request)

    def leave(self, request: Watched) -> None:
        """Watch it no longer."""
        self._requests.pop(id(request), None)

    def clear(self) -> None:
        """Watch none of them: in a forked child they are the parent's."""
        self._requests.clear()

    def running(self) -> list[Watched]:
        """Return the running requests; forgets those that nobody holds any more, since they can never end."""
        alive = []
        for key, reference in self._requests.copy().items():
            request = reference()
            if request is not None:
                alive.append(request)
            elif self._requests.get(key) is reference:
                self._requests.pop(key, None)
        return alive

    def oldest_s(self) -> dict[tuple[str, str], float]:
        """Return the age of the oldest running request of each route and tenant, in seconds."""
        now_ns = time.perf_counter_ns()
        ages: dict[tuple[str, str], float] = {}
        for request in self.running():
            key = (request.route, request.tenant)
            ages[key] = max(ages.get(key, 0.0), convert(now_ns - request.started_ns, "ns", "s"))
        return ages


registry = Registry()


def beat(now_ns: int) -> None:
    """Emit a record of each request that is too old, or whose stream stalls, and from then on one in 5 s.

    `now_ns` is of `perf_counter_ns`. A request whose trace is not sampled is left out: no span would ever close it.
    """
    for request in registry.running():
        if not request.span.get_span_context().trace_flags.sampled:
            continue
        stalled = _stalled(request.work.stream_now(), now_ns)
        patience_ns = convert(request.budgets_ms.get("ttft", DEFAULT_PATIENCE_MS), "ms", "ns")
        # Whoever was told of once must be heard of: silence means that it is lost.
        told = request.last_beat_ns > 0 or now_ns - request.started_ns >= patience_ns
        due = told and now_ns - request.last_beat_ns >= BEAT_NS
        if due or (stalled and not request.told_stalled):
            request.last_beat_ns = now_ns
            _emit(request, now_ns)
        request.told_stalled = stalled


def _stalled(stream: Stream | None, now_ns: int) -> bool:
    if stream is None or stream.silence_ns(now_ns) <= STALL_MIN_NS:
        return False
    flow = stream.flow(now_ns)
    return flow is not None and flow.stalled


def tell_all() -> None:
    """Emit a record of each request that still runs: the process ends, and its span will never come."""
    collected.end_rest()
    now_ns = time.perf_counter_ns()
    for request in registry.running():
        if request.span.get_span_context().trace_flags.sampled:
            _emit(request, now_ns)


def _emit(request: Watched, now_ns: int) -> None:
    wall_ns = time.time_ns()
    age_ns = now_ns - request.started_ns
    attributes: dict[str, str | float] = {
        REQUEST_ID: request.request_id or format_span_id(request.span.get_span_context().span_id),
        REQUEST: request.route,
        STAGE: request.stage_now(),
        REQUEST_AGE: convert(age_ns, "ns", "s"),
        REQUEST_BEGAN: convert(wall_ns - age_ns, "ns", "s"),
    }
    if request.tenant:
        attributes[TENANT] = request.tenant
    if "total" in request.budgets_ms:
        attributes[budget_attribute("total")] = convert(request.budgets_ms["total"], "ms", "s")
    attributes |= _streaming(request, now_ns)
    providers.logger().emit(
        LogRecord(
            timestamp=wall_ns,
            observed_timestamp=wall_ns,
            context=set_span_in_context(request.span),
            severity_number=SeverityNumber.INFO,
            event_name=RUNNING_EVENT,
            attributes=attributes,
        )
    )


def _streaming(request: Watched, now_ns: int) -> dict[str, str | float]:
    """Return how the stream goes that the request reads, and when its first token came; {} before any."""
    stream = request.work.stream_now()
    flow = stream.flow(now_ns) if stream else None
    first_ns = flow.first_token_ns if flow else request.first_token_ns
    said: dict[str, str | float] = {}
    if first_ns is not None:
        said[TIME_TO_FIRST_TOKEN] = convert(first_ns - request.started_ns, "ns", "s")
    if flow:
        said |= {
            STREAM_CHUNKS: flow.chunks,
            STREAM_SILENCE: convert(flow.silence_ns, "ns", "s"),
            STREAM_USUAL_GAP: convert(flow.usual_gap_ns, "ns", "s"),
            STREAM_STALLS: flow.stalls,
            STREAM_STALL_TIME: convert(flow.stall_ns, "ns", "s"),
        }
        if flow.model:
            said["gen_ai.request.model"] = flow.model
    return said


class Watch:
    """A daemon thread that calls `beat` every second; it goes on in the children that the process forks."""

    def __init__(self, tick: Callable[[int], None] = beat, *, tick_s: float = TICK_S) -> None:
        self._tick = Guard("running requests")(tick)
        self._tick_s = tick_s
        self._stopped = threading.Event()
        self._thread = self._start()
        this = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (again := this()) and again())

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, name="tailbudget-watch", daemon=True)
        thread.start()
        return thread

    def _forked(self) -> None:
        registry.clear()
        collected.forget()
        if not self._stopped.is_set():
            self._stopped = threading.Event()  # a lock inside may have been held by a thread that is not here
            self._thread = self._start()

    def _run(self) -> None:
        while not self._stopped.wait(self._tick_s):
            collected.end_rest()
            self._tick(time.perf_counter_ns())

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(2 * self._tick_s)
