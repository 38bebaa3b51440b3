"""What model calls cost, who causes it, and what of it is wasted on answers that nobody read."""

from typing import Final

import pyarrow as pa

from .breakdown import ATTRIBUTE, CALL_SEGMENTS
from .questions import ask
from .reader import Reader
from .window import Window

SEGMENTS: Final = (*CALL_SEGMENTS, "stage")


def cost(reader: Reader, window: Window, *, by: str) -> pa.Table:
    """Return one row a value of `by`, dearest first, over the calls that began in the window.

    `by` is one of SEGMENTS or else the key of a span attribute, as of `breakdown`. Columns: value, calls, requests,
    cost_usd, cost_usd_a_request, unpriced_calls, input_tokens, cached_tokens, output_tokens; gpu_s and energy_j (of
    engines that tell them, else null); hedged_calls and hedging_usd (of those that lost); retries and retries_ms
    (attempts beyond the first and the waits before them); wasted_tokens and wasted_usd of calls that were stopped or
    timed out, counted in chunks where no tokens are known. A stage is where its call stands: `model`, or the stage that
    owns it, such as retrieval. Dollars are null without prices.
    """
    attribute = None if by in SEGMENTS else by.removeprefix(ATTRIBUTE)
    return ask(reader, "cost", {**window.params(), "by": None if attribute else by, "attribute": attribute})


def hedges(reader: Reader, window: Window) -> pa.Table:
    """Return one row a hedge guard: service, hedge, sent, won, wasted_tokens, as the guards themselves count them."""
    return ask(reader, "hedges", window.span())


def energy(reader: Reader, window: Window) -> pa.Table:
    """Return one row a GPU that tells its energy: host, gpu, joules, joules_a_token (of all GPUs and servers)."""
    return ask(reader, "energy", window.span())
