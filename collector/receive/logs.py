"""Log records as rows of the Arrow batch."""

from typing import Final

from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs

from .attributes import EVENT_NAME, Attributes
from .spans import MAX_NS, NO_SPAN, NO_TRACE
from .values import Json, json_text

DROPPED: Final = "otel.dropped_attributes_count"


class LogReader:
    """Collects the records of one body as rows in the order of LOGS."""

    def __init__(self, attributes: Attributes) -> None:
        self._attributes = attributes
        self.records: list[tuple[object, ...]] = []

    def read(self, group: ResourceLogs) -> None:
        """Take the records of one resource."""
        attributes = self._attributes
        resource_id = attributes.resource(group.resource)
        for scope_logs in group.scope_logs:
            origin = (attributes.service, scope_logs.scope.name or None, resource_id)
            scope_attrs = attributes.take(scope_logs.scope.attributes)
            for record in scope_logs.log_records:
                self._take(record, origin, scope_attrs)
            attributes.count("accepted", len(scope_logs.log_records))

    def _take(
        self, record: LogRecord, origin: tuple[str | None, str | None, int], scope_attrs: dict[str, Json]
    ) -> None:
        event_name = record.event_name or _event_name(record)
        body = self._attributes.take_body(event_name, record)
        attrs = scope_attrs | self._attributes.take_event(event_name, record.attributes)
        if record.dropped_attributes_count:
            attrs[DROPPED] = record.dropped_attributes_count
        self.records.append(
            (
                *_ids(record),
                min(record.time_unix_nano, MAX_NS) or None,
                min(record.observed_time_unix_nano, MAX_NS) or None,
                record.severity_number or None,
                record.severity_text or None,
                event_name or None,
                body,
                *origin,
                json_text(attrs),
            )
        )


def _event_name(record: LogRecord) -> str:
    names = (pair.value.string_value for pair in record.attributes if pair.key == EVENT_NAME)
    return next(filter(None, names), "")


def _ids(record: LogRecord) -> tuple[bytes | None, int | None]:
    """Return the span that the record belongs to; OTLP wants one with an invalid id to be taken without it."""
    trace_id, span_id = record.trace_id, record.span_id
    return (
        trace_id if len(trace_id) == len(NO_TRACE) and trace_id != NO_TRACE else None,
        int.from_bytes(span_id, "big") or None if len(span_id) == len(NO_SPAN) else None,
    )
