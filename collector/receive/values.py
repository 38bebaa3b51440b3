"""OTLP attribute values as Python values and as JSON text, by the JSON mapping of protobuf.

Bytes become base64 text; NaN and the infinities the strings "NaN", "Infinity" and "-Infinity", since JSON has no
numbers for them; an absent value null; a list of pairs an object.
"""

from base64 import b64encode
from collections.abc import Callable, Iterable
from typing import Any, Final

import orjson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

#: A str, int, float, bool, None, list or dict of the same.
Json = Any


def plain(value: AnyValue) -> Json:
    """Return the value as JSON knows it."""
    kind = value.WhichOneof("value")
    return None if kind is None else _PLAIN[kind](value)


def plain_map(pairs: Iterable[KeyValue]) -> dict[str, Json]:
    """Return the pairs as an object; of equal keys the last wins."""
    return {pair.key: plain(pair.value) for pair in pairs}


def json_text(value: Json) -> str:
    """Return `value` as JSON text."""
    return orjson.dumps(value).decode()


def column_text(value: Json) -> str | None:
    """Return what a promoted column holds: text as it is, everything else as JSON text, null for an absent value."""
    if value is None or isinstance(value, str):
        return value
    return json_text(value)


def number(value: float) -> Json:
    """Return a double as JSON knows it."""
    if value - value == 0.0:  # false for NaN and the infinities alone
        return value
    return _NOT_FINITE[str(value)]


_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_PLAIN: Final[dict[str, Callable[[AnyValue], Json]]] = {
    "string_value": lambda value: value.string_value,
    "bool_value": lambda value: value.bool_value,
    "int_value": lambda value: value.int_value,
    "double_value": lambda value: number(value.double_value),
    "array_value": lambda value: [plain(item) for item in value.array_value.values],
    "kvlist_value": lambda value: plain_map(value.kvlist_value.values),
    "bytes_value": lambda value: b64encode(value.bytes_value).decode(),
    # An index into a dictionary that only the profiles signal has.
    "string_value_strindex": lambda value: value.string_value_strindex,
}
