"""What every entry does with spans: make one current, undo that anywhere, tell errors and arguments without content."""

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from . import providers
from .contexts import attach, current

ERROR_TYPE = "error.type"
#: Kinds of values that need no cleaning.
PLAIN: Final = frozenset((str, int, float, bool, bytes))


def start(
    name: str, *, kind: SpanKind, attributes: Mapping[str, AttributeValue], context: Context | None = None
) -> Span:
    """Start a span with attributes of ours, on the current provider."""
    return providers.starter()(name, context, kind, attributes)


def put(span: Span, attributes: Mapping[str, AttributeValue], *, clean: bool = False) -> None:
    """Set attributes under names of ours as `set_attributes` does, for a fifth of its instructions.

    The SDK takes 6,100 for each, since it looks at keys and values of anybody's one after the other. So it does here
    too where a value may need cleaning, where they are limited in length or number, and where the span is not its own.
    `clean` says that no value does.
    """
    held: Any = getattr(span, "_attributes", None)
    if type(held) is BoundedAttributes and (
        clean or PLAIN.issuperset(map(type, attributes.values())) or _plain(attributes.values())
    ):
        try:
            with span._lock:  # type: ignore[attr-defined]  # noqa: SLF001 - under which it ends
                known, most = held._dict, held.maxlen  # noqa: SLF001
                room = most is None or len(known) + len(attributes) <= most
                if room and held.max_value_len is None and not held._immutable:  # noqa: SLF001
                    known.update(attributes)
                    return
        except AttributeError:  # an SDK of another make
            pass
    span.set_attributes(attributes)


def _plain(values: Iterable[Any]) -> bool:
    """Say whether these are plain, or tuples of what is."""
    kinds = set(map(type, values))
    kinds.discard(tuple)
    kinds.update(map(type, chain.from_iterable([value for value in values if type(value) is tuple])))
    return kinds <= PLAIN


class Activation:
    """A context made current until `restore`, which may run in another task, thread or order.

    OpenTelemetry's `detach` takes a token that is valid only in the `contextvars` context that made it, and logs an
    error elsewhere: generators are often closed elsewhere. Here the previous context is attached again, and only
    where ours is still the current one.
    """

    __slots__ = ("_context", "_previous")

    def __init__(self, context: Context) -> None:
        self._previous = current()
        self._context = context
        attach(context)

    def restore(self) -> None:
        """Make the context current that was current before."""
        if current() is self._context:
            attach(self._previous)


def owner() -> object:
    """Return who runs this: a task, or else a thread."""
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:  # no loop runs here
        return threading.get_ident()


def stopped(error: BaseException) -> bool:
    """Say whether `error` means that somebody stopped reading or waiting, which is no failure of the work itself."""
    return isinstance(error, (asyncio.CancelledError, GeneratorExit))


def error_type(error: BaseException) -> str:
    """Return the qualified name of the error's class, as `error.type` wants it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def arguments_hash(arguments: object) -> str:
    """Return 16 hex digits, the same for the same arguments. ValueError or TypeError for what JSON cannot hold."""
    said = json.dumps(arguments, sort_keys=True, default=str).encode()
    return hashlib.blake2b(said, digest_size=8).hexdigest()


def record_error(span: Span, error: BaseException) -> None:
    """Mark the span as failed with the class of the error alone: messages often quote prompts and answers."""
    if not stopped(error):
        span.set_attribute(ERROR_TYPE, error_type(error))
        span.set_status(Status(StatusCode.ERROR))
