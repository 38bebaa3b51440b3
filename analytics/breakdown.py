"""Percentiles by segment: a column of requests and calls, or any attribute of their spans by its name."""

from typing import Final

import pyarrow as pa

from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import STAGES

from .questions import ask
from .reader import Reader
from .window import Window

#: Columns of a request, and what can be measured of it.
REQUEST_SEGMENTS: Final = (
    "service", "tenant", "route", "model", "version", "region", "conversation", "outcome", "prompt_bucket",
    "output_bucket", "cache_hit",
)  # fmt: skip
REQUEST_MEASURES: Final = (
    "total_ms", "ttft_ms", "usable_ms", "final_ms", *(f"{stage}_ms" for stage in STAGES), "cost_usd",
)  # fmt: skip
#: A call has those of its request too.
CALL_SEGMENTS: Final = (*REQUEST_SEGMENTS, "provider", "role", "stream", "server_address")
CALL_MEASURES: Final = (
    "total_ms", "ttft_ms", "ttfc_ms", "server_ttft_ms", "tpot_ms", "network_ms", "queue_ms", "prefill_ms", "decode_ms",
    "cost_usd",
)  # fmt: skip
#: Before the name of an attribute that has the name of a column.
ATTRIBUTE: Final = "attr:"


def breakdown(reader: Reader, window: Window, *, by: str, measure: str = "total_ms", rows: int = 200) -> pa.Table:
    """Return one row a value of `by`, commonest first: value (text, null = not told), n, p50_ms, p95_ms, p99_ms.

    `by` is a name of CALL_SEGMENTS or else the key of a span attribute (`attr:KEY` for one that has a segment's name).
    Requests are measured, unless only calls have the segment (provider, role, stream, server_address) or the measure
    (tpot_ms, ttfc_ms, server_ttft_ms): then calls are. An attribute is looked up on the root span of the request and
    on its calls, the own span first. Percentiles are exact, over the `n` that have the measure; buckets are powers of
    two at or above the tokens, in their order. At most `rows` values come. Of cost_usd the
    columns end in _usd. Raises UserError for an unknown measure.
    """
    known = by in CALL_SEGMENTS
    of = population(by=by, measure=measure)
    params = {"by": by if known else None, "attribute": None if known else by.removeprefix(ATTRIBUTE)}
    question = "breakdown_calls" if of == "calls" else "breakdown_requests"
    found = ask(reader, question, {**window.params(), **params, "measure": measure, "rows": rows})
    if measure.endswith("_ms"):
        return found
    unit = measure.rpartition("_")[2]
    return found.rename_columns([name.replace("_ms", f"_{unit}") for name in found.column_names])


def population(*, by: str, measure: str) -> str:
    """Return what such a breakdown counts: `requests` or `calls`. Raises UserError when neither has the measure."""
    measures = dict.fromkeys((*REQUEST_MEASURES, *CALL_MEASURES))
    if measure not in measures:
        raise UserError(f"unknown measure {measure!r}: expected one of {', '.join(measures)}")
    if measure not in REQUEST_MEASURES:
        return "calls"
    if by in CALL_SEGMENTS and by not in REQUEST_SEGMENTS:
        if measure not in CALL_MEASURES:
            raise UserError(
                f"{measure!r} by {by!r}: only calls have a {by}, expected one of {', '.join(CALL_MEASURES)}"
            )
        return "calls"
    return "requests"


def segment_values(reader: Reader, window: Window, *, by: str) -> pa.Table:
    """Return one row a value of version, model, tenant, route, region or run_id, newest first.

    Columns: value, n, first_seen. Requests of load runs count for run_id alone.
    """
    return ask(reader, "segment_values", {**window.params(), "by": by})
