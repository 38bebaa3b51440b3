"""How long each stage takes, and how much of its budget that is."""

import pyarrow as pa

from tailbudget.instrument.vocabulary import STAGES

from .questions import ask
from .reader import Reader
from .window import Window


def stage_percentiles(reader: Reader, window: Window) -> pa.Table:
    """Return nine rows, the stages in order: stage, n, p50_ms, p95_ms, p99_ms, budget_ms, budgets, used, over_n.

    Percentiles are exact, of time on the critical path, over the `n` requests that have the stage. `budget_ms` is the
    commonest budget and `budgets` how many different ones there are; `used` is p95 over budget (1 = all of it);
    `over_n` requests were over. Null where there is no time or no budget.
    """
    return ask(reader, "stage_percentiles", {**window.params(), "stages": list(STAGES)})
