"""What if: percentiles of the total as they would have been with a stage in its budget, shorter, or run in parallel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial
from typing import Final

import numpy as np
import numpy.typing as npt

from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import STAGES

from .questions import ask
from .reader import Reader
from .window import Window

#: Of a composite stage, its parts.
PARTS: Final = {"model": ("queue", "prefill", "decode")}
#: Stages that share one saving: 64 subsets.
MOST_STAGES: Final = 6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class WhatIf:
    """Percentiles of total_ms of `n` requests before and after; `changed` of them would have been faster."""

    n: int
    changed: int
    p50_ms: tuple[float, float]
    p95_ms: tuple[float, float]
    p99_ms: tuple[float, float]


def what_if(
    reader: Reader,
    window: Window,
    *,
    stage: str,
    budget_ms: float | None = None,
    factor: float | None = None,
    max_tokens: int | None = None,
    parallel: bool = False,
) -> WhatIf | None:
    """Return what the requests of `window` would have taken; None where there is none.

    Exactly one change is given: `budget_ms` (the stage met its budget), `factor` (it took this share of its time;
    prompts 30 % shorter are `stage="prefill", factor=0.7`), `max_tokens` (no request generated more,
    `stage="decode"`) or `parallel` (its spans began together). Only time on the critical path is saved, and no more
    than until the end of what ran beside the span under the same parent. Raises UserError for an unknown stage or
    another number of changes.
    """
    given = [budget_ms is not None, factor is not None, max_tokens is not None, parallel]
    if sum(given) != 1:
        raise UserError(f"{sum(given)} changes were given: expected one of budget_ms, factor, max_tokens, parallel")
    stages = _stages(stage)
    if budget_ms is not None and len(stages) > 1:
        raise UserError(f"{stage!r} is made of {', '.join(stages)}: give each of them its budget, by `shares`")
    total_ms, saved_ms = _savings(
        reader,
        window,
        stages,
        {
            "budgets_ms": None if budget_ms is None else [budget_ms],
            "factor": factor,
            "max_tokens": max_tokens,
            "parallel": parallel,
        },
    )
    return _told(total_ms, saved_ms)


def within(reader: Reader, window: Window, *, budgets_ms: Mapping[str, float]) -> WhatIf | None:
    """Return what the requests of `window` would have taken with each of these stages in its budget; None without any.

    At most six stages. Raises UserError for more, or for one that is unknown.
    """
    return _told(*_within(reader, window, budgets_ms)[1:])


def shares(reader: Reader, window: Window, *, budgets_ms: Mapping[str, float], p: float = 0.95) -> dict[str, float]:
    """Return how many ms of the percentile `p` of the total each stage would save, all of them in their budgets.

    The shares are Shapley's: a stage's mean saving over every order in which the stages could be mended. They sum to
    what all save together. At most six stages. Raises UserError for more, or for one that is unknown.
    """
    names, total_ms, saved_ms = _within(reader, window, budgets_ms)
    if not len(total_ms):
        return dict.fromkeys(names, 0.0)
    worth = {
        chosen: float(np.quantile(total_ms, p) - np.quantile(total_ms - saved_ms[:, list(chosen)].sum(axis=1), p))
        for size in range(len(names) + 1)
        for chosen in combinations(range(len(names)), size)
    }
    return {name: _shapley(worth, at, len(names)) for at, name in enumerate(names)}


def _within(reader: Reader, window: Window, budgets_ms: Mapping[str, float]) -> tuple[list[str], Floats, Floats]:
    """Return the stages, total_ms of each request, and what each of the stages would save of it in its budget."""
    if len(budgets_ms) > MOST_STAGES:
        raise UserError(f"{len(budgets_ms)} stages: expected at most {MOST_STAGES}")
    names = [part for stage in budgets_ms for part in _stages(stage)]
    if len(names) != len(budgets_ms):
        raise UserError("a budget of model cannot be shared out: give queue, prefill and decode theirs")
    nothing = {"factor": None, "max_tokens": None, "parallel": False}
    total_ms, saved_ms = _savings(
        reader, window, names, {"budgets_ms": [budgets_ms[name] for name in names], **nothing}
    )
    return names, total_ms, saved_ms


def _told(total_ms: Floats, saved_ms: Floats) -> WhatIf | None:
    if not len(total_ms):
        return None
    saved = saved_ms.sum(axis=1)
    points = [_pair(total_ms, saved, p) for p in (0.5, 0.95, 0.99)]
    return WhatIf(len(total_ms), int(np.count_nonzero(saved > 1e-9)), *points)


def _shapley(worth: Mapping[tuple[int, ...], float], at: int, count: int) -> float:
    share = 0.0
    for others in worth:
        if at not in others:
            weight = factorial(len(others)) * factorial(count - len(others) - 1) / factorial(count)
            share += weight * (worth[tuple(sorted((*others, at)))] - worth[others])
    return share


def _stages(stage: str) -> tuple[str, ...]:
    if stage not in (*STAGES, *PARTS):
        raise UserError(f"unknown stage {stage!r}: expected one of {', '.join((*STAGES, *PARTS))}")
    return PARTS.get(stage, (stage,))


def _savings(
    reader: Reader, window: Window, stages: Sequence[str], change: Mapping[str, object]
) -> tuple[Floats, Floats]:
    """Return total_ms of each request, and what each of the stages would save of it."""
    rows = ask(reader, "what_if", {**window.params(), "stages": list(stages), **change}).to_pylist()
    saved = np.zeros((len(rows), len(stages)))
    for at, row in enumerate(rows):
        for name, ms in zip(row["stages"] or (), row["saved_ms"] or (), strict=True):
            saved[at, stages.index(name)] = ms
    return np.array([row["total_ms"] for row in rows], dtype=float), saved


def _pair(total_ms: Floats, saved_ms: Floats, p: float) -> tuple[float, float]:
    return float(np.quantile(total_ms, p)), float(np.quantile(total_ms - saved_ms, p))
