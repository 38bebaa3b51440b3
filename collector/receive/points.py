"""Metric points as rows of the Arrow batch."""

import math
from typing import Any, Final

from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics

from .attributes import Attributes
from .spans import MAX_NS
from .values import Json, json_text

TEMPORALITIES: Final = (None, "delta", "cumulative")


class PointReader:
    """Collects the points of one body as rows in the order of METRICS."""

    def __init__(self, attributes: Attributes) -> None:
        self._attributes = attributes
        self.points: list[tuple[object, ...]] = []

    def read(self, group: ResourceMetrics) -> None:
        """Take the points of one resource."""
        resource_id = self._attributes.resource(group.resource)
        for scope_metrics in group.scope_metrics:
            origin = (resource_id, scope_metrics.scope.name or None)
            scope_attrs = self._attributes.take(scope_metrics.scope.attributes)
            for metric in scope_metrics.metrics:
                self._attributes.take(metric.metadata)
                self._take(metric, origin, scope_attrs)

    def _take(self, metric: Metric, origin: tuple[int, str | None], scope_attrs: dict[str, Json]) -> None:
        kind = metric.WhichOneof("data")
        if kind is None:
            return
        data = getattr(metric, kind)
        number = getattr(data, "aggregation_temporality", 0)
        temporality = TEMPORALITIES[number] if 0 <= number < len(TEMPORALITIES) else None
        head = (metric.name, kind, metric.unit or None, temporality, data.is_monotonic if kind == "sum" else None)
        for point in data.data_points:
            attrs = json_text(scope_attrs | self._attributes.take(point.attributes))
            for exemplar in point.exemplars if kind != "summary" else ():
                self._attributes.take(exemplar.filtered_attributes)
            times = (_ns(point.start_time_unix_nano), min(point.time_unix_nano, MAX_NS))
            self.points.append((*head, *times, *_VALUES[kind](point), *origin, attrs))
        self._attributes.count("accepted", len(data.data_points))


def _ns(value: int) -> int | None:
    return min(value, MAX_NS) if value else None


def _number(point: Any) -> tuple[object, ...]:
    kind = point.WhichOneof("value")
    return (None if kind is None else float(getattr(point, kind)), *[None] * 7)


def _histogram(point: Any) -> tuple[object, ...]:
    bounds, counts = list(point.explicit_bounds), list(point.bucket_counts)
    return (None, point.count, _maybe(point, "sum"), bounds, counts, *_range(point), None)


def _exponential(point: Any) -> tuple[object, ...]:
    """Buckets as explicit ones: bound i is 2 ** ((offset + i) * 2 ** -scale), negatives mirrored."""
    negative, positive = point.negative, point.positive
    low = [-_bound(negative.offset + i, point.scale) for i in range(len(negative.bucket_counts), -1, -1)]
    high = [_bound(positive.offset + i, point.scale) for i in range(len(positive.bucket_counts) + 1)]
    bounds = [*(low if negative.bucket_counts else ()), *(high if positive.bucket_counts else ())]
    counts = [*reversed(negative.bucket_counts), point.zero_count, *positive.bucket_counts]
    return (None, point.count, _maybe(point, "sum"), bounds, counts, *_range(point), None)


def _bound(index: int, scale: int) -> float:
    """Return the bound, 0 or infinite where a double cannot hold it, as above 1 at the SDK's least scale, -10."""
    try:
        return math.exp2(math.ldexp(index, -scale))
    except OverflowError:
        return math.inf if index > 0 else 0.0


def _summary(point: Any) -> tuple[object, ...]:
    """Quantiles in `bounds`."""
    quantiles = [item.quantile for item in point.quantile_values]
    return (None, point.count, point.sum, quantiles, None, None, None, [item.value for item in point.quantile_values])


def _range(point: Any) -> tuple[float | None, float | None]:
    return _maybe(point, "min"), _maybe(point, "max")


def _maybe(point: Any, field: str) -> float | None:
    return float(getattr(point, field)) if point.HasField(field) else None


_VALUES: Final = {
    "gauge": _number,
    "sum": _number,
    "histogram": _histogram,
    "exponential_histogram": _exponential,
    "summary": _summary,
}
