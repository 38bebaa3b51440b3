"""The GenAI conventions' histograms of model calls, whatever sampling does with their spans."""

import time
import weakref
from collections.abc import Mapping
from typing import Final

from opentelemetry.metrics import Histogram, Meter
from opentelemetry.trace import Span

from . import providers
from .chunks import Reported
from .guard import Guard
from .spans import error_type
from .vocabulary import convert

#: Bucket boundaries of the conventions, in seconds and in tokens.
SECONDS: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS: Final = tuple(4**power for power in range(14))

DURATION: Final = "gen_ai.client.operation.duration"
FIRST_CHUNK: Final = "gen_ai.client.operation.time_to_first_chunk"
PER_CHUNK: Final = "gen_ai.client.operation.time_per_output_chunk"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"

#: name -> unit, boundaries.
HISTOGRAMS: Final[dict[str, tuple[str, tuple[float, ...]]]] = {
    DURATION: ("s", SECONDS),
    FIRST_CHUNK: ("s", SECONDS),
    PER_CHUNK: ("s", SECONDS),
    TOKEN_USAGE: ("{token}", TOKENS),
}

Labels = dict[str, str]

_histograms: dict[Meter, dict[str, Histogram]] = {}


class _Call:
    __slots__ = ("labels", "started_ns")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.started_ns = time.perf_counter_ns()


#: Calls that have begun; one whose span is dropped without an end is dropped with it.
_calls: "weakref.WeakKeyDictionary[Span, _Call]" = weakref.WeakKeyDictionary()


def began(span: Span, labels: Mapping[str, str]) -> None:
    """Take note of the call that `span` stands for; empty labels are left out."""
    _calls[span] = _Call({name: value for name, value in labels.items() if value})


@Guard("call metrics")
def ended(
    span: Span,
    *,
    reported: Reported | None = None,
    error: BaseException | None = None,
    first_chunk_s: float | None = None,
    per_chunk_s: float | None = None,
) -> None:
    """Record the call that `span` stands for, once; what is None was not seen. A span that never `began` is ignored."""
    call = _calls.pop(span, None)
    if call is None:
        return
    labels = call.labels
    if reported and reported.model:
        labels["gen_ai.response.model"] = reported.model
    timed = labels | ({"error.type": error_type(error)} if error else {})
    histograms = _current()
    histograms[DURATION].record(convert(time.perf_counter_ns() - call.started_ns, "ns", "s"), timed)
    for name, value in ((FIRST_CHUNK, first_chunk_s), (PER_CHUNK, per_chunk_s)):
        if value is not None:
            histograms[name].record(value, timed)
    if reported:
        for kind, tokens in (("input", reported.input_tokens), ("output", reported.output_tokens)):
            if tokens is not None:
                histograms[TOKEN_USAGE].record(tokens, labels | {"gen_ai.token.type": kind})


def _current() -> dict[str, Histogram]:
    meter = providers.meter()
    found = _histograms.get(meter)
    if found is None:
        found = _histograms[meter] = {
            name: meter.create_histogram(name, unit=unit, explicit_bucket_boundaries_advisory=boundaries)
            for name, (unit, boundaries) in HISTOGRAMS.items()
        }
    return found
