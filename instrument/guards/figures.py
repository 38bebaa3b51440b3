"""The metrics of guards: plain numbers of each, read when OpenTelemetry collects, under its name in `slo.guard`."""

import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Final

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

from .. import providers
from ..guard import Guard
from ..vocabulary import (
    BRANCHES,
    BRANCHES_FAILED,
    BRANCHES_LATE,
    BRANCHES_PATCHED,
    BREAKER_STATE,
    CACHE_HITS,
    CACHE_MISSES,
    GUARD,
    HEDGE_SENT,
    HEDGE_WASTED_TOKENS,
    HEDGE_WON,
    LIMIT_CURRENT,
    LIMIT_IN_FLIGHT,
    QUEUE_DEPTH,
    QUEUE_WAIT,
    SHED,
)

#: metric -> whether it only grows, unit.
METRICS: Final[dict[str, tuple[bool, str]]] = {
    BRANCHES: (True, "{branch}"),
    BRANCHES_FAILED: (True, "{branch}"),
    BRANCHES_LATE: (True, "{branch}"),
    BRANCHES_PATCHED: (True, "{branch}"),
    BREAKER_STATE: (False, "1"),
    CACHE_HITS: (True, "{hit}"),
    CACHE_MISSES: (True, "{miss}"),
    HEDGE_SENT: (True, "{call}"),
    HEDGE_WON: (True, "{call}"),
    HEDGE_WASTED_TOKENS: (True, "{token}"),
    LIMIT_CURRENT: (False, "{call}"),
    LIMIT_IN_FLIGHT: (False, "{call}"),
    QUEUE_DEPTH: (False, "{call}"),
    SHED: (True, "{request}"),
}
WAIT_BOUNDARIES_S: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

#: metric, value, further labels.
Figure = tuple[str, float, tuple[tuple[str, str], ...]]

_guards: "weakref.WeakSet[Reporting]" = weakref.WeakSet()
_registered: set[Meter] = set()
_lock = threading.Lock()
_waits: dict[Meter, Histogram] = {}


class Reporting(ABC):
    """A guard with a name; subclasses say their figures and call `report` when they are used."""

    def __init__(self, name: str) -> None:
        self.name = name
        _guards.add(self)

    @abstractmethod
    def figures(self) -> Iterable[Figure]:
        """Return the guard's figures as they are now; counters never fall."""

    @Guard("guards")
    def report(self) -> None:
        """Make sure that the figures are exported. At use and not at birth: guards are often older than `init`."""
        meter = providers.meter()
        with _lock:
            if meter in _registered:
                return
            _registered.add(meter)
        for name, (grows, unit) in METRICS.items():
            create = meter.create_observable_counter if grows else meter.create_observable_gauge
            create(name, [partial(_observe, name)], unit=unit)

    @Guard("guards")
    def waited(self, wait_s: float) -> None:
        """Record a wait in this guard's queue."""
        meter = providers.meter()
        if meter not in _waits:
            _waits[meter] = meter.create_histogram(
                QUEUE_WAIT, unit="s", explicit_bucket_boundaries_advisory=WAIT_BOUNDARIES_S
            )
        _waits[meter].record(wait_s, {GUARD: self.name})


def _observe(metric: str, _: CallbackOptions) -> Iterator[Observation]:
    """Yield one observation a set of labels; guards of one name are one."""
    totals: dict[tuple[tuple[str, str], ...], float] = {}
    for guard in tuple(_guards):
        for name, value, labels in guard.figures():
            if name == metric:
                key = ((GUARD, guard.name), *labels)
                totals[key] = totals.get(key, 0) + value
    for labels, value in totals.items():
        yield Observation(value, dict(labels))
