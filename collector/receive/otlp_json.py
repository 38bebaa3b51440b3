"""OTLP's JSON as the protobuf message that it stands for, so that everything behind sees one kind of body.

OTLP deviates from protobuf's JSON mapping: trace and span ids are hex, not base64. Beyond what it asks for, the fields'
original names and the names of enum values are taken too. An id that is no hex becomes one of a wrong length, so that
its span is rejected alone.
"""

from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

import orjson
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import EncodeError, Message

from .decode import BadBodyError

#: Protobuf's parsers follow messages in messages to this depth.
MAX_DEPTH: Final = 100
#: Objects, lists and values: a span of 20 attributes has 100. Parsed, each costs up to 200 bytes.
MAX_VALUES: Final = 2_000_000
HEX_FIELDS: Final = frozenset({"trace_id", "span_id", "parent_span_id"})
NO_ID: Final = b"\0"
NOT_FINITE: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}

Json = Any
MessageType = Any  # a Descriptor, of which each implementation of protobuf has its own
#: From a JSON value and the number of messages around it to what the constructor of a message takes.
Convert = Callable[[Json, int], object]


class TooManyValuesError(Exception):
    """JSON text that would need too much memory once parsed."""


def to_protobuf(text: bytes, kind: type[Message]) -> bytes:
    """Return the message of that kind, serialised. Raises BadBodyError for what it cannot be, TooManyValuesError."""
    if sum(text.count(mark) for mark in b"{[,") > MAX_VALUES:
        raise TooManyValuesError(f"more than {MAX_VALUES} JSON values in one body: send smaller batches, or protobuf")
    try:
        fields = _message(orjson.loads(text), kind.DESCRIPTOR, 0)
        return kind(**fields).SerializeToString()
    except orjson.JSONDecodeError as error:
        raise BadBodyError(f"{len(text)} bytes are not JSON: {error}") from error
    except (TypeError, ValueError, EncodeError) as error:  # of the constructor: a number that its field cannot hold
        raise BadBodyError(f"no {kind.DESCRIPTOR.name} in JSON: {error}") from error


def _message(value: Json, descriptor: MessageType, depth: int) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BadBodyError(f"{_short(value)}: expected an object, {descriptor.name}")
    if depth >= MAX_DEPTH:
        raise BadBodyError(f"more than {MAX_DEPTH} messages inside each other")
    fields = _fields(descriptor)
    found = {}
    for key, item in value.items():
        field = fields.get(key)
        if field is not None and item is not None:  # unknown fields are skipped; null is an absent value
            name, convert = field
            found[name] = convert(item, depth)
    return found


@cache
def _fields(descriptor: MessageType) -> Mapping[str, tuple[str, Convert]]:
    """Return the fields of a message by both of their names."""
    found = {}
    for field in descriptor.fields:
        named = (field.name, _repeated(field, _one(field)) if field.is_repeated else _one(field))
        found[field.json_name] = found[field.name] = named
    return found


def _one(field: FieldDescriptor) -> Convert:
    inner = field.message_type
    if inner is not None:
        return lambda value, depth: _message(value, inner, depth + 1)
    if field.enum_type is not None:
        numbers = _numbers(field.enum_type)
        return lambda value, _: numbers.get(value) if isinstance(value, str) and value in numbers else _integer(value)
    if field.name in HEX_FIELDS:
        return _id
    return _SCALARS.get(field.type, _integer_at)


def _repeated(field: FieldDescriptor, one: Convert) -> Convert:
    def convert(value: Json, depth: int) -> list[object]:
        if not isinstance(value, list):
            raise BadBodyError(f"{field.json_name} is {_short(value)}: expected a list")
        return [one(item, depth) for item in value]

    return convert


def _numbers(kind: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in kind.values}


def _id(value: Json, _depth: int) -> bytes:
    try:
        return bytes.fromhex(_text(value, 0))
    except ValueError:
        return NO_ID


def _text(value: Json, _depth: int) -> str:
    if not isinstance(value, str):
        raise BadBodyError(f"{_short(value)}: expected a string")
    return value


def _bytes(value: Json, _depth: int) -> bytes:
    """Base64 of either alphabet, padded or not."""
    text = _text(value, 0).rstrip("=").replace("+", "-").replace("/", "_")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _bool(value: Json, _depth: int) -> bool:
    if not isinstance(value, bool):
        raise BadBodyError(f"{_short(value)}: expected true or false")
    return value


def _double(value: Json, _depth: int) -> float:
    if isinstance(value, str):
        return NOT_FINITE[value] if value in NOT_FINITE else float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadBodyError(f"{_short(value)}: expected a number")
    return float(value)


def _integer_at(value: Json, _depth: int) -> int:
    return _integer(value)


def _integer(value: Json) -> int:
    """Return a number or its text, "1e3" and 2.0 included, as protobuf's JSON mapping has it."""
    if isinstance(value, str):
        value = int(value) if value.lstrip("-").isdecimal() and len(value) < 30 else float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadBodyError(f"{_short(value)}: expected an integer")
    return value


def _short(value: Json) -> str:
    return repr(value)[:60] if isinstance(value, str | int | float | bool | None) else type(value).__name__


#: Every other type is an integer.
_SCALARS: Final[Mapping[int, Convert]] = {
    FieldDescriptor.TYPE_STRING: _text,
    FieldDescriptor.TYPE_BYTES: _bytes,
    FieldDescriptor.TYPE_BOOL: _bool,
    FieldDescriptor.TYPE_DOUBLE: _double,
    FieldDescriptor.TYPE_FLOAT: _double,
}
