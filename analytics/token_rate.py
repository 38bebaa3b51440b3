"""How fast tokens come while streams are decoding, against what load and the recent past lead to expect."""

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .sag import SagSettings
from .window import Window


def token_rate(reader: Reader, window: Window, *, bucket_s: int, settings: SagSettings) -> pa.Table:
    """Return one row a series and bucket of `bucket_s` (10 or more) that decoded anything.

    Columns: t, t2, series, model, provider, instance, side, unit, tokens, active_stream_s, streams, rate (tokens over
    active stream-seconds, sum over sum), expected_rate (by a fit of time per token against load over the detector's
    trailing baseline; null before min_buckets), alert_id (the sag alert open in the bucket, or null), clock (UTC
    text), window_from, window_to. `unit` says what `tokens` counts.
    """
    detector = {
        "bucket_stream_s": settings.bucket_stream_s,
        "baseline_s": settings.baseline_s,
        "gap_s": settings.gap_s,
        "min_buckets": settings.min_buckets,
    }
    return ask(reader, "token_rate", {**window.span(), **detector, "bucket_s": bucket_s})


def gpu_clock(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a GPU and bucket of `bucket_s`.

    Columns: t, t2, gpu, sm_min_mhz, sm_mean_mhz, throttle (NVML event bits), n (samples), window_from, window_to.
    """
    return ask(reader, "gpu_clock", {**window.span(), "bucket_s": bucket_s})
