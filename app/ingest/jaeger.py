"""Traces as Jaeger's API and page export them, as the OTLP that they stand for.

Ids of fewer digits are padded on the left; one that is no hex is hashed, the same one always the same way. A span's
parent is its first CHILD_OF reference within its trace, else its first FOLLOWS_FROM; the other references are links.
Tags that OTLP has fields for (`span.kind`, `error`, `otel.*`) become those fields.
"""

from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from itertools import chain
from typing import Any, Final

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Json = Any
TRACE_BYTES: Final = 16
SPAN_BYTES: Final = 8
NS_PER_US: Final = 1000
KINDS: Final = {kind.removeprefix("SPAN_KIND_").lower(): number for kind, number in Span.SpanKind.items()}
STATUSES: Final = {"OK": Status.StatusCode.STATUS_CODE_OK, "ERROR": Status.StatusCode.STATUS_CODE_ERROR}
SCOPE_TAGS: Final = ("otel.scope.name", "otel.library.name")


class BadTraceError(Exception):
    """JSON that is no trace of Jaeger's."""


def is_jaeger(document: Json) -> bool:
    """Whether the document looks like what Jaeger exports: a trace, or an object with a list of them in `data`."""
    if not isinstance(document, dict):
        return False
    return "spans" in document or isinstance(document.get("data"), list)


def to_otlp(document: Json) -> ExportTraceServiceRequest:
    """Return all spans of the document, grouped by process and scope. Raises BadTraceError."""
    request = ExportTraceServiceRequest()
    listed = document.get("data")
    for trace in listed if isinstance(listed, list) else [document]:
        if not isinstance(trace, dict) or not isinstance(trace.get("spans"), list):
            raise BadTraceError("a trace without a list of spans")
        processes = trace.get("processes") or {}
        groups: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
        for number, span in enumerate(trace["spans"]):
            try:
                scope, converted = _span(span)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise BadTraceError(f"spans[{number}]: {type(error).__name__}: {error}") from error
            groups[str(span.get("processID")), scope].append(converted)
        for (process, scope), spans in groups.items():
            group = request.resource_spans.add()
            group.resource.attributes.extend(_resource(processes.get(process) or {}))
            scope_spans = group.scope_spans.add()
            scope_spans.scope.name = scope
            scope_spans.spans.extend(spans)
    return request


def _resource(process: Mapping[str, Json]) -> Iterator[KeyValue]:
    if name := process.get("serviceName"):
        yield KeyValue(key="service.name", value=AnyValue(string_value=name))
    yield from _attributes(process.get("tags"))


def _span(span: Mapping[str, Json]) -> tuple[str, Span]:
    """Return the name of the span's scope, and the span."""
    tags = {tag["key"]: tag for tag in span.get("tags") or ()}
    start_us, duration_us = int(span["startTime"]), max(int(span["duration"]), 0)
    converted = Span(
        trace_id=_id(span["traceID"], TRACE_BYTES),
        span_id=_id(span["spanID"], SPAN_BYTES),
        name=span.get("operationName") or "",
        start_time_unix_nano=start_us * NS_PER_US,
        end_time_unix_nano=(start_us + duration_us) * NS_PER_US,
    )
    _refer(converted, span)
    scope = next((str(tags.pop(tag)["value"]) for tag in SCOPE_TAGS if tag in tags), "")
    _take_fields(converted, tags)
    converted.attributes.extend(_attributes(tags.values()))
    if warnings := span.get("warnings"):
        texts = ArrayValue(values=[AnyValue(string_value=str(text)) for text in warnings])
        converted.attributes.add(key="jaeger.warnings", value=AnyValue(array_value=texts))
    for log in span.get("logs") or ():
        fields = {field["key"]: field for field in log.get("fields") or ()}
        name = str(fields.pop("event")["value"]) if "event" in fields else ""
        t_ns = int(log["timestamp"]) * NS_PER_US
        converted.events.add(name=name, time_unix_nano=t_ns, attributes=_attributes(fields.values()))
    return scope, converted


def _refer(converted: Span, span: Mapping[str, Json]) -> None:
    """Set the parent and the links."""
    references = list(span.get("references") or ())
    if not references and span.get("parentSpanID"):  # of early versions
        references = [{"refType": "CHILD_OF", "traceID": span["traceID"], "spanID": span["parentSpanID"]}]
    inside = [one for one in references if _id(one["traceID"], TRACE_BYTES) == converted.trace_id]
    children = (one for one in inside if one.get("refType") == "CHILD_OF")
    parent = next(chain(children, inside), None)
    for one in references:
        span_id = _id(one["spanID"], SPAN_BYTES)
        if one is parent:
            converted.parent_span_id = span_id
        else:
            converted.links.add(trace_id=_id(one["traceID"], TRACE_BYTES), span_id=span_id)


def _take_fields(converted: Span, tags: dict[str, Mapping[str, Json]]) -> None:
    """Move the tags that OTLP has fields for into those."""
    if str(tags.get("span.kind", {}).get("value")).lower() in KINDS:
        converted.kind = KINDS[str(tags.pop("span.kind")["value"]).lower()]
    if tags.get("error", {}).get("value") in (True, "true"):
        del tags["error"]
        converted.status.code = Status.StatusCode.STATUS_CODE_ERROR
    if tags.get("otel.status_code", {}).get("value") in STATUSES:
        converted.status.code = STATUSES[tags.pop("otel.status_code")["value"]]
    if "otel.status_description" in tags:
        converted.status.message = str(tags.pop("otel.status_description")["value"])
    if "w3c.tracestate" in tags:
        converted.trace_state = str(tags.pop("w3c.tracestate")["value"])


def _attributes(tags: Iterable[Mapping[str, Json]] | None) -> Iterator[KeyValue]:
    return (KeyValue(key=tag["key"], value=_value(tag["value"], str(tag.get("type", "")))) for tag in tags or ())


def _value(value: Json, kind: str) -> AnyValue:
    if kind == "binary":
        return AnyValue(bytes_value=b64decode(value))
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) or (kind == "int64" and isinstance(value, str)):
        return AnyValue(int_value=int(value))
    if isinstance(value, float):
        return AnyValue(double_value=value)
    return AnyValue(string_value=str(value))


def _id(text: Json, size: int) -> bytes:
    digits = str(text)
    if len(digits) <= 2 * size:
        try:
            return int(digits, 16).to_bytes(size, "big")
        except (ValueError, OverflowError):
            pass
    return blake2b(digits.encode(), digest_size=size).digest()
