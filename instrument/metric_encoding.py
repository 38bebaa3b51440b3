"""Collected metrics as OTLP bytes, the same bytes as OpenTelemetry's encoder gives.

That one took a third of what a collection costs, most of it for messages that are read once; what is rare it still
encodes.
"""

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from .encoding import MAX_KEPT, framed, key_value, text

#: Of a point's attributes; with longer ones there is something else the matter.
MAX_SAID_BYTES: Final = 1_024
#: Kinds of values that are the same where they are equal: 0.0 equals -0.0.
REPEATED: Final = frozenset((str, bool, int))

_fixed = struct.Struct("<cQ").pack
_int = struct.Struct("<cq").pack
_double = struct.Struct("<cd").pack

#: Attributes with the tag of their field -> bytes: every point comes again with the same ones.
_said: dict[tuple[Any, ...], bytes] = {}
#: id -> a resource or scope, which is held here, so that its id stays its own; its bytes; those of its schema.
_heads: dict[int, tuple[Any, bytes, bytes]] = {}


def encode(data: MetricsData) -> bytes | None:
    """Return the metrics as the bytes of an ExportMetricsServiceRequest; None where there is anything rare in them."""
    if len(data.resource_metrics) != 1:
        return None
    (of_resource,) = data.resource_metrics
    try:
        scopes = [_scope(of_resource, scope) for scope in of_resource.scope_metrics]
    except (
        _RareError,
        ValueError,
        TypeError,
        KeyError,
        OverflowError,
        struct.error,
    ):  # theirs says what is wrong
        return None
    resource, schema = _head(of_resource, None)
    return framed(b"\x0a", b"".join((resource, *scopes, schema)))


class _RareError(Exception):
    """Something that OpenTelemetry's encoder has to look at."""


def _head(of_resource: ResourceMetrics, scope: ScopeMetrics | None) -> tuple[bytes, bytes]:
    """Return a scope or, without one, the resource, and its schema, as OpenTelemetry's encoder has them."""
    held = scope.scope if scope else of_resource.resource
    known = _heads.get(id(held))
    if known is None:
        empty = [ScopeMetrics(scope.scope, [], scope.schema_url)] if scope else []
        asked = MetricsData([ResourceMetrics(of_resource.resource, empty, of_resource.schema_url)])
        made = encode_metrics(asked).resource_metrics[0]
        inner, schema = (
            (made.scope_metrics[0].scope, made.scope_metrics[0].schema_url)
            if scope
            else (made.resource, made.schema_url)
        )
        if len(_heads) >= MAX_KEPT:
            _heads.clear()
        known = _heads[id(held)] = (held, framed(b"\x0a", inner.SerializeToString()), text(b"\x1a", schema))
    return known[1:]


def _scope(of_resource: ResourceMetrics, scope: ScopeMetrics) -> bytes:
    said, schema = _head(of_resource, scope)
    return framed(b"\x12", b"".join((said, *map(_metric, scope.metrics), schema)))


def _metric(metric: Metric) -> bytes:
    data = metric.data
    kind = type(data)
    points: Sequence[Any] = data.data_points
    if kind is Sum and isinstance(data, Sum):
        said = [framed(b"\x0a", _number(point, point.start_time_unix_nano)) for point in points]
        monotonic = b"\x18\x01" if data.is_monotonic else b""
        body = framed(b"\x3a", b"".join((*said, _temporality(data), monotonic)))
    elif kind is Gauge:
        body = framed(b"\x2a", b"".join([framed(b"\x0a", _number(point, 0)) for point in points]))
    elif kind is Histogram and isinstance(data, Histogram):
        said = [framed(b"\x0a", _histogram(point)) for point in points]
        body = framed(b"\x4a", b"".join((*said, _temporality(data))))
    else:
        raise _RareError
    head = (text(b"\x0a", metric.name), text(b"\x12", metric.description or ""), text(b"\x1a", metric.unit or ""))
    return framed(b"\x12", b"".join((*head, body if points else b"")))


def _temporality(data: Sum | Histogram) -> bytes:
    return b"\x10" + bytes((data.aggregation_temporality,)) if data.aggregation_temporality else b""


def _number(point: NumberDataPoint, start_ns: int) -> bytes:
    value = point.value
    whole = type(value) is int
    if not whole and type(value) is not float:
        raise _RareError
    return b"".join((
        _time(b"\x11", start_ns), _time(b"\x19", point.time_unix_nano), b"" if whole else _double(b"\x21", value),
        _exemplars(b"\x2a", point.exemplars), _int(b"\x31", value) if whole else b"",
        _attributes(b"\x3a", point.attributes),
    ))  # fmt: skip


def _histogram(point: HistogramDataPoint) -> bytes:
    counts, bounds = point.bucket_counts, point.explicit_bounds
    return b"".join((
        _time(b"\x11", point.start_time_unix_nano), _time(b"\x19", point.time_unix_nano),
        _time(b"\x21", point.count), _double(b"\x29", point.sum),
        framed(b"\x32", struct.pack(f"<{len(counts)}Q", *counts)) if counts else b"",
        framed(b"\x3a", struct.pack(f"<{len(bounds)}d", *bounds)) if bounds else b"",
        _exemplars(b"\x42", point.exemplars), _attributes(b"\x4a", point.attributes),
        _double(b"\x59", point.min), _double(b"\x61", point.max),
    ))  # fmt: skip


def _time(tag: bytes, count: int | None) -> bytes:
    """Return a field of 8 bytes, nothing for none."""
    return _fixed(tag, count) if count else b""


def _exemplars(tag: bytes, exemplars: Sequence[Any]) -> bytes:
    return b"".join([framed(tag, _exemplar(exemplar)) for exemplar in exemplars]) if exemplars else b""


def _exemplar(exemplar: Any) -> bytes:
    value, at = exemplar.value, _time(b"\x11", exemplar.time_unix_nano)
    whole = type(value) is int
    if exemplar.filtered_attributes or exemplar.span_id is None or not (whole or type(value) is float):
        raise _RareError
    return b"".join((
        at, b"" if whole else _double(b"\x19", value),
        b"\x22\x08", exemplar.span_id.to_bytes(8, "big"), b"\x2a\x10", exemplar.trace_id.to_bytes(16, "big"),
        _int(b"\x31", value) if whole else b"",
    ))  # fmt: skip


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None) -> bytes:
    if not attributes:
        return b""
    kinds = tuple(map(type, attributes.values()))
    key = (tag, *attributes.items(), *kinds)  # the kinds too, since True equals 1
    said = _said.get(key)
    if said is None:
        said = b"".join([framed(tag, key_value(name, value)) for name, value in attributes.items()])
        if REPEATED.issuperset(kinds) and len(said) <= MAX_SAID_BYTES:
            if len(_said) >= MAX_KEPT:
                _said.clear()
            _said[key] = said
    return said
