"""Differences between two samples, with intervals that hold for heavy tails and for neighbours that are alike."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
#: Values and a row of weights a replicate -> what is estimated, a replicate each.
Statistic = Callable[[Floats, Floats], Floats]

REPLICATES: Final = 300
SEED: Final = 20260301  # the same data give the same interval
#: Blocks that the time is cut into, as many as the root of the sample's size. Of samples from different times the wider
#: of two intervals counts, that of short blocks and that of long ones: on real lengths, blocks of 200 neighbours put
#: into another order, short ones alone call up to a quarter of equals different.
MOST_BLOCKS: Final = 60
FEWEST_BLOCKS: Final = 10
#: A percentile's change is the mean over this many of its neighbours, which is surer than one of them.
NEIGHBOURS: Final = 9
#: Values beyond a percentile that it needs, to be told at all.
FEWEST_BEYOND: Final = 10


@dataclass(frozen=True)
class Difference:
    """From a to b: a ratio of b to a less one, or the difference of shares; low and high are its 95 % interval."""

    a: float
    b: float
    change: float
    low: float
    high: float

    @property
    def changed(self) -> bool:
        """Whether the interval leaves out no change."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Sample:
    """Values and when they were taken, in seconds, in that order."""

    t_s: Floats
    values: Floats


def percentile_ratio(a: Sample, b: Sample, p: float, *, paired: bool) -> Difference | None:
    """Return how the percentile `p` (0 to 1) changed, as a ratio less one; None where the samples are too small.

    `paired` says that both were taken over the same time: then the same stretches of time are drawn for both.
    """
    if min(len(a.values), len(b.values)) * (1 - p) < FEWEST_BEYOND:
        return None
    points = np.linspace(p - min(0.05, 1 - p), p + min(0.02, 0.4 * (1 - p)), NEIGHBOURS)
    change = float(np.mean(_log(np.quantile(b.values, points)) - _log(np.quantile(a.values, points))))
    half = _half_width(a, b, paired=paired, statistic=lambda sample, weights: _percentiles(sample, weights, points))
    levels = (float(np.quantile(sample.values, p)) for sample in (a, b))
    return Difference(*levels, *(math.expm1(at) for at in (change, change - half, change + half)))


def mean_difference(a: Sample, b: Sample, *, paired: bool, ratio: bool = False) -> Difference | None:
    """Return how the mean changed: the difference, or the ratio less one; None where there is too little."""
    if min(len(a.values), len(b.values)) < FEWEST_BEYOND * FEWEST_BLOCKS:
        return None
    means = float(a.values.mean()), float(b.values.mean())
    if ratio and min(means) <= 0:
        return None
    change = math.log(means[1] / means[0]) if ratio else means[1] - means[0]
    half = _half_width(
        a, b, paired=paired, statistic=lambda sample, weights: _means(sample, weights, logarithmic=ratio)
    )
    edges = (change, change - half, change + half)
    return Difference(*means, *(map(math.expm1, edges) if ratio else edges))


def _log(values: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(values, 1e-9)))


def _half_width(a: Sample, b: Sample, *, paired: bool, statistic: Statistic) -> float:
    """Return half the 95 % interval of the difference of the statistic."""
    rng = np.random.default_rng(SEED)
    widths = []
    short = min(max(round(math.sqrt(len(a.values))), FEWEST_BLOCKS), MOST_BLOCKS)
    for blocks in (short,) if paired else (short, FEWEST_BLOCKS):
        counts = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=(2, REPLICATES)).astype(float)
        pooled = np.sort(np.concatenate([a.t_s, b.t_s]))
        drawn = []
        for sample, own in ((a, counts[0]), (b, counts[0] if paired else counts[1])):
            times = pooled if paired else sample.t_s
            edges = times[np.arange(1, blocks) * len(times) // blocks]
            weights = own[:, np.searchsorted(edges, sample.t_s, side="right")]
            drawn.append(statistic(sample.values, weights))
        widths.append(_student(blocks - 1) * float(np.std(drawn[1] - drawn[0])))
    return max(widths)


def _percentiles(values: Floats, weights: Floats, points: Floats) -> Floats:
    """Return the mean log percentile of each row of weights."""
    order = np.argsort(values, kind="stable")
    through = np.cumsum(weights[:, order], axis=1)
    logs = _log(values[order])
    last = len(values) - 1
    found = [logs[np.minimum(np.searchsorted(row, points * row[-1]), last)].mean() for row in through]
    return np.array(found)


def _means(values: Floats, weights: Floats, *, logarithmic: bool) -> Floats:
    means = weights @ values / np.maximum(weights.sum(axis=1), 1e-9)
    return _log(means) if logarithmic else np.asarray(means)


def _student(freedom: int) -> float:
    """Return the two-sided 95 % point of Student's t (Cornish and Fisher's expansion; within 0.2 % from 9 on)."""
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
