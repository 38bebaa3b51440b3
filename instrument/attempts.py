"""One attempt of a hedged call: which model calls it made, so that what the loser wasted can be counted."""

import threading
from collections.abc import Callable
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span

from .guard import Guard
from .vocabulary import HEDGED, STREAM_CHUNKS

ATTEMPT_KEY: Final = otel_context.create_key("tailbudget-attempt")


class Attempt:
    """One of the attempts of a call; `number` is 1 or 2."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.cancelled = False
        self._hedged = number > 1
        self._spans: list[Span] = []
        self._undo: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    def on_cancel(self, undo: Callable[[], object]) -> None:
        """Call `undo` when the other attempt has won: a stream's `close`, for example. At once when it has already."""
        with self._lock:
            late = self.cancelled
            if not late:
                self._undo.append(undo)
        if late:
            undo()

    def cancel(self) -> None:
        """Tell the attempt that it has lost. An error of what `on_cancel` was given is logged, not the winner's."""
        with self._lock:
            self.cancelled = True
            undo, self._undo = self._undo, []
        for each in undo:
            with Guard("hedge"):
                each()

    def made(self, span: Span) -> None:
        """Take note of a model call."""
        with self._lock:
            self._spans.append(span)
        if self._hedged:
            span.set_attribute(HEDGED, value=True)

    def hedged(self) -> None:
        """Mark the calls: another attempt runs beside this one."""
        with self._lock:
            self._hedged = True
            spans = list(self._spans)
        for span in spans:
            span.set_attribute(HEDGED, value=True)

    def tokens(self) -> int:
        """Return the output tokens of its model calls: as reported, else their chunks. Calls not sampled count 0."""
        with self._lock:
            spans = list(self._spans)
        total = 0
        for span in spans:
            said = getattr(span, "attributes", None) or {}
            total += said.get("gen_ai.usage.output_tokens", said.get(STREAM_CHUNKS, 0))
        return total


def current_attempt(context: Context) -> Attempt | None:
    """Return the attempt that runs in this context."""
    attempt = context.get(ATTEMPT_KEY)
    return attempt if isinstance(attempt, Attempt) else None
