"""A body cut into parts by whose its traces are."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final

from google.protobuf.message import Message

#: Signal -> the fields below the resource, down to what has a trace id. Metrics have none: they stay where they come.
LEVELS: Final = {
    "traces": ("resource_spans", "scope_spans", "spans"),
    "logs": ("resource_logs", "scope_logs", "log_records"),
}
TRACE_ID_BYTES: Final = 16


@lru_cache(maxsize=65_536)
def owner(trace_id: bytes, members: Sequence[str]) -> str:
    """Return the member whose hash with the trace is the highest: one that leaves hands on its own traces alone."""
    return max(members, key=lambda name: blake2b(trace_id + name.encode(), digest_size=8).digest())


def split(body: bytes, request: type[Message], signal: str, *, members: tuple[str, ...], own: str) -> dict[str, bytes]:
    """Return by member the part of the body that is its own; what has no trace stays with `own`.

    Equal bodies give equal parts, so that whoever takes a repeated part knows it. A body whose traces are all `own`
    comes back as it is. Raises google.protobuf.message.DecodeError.
    """
    whole = request.FromString(body)
    groups, scopes, items = LEVELS[signal]
    parts: dict[str, Any] = {}
    for group in getattr(whole, groups):
        made_groups: dict[str, Any] = {}
        for scope in getattr(group, scopes):
            made_scopes: dict[str, Any] = {}
            for item in getattr(scope, items):
                name = owner(item.trace_id, members) if len(item.trace_id) == TRACE_ID_BYTES else own
                if name not in made_scopes:
                    if name not in made_groups:
                        part = parts.setdefault(name, request())
                        made_groups[name] = _like(group, getattr(part, groups).add(), without=scopes)
                    made_scopes[name] = _like(scope, getattr(made_groups[name], scopes).add(), without=items)
                getattr(made_scopes[name], items).add().CopyFrom(item)
    if not set(parts) - {own}:
        return {own: body}
    return {name: part.SerializeToString(deterministic=True) for name, part in parts.items()}


def _like(one: Any, made: Any, *, without: str) -> Any:
    """Give `made` the fields of `one`, all but a list."""
    for field, value in one.ListFields():
        if field.name == without:
            continue
        if isinstance(value, Message):
            getattr(made, field.name).CopyFrom(value)
        else:
            setattr(made, field.name, value)
    return made
