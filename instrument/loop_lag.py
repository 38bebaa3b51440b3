"""How late an event loop is: the histogram `slo.loop.lag`, which shows code that blocks everybody."""

import asyncio
import weakref
from functools import partial
from typing import Final

from .guard import Guard
from .histograms import histogram
from .vocabulary import LOOP_LAG

#: Ten timers a second cost about 0.1 ms of CPU, and a block of 100 ms is hit by at least one.
INTERVAL_S: Final = 0.1
BOUNDARIES_S: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)

_watched: "weakref.WeakSet[asyncio.AbstractEventLoop]" = weakref.WeakSet()


@Guard("loop lag")
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
    with Guard("loop lag"):
        lag = histogram(LOOP_LAG, unit="s", boundaries=BOUNDARIES_S)
        lag.record(max(0.0, loop.time() - due_s), {})
    _arm(loop)
