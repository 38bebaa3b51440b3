"""Metric points that carry their own time, past the SDK's aggregation, to the OTLP endpoint once a second."""

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Metric,
    MetricExporter,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

logger = logging.getLogger(__name__)
#: A minute of eight GPUs' samples, 70 a second each; beyond it the oldest go, and are counted.
KEPT_POINTS = 34_000
EVERY_S = 1.0
EXPORT_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Point:
    """One measured value at one instant.

    `counter`: it only grows, since the process or device started. `since_ns`: it is what came since that instant.
    """

    name: str
    unit: str
    value: float
    time_ns: int
    attributes: tuple[tuple[str, str], ...]
    counter: bool = False
    since_ns: int | None = None

    @property
    def temporality(self) -> AggregationTemporality | None:
        """How OTLP calls its kind of sum, None for a gauge."""
        if self.since_ns is not None:
            return AggregationTemporality.DELTA
        return AggregationTemporality.CUMULATIVE if self.counter else None


def otlp_exporter(endpoint: str | None = None) -> MetricExporter | None:
    """Return the exporter that the OTEL_* variables describe, None when they switch metrics off.

    `endpoint` is the collector's base URL, before what the variables say.
    """
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if disabled or os.environ.get("OTEL_METRICS_EXPORTER") == "none":
        return None
    named = any(os.environ.get(f"OTEL_EXPORTER_OTLP_{name}COMPRESSION") for name in ("", "METRICS_"))
    url = f"{endpoint.rstrip('/')}/v1/metrics" if endpoint else None
    return OTLPMetricExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S, compression=None if named else Compression.Gzip)


class PointSender:
    """Sends what `add` was given, and what `sources` return at that moment, once a second from a thread of its own.

    Sampling never waits for the network: when the endpoint is away the oldest points are dropped, counted in `dropped`.
    """

    def __init__(self, exporter: MetricExporter | None, *, resource: Resource, every_s: float = EVERY_S) -> None:
        self.sources: list[Callable[[], Iterable[Point]]] = []
        self.dropped = 0
        self._exporter = exporter
        self._resource = resource
        self._every_s = every_s
        self._points: deque[Point] = deque(maxlen=KEPT_POINTS)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tailbudget-points", daemon=True)

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def stop(self) -> None:
        """Send what is left and end the thread; returns after a few seconds at most."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._exporter:
            self._exporter.shutdown()

    def add(self, point: Point) -> None:
        """Queue a point; safe from any thread."""
        if len(self._points) == KEPT_POINTS:
            self.dropped += 1
        self._points.append(point)

    def _run(self) -> None:
        while not self._stopping.wait(self._every_s):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        try:
            points = [self._points.popleft() for _ in range(len(self._points))]
            points += [point for source in self.sources for point in source()]
            if points and self._exporter:
                self._exporter.export(_metrics(points, self._resource))
        except Exception:
            logger.exception("metric points could not be sent")


def _metrics(points: Iterable[Point], resource: Resource) -> MetricsData:
    by_name: dict[tuple[str, str, AggregationTemporality | None], list[NumberDataPoint]] = {}
    for point in points:
        data = NumberDataPoint(dict(point.attributes), point.since_ns or 0, point.time_ns, point.value)
        by_name.setdefault((point.name, point.unit, point.temporality), []).append(data)
    metrics = [
        Metric(name, "", unit, Gauge(data) if kind is None else Sum(data, kind, is_monotonic=True))
        for (name, unit, kind), data in by_name.items()
    ]
    scope = ScopeMetrics(InstrumentationScope("tailbudget.gpu_runtime"), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])
