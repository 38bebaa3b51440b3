"""What a request is doing now: its open stages and model calls, and how long each stage has been open so far."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from opentelemetry import context as otel_context
from opentelemetry.trace import Span

from .vocabulary import MODEL_STAGES, STAGES, Stage

#: Stages by which, as by a model call, the collector knows a request that nobody marked.
TELLING: Final = frozenset({"retrieval", "tools"})
#: In the context of an explicit stage, which owns all time below it: a model call there is no prefill or decode.
OWNED: Final = otel_context.create_key("tailbudget-stage")
#: What time is counted for: a stage, or the model's stages together.
Clock = Stage | Literal["model"]
CLOCKS: Final[tuple[Clock, ...]] = ("model", *STAGES)
#: stage -> what counts its time.
CLOCKS_OF: Final[dict[Stage, tuple[Clock, ...]]] = {
    stage: (stage, "model") if stage in MODEL_STAGES else (stage,) for stage in STAGES
}
NONE: Final[dict[Clock, int]] = dict.fromkeys(CLOCKS, 0)

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
    __slots__ = ("owned", "span", "stage", "stream")

    def __init__(self, span: Span, stage: Stage, *, owned: bool) -> None:
        self.span = span
        self.stage = stage
        self.owned = owned
        self.stream: Stream | None = None


class Work:
    """The stages and calls of one request, from any thread; the request around it, `outer`, does the same work.

    All clocks are `perf_counter_ns`.
    """

    def __init__(self, outer: "Work | None" = None) -> None:
        # Reentrant: a garbage collection inside the lock may close a generator and with it end a stage.
        self._lock = threading.RLock()
        self._outer = outer
        #: Called once, before the first model call, retrieval or tool.
        self.on_first: Callable[[], object] | None = None
        self._stages: list[Stage] = []
        self._open: dict[Clock, int] = NONE.copy()
        self._since_ns: dict[Clock, int] = {}
        self._spent_ns: dict[Clock, int] = NONE.copy()
        self._rounds = 0
        self._calls: list[_Call] = []

    def notice(self) -> None:
        """Take note that there is something to see here: a model call, a retrieval or a tool, ours or not."""
        first, self.on_first = self.on_first, None
        if first:
            first()

    def _start(self, stage: Stage, now_ns: int) -> None:
        opened = self._open
        for clock in CLOCKS_OF[stage]:
            if not opened[clock]:
                self._since_ns[clock] = now_ns
            opened[clock] += 1

    def _stop(self, stage: Stage, now_ns: int) -> None:
        opened = self._open
        for clock in CLOCKS_OF[stage]:
            opened[clock] -= 1
            if not opened[clock]:
                self._spent_ns[clock] += now_ns - self._since_ns.pop(clock)

    def _call(self, span: Span) -> _Call | None:
        for known in self._calls:
            if known.span is span:
                return known
        return None

    def stage_began(self, stage: Stage) -> None:
        """Count a run of `stage` in."""
        if stage in TELLING:
            self.notice()
        now_ns = time.perf_counter_ns()
        with self._lock:
            self._rounds += stage == "tools" and stage not in self._stages
            self._stages.append(stage)
            self._start(stage, now_ns)
        if self._outer:
            self._outer.stage_began(stage)

    def stage_ended(self, stage: Stage) -> None:
        """Count a run of `stage` out."""
        now_ns = time.perf_counter_ns()
        with self._lock:
            self._stages.reverse()  # the latest of its name
            self._stages.remove(stage)
            self._stages.reverse()
            self._stop(stage, now_ns)
        if self._outer:
            self._outer.stage_ended(stage)

    def call_began(self, span: Span, *, stage: Stage, owned: bool) -> None:
        """Count a model call in, which begins in `stage`; an explicit stage that owns it has its time."""
        self.notice()
        call = _Call(span, stage, owned=owned)
        now_ns = time.perf_counter_ns()
        with self._lock:
            if len(self._calls) >= KEPT_CALLS:
                for known in [known for known in self._calls if not known.span.is_recording()]:
                    self._forget(known, now_ns)
            self._calls.append(call)
            if not owned:
                self._start(stage, now_ns)
        if self._outer:
            self._outer.call_began(span, stage=stage, owned=owned)

    def call_decodes(self, span: Span, stream: Stream) -> None:
        """Take note of the first token of the call that `span` stands for, and of the stream in which it came."""
        now_ns = time.perf_counter_ns()
        with self._lock:
            call = self._call(span)
            if call is None:  # the span is its caller's own
                call = _Call(span, "decode", owned=True)
                self._calls.append(call)
            elif not call.owned:
                self._start("decode", now_ns)  # first, so that the clock of both goes on
                self._stop(call.stage, now_ns)
            call.stage, call.stream = "decode", stream
        if self._outer:
            self._outer.call_decodes(span, stream)

    def call_ended(self, span: Span) -> None:
        """Count a call out; one that is out already changes nothing."""
        if self._calls:
            now_ns = time.perf_counter_ns()
            with self._lock:
                if call := self._call(span):
                    self._forget(call, now_ns)
        if self._outer:
            self._outer.call_ended(span)

    def _forget(self, call: _Call, now_ns: int) -> None:
        if call not in self._calls:  # a garbage collection was here meanwhile
            return
        self._calls.remove(call)
        if not call.owned:
            self._stop(call.stage, now_ns)

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

    def spent_ns(self, clock: Clock) -> int:
        """Return for how long at least one run of a stage was open, until now; never less than its critical time.

        A streamed call is prefill until its first token and decode from then on, any other call decode: what of it was
        queue or network only its server knows. `model` is these together, side by side once.
        """
        now_ns = time.perf_counter_ns()
        with self._lock:
            return self._spent_ns[clock] + (now_ns - self._since_ns[clock] if clock in self._since_ns else 0)

    @property
    def tool_rounds(self) -> int:
        """Times that tools began while none ran: tools side by side are one round."""
        return self._rounds
