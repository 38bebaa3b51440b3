"""What a simulation serves: the requests of a trace as arrivals."""

from collections.abc import Sequence

from tailbudget.gpu_runtime.simulator import Arrival
from tailbudget.instrument.errors import UserError

from .load.traces import BLOCK_TOKENS, Traced
from .load.traces import read as read_trace


def read(name: str, *, rate: float = 1.0) -> list[Arrival]:
    """Return the requests of a file or shipped sample by time, the first at 0 s, `rate` times as dense as there.

    UserError for a trace that is not understood, or that has lengths alone.
    """
    found = read_trace(name)
    times_s = [one.at_s for one in found if one.at_s is not None]
    if len(times_s) < len(found):
        raise UserError(f"the trace {name!r} has lengths and no times: expected one with the instants of its requests")
    return _arrivals(found, times_s, rate)


def _arrivals(found: Sequence[Traced], times_s: Sequence[float], rate: float) -> list[Arrival]:
    first_s = min(times_s)
    arrivals = [
        Arrival(
            (at_s - first_s) / rate,
            # A request has a prompt and an answer: a trace's 0 is what was not counted.
            prompt_tokens=max(1, one.shape.input_tokens),
            output_tokens=max(1, one.shape.output_tokens),
            tenant=one.tenant,
            priority=one.priority,
            blocks=one.shape.blocks,
            block_tokens=BLOCK_TOKENS,
        )
        for one, at_s in zip(found, times_s, strict=True)
    ]
    return sorted(arrivals, key=lambda arrival: arrival.at_s)
