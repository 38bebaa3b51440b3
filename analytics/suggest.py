"""Shares a total out to stages, from how long each has taken."""

from dataclasses import dataclass
from typing import Final

from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import STAGES

from .questions import ask
from .reader import Reader
from .window import Window

RANKS: Final = tuple(rank / 1000 for rank in range(500, 1000))
LEAST_REQUESTS: Final = 100
#: A stage that takes less has no budget of its own.
LEAST_MS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Shares:
    """Budgets of stages that sum to the total: their quantiles at `rank`, with what was left shared out."""

    budgets_ms: dict[str, float]
    rank: float
    requests: int


def suggest(reader: Reader, window: Window, *, total_ms: float) -> Shares:
    """Return the budgets that one rank gives all stages, the highest whose quantiles sum to at most `total_ms`.

    So no stage is asked for more than another: each has to hold its budget equally often. What the quantiles leave of
    the total goes to the stages in proportion. Raises UserError for too few requests, and for a total below the sum of
    the medians.
    """
    rows = ask(reader, "stage_quantiles", {**window.params(), "ranks": list(RANKS)}).to_pylist()
    requests = max((row["n"] for row in rows), default=0)
    if requests < LEAST_REQUESTS:
        raise UserError(f"{requests} requests are stored here, {LEAST_REQUESTS} are needed: widen it with --since")
    quantiles = {stage: row["ms"] for stage in STAGES for row in rows if row["stage"] == f"{stage}_ms"}
    sums = [sum(ms[index] for ms in quantiles.values()) for index in range(len(RANKS))]
    within = [index for index, ms in enumerate(sums) if ms <= total_ms]
    if not within:
        raise UserError(
            f"the stages' medians sum to {sums[0]:.0f} ms: expected a total above that, not {total_ms:g} ms"
        )
    index = within[-1]
    kept = {stage: ms[index] for stage, ms in quantiles.items() if ms[index] >= LEAST_MS}
    scale = total_ms / sum(kept.values()) if kept else 1.0
    return Shares({stage: ms * scale for stage, ms in kept.items()}, RANKS[index], requests)
