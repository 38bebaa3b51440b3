"""Spans as OTLP bytes, the same bytes as OpenTelemetry's encoder gives, for a fifth of its instructions.

What is rare (events, links, odd kinds of values, errors with words) its encoder still does.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode

from .vocabulary import REQUEST_ID

#: Attributes, keys, and resources with scopes whose bytes are kept: services repeat few, and nothing grows with time.
MAX_KEPT: Final = 1_024
MAX_KEPT_BYTES: Final = 128
#: Keys whose values are never said again: to keep them would push out all others after a thousand requests.
UNIQUE: Final = frozenset(("gen_ai.response.id", REQUEST_ID))
_INT64_MAX: Final = 2**63 - 1
#: Lengths and small counts as they are on the wire.
_SHORT: Final = tuple(bytes((n,)) for n in range(128))
#: Of `flags`: whether the parent is remote is known, and it is.
_LOCAL, _REMOTE = (b"\x85\x01" + struct.pack("<I", flags) for flags in (0x100, 0x300))

_KINDS: Final = {id(kind): _SHORT[kind.value + 1] for kind in SpanKind}  # by id: an enumeration's hash is a call
_UNSET: Final = StatusCode.UNSET

_double = struct.Struct("<d").pack
_times = struct.Struct("<cQcQ").pack

_names: dict[str, bytes] = {}
_floats: dict[str, bytes] = {}
_said: dict[tuple[Any, ...], bytes] = {}
_heads: dict[tuple[int, int], "_Head"] = {}


def encode(spans: Sequence[ReadableSpan]) -> bytes:
    """Return the spans as the bytes of an ExportTraceServiceRequest; raises what OpenTelemetry's encoder raises."""
    resources: dict[int, dict[_Head, list[bytes]]] = {}
    last: tuple[int, int] | None = None
    same: list[bytes] = []
    for span in spans:
        key = (id(span.resource), id(span.instrumentation_scope))
        if key != last:
            head = _heads.get(key) or _head(key, span)
            last, same = key, resources.setdefault(key[0], {}).setdefault(head, [])
        same.append(framed(b"\x12", _plain(span) or _any(span)))
    return b"".join(map(_resource_spans, resources.values()))


class _Head:
    """What stands around the spans of one resource and scope, which are held here, so that their ids stay theirs."""

    __slots__ = ("_held", "resource", "resource_schema", "schema", "scope")

    def __init__(self, span: ReadableSpan) -> None:
        self._held: tuple[Resource, InstrumentationScope | None] = (span.resource, span.instrumentation_scope)
        resource = encode_spans([span]).resource_spans[0]
        scope = resource.scope_spans[0]
        self.resource = framed(b"\x0a", resource.resource.SerializeToString())
        self.scope = framed(b"\x0a", scope.scope.SerializeToString())
        self.schema = text(b"\x1a", scope.schema_url)
        self.resource_schema = text(b"\x1a", resource.schema_url)


def _head(key: tuple[int, int], span: ReadableSpan) -> _Head:
    if len(_heads) >= MAX_KEPT:
        _heads.clear()
    head = _heads[key] = _Head(span)
    return head


def _resource_spans(scopes: Mapping[_Head, list[bytes]]) -> bytes:
    first = next(iter(scopes))
    scope_spans = [framed(b"\x12", b"".join((head.scope, *spans, head.schema))) for head, spans in scopes.items()]
    return framed(b"\x0a", b"".join((first.resource, *scope_spans, first.resource_schema)))


def _any(span: ReadableSpan) -> bytes:
    encoded: bytes = encode_spans([span]).resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    return encoded


def _plain(span: ReadableSpan) -> bytes | None:
    """Return a span without anything rare, else None."""
    read = _by_field if type(span) is ReadableSpan and _FIELDS_KNOWN else _by_property
    context, parent, status, start_ns, end_ns, name, kind, held, rare = read(span)
    if rare or context is None or status.description or not start_ns or not end_ns:
        return None
    try:
        attributes = _attributes(held)
        unset = status.status_code is _UNSET
        state = context.trace_state
        return b"".join((
            b"\x0a\x10", context.trace_id.to_bytes(16, "big"), b"\x12\x08", context.span_id.to_bytes(8, "big"),
            text(b"\x1a", state.to_header()) if state else b"",
            b"\x22\x08" + parent.span_id.to_bytes(8, "big") if parent else b"",
            text(b"\x2a", name), b"\x30", _KINDS[id(kind)], _times(b"\x39", start_ns, b"\x41", end_ns),
            attributes,
            b"\x7a\x00" if unset else b"\x7a\x02\x18" + _SHORT[status.status_code.value],
            _REMOTE if parent and parent.is_remote else _LOCAL,
        ))  # fmt: skip
    except (ValueError, OverflowError, KeyError, TypeError, struct.error):  # no UTF-8, too large a number, an odd kind
        return None


def _by_property(span: ReadableSpan) -> tuple[Any, ...]:
    """Return what is said of a span, and last whether anything of it is rare."""
    rare = span.events or span.links or span.dropped_attributes or span.dropped_events or span.dropped_links
    return (
        span.get_span_context(), span.parent, span.status, span.start_time, span.end_time, span.name, span.kind,
        span.attributes, bool(rare),
    )  # fmt: skip


_fields = itemgetter(
    "_context", "_parent", "_status", "_start_time", "_end_time", "_name", "_kind", "_attributes", "_events", "_links"
)


def _by_field(span: ReadableSpan) -> tuple[Any, ...]:
    """Return the same past the properties, which copy lists and ask abstract classes: a seventh of a span."""
    context, parent, status, start_ns, end_ns, name, kind, held, events, links = _fields(vars(span))
    dropped = getattr(held, "dropped", 0) or getattr(events, "dropped", 0) or getattr(links, "dropped", 0)
    return context, parent, status, start_ns, end_ns, name, kind, held, bool(dropped or events or links)


def _fields_known() -> bool:
    """Say whether spans of the SDK that is installed are made of the fields that we read."""
    full, dropping = BoundedAttributes(0, {"a": 1}), BoundedList[Any](0)
    dropping.append(1)
    try:
        for held, events, links in (({"a": 1}, (), ()), (full, (), ()), (None, dropping, ()), (None, (), dropping)):
            span = ReadableSpan(
                "a", SpanContext(1, 2, is_remote=False), SpanContext(3, 4, is_remote=True), Resource({}), held, events,
                links, SpanKind.CLIENT, status=Status(StatusCode.OK), start_time=5, end_time=6,
            )  # fmt: skip
            property_said, field_said = _by_property(span), _by_field(span)
            if property_said[:7] + property_said[8:] != field_said[:7] + field_said[8:]:
                return False
            if dict(property_said[7]) != dict(field_said[7] or {}):
                return False
    except (AttributeError, KeyError, TypeError, ValueError):  # an SDK of another make
        return False
    return True


_FIELDS_KNOWN: Final = _fields_known()


def _attributes(attributes: Mapping[str, Any] | None) -> bytes:
    """Return the attributes; raises KeyError where the kind of a value is rare, TypeError where it has no hash.

    This loop is most of what a span costs here.
    """
    if not attributes:
        return b""
    # Going through the mapping by itself is three times as slow.
    copied: Mapping[str, Any] = attributes.copy() if hasattr(attributes, "copy") else attributes
    parts: list[bytes] = []
    add, begun, said, double = parts.append, _floats.get, _said.get, _double
    for key, value in copied.items():
        kind = type(value)
        if kind is float:
            add(begun(key) or _begin_float(key))
            add(double(value))
        else:  # the kind is part of it, since True equals 1
            add(said((key, kind, value)) or _say(key, kind, value))
    return b"".join(parts)


def _begin_float(key: str) -> bytes:
    """Return all of a float's attribute but its last 8 bytes."""
    begun = _attribute(key, b"\x21" + bytes(8))[:-8]
    _keep(_floats, key, begun)
    return begun


def _say(key: str, kind: type, value: Any) -> bytes:
    attribute = _attribute(key, _VALUES[kind](value))
    repeated = kind in _REPEATED or (kind is tuple and set(map(type, value)) == {str})
    if repeated and len(attribute) <= MAX_KEPT_BYTES and key not in UNIQUE:
        _keep(_said, (key, kind, value), attribute)
    return attribute


def key_value(key: str, value: Any) -> bytes:
    """Return a KeyValue; raises KeyError where the kind of the value is rare."""
    return (_names.get(key) or _name(key)) + framed(b"\x12", _VALUES[type(value)](value))


def _attribute(key: str, value: bytes) -> bytes:
    """Return a KeyValue in its field of a span."""
    return framed(b"\x4a", (_names.get(key) or _name(key)) + framed(b"\x12", value))


def _name(key: str) -> bytes:
    named = text(b"\x0a", key)
    if len(named) <= MAX_KEPT_BYTES:
        _keep(_names, key, named)
    return named


def _keep(kept: dict[Any, bytes], key: Any, encoded: bytes) -> None:
    if len(kept) >= MAX_KEPT:
        kept.clear()
    kept[key] = encoded


def framed(tag: bytes, body: bytes) -> bytes:
    """Return a field that says its length."""
    size = len(body)
    return tag + (_SHORT[size] if size < 128 else _varint(size)) + body


def text(tag: bytes, said: str) -> bytes:
    """Return a field of text, nothing for none."""
    return framed(tag, said.encode()) if said else b""


def _varint(number: int) -> bytes:
    if number < 16_384:  # the length of most spans
        return bytes((number & 127 | 128, number >> 7)) if number > 127 else _SHORT[number]
    encoded = bytearray()
    while number > 127:
        encoded.append(number & 127 | 128)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _int(value: int) -> bytes:
    if 0 <= value < 128:
        return b"\x18" + _SHORT[value]
    if not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        raise OverflowError(value)
    return b"\x18" + _varint(value & (2**64 - 1))


def _sequence(values: tuple[Any, ...]) -> bytes:
    return framed(b"\x2a", b"".join([framed(b"\x0a", _VALUES[type(value)](value)) for value in values]))


#: kind of value -> its AnyValue. A subclass of one, such as an enumeration's member, is rare.
_VALUES: Final[Mapping[type, Callable[[Any], bytes]]] = {
    str: lambda value: framed(b"\x0a", value.encode()),
    bool: lambda value: b"\x10" + _SHORT[value],
    int: _int,
    float: lambda value: b"\x21" + _double(value),
    bytes: lambda value: framed(b"\x3a", value),
    tuple: _sequence,
}
#: Kinds whose values come again and again.
_REPEATED: Final = (str, bool, int)
