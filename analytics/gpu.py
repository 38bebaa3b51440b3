"""What the inference engines and their GPUs were doing: queue, batch, cache and clocks over time."""

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .window import Window


def engine_series(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a measure, source and bucket.

    Columns: measure, source, t, t2, value, n (samples), clock, window_from, window_to. Measures of an engine: running,
    waiting (mean requests), kv_used (most, 0 to 1), prefix_hits (share of prompt tokens), preemptions (in the bucket),
    tokens_per_s. Of a GPU: util (0 to 1), power_w. One that nobody sends is absent.
    """
    return ask(reader, "engine_series", {**window.span(), "bucket_s": bucket_s})


def queue_quadrant(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row an engine and bucket with GPU samples.

    Columns: instance, t, util (0 to 1, mean over all GPUs), running, waiting, kv_used, n and queue_p95_ms (calls that
    the engine timed itself), clock, corner. `corner` is `busy, nobody waits` (utilisation of 80 % or more, at most one
    waiting), `idle, many wait` (at most 20 %, five or more) or `as it should be`.
    """
    return ask(reader, "queue_quadrant", {**window.span(), "bucket_s": bucket_s})
