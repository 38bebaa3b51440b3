"""Spans, their events and links as rows of Arrow batches."""

from collections.abc import Sequence
from typing import Final

import pyarrow as pa
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from .attributes import Attributes, Promoted
from .batches import SPANS, spans_schema
from .values import Json, json_text

KINDS: Final = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
STATUSES: Final = ("UNSET", "OK", "ERROR")
MAX_NS: Final = 2**63 - 1  # a later instant does not fit a BIGINT: it is cut to this one, in the year 2262
NO_TRACE: Final = bytes(16)
NO_SPAN: Final = bytes(8)

#: What a span says of itself beside its attributes -> the key under which `attrs` has it, when it is not empty.
ASIDE: Final = {
    "trace_state": "w3c.tracestate",
    "dropped_attributes_count": "otel.dropped_attributes_count",
    "dropped_events_count": "otel.dropped_events_count",
    "dropped_links_count": "otel.dropped_links_count",
}


class SpanReader:
    """Collects the rows of one body; `rows` is the number of spans in it."""

    def __init__(self, attributes: Attributes, *, promoted: Sequence[str], rows: int) -> None:
        self._attributes = attributes
        self._promoted = Promoted(promoted, rows=rows)
        self._rows: list[tuple[object, ...]] = []
        self._ids: set[tuple[bytes, bytes]] = set()
        self.events: list[tuple[object, ...]] = []
        self.links: list[tuple[object, ...]] = []
        self.rejected = 0

    def read(self, group: ResourceSpans) -> None:
        """Take the spans of one resource."""
        attributes = self._attributes
        resource_id = attributes.resource(group.resource)
        for scope_spans in group.scope_spans:
            scope = scope_spans.scope
            origin = (attributes.service, scope.name or None, resource_id)
            scope_attrs = attributes.take(scope.attributes)
            for span in scope_spans.spans:
                key = span.trace_id, span.span_id
                if not _valid(*key):
                    self.rejected += 1
                    attributes.count("bad_id")
                    self._scrub(span)
                elif key in self._ids:
                    attributes.count("duplicate")
                    self._scrub(span)
                else:
                    self._ids.add(key)
                    attributes.count("accepted")
                    self._take(span, origin, scope_attrs)

    def _scrub(self, span: Span) -> None:
        """Take the content out of a span that has no row: its body goes to the journal like any other."""
        self._attributes.take(span.attributes)
        self._attributes.take_message(span.status)
        for event in span.events:
            self._attributes.take_event(event.name, event.attributes)
        for link in span.links:
            self._attributes.take(link.attributes)

    def _take(self, span: Span, origin: tuple[str | None, str | None, int], scope_attrs: dict[str, Json]) -> None:
        span_id = int.from_bytes(span.span_id, "big")
        attrs = scope_attrs | self._attributes.take_span(span.attributes)
        for field, key in ASIDE.items():
            if value := getattr(span, field):
                attrs[key] = value
        self._promoted.write(attrs, row=len(self._rows))
        status = span.status
        self._rows.append(
            (
                span.trace_id,
                span_id,
                int.from_bytes(span.parent_span_id, "big") or None if len(span.parent_span_id) == 8 else None,
                span.name,
                _word(KINDS, span.kind),
                min(span.start_time_unix_nano, MAX_NS),
                min(span.end_time_unix_nano, MAX_NS),
                _word(STATUSES, status.code),
                self._attributes.take_message(status),
                *origin,
                json_text(attrs),
            )
        )
        if span.events or span.links:
            self._take_children(span, span_id)

    def _take_children(self, span: Span, span_id: int) -> None:
        attributes = self._attributes
        for event in span.events:
            attrs = attributes.take_event(event.name, event.attributes)
            t_ns = min(event.time_unix_nano, MAX_NS)
            self.events.append((span.trace_id, span_id, event.name, t_ns, json_text(attrs)))
        for link in span.links:
            attrs = attributes.take(link.attributes)
            if not _valid(link.trace_id, link.span_id):
                attributes.count("bad_link")
                continue
            linked = link.trace_id, int.from_bytes(link.span_id, "big")
            self.links.append((span.trace_id, span_id, *linked, json_text(attrs)))

    def spans(self) -> pa.Table:
        """Return the spans read so far."""
        rows = len(self._rows)
        columns = zip(*self._rows, strict=True) if rows else (() for _ in SPANS)
        fixed = dict(zip(SPANS.names, columns, strict=True))
        promoted = self._promoted.arrow(rows=rows)
        arrays = [pa.array(fixed[field.name], field.type) for field in SPANS]
        return pa.table([*arrays, *promoted.values()], schema=spans_schema(tuple(promoted)))


def _valid(trace_id: bytes, span_id: bytes) -> bool:
    return len(trace_id) == 16 and len(span_id) == 8 and trace_id != NO_TRACE and span_id != NO_SPAN


def _word(words: tuple[str, ...], number: int) -> str:
    return words[number] if 0 <= number < len(words) else words[0]
