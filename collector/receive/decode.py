"""OTLP protobuf bodies to Arrow batches, in Python over protobuf's upb classes: the reference for the decoder in C."""

from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .attributes import Attributes
from .batches import (
    EVENTS,
    LINKS,
    LOGS,
    METRICS,
    RESOURCES,
    LogBatches,
    MetricBatches,
    SpanBatches,
    table,
)
from .logs import LogReader
from .points import PointReader
from .privacy import DROP, Content
from .spans import SpanReader

M = TypeVar("M", bound=Message)


class BadBodyError(Exception):
    """The body is no protobuf message of the signal that its path names."""


def decode_traces(body: bytes, *, promoted: Sequence[str] = (), content: Content = DROP) -> SpanBatches:
    """Return the spans of an ExportTraceServiceRequest, with one more column a promoted key that any has.

    Spans without a valid id are left out and counted in `rejected`; a span that the body repeats is taken once.
    Raises BadBodyError.
    """
    message = _parse(ExportTraceServiceRequest(), body)
    attributes = Attributes(content=content)
    reader = SpanReader(attributes, promoted=promoted, rows=_count_spans(message))
    for resource_spans in message.resource_spans:
        reader.read(resource_spans)
    return SpanBatches(
        spans=reader.spans(),
        events=table(reader.events, EVENTS),
        links=table(reader.links, LINKS),
        resources=table(attributes.resources.values(), RESOURCES),
        rejected=reader.rejected,
        health=attributes.health,
        scrubbed=message.SerializeToString() if attributes.scrubbed else None,
    )


def decode_metrics(body: bytes, *, content: Content = DROP) -> MetricBatches:
    """Return the points of an ExportMetricsServiceRequest; histograms without their buckets are counted in `rejected`.

    Raises BadBodyError.
    """
    message = _parse(ExportMetricsServiceRequest(), body)
    attributes = Attributes(content=content)
    reader = PointReader(attributes)
    for resource_metrics in message.resource_metrics:
        reader.read(resource_metrics)
    return MetricBatches(
        metrics=table(reader.points, METRICS),
        resources=table(attributes.resources.values(), RESOURCES),
        rejected=reader.rejected,
        health=attributes.health,
        scrubbed=message.SerializeToString() if attributes.scrubbed else None,
    )


def decode_logs(body: bytes, *, content: Content = DROP) -> LogBatches:
    """Return the records of an ExportLogsServiceRequest. Raises BadBodyError."""
    message = _parse(ExportLogsServiceRequest(), body)
    attributes = Attributes(content=content)
    reader = LogReader(attributes)
    for resource_logs in message.resource_logs:
        reader.read(resource_logs)
    return LogBatches(
        logs=table(reader.records, LOGS),
        resources=table(attributes.resources.values(), RESOURCES),
        health=attributes.health,
        scrubbed=message.SerializeToString() if attributes.scrubbed else None,
    )


def _parse(message: M, body: bytes) -> M:
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise BadBodyError(f"{len(body)} bytes are not an {message.DESCRIPTOR.name}: {error}") from error
    return message


def _count_spans(message: ExportTraceServiceRequest) -> int:
    return sum(len(scope.spans) for resource in message.resource_spans for scope in resource.scope_spans)
