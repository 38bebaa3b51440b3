"""What model calls cost, who causes it, and what of it is wasted on answers that nobody read."""

from typing import Final

import pyarrow as pa

from tailbudget.instrument.errors import UserError

from .questions import ask
from .reader import Reader
from .window import Window

SEGMENTS: Final = ("tenant", "model", "route", "service", "provider", "role", "stage")


def cost(reader: Reader, window: Window, *, by: str) -> pa.Table:
    """Return one row a value of `by` (one of SEGMENTS), dearest first, over the calls that began in the window.

    Columns: value, calls, requests, cost_usd, cost_usd_a_request, unpriced_calls, input_tokens, cached_tokens,
    output_tokens; gpu_s and energy_j (of engines that tell them, else null); hedged_calls and hedging_usd (of those
    that lost); retries and retries_ms (attempts beyond the first and the waits before them); wasted_tokens and
    wasted_usd of calls that were stopped or timed out, counted in chunks where no tokens are known. A stage is where
    its call stands: `model`, or the stage that owns it, such as retrieval. Dollars are null without prices. Raises
    UserError for another `by`.
    """
    if by not in SEGMENTS:
        raise UserError(f"cost by {by!r}: expected one of {', '.join(SEGMENTS)}")
    return ask(reader, "cost", {**window.params(), "by": by})


def hedges(reader: Reader, window: Window) -> pa.Table:
    """Return one row a hedge guard: service, hedge, sent, won, wasted_tokens, as the guards themselves count them."""
    return ask(reader, "hedges", window.span())


def energy(reader: Reader, window: Window) -> pa.Table:
    """Return one row a GPU that tells its energy: host, gpu, joules, joules_a_token (of all GPUs and servers)."""
    return ask(reader, "energy", window.span())
