"""The exporter of metrics that adds our tallies to what the SDK has collected."""

from dataclasses import replace
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    ScopeMetrics,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from .guard import Guard
from .histograms import Point, Tallies, Tally
from .metric_encoding import encode
from .providers import SCOPE

#: Longer ones are the exporter's own to judge, which has a limit of 64 MiB.
MAX_BODY_BYTES: Final = 32 * 2**20


class TalliedExporter(OTLPMetricExporter):
    """OpenTelemetry's exporter; `tallies` are sent as histograms of deltas, beside the other metrics of ours.

    What is sent is encoded by us if it `encodes`, and given to the session as the body of an empty request.
    """

    def __init__(self, *, tallies: Tallies, session: Any, encodes: bool, **options: Any) -> None:
        super().__init__(session=session, **options)
        self._tallies = tallies
        self._prompt_session = session
        self._encodes = encodes

    def export(
        self, metrics_data: MetricsData, timeout_millis: float | None = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export what was collected and what was tallied since the last time."""
        with Guard("tallied metrics"):
            metrics_data = _with(self._tallies, metrics_data)
        body = None
        if self._encodes:
            with Guard("metric encoding"):
                body = encode(metrics_data)
        if body is None or len(body) > MAX_BODY_BYTES:
            return super().export(metrics_data, timeout_millis, **kwargs)
        self._prompt_session.body = body
        try:
            return super().export(MetricsData([]), timeout_millis, **kwargs)
        finally:
            self._prompt_session.body = None


def _with(tallies: Tallies, collected: MetricsData) -> MetricsData:
    if not collected.resource_metrics:
        return collected  # they stay for the next time
    metrics = [metric for name, tally in tallies if (metric := _metric(name, tally))]
    first, *others = collected.resource_metrics
    scopes = [
        replace(scope, metrics=[*scope.metrics, *metrics]) if scope.scope.name == SCOPE else scope
        for scope in first.scope_metrics
    ]
    if not any(scope.scope.name == SCOPE for scope in scopes):
        scopes.append(ScopeMetrics(InstrumentationScope(SCOPE), metrics, ""))
    return MetricsData([replace(first, scope_metrics=scopes), *others])


def _metric(name: str, tally: Tally) -> Metric | None:
    since_ns, until_ns, points = tally.take()
    found = [_point(point, tally.boundaries, since_ns, until_ns) for point in points]
    return Metric(name, "", tally.unit, Histogram(found, AggregationTemporality.DELTA)) if found else None


def _point(point: Point, boundaries: tuple[float, ...], since_ns: int, until_ns: int) -> HistogramDataPoint:
    exemplars = [
        Exemplar({}, said.value, said.at_ns, said.span_id, said.trace_id) for _, said in sorted(point.exemplars.items())
    ]
    return HistogramDataPoint(
        point.labels,
        since_ns,
        until_ns,
        sum(point.counts),
        point.total,
        tuple(point.counts),
        boundaries,
        point.least,
        point.most,
        exemplars,
    )
