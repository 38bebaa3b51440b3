"""What a request is doing now: its open stages and model calls, and how long each stage has been open so far."""

import threading
import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.trace import Span

from .vocabulary import Stage

#: Calls that ended are forgotten when the next one begins and this many are known.
KEPT_CALLS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """How a stream goes that still runs; `first_token_ns` is of `perf_counter_ns`."""

    model: str
    chunks: int  # with a token
    first_token_ns: int
    silence_ns: int  # since the last chunk while the caller waits, else 0
    usual_gap_ns: int
    stalls: int  # the one that goes on included
    stall_ns: int
    stalled: bool


class Stream(Protocol):
    """What is asked of a stream that runs; both at an instant of `perf_counter_ns`."""

    def silence_ns(self, now_ns: int) -> int:
        """Return how long the caller has waited for the next chunk."""

    def flow(self, now_ns: int) -> Flow | None:
        """Return how it goes, None when it does not flow."""


class _Call:
    __slots__ = ("span", "stage", "stream")

    def __init__(self, span: Span, stage: Stage) -> None:
        self.span = span
        self.stage = stage
        self.stream: Stream | None = None


class Work:
    """The stages and calls of one request, from any thread; the request around it, `outer`, does the same work.

    All clocks are `perf_counter_ns`.
    """

    def __init__(self, outer: "Work | None" = None) -> None:
        # Reentrant: a garbage collection inside the lock may close a generator and with it end a stage.
        self._lock = threading.RLock()
        self._outer = outer
        self._stages: list[Stage] = []
        self._since_ns: dict[Stage, int] = {}
        self._spent_ns: Counter[Stage] = Counter()
        self._rounds = 0
        self._calls: list[_Call] = []

    def stage_began(self, stage: Stage) -> None:
        """Count a run of `stage` in."""
        now_ns = time.perf_counter_ns()
        with self._lock:
            if stage not in self._stages:
                self._since_ns[stage] = now_ns
                self._rounds += stage == "tools"
            self._stages.append(stage)
        if self._outer:
            self._outer.stage_began(stage)

    def stage_ended(self, stage: Stage) -> None:
        """Count a run of `stage` out."""
        now_ns = time.perf_counter_ns()
        with self._lock:
            self._stages.reverse()  # the latest of its name
            self._stages.remove(stage)
            self._stages.reverse()
            if stage not in self._stages:
                self._spent_ns[stage] += now_ns - self._since_ns.pop(stage)
        if self._outer:
            self._outer.stage_ended(stage)

    def call_began(self, span: Span, *, streamed: bool) -> None:
        """Take note of a model call; it is over when its span is. Calls that are not sampled are not seen."""
        call = _Call(span, "prefill" if streamed else "decode")
        with self._lock:
            if len(self._calls) >= KEPT_CALLS:
                self._calls = [known for known in self._calls if known.span.is_recording()]
            self._calls.append(call)
        if self._outer:
            self._outer.call_began(span, streamed=streamed)

    def call_decodes(self, span: Span, stream: Stream) -> None:
        """Take note of the first token of the call that `span` stands for, and of the stream in which it came."""
        with self._lock:
            call = next((known for known in self._calls if known.span is span), None)
            if call is None:  # the span is its caller's own
                call = _Call(span, "decode")
                self._calls.append(call)
            call.stage, call.stream = "decode", stream
        if self._outer:
            self._outer.call_decodes(span, stream)

    def call_ended(self, span: Span) -> None:
        """Forget a streamed call that is over."""
        with self._lock:
            self._calls = [known for known in self._calls if known.span is not span]
        if self._outer:
            self._outer.call_ended(span)

    def stream_now(self) -> Stream | None:
        """Return the stream of the latest call that flows, None when none does."""
        with self._lock:
            return next((call.stream for call in reversed(self._calls) if call.stream), None)

    def stage_now(self) -> Stage:
        """Return the stage opened last that is still open, else where the latest open model call is, else `other`.

        A streamed call is in prefill until its first token and in decode from then on; one that is not, in decode.
        """
        with self._lock:
            if self._stages:
                return self._stages[-1]
            return next((call.stage for call in reversed(self._calls) if call.span.is_recording()), "other")

    def spent_ns(self, stage: Stage) -> int:
        """Return for how long at least one run of `stage` was open, until now; never less than its critical time."""
        now_ns = time.perf_counter_ns()
        with self._lock:
            return self._spent_ns[stage] + (now_ns - self._since_ns[stage] if stage in self._since_ns else 0)

    @property
    def tool_rounds(self) -> int:
        """Times that tools began while none ran: tools side by side are one round."""
        return self._rounds
