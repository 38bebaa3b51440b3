"""Which requests went over a budget, and which stage is to blame."""

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .window import Window


def violations(reader: Reader, window: Window, *, rows: int = 200) -> pa.Table:
    """Return at most `rows` requests over a budget, newest first.

    Columns: request_id, started, route, tenant, model, total_ms, budget_ms, over_stage, over_ms, over_by, outcome.
    `budget_ms` is that of what is over: of `over_stage` where `over_by` is 'budget', else of the total.
    """
    return ask(reader, "violations", {**window.params(), "rows": rows})


def violations_by_stage(reader: Reader, window: Window) -> pa.Table:
    """Return one row a blamed stage ('none' where none stands out): stage, n, over_p50_ms, over_max_ms."""
    return ask(reader, "violations_by_stage", window.params())


def violations_timeline(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a bucket and blamed stage: t, t2, stage, n, clock (UTC text), window_from, window_to."""
    return ask(reader, "violations_timeline", {**window.params(), "bucket_s": bucket_s})
