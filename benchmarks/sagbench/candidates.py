"""The detectors that compete: each turns a series and a threshold into the seconds at which it raises an alarm."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final

import numpy as np
import numpy.typing as npt

from .parts import Floats
from .series import BIN_S, Series

Flags = npt.NDArray[np.bool_]
Detector = Callable[[Series, float], list[float]]

BASELINE_S: Final = 3600
GAP_S: Final = 300
BUCKET_STREAM_S: Final = 5
MIN_BUCKETS: Final = 15


@dataclass(frozen=True)
class Buckets:
    """Equal information, and how much slower each is than load and the trailing hour explain."""

    end_s: Floats
    slower: Floats  # e-folds, not a number before there is a baseline
    spread: Floats


def opened(end_s: Floats, alarm: Flags, quiet: Flags) -> list[float]:
    """Return where `alarm` starts; it may start again once `quiet` was."""
    found, open_now = [], False
    for at, loud, calm in zip(end_s.tolist(), alarm.tolist(), quiet.tolist(), strict=True):
        if loud and not open_now:
            found.append(at)
        open_now = loud or (open_now and not calm)
    return found


def between(t_s: Floats, back_s: float, to_s: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return for each time the range of indices that lie from `back_s` to `to_s` before it."""
    return np.searchsorted(t_s, t_s - back_s), np.searchsorted(t_s, t_s - to_s, side="right")


def sums(values: Floats, low: npt.NDArray[np.intp], high: npt.NDArray[np.intp]) -> Floats:
    """Return the sum of `values` over each range."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(total[np.maximum(high, low)] - total[low])


def grouped(series: Series, *, seconds: float = 0, stream_s: float = 0) -> tuple[Floats, Floats, Floats]:
    """Return the end, rate and load of stretches of so many seconds, or of so many stream-seconds."""
    filled = np.cumsum(series.active_s)
    number = np.floor(series.t_s / seconds) if seconds else np.floor((filled - series.active_s) / stream_s)
    last = np.flatnonzero(np.append(number[1:] != number[:-1], True))
    first = np.concatenate([[0], last[:-1] + 1])
    tokens, active_s = np.add.reduceat(series.tokens, first), np.add.reduceat(series.active_s, first)
    load = active_s / (BIN_S * (last - first + 1))
    some = tokens > 0
    return series.t_s[last][some] + BIN_S, tokens[some] / active_s[some], load[some]


def buckets(series: Series) -> Buckets:
    """Normalise by load: least squares of the time per token on streams, over the trailing hour."""
    end_s, rate, load = grouped(series, stream_s=BUCKET_STREAM_S)
    token_s = 1 / rate
    low, high = between(end_s, BASELINE_S + GAP_S, GAP_S)
    n = np.maximum(high - low, 1)
    x, y, xx, xy = (sums(values, low, high) / n for values in (load, token_s, load * load, load * token_s))
    spread_x = xx - x * x
    slope = np.where(spread_x > 1e-6, np.maximum((xy - x * y) / np.maximum(spread_x, 1e-6), 0), 0)
    slower = np.where(
        n >= MIN_BUCKETS, np.log(token_s / np.maximum(np.maximum(y + slope * (load - x), 0.2 * y), 1e-6)), np.nan
    )
    size = np.nan_to_num(np.abs(np.clip(slower, -1, 1)), nan=0.1)
    return Buckets(end_s, slower, np.maximum(0.03, 1.25 * sums(size, low, high) / n))  # 1.25 x mean size: Gaussian


def fixed_drop(series: Series, threshold: float) -> list[float]:
    """A minute's rate lies so much below the median minute of the trailing hour."""
    end_s, rate, _ = grouped(series, seconds=60)
    low, high = between(end_s, BASELINE_S + GAP_S, GAP_S)
    usual = np.array([np.median(rate[a:b]) if b - a >= MIN_BUCKETS else 0 for a, b in zip(low, high, strict=True)])
    below = rate < usual * (1 - threshold)
    return opened(end_s, below, ~below)


def ratio(series: Series, threshold: float) -> list[float]:
    """The rate of five minutes lies so much below that of sixty."""
    end_s = series.t_s + BIN_S
    rates = []
    for back_s in (300, 3600):
        low, high = between(series.t_s, back_s, 0)
        rates.append(sums(series.tokens, low, high) / np.maximum(sums(series.active_s, low, high), 1e-9))
    enough = series.t_s - series.t_s[0] > 900
    below = (rates[0] < rates[1] * (1 - threshold)) & enough
    return opened(end_s, below, rates[0] > rates[1] * (1 - threshold / 2))


def ewma(series: Series, threshold: float) -> list[float]:
    """An exponentially weighted mean of the minutes' log rates leaves its control limits."""
    end_s, rate, _ = grouped(series, seconds=60)
    value, weight = np.log(rate), 0.2
    low, high = between(end_s, BASELINE_S + GAP_S, GAP_S)
    n = np.maximum(high - low, 1)
    mean = sums(value, low, high) / n
    sigma = np.sqrt(np.maximum(sums(value * value, low, high) / n - mean * mean, 1e-4))
    smooth = value.copy()
    for at in range(1, len(smooth)):
        smooth[at] = weight * value[at] + (1 - weight) * smooth[at - 1]
    out = (smooth < mean - threshold * sigma * np.sqrt(weight / (2 - weight))) & (n >= MIN_BUCKETS)
    return opened(end_s, out, ~out)


def page_hinkley(series: Series, threshold: float) -> list[float]:
    """Page and Hinkley's test on the minutes' log rates, started anew after each alarm."""
    end_s, rate, _ = grouped(series, seconds=60)
    found, mean, total, top, n = [], 0.0, 0.0, 0.0, 0
    for at, value in zip(end_s.tolist(), np.log(rate).tolist(), strict=True):
        n += 1
        mean += (value - mean) / n
        total += value - mean + 0.02
        top = max(top, total)
        if n > MIN_BUCKETS and top - total > threshold:
            found.append(at)
            mean, total, top, n = 0.0, 0.0, 0.0, 0
    return found


def cusum(series: Series, threshold: float) -> list[float]:
    """A likelihood ratio for 22 % slower, summed over at most ten minutes of normalised buckets."""
    seen, shift = buckets(series), 0.22
    slower = np.nan_to_num(seen.slower)
    step = np.clip((slower - shift / 2) * shift / np.maximum(0.06, seen.spread) ** 2, -3, 3)
    total = np.concatenate([[0.0], np.cumsum(step)])
    low = np.searchsorted(seen.end_s, seen.end_s - 600)
    height = np.array([total[at + 1] - total[start : at + 2].min() for at, start in enumerate(low)])
    start = np.searchsorted(seen.end_s, seen.end_s - 180)
    middle = np.array([np.median(slower[a : at + 1]) for at, a in enumerate(start)])
    return opened(seen.end_s, (height > threshold) & (middle > 0.08), middle < 0.04)


def bocpd(series: Series, threshold: float) -> list[float]:
    """Bayesian online change points on normalised buckets: probable mean of the current run, if it began lately."""
    seen = buckets(series)
    slower = np.clip(np.nan_to_num(seen.slower), -1, 1)
    longest, hazard, prior = 240, 1 / 500, 0.3
    weight, mean, n = np.array([1.0]), np.zeros(1), np.zeros(1)
    estimate = np.zeros(len(slower))
    for at, (value, spread) in enumerate(zip(slower, np.maximum(seen.spread, 0.06), strict=True)):
        precision = 1 / prior**2 + n / spread**2
        centre = mean * n / spread**2 / precision
        variance = spread**2 + 1 / precision
        likely = np.maximum(np.exp(-((value - centre) ** 2) / (2 * variance)) / np.sqrt(variance), 1e-12)
        grown = weight * likely
        weight = np.append(grown.sum() * hazard, grown * (1 - hazard))[:longest]
        weight /= weight.sum()
        mean = np.append(0.0, (mean * n + value) / (n + 1))[:longest]
        n = np.append(0.0, n + 1)[:longest]
        bound = mean - spread / np.sqrt(np.maximum(n, 1))
        estimate[at] = (weight[3:] * bound[3:]).sum() if len(weight) > 3 else 0.0
    return opened(seen.end_s, estimate > threshold, estimate < threshold / 2)


#: Name -> detector and the thresholds that are tried on the even seeds.
CANDIDATES: Final[Mapping[str, tuple[Detector, tuple[float, ...]]]] = {
    "fixed drop": (fixed_drop, (0.15, 0.2, 0.3, 0.4, 0.5)),
    "5/60 minutes": (ratio, (0.1, 0.15, 0.2, 0.25, 0.3)),
    "EWMA": (ewma, (3, 5, 8, 12)),
    "Page-Hinkley": (page_hinkley, (0.5, 1, 2, 4)),
    "CUSUM": (cusum, (20, 30, 45, 60)),
    "BOCPD": (bocpd, (0.08, 0.12, 0.16, 0.2)),
}


def adwin() -> tuple[Detector, tuple[float, ...]] | None:
    """Return river's ADWIN on the minutes' rates, None where river is not installed."""
    try:
        drift = import_module("river.drift")  # not among what this project installs
    except ImportError:
        return None

    def detect(series: Series, threshold: float) -> list[float]:
        end_s, rate, _ = grouped(series, seconds=60)
        detector, found, means = drift.ADWIN(delta=threshold), [], [0.0]
        for at, value in zip(end_s.tolist(), np.log(rate).tolist(), strict=True):
            detector.update(value)
            means.append(detector.estimation)
            if detector.drift_detected and means[-1] < means[-2]:
                found.append(at)
        return found

    return detect, (0.0001, 0.002, 0.02)
