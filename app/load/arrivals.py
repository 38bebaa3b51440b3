"""When requests are sent: instants that are fixed before the first answer comes."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from tailbudget.instrument.errors import UserError

from .traces import Traced

#: How the gaps between arrivals at a rate of 1 are drawn; `cv` is their deviation over their mean.
GAPS: Final[dict[str, Callable[[random.Random, float], float]]] = {
    "steady": lambda _, __: 1.0,
    "poisson": lambda rng, _: rng.expovariate(1.0),
    "gamma": lambda rng, cv: rng.gammavariate(1 / cv**2, cv**2),
}


def drawn(kind: str, *, rate: float, cv: float = 1.0, seed: int) -> Iterator[float]:
    """Yield seconds since the start, without end: `rate` a second with gaps of the kind; bursts where cv is over 1."""
    rng = random.Random(seed)  # noqa: S311 - traffic is no secret
    at_s = 0.0
    while True:
        at_s += GAPS[kind](rng, cv) / rate
        yield at_s


def replayed(trace: Sequence[Traced], *, rate: float | None = None) -> Iterator[float]:
    """Yield the trace's own instants, over and over; with `rate` stretched so that this is their mean a second.

    Raises UserError where the trace has lengths alone.
    """
    times_s = [one.at_s for one in trace if one.at_s is not None]
    if len(times_s) < 2 or times_s[-1] <= 0:
        raise UserError("this trace has no times to replay: expected --arrivals poisson, gamma or steady with it")
    gap_s = times_s[-1] / (len(times_s) - 1)
    stretch = 1.0 if rate is None else 1 / (rate * gap_s)
    for lap in itertools.count():
        for at_s in times_s:
            yield (lap * (times_s[-1] + gap_s) + at_s) * stretch
