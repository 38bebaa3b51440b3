"""Our exporter sends the very bytes that OpenTelemetry's encoder makes of the same spans."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from tailbudget.instrument import encoding
from tailbudget.instrument.encoding import encode

RESOURCES = (Resource({"service.name": "a", "port": 1}), Resource({"service.name": "b"}, schema_url="https://x/1"))
SCOPES = (
    InstrumentationScope("tailbudget"),
    InstrumentationScope("x", "1.2", schema_url="https://x/2", attributes={"a": 1}),
    None,
)

scalars = st.one_of(
    st.text(), st.booleans(), st.integers(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.binary(max_size=300)
)
odd = st.one_of(st.none(), st.just("\ud800"), st.sampled_from(SpanKind), st.dictionaries(st.text(min_size=1), scalars))
values = st.one_of(
    scalars, scalars, st.sampled_from((True, 1, 1.0, "1", 0, False, 0.0)), st.lists(st.one_of(scalars, odd)), odd
)
attributes = st.dictionaries(st.text(max_size=200), values, max_size=12).map(
    lambda said: BoundedAttributes(10, said, immutable=False)
)


def contexts(*, remote: bool = False) -> st.SearchStrategy[SpanContext]:
    return st.builds(
        lambda trace_id, span_id, state: SpanContext(
            trace_id, span_id, is_remote=remote, trace_flags=TraceFlags(1), trace_state=TraceState(state)
        ),
        st.integers(1, 2**128 - 1),
        st.integers(1, 2**64 - 1),
        st.sampled_from(([], [], [("a", "1"), ("b", "2")])),
    )


instants_ns = st.integers(0, 2**63)
spans = st.builds(
    ReadableSpan,
    name=st.text(max_size=300),
    context=contexts(),
    parent=st.one_of(st.none(), contexts(), contexts(remote=True)),
    resource=st.sampled_from(RESOURCES),
    instrumentation_scope=st.sampled_from(SCOPES),
    attributes=st.one_of(st.none(), attributes, attributes),
    events=st.one_of(
        st.just(()), st.just(()), st.lists(st.builds(Event, st.text(), attributes, instants_ns), max_size=2)
    ),
    links=st.one_of(st.just(()), st.just(()), st.lists(st.builds(Link, contexts(), attributes), max_size=2)),
    kind=st.sampled_from(SpanKind),
    status=st.sampled_from((Status(), Status(StatusCode.OK), Status(StatusCode.ERROR), Status(StatusCode.ERROR, "no"))),
    start_time=instants_ns,
    end_time=instants_ns,
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)  # their encoder logs each value that it leaves out
    yield
    logging.disable(logging.NOTSET)


@settings(max_examples=100)
@given(st.lists(spans, max_size=5))
def test_any_spans_become_the_bytes_of_opentelemetrys_encoder(batch: list[ReadableSpan]) -> None:
    assert encode(batch) == encode_spans(batch).SerializeToString()


def plain(**said: Any) -> ReadableSpan:
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan(
        "chat", context, resource=RESOURCES[0], attributes=BoundedAttributes(None, said), start_time=1, end_time=2
    )


@pytest.mark.parametrize(
    "value", ["chat", "ü" * 100, True, 7, 2**40, -1, 0.25, b"\x01" * 900, ("stop",), (1, 0.5, True)]
)
def test_what_our_spans_say_needs_no_other_encoder(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [plain(**{"slo.said": value}), plain(**{"slo.said": value})]
    expected = encode_spans(batch).SerializeToString()
    encode(batch)  # which learns what stands around them

    def other(_: object) -> None:
        raise AssertionError("a plain span went to the other encoder")

    monkeypatch.setattr(encoding, "encode_spans", other)
    assert encode(batch) == expected


def test_values_that_are_equal_keep_their_kinds() -> None:
    for value in (True, 1, 1.0, "1", False, 0, 0.0, -0.0, (1,), (True,)):
        batch = [plain(said=value)]
        assert encode(batch) == encode_spans(batch).SerializeToString()


def test_what_is_kept_of_values_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MAX_KEPT", 10)
    for n in range(100):
        batch = [plain(**{f"key{n}": 0.5, "id": f"request-{n}", "long": "x" * 200 + str(n)})]
        assert encode(batch) == encode_spans(batch).SerializeToString()
    assert len(encoding._floats) <= 10
    assert len(encoding._said) <= 10
    assert all(len(kept) <= encoding.MAX_KEPT_BYTES for kept in encoding._said.values())


def test_what_names_one_answer_alone_is_not_kept() -> None:
    batch = [plain(**{"gen_ai.response.id": f"answer-{n}", "slo.request.id": f"r-{n}"}) for n in range(9)]
    assert encode(batch) == encode_spans(batch).SerializeToString()
    assert not {"gen_ai.response.id", "slo.request.id"} & {key for key, *_ in encoding._said}


@pytest.mark.parametrize("where", ["events", "links", "attributes"])
def test_what_a_span_had_no_room_for_is_told(where: str) -> None:
    full: Any = BoundedAttributes(0, {"a": 1}) if where == "attributes" else BoundedList(0)
    if where != "attributes":
        full.append(Event("a"))
    span = ReadableSpan("a", SpanContext(1, 2, is_remote=False), start_time=1, end_time=2, **{where: full})
    (said,) = encode_spans([span]).resource_spans[0].scope_spans[0].spans
    assert getattr(said, f"dropped_{where}_count") == 1
    assert encode([span]) == encode_spans([span]).SerializeToString()


@pytest.mark.parametrize("known", [True, False])
def test_spans_are_the_same_by_field_and_by_property(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    assert encoding._FIELDS_KNOWN
    monkeypatch.setattr(encoding, "_FIELDS_KNOWN", known)
    monkeypatch.setattr(encoding, "_any", None)
    for span in (plain(a=1, b="c"), plain()):
        assert encode([span]) == encode_spans([span]).SerializeToString()


def test_spans_made_of_other_fields_are_read_by_property(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "_by_field", lambda span: (*encoding._by_property(span)[:8], True))
    assert not encoding._fields_known()
    monkeypatch.setattr(encoding, "_by_field", vars)
    assert not encoding._fields_known()
