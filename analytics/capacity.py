"""What a replica of an engine holds, from its step's formula and what it is asked: batch, waits, the knee, replicas.

A step takes base + stream x streams + prompt x prompt tokens. Prompts take a share of all time, so `n` requests that
run decode at a known pace: a birth-death process whose stationary form does not depend on how lengths are distributed
(processor sharing, Kelly 1979). Beyond the slots requests queue first come first served; the chunk of prompt tokens a
step is one server more (Pollaczek and Khinchine).
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tailbudget.instrument.errors import UserError

Numbers = npt.NDArray[np.float64]
#: Halvings of an interval: a time to a hundred thousandth of the longest, a rate to a millionth of the most.
HALVINGS: Final = 20
#: A smaller batch is chosen where it holds this share of the best rate: it holds less memory.
GOOD_ENOUGH: Final = 0.98
#: Points for the number of streams that an answer meets.
MOMENTS: Final = 9
#: So many larger batches that hold no more end the search.
FLAT: Final = 3
BATCHES: Final = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


class Kind(NamedTuple):
    """Requests of one kind: how many of them, mean prompt tokens that are computed, mean tokens generated."""

    weight: float
    prompt_tokens: float
    output_tokens: float


@dataclass(frozen=True)
class Replica:
    """An engine: what its step takes, slots, and prompt tokens a step. UserError for what cannot be."""

    base_ms: float
    _: KW_ONLY
    stream_ms: float
    prompt_token_ms: float
    max_running: int
    prefill_chunk: int

    def __post_init__(self) -> None:
        for name, least in {
            "base_ms": 0,
            "stream_ms": 0,
            "prompt_token_ms": 0,
            "max_running": 1,
            "prefill_chunk": 1,
        }.items():
            value = getattr(self, name)
            if not math.isfinite(value) or value < least:
                raise UserError(f"{name} is {value!r}: expected {least} or more")
        if not self.base_ms + self.stream_ms:
            raise UserError("a step that decodes takes no time: expected base_ms or stream_ms above 0")


@dataclass(frozen=True)
class Limits:
    """What `share` of requests (of gaps between tokens, for `itl_ms`) must keep to; None for no limit."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    final_ms: float | None = None
    share: float = 0.95

    def __post_init__(self) -> None:
        if not 0.5 <= self.share < 1:
            raise UserError(f"the share of good requests is {self.share!r}: expected 0.5 to 0.999")
        for name in ("ttft_ms", "itl_ms", "final_ms"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UserError(f"{name} is {value!r}: expected milliseconds above 0")
        if self.ttft_ms is None and self.itl_ms is None and self.final_ms is None:
            raise UserError(
                "nothing says what must hold: expected a limit of ttft, itl (between tokens) or final, or a file of "
                "objectives that has one"
            )


@dataclass(frozen=True)
class Load:
    """A replica at `rate_s` requests a second. Times at the share of the limits; infinite where the queue grows.

    `waiting` and `running` are means; `waiting` = rate x mean wait (Little). `growth_s`: requests a second that the
    queue grows by.
    """

    rate_s: float
    utilisation: float
    batch: float
    running: float
    waiting: float
    queue_ms: float
    ttft_ms: float
    itl_ms: float
    final_ms: float
    growth_s: float = 0.0

    def keeps(self, limits: Limits) -> bool:
        """Return whether all limits hold."""
        names = ("ttft_ms", "itl_ms", "final_ms")
        return all(getattr(limits, name) is None or getattr(self, name) <= getattr(limits, name) for name in names)


class Mix:
    """What an engine is asked, and the sums over it that the formulas need."""

    def __init__(self, kinds: Sequence[Kind], *, prefill_chunk: int) -> None:
        if not kinds or any(kind.output_tokens < 1 or kind.prompt_tokens < 0 or kind.weight < 0 for kind in kinds):
            raise UserError(
                "the mix of requests is empty or has a negative length: expected kinds with a token or more"
            )
        rows = np.array(kinds, dtype=np.float64)
        self.weight: Numbers = rows[:, 0] / rows[:, 0].sum()
        self.prompt: Numbers = rows[:, 1]
        self.decoded: Numbers = rows[:, 2] - 1  # the first token comes of the prompt
        self.chunks: Numbers = np.maximum(1, np.ceil(self.prompt / prefill_chunk))
        self.filled: Numbers = self.prompt / prefill_chunk
        #: Chunks that a prompt fills, those that it begins and leaves, and the mean tokens of the latter.
        self.full, self.begun = self.mean(self.prompt // prefill_chunk), self.mean(np.sign(self.prompt % prefill_chunk))
        self.begun_tokens = self.mean(self.prompt % prefill_chunk) / max(self.begun, 1e-12)
        self.prompt_tokens, self.output_tokens = self.mean(self.prompt), self.mean(self.decoded) + 1
        steps = self.chunks + self.decoded
        self.steps = self.mean(steps)
        self.decoding = self.mean(self.decoded) / self.steps
        #: Waits grow with the variance of what is served: (1 + its square over the mean's) / 2.
        self.spread = self.mean(steps**2) / self.steps**2 / 2

    def mean(self, values: Numbers) -> float:
        """Return the mean over requests."""
        return float((self.weight * values).sum())


def load(rate_s: float, kinds: Sequence[Kind], replica: Replica, *, share: float = 0.95) -> Load:
    """Return what a replica is like at a rate."""
    return _Station(Mix(kinds, prefill_chunk=replica.prefill_chunk), replica, share).load(rate_s)


def highest_rate(kinds: Sequence[Kind], replica: Replica, limits: Limits) -> float:
    """Return the requests a second up to which a replica keeps the limits; 0 where even one request breaks them."""
    station = _Station(Mix(kinds, prefill_chunk=replica.prefill_chunk), replica, limits.share)
    low, high = 0.0, station.most_s
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if station.load(middle).keeps(limits) else (low, middle)
    return low


def best_batch(kinds: Sequence[Kind], replica: Replica, limits: Limits, *, most: int) -> Replica:
    """Return the replica with the fewest slots, up to `most`, at which it holds about the highest rate."""
    tried: list[tuple[float, Replica]] = []
    for slots in (*(slots for slots in BATCHES if slots < most), most):
        one = replace(replica, max_running=slots)
        tried.append((highest_rate(kinds, one, limits), one))
        rates = [rate for rate, _ in tried]
        if len(rates) > FLAT and max(rates[-FLAT:]) <= max(rates[:-FLAT]):
            break
    return next(one for rate, one in tried if rate >= GOOD_ENOUGH * max(rates))


class _Station:
    """One replica under one mix; times inside are ms, rates a ms."""

    def __init__(self, mix: Mix, replica: Replica, share: float) -> None:
        self._mix, self._replica, self._share = mix, replica, share
        slots = np.arange(1, replica.max_running + 1, dtype=np.float64)
        self._slots: Numbers = slots
        #: Of a step without a prompt's tokens, at each number of requests that run.
        self._bare_ms: Numbers = replica.base_ms + replica.stream_ms * slots * mix.decoding
        # Served a ms, before prompts take their share of the time.
        self._served: Numbers = slots / (mix.steps * self._bare_ms)
        self.most_s = 1e3 * min(self._most_decoding(), self._most_prompts())

    def _most_decoding(self) -> float:
        served = float(self._served[-1])
        return served / (1 + served * self._replica.prompt_token_ms * self._mix.prompt_tokens)

    def _most_prompts(self) -> float:
        """Requests a ms whose prompts fill every step's chunk while all slots run."""
        return 1 / self._prefill_ms(float(self._bare_ms[-1])).mean_ms

    def _prefill_ms(self, bare_ms: float) -> "_Prefill":
        return _Prefill(self._mix, bare_ms, self._replica.prompt_token_ms)

    def load(self, rate_s: float) -> Load:
        rate = rate_s / 1e3
        mix, prompt_ms = self._mix, self._replica.prompt_token_ms
        free = 1 - rate * mix.prompt_tokens * prompt_ms  # the share of time that is left to decode
        if rate_s >= self.most_s or free <= 0:
            return self._growing(rate_s)
        served = self._served * free
        chance, waits = _stationary(rate, served)
        busy = float(1 - chance[0])
        steps = chance[1:] / self._bare_ms * free  # a ms, at each number of slots in use
        pace = max(float(steps.sum()), 1e-300)
        bare_ms = float((chance[1:] * self._bare_ms).sum()) / max(busy, 1e-300)
        prefill = self._prefill_ms(bare_ms)
        crowded = rate * prefill.mean_ms
        if crowded >= 1:
            return self._growing(rate_s)
        slot_ms = mix.spread / (served[-1] - rate)  # mean wait of those who wait for a slot
        prompt_wait_ms = prefill.square_ms / (2 * prefill.mean_ms * (1 - crowded))
        tails = _Tails(waits, slot_ms, crowded, prompt_wait_ms)
        # Who comes in the midst of a step waits for its end.
        rest_ms = np.concatenate([[0.0], (np.arange(MOMENTS) + 0.5) / MOMENTS * bare_ms])
        rest_weight = np.concatenate([[1 - busy], np.full(MOMENTS, busy / MOMENTS)])
        first_ms, first_weight = np.add.outer(prefill.own_ms, rest_ms), np.outer(mix.weight, rest_weight)
        residual_ms = busy * bare_ms / 2
        gaps = self._gaps(steps, rate / pace, crowded)
        last_ms, last_weight = gaps.spread_over(residual_ms + prefill.own_ms, mix)
        return Load(
            rate_s, busy, batch=float((steps * self._slots).sum()) / pace * mix.decoding,
            running=float((chance[1:] * self._slots).sum()),
            waiting=rate * (waits * slot_ms + crowded * prompt_wait_ms + residual_ms),
            queue_ms=tails.quantile(rest_ms, rest_weight, self._share),
            ttft_ms=tails.quantile(first_ms.ravel(), first_weight.ravel(), self._share),
            itl_ms=gaps.quantile(self._share), final_ms=tails.quantile(last_ms, last_weight, self._share),
        )  # fmt: skip

    def _growing(self, rate_s: float) -> Load:
        slots = self._replica.max_running
        batch, endless = slots * self._mix.decoding, math.inf
        growth_s = max(0.0, rate_s - self.most_s)
        return Load(rate_s, 1.0, batch, slots, endless, endless, endless, endless, endless, growth_s=growth_s)

    def _gaps(self, steps: Numbers, prompts: float, crowded: float) -> "_Gaps":
        """Return how long tokens take: as many come of a step as slots decode, and some steps have a prompt's chunk.

        `prompts` that begin in a step. One that leaves room in its chunk has it filled by the next, if one waits.
        """
        mix, token_ms = self._mix, self._replica.prompt_token_ms
        full = min(1.0, prompts * (mix.full + mix.begun * crowded))
        begun = min(1.0 - full, prompts * mix.begun * (1 - crowded))
        tokens = steps * self._slots
        tokens = tokens / tokens.sum() if tokens.sum() else np.eye(1, len(tokens))[0]
        longer_ms = (0.0, token_ms * self._replica.prefill_chunk, token_ms * mix.begun_tokens)
        weights = (1 - full - begun, full, begun)
        return _Gaps(
            np.concatenate([self._bare_ms + more for more in longer_ms]),
            np.concatenate([tokens * weight for weight in weights]),
            self._bare_ms + sum(more * weight for more, weight in zip(longer_ms, weights, strict=True)),
            tokens,
        )


@dataclass(frozen=True)
class _Gaps:
    """Lengths of gaps between tokens with their weights, and the mean gap at each number of slots in use."""

    ms: Numbers
    weight: Numbers
    mean_ms: Numbers
    tokens: Numbers

    def quantile(self, share: float) -> float:
        """Return the gap that `share` of gaps keep to."""
        return float(_quantiles(self.ms, self.weight, np.array([share]))[0])

    def spread_over(self, first_ms: Numbers, mix: Mix) -> tuple[Numbers, Numbers]:
        """Return last tokens' times after first ones, with their weights: an answer meets few or many beside it.

        Averaged over an answer's own length the number beside it varies by two thirds of its variance.
        """
        ranks = (np.arange(MOMENTS) + 0.5) / MOMENTS
        mean_ms = float((self.mean_ms * self.tokens).sum())
        met_ms = mean_ms + math.sqrt(2 / 3) * (_quantiles(self.mean_ms, self.tokens, ranks) - mean_ms)
        last_ms = first_ms[:, None] + mix.decoded[:, None] * met_ms[None, :]
        return last_ms.ravel(), np.repeat(mix.weight / MOMENTS, MOMENTS)


def _quantiles(values: Numbers, weight: Numbers, ranks: Numbers) -> Numbers:
    order = np.argsort(values)
    at = np.searchsorted(np.cumsum(weight[order]) / weight.sum(), ranks)
    return values[order][np.minimum(at, len(order) - 1)]


class _Prefill:
    """Prompts through the chunk, one after the other: how long each keeps it, and takes itself."""

    def __init__(self, mix: Mix, bare_ms: float, prompt_token_ms: float) -> None:
        kept_ms = mix.filled * bare_ms + mix.prompt * prompt_token_ms
        self.mean_ms = max(mix.mean(kept_ms), 1e-12)
        self.square_ms = mix.mean(kept_ms**2)
        self.own_ms: Numbers = mix.chunks * bare_ms + mix.prompt * prompt_token_ms


@dataclass(frozen=True)
class _Tails:
    """Two waits, each of them there with some chance and then about exponential."""

    slot_chance: float
    slot_ms: float
    prompt_chance: float
    prompt_ms: float

    def quantile(self, rest_ms: Numbers, weight: Numbers, share: float) -> float:
        """Return the time that `share` of requests keep, of a wait and what comes after it."""
        low, high = 0.0, float(rest_ms.max()) + 20 * (self.slot_ms + self.prompt_ms)
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            left = middle - rest_ms
            waits = np.maximum(left, 0)
            slot = self.slot_chance * np.exp(-waits / self.slot_ms)
            prompt = self.prompt_chance * np.exp(-waits / self.prompt_ms)
            later = np.where(left >= 0, 1 - (1 - slot) * (1 - prompt), 1.0)
            low, high = (middle, high) if float((weight * later).sum()) > 1 - share else (low, middle)
        return float(high)


def _stationary(rate: float, served: Numbers) -> tuple[Numbers, float]:
    """Return the chance of 0, 1, ... slots in use, and of having to wait: all in use; birth and death."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(max(rate, 1e-300)) - np.log(served))])
    chance = np.exp(logs - logs.max())
    chance[-1] /= 1 - rate / served[-1]  # and those with a queue
    chance /= chance.sum()
    return chance, float(chance[-1])
