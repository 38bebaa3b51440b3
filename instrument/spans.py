"""What every entry does with spans: make one current, undo that anywhere, tell errors and arguments without content."""

import asyncio
import hashlib
import json
import threading

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

ERROR_TYPE = "error.type"


class Activation:
    """A context made current until `restore`, which may run in another task, thread or order.

    OpenTelemetry's `detach` takes a token that is valid only in the `contextvars` context that made it, and logs an
    error elsewhere: generators are often closed elsewhere. Here the previous context is attached again, and only
    where ours is still the current one.
    """

    __slots__ = ("_context", "_previous")

    def __init__(self, context: Context) -> None:
        self._previous = otel_context.get_current()
        self._context = context
        otel_context.attach(context)

    def restore(self) -> None:
        """Make the context current that was current before."""
        if otel_context.get_current() is self._context:
            otel_context.attach(self._previous)


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
