"""What a request that went over its budgets leaves: the worst of them on its span, and a line in the log."""

import logging
import time
from typing import Protocol

from opentelemetry.trace import Span

from .guard import WINDOW_S
from .vocabulary import OVER, OVER_TIME, TOOL_ROUNDS, convert
from .work import CLOCKS, Work

logger = logging.getLogger("tailbudget.budget")
#: Routes and stages of which the log is told apart; a service that makes up routes gets one line for the rest.
MAX_KEYS = 1_000


class Budgeted(Protocol):
    """What is read of a request."""

    span: Span
    route: str
    started_ns: int
    first_token_ns: int | None
    usable_ns: int | None
    budgets_ms: dict[str, float]
    tool_rounds: int | None
    work: Work

    @property
    def too_many_rounds(self) -> bool:
        """Whether tools ran too often."""


class OnceAWindow:
    """Says whether a key may be logged, and how often it was not since it last was."""

    def __init__(self) -> None:
        self._last_s: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], int] = {}

    def passes(self, key: tuple[str, str]) -> int | None:
        """Return the number held back since the last line; None when this one is held back too."""
        if len(self._last_s) >= MAX_KEYS and key not in self._last_s:
            key = ("", "")
        now_s = time.monotonic()
        if now_s - self._last_s.get(key, -WINDOW_S) < WINDOW_S:
            self._held[key] = self._held.get(key, 0) + 1
            return None
        self._last_s[key] = now_s
        return self._held.pop(key, 0)


_once = OnceAWindow()


def record_overrun(request: Budgeted) -> None:
    """Put the budget that was exceeded most on the span, a stage before the total, and log it once a window."""
    spent_ms = _spent_ms(request)
    over_ms = {
        name: spent_ms[name] - limit_ms
        for name, limit_ms in request.budgets_ms.items()
        if name in spent_ms and spent_ms[name] > limit_ms
    }
    if not over_ms and not request.too_many_rounds:
        return
    stages = {name: ms for name, ms in over_ms.items() if name in CLOCKS}
    worst = max(stages or over_ms, key=over_ms.__getitem__, default=TOOL_ROUNDS)
    request.span.set_attribute(OVER, worst)
    if worst != TOOL_ROUNDS:
        request.span.set_attribute(OVER_TIME, convert(over_ms[worst], "ms", "s"))
    held = _once.passes((request.route, worst))
    if held is not None:
        logger.warning("%s over budget: %s%s", request.route, _said(request, worst, spent_ms), _more(held))


def _spent_ms(request: Budgeted) -> dict[str, float]:
    instants = {
        "total": time.perf_counter_ns(),
        "ttft": request.first_token_ns,
        "usable": request.usable_ns,
    }
    spent = {
        name: convert(at_ns - request.started_ns, "ns", "ms") for name, at_ns in instants.items() if at_ns is not None
    }
    clocks = [clock for clock in CLOCKS if clock in request.budgets_ms]
    return spent | {clock: convert(request.work.spent_ns(clock), "ns", "ms") for clock in clocks}


def _said(request: Budgeted, name: str, spent_ms: dict[str, float]) -> str:
    if name == TOOL_ROUNDS:
        return f"{request.work.tool_rounds} rounds of tools, {request.tool_rounds} allowed"
    return f"{name} took {spent_ms[name]:.0f} ms of {request.budgets_ms[name]:.0f} ms"


def _more(held: int) -> str:
    return f" ({held} more since the last line)" if held else ""
