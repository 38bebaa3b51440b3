"""OpenTelemetry's current context, past the two functions between its API and the variable that holds it.

A request asks for it or sets it some twenty times, from the event loop, where each function costs what it takes to load
it: nothing of ours is in the processor's caches there.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

_runtime: Any = getattr(otel_context, "_RUNTIME_CONTEXT", None)
_held: Any = getattr(_runtime, "_current_context", None)
#: OTEL_PYTHON_CONTEXT may name a context of another make.
_plain: Final = type(_runtime) is ContextVarsRuntimeContext and type(_held) is ContextVar

#: What `get_current` and `attach` of OpenTelemetry do.
current: Final[Callable[[], Context]] = _held.get if _plain else otel_context.get_current
attach: Final[Callable[[Context], object]] = _held.set if _plain else otel_context.attach

#: Under which a context holds its span: `Context({**context, SPAN_KEY: span, OTHER: value})` is one copy for all, where
#: `set_span_in_context` and `set_value` make two each.
SPAN_KEY: Final = next(iter(set_span_in_context(INVALID_SPAN, Context())))
