"""Which requests went over a budget, and which stage is to blame."""

from typing import Final

import pyarrow as pa

from .blame import blame_usual
from .questions import ask
from .reader import Reader
from .window import Window

SUSPECTS: Final = 20
SUSPECT: Final = pa.schema(
    {
        **dict.fromkeys(("stage", "service", "operation"), pa.string()),
        **dict.fromkeys(("more_ms", "more_p90_ms"), pa.float64()),
        **dict.fromkeys(("since", "until"), pa.timestamp("us", "UTC")),
        **dict.fromkeys(("n", "baseline_n"), pa.int64()),
    }
)


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
    """Return one row a bucket and blamed stage, and one a mark of the window.

    Columns: t, t2, stage (null of a mark), n, mark (what was marked, else null), clock (UTC text), window_from,
    window_to.
    """
    return ask(reader, "violations_timeline", {**window.params(), "bucket_s": bucket_s})


def burn_down(reader: Reader) -> pa.Table:
    """Return one row an objective and part, and six hours of its period, what is blind first, then the least left.

    Columns: label, goal, t, left_share (of the error budget, from 1 to what is left now), even_share (what would be
    left had it been spent evenly), n (events of the period), blind_since (null while they come), bad (of the six
    hours), clock (UTC text), window_from and window_to (the period).
    """
    return ask(reader, "burn_down")


def suspects(reader: Reader, window: Window) -> pa.Table:
    """Return who adds time to requests of the window, worst first: at most 20 rows.

    Columns: stage, service, operation, more_ms (a request, by its median), more_p90_ms, since, until (the baseline: the
    same length an hour before, or, if nothing came then, just before), n, baseline_n (requests). No row where nothing
    came before. Raises QueryError.
    """
    found = blame_usual(reader, window, by="operation")
    common = {
        "since": found.baseline.from_ts,
        "until": found.baseline.to_ts,
        "n": found.requests,
        "baseline_n": found.baseline_requests,
    }
    rows = [
        {
            "stage": one.stage, "service": one.service, "operation": one.operation, "more_ms": one.delta_ms,
            "more_p90_ms": one.p90_delta_ms, **common,
        }
        for one in found.ranking[:SUSPECTS]
        if one.delta_ms > 0 and found.baseline_requests
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=SUSPECT)
