"""For the tests of services: record what they emit in memory, with fixed ids and a clock that stands until it is told.

Import it as `tailbudget.testing`. Needs nothing that the base install lacks.
"""

import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

from opentelemetry.context import Context
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator

from . import overruns, providers, streams
from .vocabulary import BUDGET_PREFIX, MODEL_STAGES, REQUEST, STAGE, STAGES, TIME_TO_FIRST_TOKEN, TOOL_ROUNDS, convert

#: Modules that keep their own time: how often something is logged or sent is not what a test is about.
UNCLOCKED = frozenset({"tailbudget.instrument.exporters", "tailbudget.instrument.guard", __name__})
EPOCH_NS = 1_750_000_000_000_000_000


class Clock:
    """Stands in for the module `time`: it starts at 2025-06-15 15:06:40 UTC and moves only with `advance_ms`."""

    def __init__(self) -> None:
        self._passed_ns = 0

    def advance_ms(self, duration_ms: float) -> None:
        """Let so much time pass. ValueError for a negative duration."""
        if duration_ms < 0:
            raise ValueError(f"advance_ms got {duration_ms!r}: expected milliseconds, 0 or more")
        self._passed_ns += int(convert(duration_ms, "ms", "ns"))

    def perf_counter_ns(self) -> int:
        """Return nanoseconds since the clock was made, and a second, so that no instant is 0."""
        return self._passed_ns + 1_000_000_000

    def time_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return EPOCH_NS + self._passed_ns

    def time(self) -> float:
        """Return seconds since the epoch."""
        return convert(self.time_ns(), "ns", "s")

    def monotonic(self) -> float:
        """Return seconds since the clock was made."""
        return convert(self._passed_ns, "ns", "s")


class FixedIds(IdGenerator):
    """Span ids 1, 2, 3, trace ids 1, 2, 3, in the order in which they are asked for."""

    def __init__(self) -> None:
        self._spans = itertools.count(1)
        self._traces = itertools.count(1)

    def generate_span_id(self) -> int:
        """Return the next span id."""
        return next(self._spans)

    def generate_trace_id(self) -> int:
        """Return the next trace id."""
        return next(self._traces)


@dataclass(frozen=True)
class RecordedSpan:
    """A span that ended; milliseconds since the recording began."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int | None
    start_ms: float
    end_ms: float
    attributes: Mapping[str, Any]

    @property
    def duration_ms(self) -> float:
        """From its start to its end."""
        return self.end_ms - self.start_ms


@dataclass(frozen=True)
class RecordedEvent:
    """A log record, such as `slo.request.running` or `slo.feedback`."""

    name: str
    attributes: Mapping[str, Any]


class Over(NamedTuple):
    """A budget that a request exceeded: milliseconds, or rounds for `tool_rounds`."""

    route: str
    name: str
    spent: float
    budget: float


class Recording(SpanProcessor):
    """What was emitted so far."""

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._began_ns = clock.perf_counter_ns()
        self._starts_ms: dict[int, float] = {}
        self._logs = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self._reader = InMemoryMetricReader()
        #: Ended spans, in the order in which they ended.
        self.spans: list[RecordedSpan] = []
        self.tracer_provider = TracerProvider(shutdown_on_exit=False, id_generator=FixedIds())
        self.tracer_provider.add_span_processor(self)
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._logs))

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Take the time from our clock: OpenTelemetry reads its own."""
        self._starts_ms[span.get_span_context().span_id] = self._now_ms()

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span."""
        context = span.get_span_context()
        if context is None:
            return
        start_ms = self._starts_ms.pop(context.span_id)
        parent_id = span.parent.span_id if span.parent else None
        self.spans.append(
            RecordedSpan(
                span.name, context.trace_id, context.span_id, parent_id, start_ms, self._now_ms(), span.attributes or {}
            )
        )

    def _now_ms(self) -> float:
        return convert(self._clock.perf_counter_ns() - self._began_ns, "ns", "ms")

    def named(self, name: str) -> RecordedSpan:
        """Return the one span of this name; LookupError names those that there are."""
        found = [span for span in self.spans if span.name == name]
        if len(found) != 1:
            raise LookupError(f"{len(found)} spans named {name!r} among {[span.name for span in self.spans]}")
        return found[0]

    @property
    def events(self) -> list[RecordedEvent]:
        """Log records, in the order in which they were emitted."""
        logs = (each.log_record for each in self._logs.get_finished_logs())
        return [RecordedEvent(log.event_name or "", dict(log.attributes or {})) for log in logs]

    def points(self, metric: str) -> list[tuple[dict[str, Any], float]]:
        """Collect now and return attributes and value of each point of a counter or gauge."""
        data = self._reader.get_metrics_data()
        metrics = (m for r in (data.resource_metrics if data else ()) for s in r.scope_metrics for m in s.metrics)
        return [
            (dict(point.attributes or {}), point.value)
            for found in metrics
            if found.name == metric
            for point in found.data.data_points
            if isinstance(point, NumberDataPoint)
        ]

    def spent_ms(self, name: str, *, trace_id: int | None = None) -> float:
        """Return for how long at least one span of a stage was open; of all traces, or of one.

        A streamed model call is prefill until its first token and decode from then on; `model` is both.
        """
        stages = MODEL_STAGES if name == "model" else (name,)
        spans = [span for span in self.spans if trace_id in (None, span.trace_id)]
        open_ms = ((start, end) for span in spans for stage, start, end in _intervals(span) if stage in stages)
        return sum(end - start for start, end in _merged(open_ms))

    def over_budget(self) -> list[Over]:
        """Return the budgets that requests exceeded, as the collector will count them from these spans.

        Except that the collector counts a stage where it lies on the critical path, which is never more.
        """
        return [over for span in self.spans if REQUEST in span.attributes for over in self._over(span)]

    def _over(self, span: RecordedSpan) -> Iterator[Over]:
        clocks = {name: span.attributes.get(f"slo.time_to_{word}") for name, word in CLOCKS.items()}
        for key, budget in span.attributes.items():
            name = key.removeprefix(BUDGET_PREFIX)
            if name == key:
                continue
            spent, limit = 0.0, _whole_ns(convert(budget, "s", "ms"))
            if name == "total":
                spent = span.duration_ms
            elif name == TOOL_ROUNDS:
                spent, limit = self._rounds(span.trace_id), budget
            elif name in (*STAGES, "model"):
                spent = self.spent_ms(name, trace_id=span.trace_id)
            elif (clock_s := clocks.get(name)) is not None:
                spent = _whole_ns(convert(clock_s, "s", "ms"))
            if spent > limit:
                yield Over(str(span.attributes[REQUEST]), name, spent, limit)

    def _rounds(self, trace_id: int) -> int:
        spans = [span for span in self.spans if span.trace_id == trace_id]
        return len(_merged((span.start_ms, span.end_ms) for span in spans if span.attributes.get(STAGE) == "tools"))


#: Budget -> the clock of the request's span that it is held against.
CLOCKS = {"ttft": "first_token", "usable": "usable"}


def _whole_ns(duration_ms: float) -> float:
    """Undo what seconds as a float did to whole nanoseconds."""
    return round(duration_ms, 6)


def _intervals(span: RecordedSpan) -> Iterator[tuple[str, float, float]]:
    if stage := span.attributes.get(STAGE):
        yield str(stage), span.start_ms, span.end_ms
    elif "gen_ai.request.stream" in span.attributes:
        first_s = span.attributes.get(TIME_TO_FIRST_TOKEN)
        first_ms = span.start_ms + convert(first_s, "s", "ms") if first_s is not None else span.start_ms
        yield "prefill", span.start_ms, first_ms
        yield "decode", first_ms, span.end_ms


def _merged(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the union of the intervals as intervals of which none overlaps another."""
    merged: list[tuple[float, float]] = []
    for start_ms, end_ms in sorted(intervals):
        if merged and start_ms < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_ms))
        else:
            merged.append((start_ms, end_ms))
    return merged


def _clocked() -> list[ModuleType]:
    """Return the modules of ours that read the time from a name `time`."""
    ours = {name: module for name, module in sys.modules.items() if name.startswith("tailbudget.instrument.")}
    return [module for name, module in ours.items() if vars(module).get("time") is time and name not in UNCLOCKED]


@contextmanager
def recording(*, clock: Clock | None = None) -> Iterator[Recording]:
    """Record what the body emits, in memory only, with ids 1, 2, 3.

    With a `Clock` no time passes but by its `advance_ms`; without one the clock is real. `asyncio` keeps its own time:
    a stage that is over by the clock is cut before it begins, not while it waits.
    """
    recorded = Recording(clock or time)
    with ExitStack() as stack:
        if clock:
            for module in _clocked():
                stack.enter_context(mock.patch.object(module, "time", clock))
            stack.enter_context(mock.patch.object(streams, "_now_ns", clock.perf_counter_ns))
            stack.enter_context(mock.patch.object(overruns, "_once", overruns.OnceAWindow()))
        providers.use(recorded.tracer_provider, recorded.meter_provider, recorded.logger_provider)
        try:
            yield recorded
        finally:
            providers.use(None)
            for provider in (recorded.tracer_provider, recorded.meter_provider, recorded.logger_provider):
                provider.shutdown()
