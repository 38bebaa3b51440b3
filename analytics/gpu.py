"""What inference engines and their GPUs did: queue, batch and clocks over time, and what calls cost in energy."""

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .window import Window


def engine_series(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row a measure, source and bucket.

    Columns: measure, source, t, t2, value, n (samples), clock, window_from, window_to. Measures of an engine: running,
    waiting (mean requests), kv_used (most, 0 to 1), prefix_hits (share of prompt tokens), preemptions (in the bucket),
    tokens_per_s. Of a GPU: util (0 to 1), sm_mhz (mean clock), power_w. Of all of them: joules_a_token (energy by the
    GPUs' counters over tokens that engines generated). One that nobody sends is absent.
    """
    return ask(reader, "engine_series", {**window.span(), "model": window.model, "bucket_s": bucket_s})


def queue_quadrant(reader: Reader, window: Window, *, bucket_s: int) -> pa.Table:
    """Return one row an engine and bucket with GPU samples.

    Columns: id, instance, t, t2, util (0 to 1, mean over the GPUs of its host, of all where that has none), running,
    waiting, kv_used, n (calls that the engine timed itself), wait_ms (p95 of their time in the queue; without any the
    mean wait by Little's law), source (which of these, in words), corner, clock. `corner` is `busy, nobody waits`
    (utilisation of 80 % or more, a wait under 50 ms, as long as a step), `idle, many wait` (at most 20 %, a second or
    more) or `as it should be`.
    """
    return ask(reader, "queue_quadrant", {**window.span(), "model": window.model, "bucket_s": bucket_s})


def step_requests(reader: Reader, window: Window, *, instance: str) -> pa.Table:
    """Return one row a model call that was inside an engine at the moment of `window` in which most waited.

    Columns: request_id, phase (queue, prefill or decode), since_ms (in it until then), duration_ms (of the phase),
    model, tenant, route, input_tokens, output_tokens, cached_tokens, total_ms, started, moment, running, waiting,
    step_ms (the engine's own figures then). Those who waited longest come first. Empty without a sample or a call.
    """
    return ask(reader, "step_requests", {**window.span(), "instance": instance})


def gpu_requests(reader: Reader, window: Window) -> pa.Table:
    """Return one row a model call that began in the window and GPU that may have served it.

    Columns: request_id, trace_id, span_id, started, model, host, gpu, sm_mhz_min, throttle (NVML event bits set at any
    time), util (mean), mem_peak_bytes (of the whole GPU), power_w (mean), energy_j (null where the engine does not tell
    it), n (samples). The GPU is the one that the engine names, else every GPU of its host: `host.id` or `host.name` of
    its resource, else the host that the caller called.
    """
    return ask(reader, "gpu_requests", window.span())


def gpu_energy(reader: Reader, window: Window) -> pa.Table:
    """Return one row a model call on a GPU with an energy counter, and one a GPU with the rest (no request_id).

    Columns: request_id, trace_id, span_id, model, host, gpu, energy_j, split: `steps` (by tokens computed in each step,
    from our runtime), `output tokens` (beside another server: each second's energy by the output tokens of the calls
    that ran, an estimate that leaves prefill out), `idle`. A GPU's rows sum to what its counter grew by in the window.
    """
    return ask(reader, "gpu_energy", window.span())
