"""Faults that a load run asks for, to see what a slow or failing stage does: heeded where TAILBUDGET_FAULTS=1 alone."""

import asyncio
import os
import time
from dataclasses import dataclass
from typing import Final

from opentelemetry import baggage

from .guard import Guard
from .vocabulary import FAULT, Stage

VARIABLE: Final = "TAILBUDGET_FAULTS"
#: Callers say in baggage what goes wrong, so a service has to want it.
heeded = os.environ.get(VARIABLE, "").strip() == "1"
#: No fault lasts longer.
MOST_S: Final = 60.0


class InjectedFaultError(RuntimeError):
    """A stage failed because the load run that sent the request asked for it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong in a stage: it begins `slow_s` later, or it fails."""

    slow_s: float = 0.0
    fails: bool = False


NONE: Final = Fault()


def fault_of(stage: Stage) -> Fault:
    """Return what the current request asks to go wrong in `stage`, as `retrieval=slow:800` (ms) or `tools=fail`."""
    with Guard("fault"):
        name, _, kind = str(baggage.get_baggage(FAULT) or "").partition("=")
        if name == stage and kind == "fail":
            return Fault(fails=True)
        if name == stage and kind.startswith("slow:"):
            return Fault(slow_s=min(float(kind.removeprefix("slow:")) / 1e3, MOST_S))
    return NONE


def suffer(stage: Stage) -> None:
    """Fail or wait as the request asks; inside an event loop it only fails, and `endure` waits."""
    fault = fault_of(stage)
    if fault.fails:
        raise InjectedFaultError(f"the load run asked the stage {stage!r} to fail")
    if fault.slow_s and not _in_loop():
        time.sleep(fault.slow_s)


async def endure(stage: Stage) -> None:
    """Wait as the request asks."""
    if (fault := fault_of(stage)).slow_s:
        await asyncio.sleep(fault.slow_s)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
