"""The collector's event loop: it does not ask the kernel for more before each round of what is ready."""

import asyncio
import selectors
import time
from collections.abc import Coroutine
from typing import Any, Final

#: An acknowledgement takes five rounds of a tenth of a millisecond. To ask in between gave Python's lock away, which
#: questions then held for a while.
ASK_EVERY_S: Final = 0.0005


class _Selector(selectors.DefaultSelector):
    """Says that nothing came where it was asked a moment ago and the loop has work."""

    _asked_s = 0.0  # monotonic

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout == 0 and time.monotonic() < self._asked_s + ASK_EVERY_S:
            return []
        found = super().select(timeout)
        self._asked_s = time.monotonic()
        return found


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run to the end, as `asyncio.run` does."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(_Selector())) as runner:
        runner.run(work)
