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


def stage_shares(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a kind of request, bucket and stage: kind, t, t2, stage, n, ms (mean), share of the critical path.

    `kind` is `typical` (the middle fifth of the bucket's requests by total: around its p50) or `slowest` (those from
    its p95 on). Also clock (UTC text), window_from, window_to.
    """
    return ask(reader, "stage_shares", {**window.params(), "stages": list(STAGES), "bucket_s": bucket_s})


def stage_waterfall(reader: Reader, window: Window, *, p: float = 0.95) -> pa.Table:
    """Return nine rows, the stages in order: means of the `n` requests within two percent of rank `p` of the total.

    Columns: stage, n, ms, from_ms and to_ms (one stage after the other), budget_ms, room_to_ms (where its budget would
    end), over_ms, total_budget_ms. No row where there is no request.
    """
    return ask(reader, "stage_waterfall", {**window.params(), "stages": list(STAGES), "p": p})
