"""Attributes that go past the SDK's cleaning are those that would have come out of it."""

from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.sdk.trace import Span, SpanLimits, TracerProvider
from opentelemetry.trace import INVALID_SPAN

from tailbudget.instrument import spans

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
