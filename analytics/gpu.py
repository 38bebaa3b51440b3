"""What GPUs did while model calls ran on them, and what the calls cost in energy."""

import pyarrow as pa

from .questions import ask
from .reader import Reader
from .window import Window


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
