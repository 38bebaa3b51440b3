"""How late an event loop is: the histogram `slo.loop.lag`, which shows code that blocks everybody."""

import asyncio
import weakref
from functools import partial
from typing import Final

from .guard import Guard
from .histograms import histogram
from .vocabulary import LOOP_LAG

#: A timer that wakes up an idle loop costs 0.1 ms of CPU. What counts is the share of timers that come late, which does
#: not depend on how many there are; five minutes have 1,200.
INTERVAL_S: Final = 0.25
BOUNDARIES_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

guard = Guard("loop lag")
_watched: "weakref.WeakSet[asyncio.AbstractEventLoop]" = weakref.WeakSet()


@guard
def watch_loop() -> None:
    """Measure the running event loop from now until it closes; a second call changes nothing. Without a loop neither.

    The ASGI middleware calls it by itself.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if loop not in _watched:
        _watched.add(loop)
        _arm(loop)


def _arm(loop: asyncio.AbstractEventLoop) -> None:
    due_s = loop.time() + INTERVAL_S
    loop.call_at(due_s, partial(_tick, weakref.ref(loop), due_s))


def _tick(reference: "weakref.ref[asyncio.AbstractEventLoop]", due_s: float) -> None:
    loop = reference()
    if loop is None:
        return
    with guard:
        lag = histogram(LOOP_LAG, unit="s", boundaries=BOUNDARIES_S)
        lag.record(max(0.0, loop.time() - due_s), {})
    _arm(loop)
