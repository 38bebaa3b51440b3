"""Replacing a library's function by one of ours, and putting it back."""

import functools
from collections.abc import Callable
from typing import Any, Final

from opentelemetry import context as otel_context

from ..contexts import current

#: Set while a model call of ours runs: whatever is called below makes no second span of it.
INSIDE_A_CALL = otel_context.create_key("tailbudget-model-call")
#: Anyone who sets one of these asks for no further span: another instrumentor at work.
SUPPRESSED = (
    "suppress_instrumentation",
    getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"),
)
CALL_SUPPRESSED = (INSIDE_A_CALL, *SUPPRESSED, "suppress_language_model_instrumentation")
HTTP_SUPPRESSED = (*SUPPRESSED, getattr(otel_context, "_SUPPRESS_HTTP_INSTRUMENTATION_KEY", "suppress_instrumentation"))

#: Stands for the original of a method that its owner did not define by itself.
INHERITED: Final = object()
_undone: list[Callable[[], object]] = []
_replaced: list[tuple[Any, str, Any]] = []


def suppressed(keys: tuple[str, ...]) -> bool:
    """Say whether the current context asks for no span."""
    context = current()
    return not context.keys().isdisjoint(keys) and any(context.get(key) for key in keys)


def replace(
    owner: Any, name: str, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]], *, inherited: bool = False
) -> None:
    """Put `wrapper(original)` in place of `owner.name`, unless the library has no such name or it is replaced already.

    Only what `owner` defines by itself is replaced: an inherited method belongs to the class above. With `inherited`
    it is overridden in `owner` alone.
    """
    own = vars(owner).get(name, INHERITED)
    original = getattr(owner, name, None) if inherited and own is INHERITED else own
    if original in (None, INHERITED) or replaced(owner, name) is not None:
        return
    kind = type(original) if isinstance(original, (staticmethod, classmethod)) else None
    function: Any = original.__func__ if kind else original
    wrapped: Any = functools.wraps(function)(wrapper(function))
    _replaced.append((owner, name, own))
    setattr(owner, name, kind(wrapped) if kind else wrapped)


def replaced(owner: Any, name: str) -> Any:
    """Return the original of `owner.name`, None where nothing was put in its place."""
    return next((original for held, known, original in _replaced if held is owner and known == name), None)


def set_value(owner: Any, name: str, value: Any) -> None:
    """Set `owner.name` until `restore_all`; for what is no function."""
    _replaced.append((owner, name, vars(owner)[name]))
    setattr(owner, name, value)


def on_restore(undo: Callable[[], object]) -> None:
    """Call `undo` when the originals are put back; for what replaces nothing."""
    _undone.append(undo)


def restore_all() -> None:
    """Put every original back, the latest replacement first."""
    while _undone:
        _undone.pop()()
    while _replaced:
        owner, name, original = _replaced.pop()
        if original is INHERITED:
            delattr(owner, name)
        else:
            setattr(owner, name, original)
