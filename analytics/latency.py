"""Where the tail is and who is in it: percentiles over time, and the requests of a box of time and latency."""

from typing import Final

import pyarrow as pa

from tailbudget.instrument.vocabulary import STAGES

from .questions import ask
from .reader import Reader
from .window import Box, Window

#: Requests of a box that are listed.
MOST_REQUESTS: Final = 100


def latency_bands(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a bucket that holds requests, percentiles exact.

    Columns: t, t2, n, p50_ms, p95_ms, p99_ms, budget_ms (the commonest of the window), clock (UTC text), window_from,
    window_to.
    """
    return ask(reader, "latency_bands", {**window.params(), "bucket_s": bucket_s})


def box_requests(reader: Reader, window: Window, *, box: Box, rows: int = MOST_REQUESTS) -> pa.Table:
    """Return at most `rows` requests of the box, slowest first, with `longest`, the stage that took most of each."""
    params = {**box.params(), **window.only(), "rows": rows, "stages": list(STAGES)}
    return ask(reader, "box_requests", params)


def box_stages(reader: Reader, window: Window, *, box: Box) -> pa.Table:
    """Return nine rows, the stages in order: stage, n, ms (mean a request of the box), rest_n, rest_ms, more_ms.

    Means of the stages of one side add up to its mean total. Empty when the window holds no request.
    """
    return ask(reader, "box_stages", {**window.params(), **box.params(), "stages": list(STAGES)})
