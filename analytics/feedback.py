"""What a second costs: completion, conversion and drops by how long the answer took, and who leaves while they wait."""

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .window import Window


def by_latency(reader: Reader, window: Window) -> pa.Table:
    """Return one row a bucket of `final_ms`, up to `up_to_ms` (250, 500, 1000, ...): shares with their 95 % intervals.

    Columns: n, dropped_share, dropped_low, dropped_high; completion_n (requests of which completion was told),
    completed_share, _low, _high; conversion_n, converted_share, _low, _high; mean_score. Null where nothing was told.
    Intervals are Wilson's.
    """
    return ask(reader, "feedback_by_latency", window.params())


def abandonment(reader: Reader, window: Window) -> pa.Table:
    """Return one row a stretch of waiting: from_ms, up_to_ms, waiting, left_n, left_share, left_low, left_high.

    `waiting` requests had no usable answer when it began, `left_n` of them were given up before it ended.
    """
    return ask(reader, "abandonment", window.params())
