"""Attributes that go past the SDK's cleaning are those that would have come out of it, and are there for who looks."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace import INVALID_SPAN, SpanKind

from tailbudget.instrument import providers, spans
from tailbudget.instrument.losses import CountedQueue, UnseenStarts

SAID: dict[str, Any] = {"a": "text", "b": 1, "c": 2.5, "d": True, "e": b"bytes", "f": ("x", 2)}
#: Values that the SDK makes others of, or warns of.
ODD: tuple[Any, ...] = (["a", "b"], ("a", ["b"]), {"k": [1]}, {"": 1}, None, object, str.upper)


def both(change: Callable[[Any, Any], object], said: dict[str, Any], limits: SpanLimits | None = None) -> list[Any]:
    """Return attributes and dropped ones after the SDK's way and after ours."""
    found = []
    for way in (lambda span, attributes: span.set_attributes(attributes), spans.put):
        span: Any = TracerProvider(shutdown_on_exit=False, span_limits=limits).get_tracer("t").start_span("s")
        span.set_attributes({"a": "before", "z": 0})
        change(span, lambda span=span, way=way: way(span, said))
        found.append((dict(span.attributes), span.dropped_attributes))
    return found


@pytest.mark.parametrize(
    "limits",
    [None, SpanLimits(max_span_attributes=4), SpanLimits(max_span_attributes=0), SpanLimits(max_attribute_length=3)],
)
@pytest.mark.parametrize("said", [SAID, {}, *({"a": odd, "b": 1} for odd in ODD)])
def test_put_leaves_what_set_attributes_leaves(said: dict[str, Any], limits: SpanLimits | None) -> None:
    sdks, ours = both(lambda _, put: put(), said, limits)
    assert ours == sdks


def test_nothing_is_put_on_a_span_that_has_ended(caplog: pytest.LogCaptureFixture) -> None:
    sdks, ours = both(lambda span, put: (span.end(), put()), SAID)
    assert ours == sdks == ({"a": "before", "z": 0}, 0)
    assert [record.getMessage() for record in caplog.records] == ["Setting attribute on ended span."] * 2


def test_what_is_plain_is_not_cleaned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    span: Any = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s")
    monkeypatch.setattr(Span, "set_attributes", None)
    spans.put(span, SAID)
    assert dict(span.attributes) == SAID


def test_a_span_that_is_not_the_sdks_gets_its_attributes_by_its_own_method() -> None:
    class Foreign:
        _attributes = None
        said: dict[str, Any]

        def set_attributes(self, attributes: dict[str, Any]) -> None:
            self.said = attributes

    foreign: Any = Foreign()
    spans.put(foreign, SAID)
    assert foreign.said == SAID
    spans.put(INVALID_SPAN, SAID)


class Looker(SpanProcessor):
    """Keeps what a span has when it starts."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.seen.append(dict(span.attributes or {}))


class Choosy(TraceIdRatioBased):
    """Samples by an attribute."""

    def should_sample(self, *args: Any, **kwargs: Any) -> Any:
        result = super().should_sample(*args, **kwargs)
        return ALWAYS_ON.should_sample(*args, **kwargs) if (args[4] or {}).get("a") == "text" else result


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    yield InMemorySpanExporter()
    providers.use(None)


def started(provider: TracerProvider) -> ReadableSpan:
    providers.use(provider)
    span: Any = spans.start("s", kind=SpanKind.CLIENT, attributes=SAID)
    span.end()
    return span  # type: ignore[no-any-return]


def test_a_processor_of_a_user_sees_the_attributes_when_a_span_starts(exporter: InMemorySpanExporter) -> None:
    provider, looker = UnseenStarts(shutdown_on_exit=False), Looker()
    provider.add_span_processor(CountedQueue(exporter, delay_ms=60_000))
    assert providers.starts_unseen() is False
    started(provider)
    assert providers.starts_unseen() is True
    provider.add_span_processor(looker)
    started(provider)
    assert looker.seen == [SAID]
    provider.shutdown()
    assert [dict(span.attributes or {}) for span in exporter.get_finished_spans()] == [SAID, SAID]


@pytest.mark.parametrize("kind", [TracerProvider, UnseenStarts])
def test_a_sampler_of_a_user_sees_the_attributes(
    kind: Callable[..., TracerProvider], exporter: InMemorySpanExporter
) -> None:
    provider = kind(shutdown_on_exit=False, sampler=Choosy(0.0))
    provider.add_span_processor(CountedQueue(exporter, delay_ms=60_000))
    assert dict(started(provider).attributes or {}) == SAID
    provider.shutdown()
    assert len(exporter.get_finished_spans()) == 1
