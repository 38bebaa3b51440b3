"""How long an engine's step takes by its decoding streams and prompt tokens, fitted to the samples of `engine`."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np

from .questions import ask
from .reader import Reader
from .window import Window

#: Directions with less than this share of the largest are rounding.
SINGULAR: Final = 1e-9


@dataclass(frozen=True)
class StepFit:
    """A step of `instance` takes `base_ms`, `stream_ms` more a decoding stream, `prompt_token_ms` more a prompt token.

    `r2`: share of the variance between `n` samples of `steps` steps that this explains.
    """

    instance: str
    base_ms: float
    stream_ms: float
    prompt_token_ms: float
    r2: float
    n: int
    steps: int


def step_fits(reader: Reader, window: Window) -> list[StepFit]:
    """Return a fit an engine that told its steps in the window, by least squares with no part below zero."""
    return [_fit(row) for row in ask(reader, "step_moments", window.span()).to_pylist()]


def _fit(row: Mapping[str, float]) -> StepFit:
    """Try every choice of parts, the rest 0, and keep the best one without a negative part."""
    means = np.array([1.0, row["streams"], row["prompt_tokens"]])
    cross = np.outer(means, means)
    cross[1:, 1:] += [[row["var_streams"], row["cov_both"]], [row["cov_both"], row["var_prompt"]]]
    length = means * row["length_ms"] + [0.0, row["cov_streams"], row["cov_prompt"]]
    best, parts = np.inf, np.zeros(3)
    for size in (1, 2, 3):
        for chosen in map(list, combinations(range(3), size)):
            tried = np.zeros(3)
            tried[chosen] = np.linalg.lstsq(cross[np.ix_(chosen, chosen)], length[chosen], rcond=SINGULAR)[0]
            error = tried @ cross @ tried - 2 * tried @ length  # the rest of the squared error is the same for all
            # More parts must explain more than rounding does: at a single load nothing tells them apart.
            if error < best - SINGULAR * length[0] ** 2 and (tried >= 0).all():
                best, parts = float(error), tried
    unexplained = best + row["length_ms"] ** 2 + row["var_length"]
    r2 = 1 - max(0.0, unexplained) / row["var_length"] if row["var_length"] > 0 else 1.0
    base_ms, stream_ms, prompt_token_ms = map(float, parts)
    n, steps = round(row["n"]), round(row["steps"])
    return StepFit(str(row["instance"]), base_ms, stream_ms, prompt_token_ms, r2=r2, n=n, steps=steps)
