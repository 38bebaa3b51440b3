"""Spans of ours on the provider of ours, started as OpenTelemetry's SDK does, for a tenth of its instructions.

The SDK takes 89,000 for each: it asks four times for the current span, makes a sampling result to read it once, looks
at attributes of anybody's. Here the outcome is the same, and made in one go. A quick start is used only where the SDK
that is installed was seen to make the very same spans: another version of it starts them itself.
"""
# ruff: noqa: SLF001 - a span of the SDK's is made of its own fields; `_alike` says whether these are all of them.

import threading
from collections.abc import Iterator, Mapping
from time import time_ns
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, Tracer, TracerProvider, sampling
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import AttributeValue

from .contexts import SPAN_KEY, current
from .losses import CountedQueue
from .spans import PLAIN

#: Samplers look at so much of a trace's id.
ID_LIMIT: Final = sampling.TraceIdRatioBased.TRACE_ID_LIMIT
#: As SpanContext holds them: TraceFlags of each sum of `sampled` and `random`.
FLAGS: Final = tuple(map(TraceFlags, range(4)))
UNSET: Final = Status(StatusCode.UNSET)
#: The SDK's class of spans, which is not public.
SdkSpan: Final[Any] = getattr(sdk, "_Span", None)
_CLASSES: Final = frozenset((SdkSpan, NonRecordingSpan))
_new: Final[Any] = object.__new__


class UnseenStarts(TracerProvider):
    """OpenTelemetry's provider, which knows whether anybody looks at a span when it starts."""

    def __init__(self, **options: Any) -> None:
        self.watched = False
        super().__init__(**options)

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Register a span processor; any but ours may look."""
        self.watched = self.watched or not isinstance(span_processor, CountedQueue)
        super().add_span_processor(span_processor)

    def starter(self, tracer: Any) -> "QuickStart | None":
        """Return what starts spans of this tracer of ours at less cost, None where nothing may."""
        try:
            bounds = _bounds(self.sampler)
            fit = bounds is not None and type(tracer) is Tracer and _alike(self.sampler, bounds)
            return QuickStart(self, tracer, bounds) if bounds is not None and fit else None
        except (AttributeError, TypeError, ValueError):  # an SDK of another make
            return None


def _bounds(sampler: Any) -> tuple[int, ...] | None:
    """Return below what a trace's id is sampled: of a root, then of a child; None for a sampler that is not known.

    Children are those of a local parent, not sampled and sampled, then those of a remote one.
    """
    if not isinstance(sampler, sampling.ParentBased):
        of_all = _bound(sampler)
        return None if of_all is None else (of_all,) * 5
    if type(sampler).should_sample is not sampling.ParentBased.should_sample:
        return None
    parts = (
        sampler._root,
        sampler._local_parent_not_sampled,
        sampler._local_parent_sampled,
        sampler._remote_parent_not_sampled,
        sampler._remote_parent_sampled,
    )
    found = tuple(bound for bound in map(_bound, parts) if bound is not None)
    return found if len(found) == len(parts) else None


def _bound(sampler: Any) -> int | None:
    if type(sampler) is sampling.TraceIdRatioBased:
        return sampler.bound
    static = {sampling.Decision.DROP: 0, sampling.Decision.RECORD_AND_SAMPLE: ID_LIMIT + 1}
    return static.get(sampler._decision) if type(sampler) is sampling.StaticSampler else None


class QuickStart:
    """Starts the spans of one tracer."""

    def __init__(self, provider: Any, tracer: Any, bounds: tuple[int, ...]) -> None:
        self._provider = provider
        self._tracer = tracer
        self._bounds = bounds
        self._ids: IdGenerator = tracer.id_generator
        self._random = 2 * self._ids.is_trace_id_random()
        self._counted = type(tracer._tracer_metrics).__name__ != "NoOpTracerMetrics"

    def __call__(
        self, name: str, context: Context | None, kind: SpanKind, attributes: Mapping[str, AttributeValue]
    ) -> Span:
        """Start a span; what is beyond this the SDK's own start does."""
        parent: Any = (current() if context is None else context).get(SPAN_KEY)
        if (
            self._provider.watched
            or self._counted
            or (parent is not None and type(parent) not in _CLASSES)
            or not self._tracer._tracer_config.is_enabled
        ):
            started: Span = self._tracer.start_span(name, context, kind, attributes)
            return started
        # By place: each of its fields is a property, which is a call.
        above = parent and parent._context
        if above and above[5]:
            trace_id, _, remote, flags, state, _ = above
            bound, random = self._bounds[1 + 2 * remote + (flags & 1)], flags & 2
        else:
            above = state = None
            trace_id, bound, random = self._ids.generate_trace_id(), self._bounds[0], self._random
        sampled = trace_id & ID_LIMIT < bound
        made = SpanContext(trace_id, self._ids.generate_span_id(), False, FLAGS[sampled + random], state)  # noqa: FBT003
        return self._span(name, made, above, kind, attributes) if sampled else NonRecordingSpan(made)

    def _span(
        self, name: str, made: SpanContext, above: Any, kind: SpanKind, attributes: Mapping[str, AttributeValue]
    ) -> Span:
        tracer = self._tracer
        limits = tracer._span_limits
        span = _new(SdkSpan)
        span._name = name
        span._context = made
        span._kind = kind
        span._instrumentation_info = tracer.instrumentation_info
        span._instrumentation_scope = tracer._instrumentation_scope
        span._parent = above
        span._start_time = time_ns()
        span._end_time = None
        span._resource = tracer.resource
        span._status = UNSET
        span._sampler = tracer.sampler
        span._trace_config = None
        span._record_exception = True
        span._set_status_on_exception = True
        span._span_processor = tracer.span_processor
        span._limits = limits
        span._lock = threading.Lock()
        span._events = _list(limits.max_events)
        span._links = _list(limits.max_links)
        span._record_end_metrics = None  # which the SDK would call to no end
        most = limits.max_span_attributes
        span._attributes = held = BoundedAttributes(most, None, False, limits.max_span_attribute_length)  # noqa: FBT003
        fit = held.max_value_len is None and (most is None or len(attributes) <= most)
        if fit and PLAIN.issuperset(map(type, attributes.values())):
            held._dict = dict(attributes)
        else:
            span.set_attributes(attributes)
        return span  # type: ignore[no-any-return]


def _list(most: int | None) -> Any:
    made = _new(LateList)
    made._most = most
    return made


class LateList(BoundedList[Any]):
    """The events or links of a span, of which ours have none: room for them is made when there are some.

    Room is 700 bytes each, and takes the SDK 5,900 instructions; two a span are 3 % of all that a request costs.
    """

    dropped = 0
    _most: int | None

    def __getattr__(self, name: str) -> Any:
        """Make room: its own fields are missing before."""
        if name not in ("_dq", "_lock"):
            raise AttributeError(name)
        room: Any = BoundedList(self._most)
        held = vars(self)
        held.setdefault("_lock", room._lock)  # at once and once, whoever reads it meanwhile
        held.setdefault("_dq", room._dq)
        return held[name]

    def __len__(self) -> int:
        return len(self._dq) if "_dq" in vars(self) else 0

    def __iter__(self) -> Iterator[Any]:
        return super().__iter__() if "_dq" in vars(self) else iter(())


class _GivenIds(IdGenerator):
    """The same trace id each time."""

    def __init__(self, trace_id: int) -> None:
        self._trace_id = trace_id

    def generate_span_id(self) -> int:
        return 1

    def generate_trace_id(self) -> int:
        return self._trace_id

    def is_trace_id_random(self) -> bool:
        return True


def _alike(sampler: Any, bounds: tuple[int, ...]) -> bool:
    """Say whether the SDK that is installed makes the spans that we would: roots, and below parents of every kind."""
    for trace_id in (1, ID_LIMIT):
        provider = UnseenStarts(
            sampler=sampler, resource=Resource({}), shutdown_on_exit=False, id_generator=_GivenIds(trace_id)
        )
        tracer: Any = provider.get_tracer(__name__)
        start = QuickStart(provider, tracer, bounds)
        for parent in _parents(trace_id):
            asked = ("probe", Context({SPAN_KEY: parent}), SpanKind.CLIENT, {"a": 1})
            if told(tracer.start_span(*asked)) != told(start(*asked)):
                return False
    return True


def _parents(trace_id: int) -> Iterator[Span | None]:
    yield None
    for flags in FLAGS:
        for remote in (False, True):
            yield NonRecordingSpan(SpanContext(trace_id, 2, remote, flags, TraceState([("a", "b")])))


def told(thing: Any) -> Any:
    """Return what tells a span from another: its class and all that it holds, without its locks and its clock."""
    if isinstance(thing, BoundedList):
        room: Any = thing
        return list(thing), room.dropped, room._dq.maxlen
    if not isinstance(thing, (Span, BoundedAttributes, Status)):
        return thing
    passing = {"_lock": "lock", "_start_time": "int", "_record_end_metrics": "called where there is one"}
    return type(thing), {name: passing.get(name) or told(value) for name, value in vars(thing).items()}
