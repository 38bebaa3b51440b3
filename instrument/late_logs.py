"""A batch processor of log records that is made, with its thread, when the first record comes.

The thread wakes up each second and finds nothing, which was a seventh of what telemetry costs a service that idles: our
records tell of requests that run too long, and most services have none for hours.
"""

import threading
from collections.abc import Callable
from typing import Any, Final

from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, SimpleLogRecordProcessor

Exporter = Any  # its name differs between versions of OpenTelemetry


class LateLogs(LogRecordProcessor):
    """OpenTelemetry's batch processor from the first record on."""

    def __init__(self, exporter: Exporter, *, delay_ms: float | None) -> None:
        self._exporter: Final = exporter
        self._delay_ms = delay_ms
        self._lock = threading.RLock()  # a collection of garbage inside the lock may end something that is logged
        self._made: LogRecordProcessor | None = None
        self._ended = False

    def on_emit(self, log_record: Any) -> None:
        """Put a record into the queue."""
        made = self._made or self._make()
        if made:
            made.on_emit(log_record)

    def _make(self) -> LogRecordProcessor | None:
        with self._lock:
            if self._made is None and not self._ended:
                try:
                    self._made = BatchLogRecordProcessor(self._exporter, schedule_delay_millis=self._delay_ms)
                except RuntimeError:  # the interpreter ends and starts no thread any more
                    self._made = SimpleLogRecordProcessor(self._exporter)
            return self._made

    def after_fork(self) -> None:
        """Go on in a forked child, where a thread that is not there may have held the lock."""
        self._lock = threading.RLock()

    def shutdown(self) -> None:
        """Deliver what is held and stop."""
        with self._lock:
            self._ended = True
            made = self._made
        stop: Callable[[], object] = made.shutdown if made else self._exporter.shutdown
        stop()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Deliver what is held."""
        return self._made is None or self._made.force_flush(timeout_millis)
