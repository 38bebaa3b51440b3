"""Spans that never reached a collector, counted with the reason: the batch processor drops them without a word."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import TraceFlags

#: OpenTelemetry's default of OTEL_BSP_MAX_QUEUE_SIZE; about 3 MB of spans.
QUEUE_SIZE: Final = 2048
#: reason -> spans lost in this process.
dropped: Counter[str] = Counter()


class CountedExporter(SpanExporter):
    """An exporter whose refused batches are counted."""

    def __init__(self, exporter: SpanExporter, queue: "CountedQueue") -> None:
        self._exporter = exporter
        self._queue = queue

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export as the exporter inside does."""
        self._queue.taken(len(spans))
        try:
            result = self._exporter.export(spans)
        except BaseException:
            dropped["not_accepted"] += len(spans)
            raise
        if result is not SpanExportResult.SUCCESS:
            dropped["not_accepted"] += len(spans)
        return result

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the exporter."""
        return self._exporter.force_flush(timeout_millis)


class CountedQueue(SpanProcessor):
    """A batch processor that counts what its full queue pushes out."""

    def __init__(self, exporter: SpanExporter, *, delay_ms: float | None) -> None:
        said = os.environ.get("OTEL_BSP_MAX_QUEUE_SIZE", "")
        self._size = int(said) if said.isdigit() and int(said) else QUEUE_SIZE
        self._held = 0
        self._lock = threading.Lock()
        self._batches = BatchSpanProcessor(CountedExporter(exporter, self), schedule_delay_millis=delay_ms)
        # Its `on_end` looks once more whether the span is sampled, by five functions.
        inside = getattr(self._batches, "_batch_processor", None)
        self._take: Callable[[ReadableSpan], object] = getattr(inside, "emit", self._batches.on_end)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Do nothing: a span is of interest once it has ended."""

    def on_end(self, span: ReadableSpan) -> None:
        """Put a span into the queue."""
        context = span.get_span_context()
        if context is None or not context.trace_flags & TraceFlags.SAMPLED:
            return
        with self._lock:
            if self._held < self._size:
                self._held += 1
            else:
                dropped["queue_full"] += 1
        self._take(span)

    def taken(self, count: int) -> None:
        """Take note that so many spans left the queue."""
        with self._lock:
            self._held -= count

    def after_fork(self) -> None:
        """Begin with an empty queue, as the batch processor does."""
        self._lock = threading.Lock()
        self._held = 0

    def shutdown(self) -> None:
        """Deliver what is held and stop."""
        stop: Callable[[], object] = self._batches.shutdown
        stop()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Deliver what is held."""
        return self._batches.force_flush(timeout_millis)
