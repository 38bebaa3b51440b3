"""A load shedder: under pressure the least important requests are sent away at once, so that the others are served."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, get_args

from ..errors import UserError
from ..request import annotate
from ..vocabulary import SHED
from .errors import ShedError
from .figures import Figure, Reporting

Tier = Literal["critical", "high", "normal", "low"]
TIERS: Final[tuple[Tier, ...]] = get_args(Tier)
#: Pressure (1 = a trigger is at its limit) from which each tier is shed: the ladder leaves the next tier room to
#: recover before it is touched. Critical requests are shed last, at twice the limit.
SHED_FROM: Final[tuple[float, ...]] = (2.0, 1.5, 1.2, 1.0)


def cpu_load() -> float:
    """Return the machine's load of the last minute, a core: 1 means that every core is taken."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


class LoadShedder(Reporting):
    """Refuses requests by tier when a trigger passes its limit.

    `triggers` is a mapping of what presses (a name such as `cpu`) to a function that says how much; 1 is the limit:
    `{"cpu": cpu_load, "queue": lambda: queue.fullness, "wait": lambda: queue.expected_wait_s() / 2}`.
    """

    def __init__(self, name: str, triggers: Mapping[str, Callable[[], float]]) -> None:
        super().__init__(name)
        if not triggers:
            raise UserError(f"LoadShedder {name!r}: no triggers: expected some, such as {{'cpu': cpu_load}}")
        self._triggers = dict(triggers)
        self._lock = threading.Lock()
        self._shed: Counter[tuple[str, str]] = Counter()

    def figures(self) -> Iterable[Figure]:
        """Return what was shed, by tier and reason."""
        with self._lock:
            shed = dict(self._shed)
        for (tier, reason), n in shed.items():
            yield SHED, n, (("tier", tier), ("reason", reason))

    def pressure(self) -> tuple[str, float]:
        """Return the trigger that presses most, and how much. A trigger that raises presses not at all."""
        return max(((name, _asked(trigger)) for name, trigger in self._triggers.items()), key=lambda each: each[1])

    def admit(self, *, tier: Tier = "normal", attempt: int = 1, realtime: bool = False) -> None:
        """Let a request in, or raise ShedError and give the current request the outcome `shed`.

        Somebody who waits at a screen (`realtime`) is one tier up; a retry (`attempt` above 1), one of which the first
        attempt was perhaps shed, one tier down. UserError for an unknown tier.
        """
        if tier not in TIERS:
            raise UserError(f"LoadShedder {self.name!r}: tier is {tier!r}: expected one of {', '.join(TIERS)}")
        self.report()
        at = min(max(TIERS.index(tier) - realtime + (attempt > 1), 0), len(TIERS) - 1)
        reason, pressure = self.pressure()
        if pressure < SHED_FROM[at]:
            return
        with self._lock:
            self._shed[TIERS[at], reason] += 1
        annotate(outcome="shed")
        raise ShedError(f"{self.name}: {reason} is at {pressure:.2f} of its limit, {TIERS[at]} requests are shed")


def _asked(trigger: Callable[[], float]) -> float:
    try:
        return trigger()
    except Exception:  # noqa: BLE001 - what measures the load must not refuse it
        return 0.0
