"""How long blocks took that are entered and left like brackets, in any number of tasks and threads at once."""

import contextvars

#: The instants at which the blocks of this task or thread were entered, innermost last.
_entered_s: contextvars.ContextVar[tuple[float, ...]] = contextvars.ContextVar("tailbudget-guards", default=())


def entered(now_s: float) -> None:
    """Take note that a block was entered."""
    _entered_s.set((*_entered_s.get(), now_s))


def left(now_s: float) -> float | None:
    """Return the seconds since the innermost block was entered; None when that was in another context."""
    known = _entered_s.get()
    _entered_s.set(known[:-1])
    return now_s - known[-1] if known else None
