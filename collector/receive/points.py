"""Metric points as rows of the Arrow batch."""

import math
from typing import Any, Final

from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric, ResourceMetrics

from .attributes import Attributes
from .spans import MAX_NS
from .values import Json, json_text, number

TEMPORALITIES: Final = (None, "delta", "cumulative")
BAD_BUCKETS: Final = "bad_buckets"


class PointReader:
    """Collects the points of one body as rows in the order of METRICS."""

    def __init__(self, attributes: Attributes) -> None:
        self._attributes = attributes
        self.points: list[tuple[object, ...]] = []
        self.rejected = 0

    def read(self, group: ResourceMetrics) -> None:
        """Take the points of one resource."""
        resource_id = self._attributes.resource(group.resource)
        for scope_metrics in group.scope_metrics:
            scope = scope_metrics.scope
            scope_attrs = self._attributes.take(scope.attributes)
            for metric in scope_metrics.metrics:
                self._attributes.take(metric.metadata)
                self._take(metric, (resource_id, scope.name or None), scope_attrs)

    def _take(self, metric: Metric, origin: tuple[int, str | None], scope_attrs: dict[str, Json]) -> None:
        kind = metric.WhichOneof("data")
        if kind is None:
            return
        data = getattr(metric, kind)
        number = getattr(data, "aggregation_temporality", 0)
        temporality = TEMPORALITIES[number] if 0 <= number < len(TEMPORALITIES) else None
        head = (metric.name, kind, metric.unit or None, temporality, data.is_monotonic if kind == "sum" else None)
        description = metric.description or None
        rejected = 0
        for point in data.data_points:
            attrs = scope_attrs | self._attributes.take(point.attributes)
            exemplars = self._exemplars(point)
            if kind == "histogram" and not _has_its_buckets(
                point
            ):  # without its content by now, as the journal wants it
                rejected += 1
                continue
            times = (_ns(point.start_time_unix_nano), min(point.time_unix_nano, MAX_NS))
            aside = (point.flags or None, exemplars, description)
            self.points.append((*head, *times, *_VALUES[kind](point), *aside, *origin, json_text(attrs)))
        self._attributes.count("accepted", len(data.data_points) - rejected)
        if rejected:
            self.rejected += rejected
            self._attributes.count(BAD_BUCKETS, rejected)

    def _exemplars(self, point: Any) -> str | None:
        found = getattr(point, "exemplars", None)  # a summary has none
        if not found:
            return None
        return json_text(
            [
                {
                    "t_ns": min(item.time_unix_nano, MAX_NS),
                    "value": item.as_int if item.WhichOneof("value") == "as_int" else number(item.as_double),
                    "trace_id": item.trace_id.hex() or None,
                    "span_id": item.span_id.hex() or None,
                    "attrs": self._attributes.take(item.filtered_attributes),
                }
                for item in found
            ]
        )


def _has_its_buckets(point: Any) -> bool:
    """Whether a histogram has one bucket more than bounds, or neither."""
    counts, bounds = len(point.bucket_counts), len(point.explicit_bounds)
    return counts == bounds + 1 or counts == bounds == 0


def _ns(value: int) -> int | None:
    return min(value, MAX_NS) if value else None


#: value, value_int, n, total, min, max, bounds, counts, zero_threshold, quantile_values
_Values = tuple[object, ...]


def _number(point: Any) -> _Values:
    kind = point.WhichOneof("value")
    value = None if kind is None else getattr(point, kind)
    exact = value if kind == "as_int" else None
    return (None if value is None else float(value), exact, *(None,) * 8)


def _histogram(point: Any) -> _Values:
    return (None, None, point.count, *_range(point), list(point.explicit_bounds), list(point.bucket_counts), None, None)


def _exponential(point: Any) -> _Values:
    """Buckets as explicit ones: bound i is 2 ** ((offset + i) * 2 ** -scale), negatives mirrored."""
    negative, positive = point.negative, point.positive
    low = [-_bound(negative.offset + i, point.scale) for i in range(len(negative.bucket_counts), -1, -1)]
    high = [_bound(positive.offset + i, point.scale) for i in range(len(positive.bucket_counts) + 1)]
    bounds = [*(low if negative.bucket_counts else ()), *(high if positive.bucket_counts else ())]
    counts = [*reversed(negative.bucket_counts), point.zero_count, *positive.bucket_counts]
    return (None, None, point.count, *_range(point), bounds, counts, point.zero_threshold, None)


def _bound(index: int, scale: int) -> float:
    """Return the bound, 0 or infinite where a double cannot hold it, as above 1 at the SDK's least scale, -10."""
    try:
        return math.exp2(math.ldexp(index, -scale))
    except OverflowError:
        return math.inf if index > 0 else 0.0


def _summary(point: Any) -> _Values:
    quantiles = [item.quantile for item in point.quantile_values]
    values = [item.value for item in point.quantile_values]
    return (None, None, point.count, point.sum, None, None, quantiles, None, None, values)


def _range(point: Any) -> _Values:
    """Return total, min and max, null where the sender left them out."""
    return tuple(float(getattr(point, name)) if point.HasField(name) else None for name in ("sum", "min", "max"))


_VALUES: Final = {
    "gauge": _number,
    "sum": _number,
    "histogram": _histogram,
    "exponential_histogram": _exponential,
    "summary": _summary,
}
