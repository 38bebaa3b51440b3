"""What begins and ends with a model call beside its span: the conventions' histograms, which sampling does not thin."""

import functools
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from . import providers
from .attempts import current_attempt
from .chunks import Reported
from .contexts import current
from .guard import Guard
from .histograms import Histogram, histogram
from .metering import MAX_SERIES
from .request import current_request
from .spans import error_type
from .vocabulary import RATELIMIT_REMAINING, S_PER_NS, STAGE, Stage
from .work import OWNED, Work

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

#: Attributes of the span that are labels of the metrics.
LABELS: Final = ("gen_ai.operation.name", "gen_ai.request.model", "gen_ai.provider.name", "server.address")
Labels = dict[str, str]

_gauged: set[Meter] = set()
_remaining_by: dict[tuple[str, str, str], float] = {}


def _no_work() -> None:
    """Stand for the work of a call outside of a request."""


class _Call:
    __slots__ = ("labels", "started_ns", "work")

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self.started_ns = time.perf_counter_ns()
        #: Weak: a request's work holds the spans of its calls.
        self.work: Callable[[], Work | None] = _no_work


#: Calls that have begun; one whose span is dropped without an end is dropped with it.
_calls: "weakref.WeakKeyDictionary[Span, _Call]" = weakref.WeakKeyDictionary()


@Guard("call metrics")
def began(
    span: Span, attributes: Mapping[str, AttributeValue], *, streamed: bool, context: Context | None = None
) -> None:
    """Take note of a call, here, in the request that makes it and in the attempt of a hedge that it belongs to.

    `attributes` are those with which its span started; the conventions say which of them are labels. `context` is
    where it is made, None the current one.
    """
    call = _calls[span] = _Call({name: str(attributes[name]) for name in LABELS if attributes.get(name)})
    context = current() if context is None else context
    if attempt := current_attempt(context):
        attempt.made(span)
    if request := current_request(context):
        call.work = weakref.ref(request.work)
        stage: Stage = "retrieval" if STAGE in attributes else "prefill" if streamed else "decode"  # of embeddings
        request.work.call_began(span, stage=stage, owned=bool(context.get(OWNED)))


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
    if work := call.work():
        work.call_ended(span)
    labels = call.labels
    if reported and reported.model:
        labels["gen_ai.response.model"] = reported.model
    timed = labels | ({"error.type": error_type(error)} if error else {})
    duration_s = (time.perf_counter_ns() - call.started_ns) * S_PER_NS
    context, known = span.get_span_context(), _histograms(providers.meter())
    for name, value in ((DURATION, duration_s), (FIRST_CHUNK, first_chunk_s), (PER_CHUNK, per_chunk_s)):
        if value is not None:
            known[name].record(value, timed, context=context)
    if reported:
        for kind, tokens in (("input", reported.input_tokens), ("output", reported.output_tokens)):
            if tokens is not None:
                known[TOKEN_USAGE].record(tokens, labels | {"gen_ai.token.type": kind}, context=context)


@Guard("call metrics")
def ratelimit(remaining: float, *, kind: Literal["requests", "tokens"], provider: str, server_address: str) -> None:
    """Take what a provider's answer says is left of its limit; the gauge `slo.ratelimit.remaining` has the last word.

    Of at most 1,000 providers and addresses: they come from answers.
    """
    meter = providers.meter()
    if meter not in _gauged:
        _gauged.add(meter)
        meter.create_observable_gauge(RATELIMIT_REMAINING, [_remaining])
    key = (kind, provider, server_address)
    if key in _remaining_by or len(_remaining_by) < MAX_SERIES:
        _remaining_by[key] = remaining


def _remaining(_: CallbackOptions) -> Iterator[Observation]:
    for (kind, provider, address), remaining in _remaining_by.copy().items():
        yield Observation(remaining, {"kind": kind, "gen_ai.provider.name": provider, "server.address": address})


@functools.lru_cache(maxsize=4)
def _histograms(meter: Meter) -> Mapping[str, Histogram]:  # noqa: ARG001 - which is the current one
    return {name: histogram(name, unit=unit, boundaries=bounds) for name, (unit, bounds) in HISTOGRAMS.items()}
