"""Spans that we start past the SDK's own start are the spans that it would have started."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, Tracer, TracerProvider, sampling
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState, set_span_in_context

from tailbudget.instrument import providers, spans, starts
from tailbudget.instrument.losses import CountedQueue

SAID: dict[str, Any] = {"a": "text", "b": 1, "c": 2.5, "d": True, "e": b"bytes", "f": ("x", 2)}
#: Variables of the SDK's -> values, "" for one that is not set.
VARIABLES = {
    "OTEL_TRACES_SAMPLER": ("", "always_on", "always_off", "traceidratio", "parentbased_always_on",
        "parentbased_always_off", "parentbased_traceidratio", "unheard_of"),
    "OTEL_TRACES_SAMPLER_ARG": ("", "0", "0.5", "1", "much"),
    "OTEL_ATTRIBUTE_COUNT_LIMIT": ("", "3"),
    "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": ("", "2"),
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": ("", "0", "4"),
    "OTEL_SPAN_EVENT_COUNT_LIMIT": ("", "0", "7"),
    "OTEL_SPAN_LINK_COUNT_LIMIT": ("", "5"),
    "OTEL_SDK_DISABLED": ("", "", "", "true"),
    "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": ("", "", "", "true"),
}  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=5), st.integers(), st.floats(allow_nan=False), st.booleans(), st.binary(max_size=5),
    st.lists(st.text(max_size=2), max_size=2), st.tuples(st.integers(), st.text(max_size=2)), st.none(),
)  # fmt: skip
CONTEXTS = st.builds(
    SpanContext,
    trace_id=st.integers(min_value=0, max_value=2**128 - 1),
    span_id=st.integers(min_value=0, max_value=2**64 - 1),
    is_remote=st.booleans(),
    trace_flags=st.sampled_from([*map(TraceFlags, range(4)), TraceFlags(0xFF), TraceFlags(0x04)]),
    trace_state=st.sampled_from([None, TraceState(), TraceState([("a", "b")])]),
)


class Foreign(NonRecordingSpan):
    """A span of another make."""


@pytest.fixture(autouse=True)
def _global() -> Iterator[None]:
    yield
    providers.use(None)


@given(
    variables=st.fixed_dictionaries({name: st.sampled_from(values) for name, values in VARIABLES.items()}),
    parent=st.one_of(st.none(), CONTEXTS),
    make=st.sampled_from([NonRecordingSpan, Foreign]),
    current=st.booleans(),
    kind=st.sampled_from(list(SpanKind)),
    attributes=st.dictionaries(st.sampled_from("abcdef"), VALUES, max_size=6),
    seed=st.integers(),
)
@settings(max_examples=400, deadline=None)
def test_a_span_of_ours_is_the_sdks_to_the_last_field(
    *,
    variables: dict[str, str],
    parent: SpanContext | None,
    make: Callable[[SpanContext], trace.Span],
    current: bool,
    kind: SpanKind,
    attributes: dict[str, Any],
    seed: int,
) -> None:
    context = Context() if parent is None else set_span_in_context(make(parent), Context())
    asked = (None if current else context, kind, attributes)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            (environment.setenv if value else environment.delenv)(*((name, value) if value else (name, False)))
        made = []
        for kind_of_provider in (TracerProvider, starts.UnseenStarts):
            provider = kind_of_provider(resource=Resource({"r": 1}), shutdown_on_exit=False)
            tracer = provider.get_tracer("ours")
            starter = getattr(provider, "starter", lambda _: None)(tracer)
            assert starter is None or isinstance(tracer, Tracer)
            token = otel_context.attach(context if current else Context())
            random.seed(seed)
            try:
                made.append((starter or tracer.start_span)("name", *asked))
                below = set_span_in_context(made[-1], Context())
                made.append((starter or tracer.start_span)("child", below, SpanKind.CLIENT, {}))
            finally:
                otel_context.detach(token)
    theirs, ours = made[:2], made[2:]
    for span, other in zip(theirs, ours, strict=True):
        assert alike(span, other)


def alike(span: trace.Span, other: trace.Span) -> bool:
    known, found = (one.get_span_context() for one in (span, other))
    assert (*found, type(found.trace_flags)) == (*known, type(known.trace_flags))
    told = [starts.told(one) for one in (span, other)]
    for each in told:  # of two providers
        if isinstance(each, tuple):
            assert each[1].pop("_sampler", None).__class__ in (*sampling_classes(), type(None))
            each[1].pop("_span_processor", None)
            each[1]["_limits"] = vars(each[1]["_limits"]) if "_limits" in each[1] else None
    assert told[0] == told[1]
    return span.is_recording() is other.is_recording()


def sampling_classes() -> tuple[type, ...]:
    return tuple(each for each in vars(sampling).values() if isinstance(each, type))


@pytest.mark.parametrize(
    "sampler", [None, ALWAYS_ON, ALWAYS_OFF, TraceIdRatioBased(0.3), ParentBased(TraceIdRatioBased(0.3))]
)
def test_the_sdks_own_samplers_are_decided_here(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    provider = starts.UnseenStarts(sampler=sampler, shutdown_on_exit=False)
    providers.use(provider)
    monkeypatch.setattr(Tracer, "start_span", None)
    spans.start("s", kind=SpanKind.CLIENT, attributes=SAID, context=Context())


def test_a_span_of_ours_ends_in_the_queue_with_the_resource_after_a_fork() -> None:
    exporter = InMemorySpanExporter()
    provider = starts.UnseenStarts(shutdown_on_exit=False)
    provider.add_span_processor(CountedQueue(exporter, delay_ms=60_000))
    providers.use(provider)
    provider._update_resource(Resource({"service.instance.id": "child"}))
    span = spans.start("s", kind=SpanKind.SERVER, attributes=SAID, context=Context())
    span.add_event("happened", {"k": "v"})
    span.end()
    provider.shutdown()
    (ended,) = exporter.get_finished_spans()
    assert (ended.name, ended.kind, dict(ended.attributes or {})) == ("s", SpanKind.SERVER, SAID)
    assert ended.resource.attributes["service.instance.id"] == "child"
    assert [event.name for event in ended.events] == ["happened"]
    assert ended.instrumentation_scope is not None
    assert ended.instrumentation_scope.name == providers.SCOPE


@pytest.mark.parametrize("limit", ["", "0", "2"])
def test_events_and_links_are_kept_and_dropped_as_the_sdk_does(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_SPAN_EVENT_COUNT_LIMIT", "OTEL_SPAN_LINK_COUNT_LIMIT"):
        (monkeypatch.setenv if limit else monkeypatch.delenv)(*((name, limit) if limit else (name, False)))
    found = []
    for kind in (TracerProvider, starts.UnseenStarts):
        providers.use(kind(shutdown_on_exit=False))
        span: Any = spans.start("s", kind=SpanKind.SERVER, attributes={}, context=Context())
        assert (len(span.events), [*span.links], span.dropped_events) == (0, [], 0)
        for n in range(3):
            span.add_event(str(n), timestamp=n)
            span.add_link(SpanContext(n + 1, 1, is_remote=False))
        span.end()
        ended = span._readable_span()
        found += [kept(span), kept(ended)]
    assert found == [found[0]] * 4


def kept(span: Any) -> tuple[Any, ...]:
    events, links = [event.name for event in span.events], [link.context.trace_id for link in span.links]
    return events, links, span.dropped_events, span.dropped_links


class Looker(SpanProcessor):
    """Keeps what a span has when it starts."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.seen.append(dict(span.attributes or {}))


class Choosy(TraceIdRatioBased):
    """Samples by an attribute."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("attributes") or (args[4] if len(args) > 4 else {})
        chosen: Any = ALWAYS_ON if (given or {}).get("a") == "text" else super()
        return chosen.should_sample(*args, **kwargs)


def started(provider: TracerProvider) -> ReadableSpan:
    providers.use(provider)
    span: Any = spans.start("s", kind=SpanKind.CLIENT, attributes=SAID)
    span.end()
    return span  # type: ignore[no-any-return]


def test_a_processor_of_a_user_sees_the_attributes_when_a_span_starts() -> None:
    exporter = InMemorySpanExporter()
    provider, looker = starts.UnseenStarts(shutdown_on_exit=False), Looker()
    provider.add_span_processor(CountedQueue(exporter, delay_ms=60_000))
    started(provider)
    provider.add_span_processor(looker)
    span: Any = spans.start("s", kind=SpanKind.CLIENT, attributes=SAID)  # by what was made before it came
    span.end()
    assert looker.seen == [SAID]
    provider.shutdown()
    assert [dict(span.attributes or {}) for span in exporter.get_finished_spans()] == [SAID, SAID]


@pytest.mark.parametrize("kind", [TracerProvider, starts.UnseenStarts])
@pytest.mark.parametrize("sampler", [Choosy(0.0), ParentBased(Choosy(0.0))])
def test_a_sampler_of_a_user_sees_the_attributes(kind: Callable[..., TracerProvider], sampler: Any) -> None:
    exporter = InMemorySpanExporter()
    provider = kind(shutdown_on_exit=False, sampler=sampler)
    provider.add_span_processor(CountedQueue(exporter, delay_ms=60_000))
    assert dict(started(provider).attributes or {}) == SAID
    provider.shutdown()
    assert len(exporter.get_finished_spans()) == 1


def test_an_sdk_that_makes_other_spans_starts_them_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = starts.UnseenStarts(shutdown_on_exit=False)
    tracer = provider.get_tracer("ours")
    assert provider.starter(tracer) is not None
    theirs = Tracer.start_span

    def newer(self: Tracer, *args: Any, **kwargs: Any) -> Any:
        span: Any = theirs(self, *args, **kwargs)
        span._of_a_later_version = 1
        return span

    monkeypatch.setattr(Tracer, "start_span", newer)
    assert provider.starter(tracer) is None
    monkeypatch.undo()
    monkeypatch.setattr(starts, "SdkSpan", None)
    assert provider.starter(tracer) is None


def test_a_tracer_that_was_switched_off_starts_no_span_of_ours() -> None:
    provider: Any = starts.UnseenStarts(shutdown_on_exit=False)
    providers.use(provider)
    provider._set_tracer_configurator(tracer_configurator=lambda _: type("Config", (), {"is_enabled": False}))
    assert not spans.start("s", kind=SpanKind.CLIENT, attributes=SAID).is_recording()
