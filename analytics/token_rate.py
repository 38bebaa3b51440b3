"""How fast tokens come while streams are decoding, against what load and the recent past lead to expect."""

import dataclasses
from datetime import timedelta
from typing import Final

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .sag import SagSettings
from .window import Window

#: Longer windows are shown without what is expected: a week of six busy series takes the detector 3 CPU-s.
MOST_JUDGED: Final = timedelta(days=1)


def token_rate(reader: Reader, window: Window, *, bucket_s: int, settings: SagSettings) -> pa.Table:
    """Return one row a series and bucket of `bucket_s` (10 or more) that decoded anything.

    Columns: t, t2, series, model, provider, instance, side, unit, tokens, active_stream_s, streams, rate (tokens over
    active stream-seconds, sum over sum), expected_rate, low_rate and high_rate (what the sag detector expects at this
    load, and three times the spread of its buckets to either side; null before min_buckets, and in windows longer than
    MOST_JUDGED), slow (rate is below low_rate), alert_id and slowdown (the sag alert open in the bucket, or null),
    clock (UTC text), window_from, window_to. `unit` says what `tokens` counts.
    """
    began = (window.from_ts - timedelta(seconds=settings.horizon_s)).replace(minute=0, second=0, microsecond=0)
    is_judged = window.to_ts - window.from_ts <= MOST_JUDGED
    judged = {"from_ts": began if is_judged else window.to_ts, "to_ts": window.to_ts, "part": 0, "parts": 1}
    params = {**judged, "model": window.model}
    return ask(
        reader,
        "token_rate",
        {**params, **dataclasses.asdict(settings), "shown_from_ts": window.from_ts, "bucket_s": bucket_s},
    )


def gpu_clock(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a GPU and bucket of `bucket_s`, the GPU that was throttled most first.

    Columns: t, t2, gpu, sm_min_mhz, sm_mean_mhz, power_w (mean), power_limit_w, throttle (NVML event bits), throttled,
    reasons (in words, null for none), spell (the reasons where they begin, else null), alert_id (a sag alert open in
    the bucket, or null), n (samples), clock (UTC text), window_from, window_to.
    """
    return ask(reader, "gpu_clock", {**window.span(), "bucket_s": bucket_s})


def stream_trouble(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a bucket of `bucket_s` that streamed, and kind of trouble: stalled, or slow reader.

    Columns: t, t2, kind, n (streamed calls that began in it), troubled (of them), share, worst_ms (longest gap, or
    most time that a caller sat on chunks), clock (UTC text), window_from, window_to. A call is stalled when a gap was
    longer than a second and than eight times its usual one, its reader slow when the caller sat on chunks for over a
    fifth of the decode time.
    """
    return ask(reader, "stream_trouble", {**window.span(), "model": window.model, "bucket_s": bucket_s})


def worst_streams(reader: Reader, window: Window, *, rows: int = 50) -> pa.Table:
    """Return at most `rows` streamed calls with a stall or a slow reader, those that lost most time first.

    Columns: request_id, started, model, instance, stalls, stall_ms, max_gap_ms, consumer_ms, decode_ms, chunks,
    outcome.
    """
    return ask(reader, "worst_streams", {**window.span(), "model": window.model, "rows": rows})
