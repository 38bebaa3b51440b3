"""What a step of a load run sends: when, how long, and from whom, all of it fixed by a seed before it begins."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from .arrivals import drawn, replayed
from .behaviour import PATIENT, Behaviour
from .shapes import Lengths
from .traces import Shape, Traced

Arrivals = Literal["steady", "poisson", "gamma", "replay"]


@dataclass(frozen=True, slots=True)
class Planned:
    """A request: seconds since its step began, how long it is, who sends it."""

    at_s: float
    shape: Shape
    behaviour: Behaviour
    tenant: str


@dataclass(frozen=True)
class Traffic:
    """Everything about the requests but how many there are; `tenants` names are taken in turn by chance."""

    lengths: Lengths
    arrivals: Arrivals = "poisson"
    cv: float = 1.0
    crowd: Sequence[Behaviour] = ()
    tenants: Sequence[str] = ()
    trace: Sequence[Traced] = ()
    think_s: float = 0.0
    seed: int = 1

    def requests(self) -> Iterator[Planned]:
        """Yield requests without end, all at 0 s: for closed loops, whose clients send when they are free."""
        yield from self._sent_at(_always(0.0))

    def at_rate(self, rate: float | None) -> Iterator[Planned]:
        """Yield requests without end at their instants; without a rate, at those of the replayed trace."""
        if self.arrivals == "replay":
            yield from self._sent_at(replayed(self.trace, rate=rate))
        else:
            yield from self._sent_at(drawn(self.arrivals, rate=rate or 1.0, cv=self.cv, seed=self.seed))

    def _sent_at(self, times_s: Iterator[float]) -> Iterator[Planned]:
        rng = random.Random(self.seed + 1)  # noqa: S311 - traffic is no secret
        shapes = self.lengths.shapes(self.seed + 2)
        for at_s in times_s:
            behaviour = self._someone(rng)
            for _ in range(behaviour.burst):
                shape = next(shapes)
                longer = Shape(round(shape.input_tokens * behaviour.longer), shape.output_tokens, shape.blocks)
                tenant = behaviour.tenant or (rng.choice(self.tenants) if self.tenants else "")
                yield Planned(at_s, longer, behaviour, tenant)

    def _someone(self, rng: random.Random) -> Behaviour:
        luck = rng.random()
        for behaviour in self.crowd:
            luck -= behaviour.share
            if luck < 0:
                return behaviour
        return PATIENT


def _always(at_s: float) -> Iterator[float]:
    while True:
        yield at_s
