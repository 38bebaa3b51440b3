"""How alarms are judged against labels: hits, misses, false alarms, delay."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .series import HOURS, Series

LATE_S: Final = 60  # a hit until so long after the sag's end
RECOVERY_S: Final = 900  # alarms until so long after it count neither way


@dataclass(frozen=True)
class Score:
    """What a detector did on a set of series."""

    sags: int
    hits: int
    false: int
    series_days: float
    delays_s: tuple[float, ...]

    @property
    def f1(self) -> float:
        """Harmonic mean of recall, over sags, and precision, over hits and false alarms."""
        return 2 * self.hits / max(self.hits + self.false + self.sags, 1)

    @property
    def false_a_day(self) -> float:
        """False alarms a series-day."""
        return self.false / self.series_days

    @property
    def delay_s(self) -> float:
        """Median seconds from a sag's start to its first alarm."""
        return float(np.median(self.delays_s)) if self.delays_s else float("nan")


def judge(series: Iterable[Series], opened: Mapping[str, Sequence[float]]) -> Score:
    """Score the seconds at which alarms opened in each series, by name."""
    sags = hits = false = count = 0
    delays: list[float] = []
    for one in series:
        count += 1
        within: list[float] = []
        for at in opened.get(one.name, ()):
            if one.sag and one.sag.start_s <= at <= one.sag.end_s + LATE_S:
                within.append(at - one.sag.start_s)
            elif not (one.sag and one.sag.start_s <= at <= one.sag.end_s + RECOVERY_S):
                false += 1
        sags += one.sag is not None
        hits += bool(within)
        delays += sorted(within)[:1]
    return Score(sags, hits, false, count * HOURS / 24, tuple(delays))
