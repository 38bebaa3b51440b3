"""Our metrics in a service's own `/metrics`, for services that are scraped; needs prometheus-client."""

import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any

from opentelemetry.sdk.metrics import Counter, Histogram, ObservableCounter, ObservableUpDownCounter, UpDownCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    HistogramDataPoint,
    Metric,
    MetricReader,
    MetricsData,
    Sum,
)

try:
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
    from prometheus_client.metrics_core import Metric as MetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    from .errors import UserError

    raise UserError(
        "init(prometheus=True) needs prometheus-client, which is not installed: pip install prometheus-client"
    ) from error

CUMULATIVE: dict[type, AggregationTemporality] = dict.fromkeys(
    (Counter, Histogram, ObservableCounter, UpDownCounter, ObservableUpDownCounter), AggregationTemporality.CUMULATIVE
)
#: Unit -> the word that Prometheus' conventions end a name with. Units in braces count things and get none.
UNITS = {"s": "seconds", "By": "bytes", "1": "ratio"}


class ScrapedReader(MetricReader):
    """A metric reader whose metrics are in a `prometheus_client` registry, collected whenever Prometheus asks."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        super().__init__(preferred_temporality=CUMULATIVE)
        self._registry = registry
        self._source = _Source(self)
        self.latest: MetricsData | None = None
        registry.register(self._source)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object) -> None:  # noqa: ARG002
        self.latest = metrics_data

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:  # noqa: ARG002
        """Leave the registry."""
        self._registry.unregister(self._source)


class _Source(Collector):
    def __init__(self, reader: ScrapedReader) -> None:
        self._reader = reader

    def describe(self) -> Iterable[MetricFamily]:
        """Return nothing: the registry would else collect while this is registered."""
        return ()

    def collect(self) -> Iterable[MetricFamily]:
        """Return the metric families as they are now."""
        self._reader.collect()
        data, self._reader.latest = self._reader.latest, None
        return list(_families(data)) if data else ()


def _families(data: MetricsData) -> Iterator[Any]:
    metrics = (metric for r in data.resource_metrics for scope in r.scope_metrics for metric in scope.metrics)
    for metric in metrics:
        points: list[Any] = list(metric.data.data_points)
        labels = sorted({_name(key) for point in points for key in point.attributes or {}})
        family = _family(metric, labels)
        for point in points:
            given = {_name(key): str(value) for key, value in (point.attributes or {}).items()}
            values = [given.get(label, "") for label in labels]
            if isinstance(point, HistogramDataPoint):
                family.add_metric(values, buckets=_buckets(point), sum_value=point.sum)
            else:
                family.add_metric(values, point.value)
        yield family


def _family(metric: Metric, labels: list[str]) -> Any:
    name, text = _name(metric.name), metric.description or metric.name
    unit = UNITS.get(metric.unit or "", "")
    if unit and not name.endswith(unit):
        name = f"{name}_{unit}"
    if isinstance(metric.data, Gauge):
        return GaugeMetricFamily(name, text, labels=labels)
    if isinstance(metric.data, Sum):
        kind = CounterMetricFamily if metric.data.is_monotonic else GaugeMetricFamily
        return kind(name, text, labels=labels)
    return HistogramMetricFamily(name, text, labels=labels)


def _buckets(point: HistogramDataPoint) -> list[tuple[str, float]]:
    bounds = [*(str(float(bound)) for bound in point.explicit_bounds), "+Inf"]
    return list(zip(bounds, accumulate(point.bucket_counts), strict=True))


def _name(name: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]", "_", name)
