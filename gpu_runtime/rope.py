"""How models stretch RoPE over contexts longer than they were trained on: linear, Llama 3's and YaRN."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from tailbudget.instrument.errors import UserError

#: How many turns over the trained context a pair makes that YaRN leaves alone, and that it stretches whole.
BETA_FAST, BETA_SLOW = 32.0, 1.0


def stretched(
    rope: Mapping[str, Any], *, base: float, head_dim: int, context: int, of: object
) -> tuple[tuple[float, ...], float, int]:
    """Return what each pair's frequency is divided by (empty: nothing), what turned heads are multiplied by, and the
    longest context.

    `rope` is a configuration's `rope_parameters` or `rope_scaling`, `context` its longest one. UserError names a kind
    that is not built; `of` is the model in its text.
    """
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return (), 1.0, context
    divide = DIVISORS.get(str(kind))
    if divide is None:
        known = ", ".join(repr(each) for each in ("default", *DIVISORS))
        raise UserError(f"{of} scales RoPE by {kind!r}: expected one of {known}")
    said = {"original_max_position_embeddings": context} | {
        name: each for name, each in rope.items() if each is not None
    }
    amplitude, longest = 1.0, context
    try:
        if kind == "yarn":
            original = int(said["original_max_position_embeddings"])
            said.setdefault("factor", context / original)
            amplitude, longest = _amplitude(said), max(context, int(said["factor"] * original))
        return divide(said, base, head_dim), amplitude, longest
    except KeyError as error:
        raise UserError(f"{of} scales RoPE by {kind!r} and does not say {error}: fetch or convert it again") from error


def _linear(rope: Mapping[str, Any], base: float, head_dim: int) -> tuple[float, ...]:
    del base
    return (float(rope["factor"]),) * (head_dim // 2)


def _llama3(rope: Mapping[str, Any], base: float, head_dim: int) -> tuple[float, ...]:
    """Divide by 1 for short waves, by `factor` for long ones, and between them by something in between.

    The formula of Llama 3.1's release, by which its context grew without another training of short waves.
    """
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    original = float(rope["original_max_position_embeddings"])
    turns = (original / (2 * math.pi * base ** (pair / head_dim)) for pair in range(0, head_dim, 2))
    return tuple(_between(float(rope["factor"]), (each - low) / (high - low)) for each in turns)


def _yarn(rope: Mapping[str, Any], base: float, head_dim: int) -> tuple[float, ...]:
    """Divide by 1 up to the pair that makes `beta_fast` turns, by `factor` from the one that makes `beta_slow` on.

    Between these pairs along a ramp (Peng et al., YaRN, 2023, section 3.2); their numbers are rounded outwards, unless
    `truncate` is false.
    """

    def pair_with(turns: float) -> float:
        wave = float(rope["original_max_position_embeddings"]) / (turns * 2 * math.pi)
        return head_dim * math.log(wave) / (2 * math.log(base))

    first, last = pair_with(rope.get("beta_fast") or BETA_FAST), pair_with(rope.get("beta_slow") or BETA_SLOW)
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    width = last - first or 0.001  # two pairs that are one: a step, as transformers has it
    pairs = range(head_dim // 2)
    return tuple(_between(float(rope["factor"]), 1 - (pair - first) / width) for pair in pairs)


def _between(factor: float, share: float) -> float:
    """Return what a frequency is divided by of which `share`, held to 0 and 1, stays and the rest is stretched."""
    kept = min(1.0, max(0.0, share))
    return 1 / ((1 - kept) / factor + kept)


def _amplitude(rope: Mapping[str, Any]) -> float:
    """Return YaRN's attention factor, on queries and on keys: the paper's, or what the configuration says instead."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    factor, scale, scale_all = float(rope["factor"]), rope.get("mscale"), rope.get("mscale_all_dim")

    def grown(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    return grown(scale) / grown(scale_all) if scale and scale_all else grown(1.0)


#: Kind of scaling -> what it divides the frequencies of a head's pairs by.
DIVISORS: dict[str, Callable[[Mapping[str, Any], float, int], tuple[float, ...]]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
