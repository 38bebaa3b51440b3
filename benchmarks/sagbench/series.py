"""Labelled series of 10-second bins: six hours of one model on one provider or engine, with a sag or without."""

from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from .parts import RATE_WINDOW_S, Floats, Parts

Family = Literal["provider", "self-hosted"]
FAMILIES: Final[tuple[Family, ...]] = ("provider", "self-hosted")
HOURS: Final = 6
SECONDS: Final = HOURS * 3600
BIN_S: Final = 10
BINS: Final = SECONDS // BIN_S
#: Streams at once on average, drawn log-uniformly.
LOADS: Final = {"provider": (0.4, 20.0), "self-hosted": (0.6, 24.0)}
MAX_BATCH: Final = 64
#: Share of series that have a sag.
SAGGING: Final = 0.6
#: Requests that start in a sag, at least; with fewer it is none.
FEWEST: Final = 15
#: What a sag is like, and how often.
KINDS: Final = {
    "provider": (["step", "ramp", "partial"], [0.5, 0.2, 0.3]),
    "self-hosted": (["step", "ramp", "partial", "latch", "contention"], [0.35, 0.2, 0.25, 0.1, 0.1]),
}


@dataclass(frozen=True)
class Sag:
    """What is to be found."""

    start_s: float
    end_s: float
    kind: str


@dataclass(frozen=True)
class Series:
    """Bins that are not idle, and their label."""

    name: str
    family: Family
    t_s: Floats  # start of each bin
    tokens: Floats
    active_s: Floats
    sag: Sag | None
    traits: tuple[str, ...]


@dataclass
class Plan:
    """What happens in the six hours, second by second."""

    length: Floats  # tokens, one a request
    arrival_s: Floats
    affected: Floats  # share of the sag that hits each request: 0 or 1
    slow: Floats  # factor on the time per token of what is affected
    drift: Floats  # factor on everybody's time per token: no sag
    sag: Sag | None
    traits: list[str] = field(default_factory=list)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    kind: str = ""
    load: float = 1.0  # streams at once, about


def make(parts: Parts, *, family: Family, seed: int) -> Series:
    """Return the series of this seed: the same for the same seed and parts."""
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    plan_ = plan(parts, rng, family)
    tokens, active_s = (_provider if family == "provider" else _engine)(parts, rng, plan_)
    for start, end in plan_.gaps:
        tokens[int(start) // BIN_S : int(end) // BIN_S] = 0
        active_s[int(start) // BIN_S : int(end) // BIN_S] = 0
    if rng.random() < 0.3:  # a client counts chunks of several tokens
        tokens /= rng.choice([1.0, 2.0, 4.0])
    seen = active_s > 0.01
    t_s = np.arange(BINS, dtype=float) * BIN_S
    return Series(
        f"{family}-{seed}",
        family,
        t_s[seen],
        np.round(tokens[seen], 1),
        np.round(active_s[seen], 3),
        plan_.sag,
        tuple(plan_.traits),
    )


def plan(parts: Parts, rng: np.random.Generator, family: Family) -> Plan:
    """Draw arrivals, lengths, a sag or none, and what looks like a sag but is none."""
    drift = 1 + rng.uniform(0, 0.15) * np.sin(
        2 * np.pi * (np.arange(SECONDS) / rng.uniform(6, 24) / 3600 + rng.random())
    )
    sag, slow, share = _sag(rng, family) if rng.random() < SAGGING else (None, np.ones(SECONDS), 0.0)
    traits: list[str] = []
    shape = np.ones(SECONDS)
    if rng.random() < 0.4:  # bursts of arrivals
        traits.append("burst")
        for _ in range(rng.integers(1, 4)):
            at = int(rng.uniform(3600, SECONDS - 1200))
            shape[at : at + int(rng.uniform(120, 1200))] *= rng.uniform(2, 5)
    workload = np.where(rng.random(SECONDS) < rng.choice([0.0, 0.3, 1.0], p=[0.5, 0.3, 0.2]), 1, 0)
    if rng.random() < 0.3:  # another mix of lengths from here on
        traits.append("mix")
        at = int(rng.uniform(3600, SECONDS - 1200))
        workload[at:] = 1 - workload[at:]
    arrival_s = _arrivals(parts, rng, shape, family)
    code = workload[arrival_s.astype(int)] == 1
    length = np.where(code, rng.choice(parts.lengths["code"], len(code)), rng.choice(parts.lengths["conv"], len(code)))
    gaps: list[tuple[float, float]] = []
    if rng.random() < 0.2:
        traits.append("gap")
        gap = rng.uniform(1800, SECONDS - 3600)
        gaps.append((gap, gap + rng.uniform(120, 2400)))
        if sag and gaps[0][0] < sag.end_s and gaps[0][1] > sag.start_s - 120:
            gaps.clear()
    if sag and np.count_nonzero((arrival_s >= sag.start_s) & (arrival_s < sag.end_s)) < FEWEST:  # nobody sees it
        sag, slow = None, np.ones(SECONDS)
    affected = (rng.random(len(code)) < share).astype(float)
    return Plan(
        np.maximum(length, 2.0),
        arrival_s,
        affected,
        slow,
        drift,
        sag,
        traits,
        gaps,
        sag.kind if sag else "",
        len(code) * 7 / SECONDS,
    )


def _sag(rng: np.random.Generator, family: Family) -> tuple[Sag, Floats, float]:
    """Return a sag, its factor on the time per token each second, and the share of requests that it hits."""
    start = rng.uniform(4500, SECONDS - 2700)
    end = min(start + rng.uniform(480, 2400), SECONDS - 60.0)
    kind = str(rng.choice(KINDS[family][0], p=KINDS[family][1]))
    depth = rng.choice([0.15, 0.2, 0.2, 0.25, 0.3, 0.4, 0.5])
    share = 1.0
    if kind == "partial":
        depth, share = rng.uniform(0.35, 0.6), rng.uniform(0.3, 0.6)
    t = np.arange(SECONDS)
    within = ((t >= start) & (t < end)).astype(float)
    if kind == "ramp":
        within *= np.clip((t - start) / rng.uniform(120, 600), 0, 1)
    return Sag(start, end, kind), 1 / (1 - depth * within), share


def _arrivals(parts: Parts, rng: np.random.Generator, shape: Floats, family: Family) -> Floats:
    """Return arrival instants: a real client's rates and variation over six of its hours, scaled to a load."""
    client = parts.arrivals[rng.integers(len(parts.arrivals))]
    windows = SECONDS // RATE_WINDOW_S
    while True:  # six hours in which the client was there
        first = rng.integers(0, len(client) - windows)
        rates = client[first : first + windows]
        if np.count_nonzero(rates[:, 0]) > windows * 0.7:
            break
    low, high = np.log(LOADS[family])
    # 7 s is about what an answer of the mean length takes.
    mean_rate = np.exp(rng.uniform(low, high)) / 7
    weights = np.repeat(rates[:, 0] / rates[:, 0].mean(), RATE_WINDOW_S) * shape
    variation = float(np.clip(np.median(rates[rates[:, 0] > 0, 1]), 0.5, 3.0))
    count = int(mean_rate * weights.sum())
    gaps = rng.gamma(1 / variation**2, variation**2, count + 1)  # in units of expected arrivals
    marks = np.cumsum(gaps)
    through = np.concatenate([[0.0], np.cumsum(mean_rate * weights)])
    return np.asarray(np.interp(marks[marks < through[-1]], through, np.arange(SECONDS + 1)))


def _provider(parts: Parts, rng: np.random.Generator, planned: Plan) -> tuple[Floats, Floats]:
    """Return tokens and stream-seconds a bin: each request at its own pace, whatever the load."""
    provider = parts.providers[rng.integers(len(parts.providers))]
    count = len(planned.arrival_s)
    block = 30  # keeps the dependence between neighbours
    starts = rng.integers(0, len(provider.noise), count // block + 1)
    noise = provider.noise[(starts[:, None] + np.arange(block)).ravel()[:count] % len(provider.noise)]
    token_s = max(provider.token_s, 0.01) * np.exp(noise)
    clock = np.arange(SECONDS + 1, dtype=float)
    hit = np.concatenate([[0.0], np.cumsum(1 / (planned.drift * planned.slow))])
    spared = np.concatenate([[0.0], np.cumsum(1 / planned.drift)])
    tokens, active_s = np.zeros(BINS), np.zeros(BINS)
    for progress, chosen in ((hit, planned.affected > 0), (spared, planned.affected == 0)):
        _spread(tokens, active_s, planned.arrival_s[chosen], planned.length[chosen], token_s[chosen], progress, clock)
    return tokens, active_s


def _spread(
    tokens: Floats, active_s: Floats, start: Floats, length: Floats, token_s: Floats, progress: Floats, clock: Floats
) -> None:
    """Add what each request decodes to the bins in which it does."""
    done = np.interp(start, clock, progress)
    end = np.interp(done + length * token_s, progress, clock)
    first = (start // BIN_S).astype(int)
    bins = np.minimum(end // BIN_S, BINS - 1).astype(int) - first + 1
    owner = np.repeat(np.arange(len(start)), bins)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(bins) - bins, bins) + first[owner]
    left, right = np.maximum(start[owner], number * BIN_S), np.minimum(end[owner], (number + 1) * BIN_S)
    np.add.at(active_s, number, right - left)
    np.add.at(tokens, number, (np.interp(right, clock, progress) - np.interp(left, clock, progress)) / token_s[owner])


def _engine(parts: Parts, rng: np.random.Generator, planned: Plan) -> tuple[Floats, Floats]:
    """Return tokens and stream-seconds a bin of one engine: all streams share its step, which grows with the batch."""
    engine = parts.engines[rng.integers(len(parts.engines))]
    steps = np.interp(np.arange(MAX_BATCH + 1), engine.batch, engine.step_s)
    jitter = _wander(rng, rng.uniform(0.005, 0.05), 0.98)
    prefill_s = rng.uniform(0.005, 0.04)  # of the engine's time that a new request takes from the others
    tokens, active_s = np.zeros(BINS), np.zeros(BINS)
    left: list[float] = []
    hit: list[float] = []
    upcoming = 0
    for second in range(SECONDS):
        waiting = int(np.searchsorted(planned.arrival_s, second + 1)) - upcoming
        joined = min(waiting, MAX_BATCH - len(left))
        left += planned.length[upcoming : upcoming + joined].tolist()
        hit += planned.affected[upcoming : upcoming + joined].tolist()
        upcoming += joined
        if not left:
            continue
        slow = planned.slow[second]
        step_s = _step_s(steps, len(left), slow, planned) * planned.drift[second] * jitter[second]
        per_second = max(1 - prefill_s * joined, 0.2) / step_s
        held = slow if planned.kind == "partial" else 1.0
        number = second // BIN_S
        for at in range(len(left)):
            pace = per_second / (held if hit[at] else 1.0)
            got = min(left[at], pace)
            tokens[number] += got
            active_s[number] += got / pace
            left[at] -= got
        hit = [one for one, more in zip(hit, left, strict=True) if more > 0]
        left = [more for more in left if more > 0]
    return tokens, active_s


def _step_s(steps: Floats, batch: int, slow: float, planned: Plan) -> float:
    """Return a decode step: a latch adds a constant, contention adds to what each stream costs."""
    usual = steps[min(max(round(planned.load), 1), MAX_BATCH)]
    if planned.kind == "latch":
        return float(steps[batch] + (slow - 1) * usual)
    if planned.kind == "contention":
        return float(steps[batch] + (slow - 1) * usual * batch / max(planned.load, 1))
    return float(steps[batch] * (1.0 if planned.kind == "partial" else slow))


def _wander(rng: np.random.Generator, spread: float, memory: float) -> Floats:
    noise = rng.normal(0, spread * np.sqrt(1 - memory**2), SECONDS)
    for second in range(1, SECONDS):
        noise[second] += memory * noise[second - 1]
    return np.asarray(np.exp(noise))
