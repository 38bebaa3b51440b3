"""What passed in blocks that are entered and left like brackets, in any number of tasks and threads at once."""

import contextvars

#: What clocks and counters showed when the blocks of this task or thread were entered, innermost last.
_entered: contextvars.ContextVar[tuple[float, ...]] = contextvars.ContextVar("tailbudget-guards", default=())


def entered(now: float) -> None:
    """Take note that a block was entered when its clock showed this."""
    _entered.set((*_entered.get(), now))


def left(now: float) -> float | None:
    """Return how far the clock went since the innermost block was entered; None when that was in another context."""
    known = _entered.get()
    _entered.set(known[:-1])
    return now - known[-1] if known else None
