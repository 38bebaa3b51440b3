"""What is in a file of telemetry: OTLP protobuf, OTLP JSON lines or Jaeger JSON, gzipped or not, told by its bytes."""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import orjson
from google.protobuf.message import DecodeError, Message

from tailbudget.collector.receive.decode import BadBodyError
from tailbudget.collector.receive.endpoints import ENDPOINTS, Endpoint
from tailbudget.collector.receive.otlp_json import TooManyValuesError, to_protobuf

from .jaeger import BadTraceError, is_jaeger, to_otlp

Json = Any
GZIP: Final = b"\x1f\x8b"
#: JSON holds no control characters but these; protobuf soon does.
WHITESPACE: Final = frozenset(b"\t\n\r")
SPACE: Final = 0x20
#: Key of a body in JSON -> its signal.
KEYS: Final = {
    name: endpoint
    for endpoint in ENDPOINTS
    for field in endpoint.request.DESCRIPTOR.fields
    for name in (field.json_name, field.name)
}
TRACES: Final = next(endpoint for endpoint in ENDPOINTS if endpoint.signal == "traces")


@dataclass(frozen=True, slots=True)
class Body:
    """One request body in protobuf; `place` is the line that it begins in, None in a file of one body."""

    endpoint: Endpoint
    data: bytes
    items: int
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Bad:
    """A place in a file that cannot be read, and why."""

    reason: str
    place: int | None = None


def read_bodies(file: Path) -> Iterator[Body | Bad]:
    """Yield what the file holds, in its order; what cannot be read does not end it. Raises OSError."""
    with file.open("rb") as raw:
        opened = cast("BufferedReader", gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == GZIP else raw)
        try:
            head = opened.peek(4096)[:4096]
            if not head:
                yield Bad("it is empty")
            elif any(byte < SPACE and byte not in WHITESPACE for byte in head) or head.lstrip()[:1] not in (b"{", b"["):
                yield _protobuf(opened.read())
            else:
                yield from _json(opened)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            yield Bad(f"it is no whole gzip: {error}")


def _protobuf(data: bytes) -> Body | Bad:
    """Return the body as the signal whose items make most sense: the three kinds of request have one shape."""
    found = [(sense, endpoint, items) for endpoint in ENDPOINTS for sense, items in _sense(endpoint, data)]
    sense, endpoint, items = max(found, key=lambda one: one[0], default=(0.0, TRACES, 0))
    if not found:
        return Bad(f"{len(data)} bytes are neither JSON nor an OTLP protobuf body")
    if not sense:
        return Bad(f"{len(data)} bytes of protobuf hold no span, point or log record")
    return Body(endpoint, data, items)


def _sense(endpoint: Endpoint, data: bytes) -> Iterator[tuple[float, int]]:
    """Yield the share of items that are what their signal has, and their number; nothing for what is no such body."""
    try:
        message = endpoint.request.FromString(data)
    except DecodeError:
        return
    items = list(_items(endpoint, message))
    good = sum(map(_LOOKS_RIGHT[endpoint.signal], items))
    yield good / len(items) if items else 0.0, count_items(endpoint, message)


def _items(endpoint: Endpoint, message: Message) -> Iterator[Any]:
    """Yield spans, log records or metrics."""
    (group,) = endpoint.request.DESCRIPTOR.fields
    for resource in getattr(message, group.name):
        scopes = next(field.name for field in resource.DESCRIPTOR.fields if field.name.startswith("scope_"))
        for scope in getattr(resource, scopes):
            yield from getattr(scope, _ITEMS[endpoint.signal])


def count_items(endpoint: Endpoint, message: Message) -> int:
    """Return the number of spans, points or log records."""
    if endpoint.signal != "metrics":
        return sum(1 for _ in _items(endpoint, message))
    kinds = ((metric, metric.WhichOneof("data")) for metric in _items(endpoint, message))
    return sum(len(getattr(metric, kind).data_points) for metric, kind in kinds if kind)


_ITEMS: Final = {"traces": "spans", "metrics": "metrics", "logs": "log_records"}
_LOOKS_RIGHT: Final = {
    "traces": lambda span: len(span.trace_id) == 16 and len(span.span_id) == 8,
    "metrics": lambda metric: bool(metric.name and metric.WhichOneof("data")),
    "logs": lambda record: bool(record.HasField("body") or record.time_unix_nano or record.observed_time_unix_nano),
}


def _json(opened: BufferedReader) -> Iterator[Body | Bad]:
    """Yield the bodies of a file whose lines are documents, or which is one."""
    first = opened.readline()
    if _fault(first) is None:
        yield from _lines(chain([first], opened))
        return
    text = first + opened.read()
    fault = _fault(text)
    lines = text.splitlines()
    if fault is None:
        yield from _bodies(text, None)
    elif all(_fault(line) for line in lines):
        yield Bad(f"it is no JSON: {fault}", fault.lineno)
    else:
        yield from _lines(lines)


def _lines(lines: Iterable[bytes]) -> Iterator[Body | Bad]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield from _bodies(line, number)


def _fault(text: bytes) -> orjson.JSONDecodeError | None:
    """Return why the text is no JSON document, None when it is one."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return error
    return None


def _bodies(text: bytes, place: int | None) -> Iterator[Body | Bad]:
    try:
        document = orjson.loads(text)
        if is_jaeger(document):
            message = to_otlp(document)
            yield Body(TRACES, message.SerializeToString(), count_items(TRACES, message), place)
            return
        endpoints = {KEYS[key] for key in document if key in KEYS} if isinstance(document, dict) else ()
        for endpoint in sorted(endpoints, key=ENDPOINTS.index):
            data = to_protobuf(text, endpoint.request)
            yield Body(endpoint, data, count_items(endpoint, endpoint.request.FromString(data)), place)
        if not endpoints:
            yield Bad(f"neither OTLP ({', '.join(KEYS)}) nor a trace of Jaeger's", place)
    except (orjson.JSONDecodeError, BadBodyError, BadTraceError, TooManyValuesError, DecodeError) as error:
        yield Bad(f"{error}", place)
