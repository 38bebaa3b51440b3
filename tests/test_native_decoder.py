"""The decoder in C gives what the reference gives, value for value, and leaves to it whatever it is not sure of."""

import gzip
import importlib.util
import json
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from tailbudget.collector.journal.record import Signal
from tailbudget.collector.receive.batches import Batches, LogBatches, MetricBatches, SpanBatches
from tailbudget.collector.receive.content import CONTENT_EVENTS, CONTENT_KEYS
from tailbudget.collector.receive.decode import BadBodyError
from tailbudget.collector.receive.decoder import decode_body, decoder_of, reference
from tailbudget.collector.receive.privacy import DROP, Content

from .collector_support import any_value, pairs, trace_request, varint
from .support import CONFORMANCE, shared

native = pytest.importorskip("tailbudget.collector.receive.native", reason="the extension was not built")


def test_an_extension_that_was_built_from_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native._otlp, "LAYOUT", native.LAYOUT - 1)
    found = importlib.util.find_spec(native.__name__)
    assert found is not None
    assert found.loader is not None
    with pytest.raises(ImportError, match="build it anew"):
        found.loader.exec_module(importlib.util.module_from_spec(found))


REQUESTS: dict[Signal, type[Message]] = {
    "traces": ExportTraceServiceRequest,
    "metrics": ExportMetricsServiceRequest,
    "logs": ExportLogsServiceRequest,
}
TABLES = {
    SpanBatches: ("spans", "events", "links", "resources"),
    MetricBatches: ("metrics", "resources"),
    LogBatches: ("logs", "resources"),
}


def differ(signal: Signal, body: bytes) -> bool:
    """Hold that both decoders agree on the body; return whether the one in C took it."""
    ours = native.decode(signal, body)
    if ours is None:
        return False
    wanted = reference(signal, body, content=DROP)  # raises where C took what the reference refuses
    assert_equal(signal, ours, wanted)
    return True


def assert_equal(signal: Signal, ours: Batches, wanted: Batches) -> None:
    assert type(ours) is type(wanted)
    for name in TABLES[type(wanted)]:
        one, other = getattr(ours, name), getattr(wanted, name)
        one.validate(full=True)
        assert one.schema == other.schema
        # Written out, so that NaN equals NaN, and -0.0 is not 0.0.
        assert repr(one.to_pylist()) == repr(other.to_pylist())
    assert (ours.rejected, +Counter(ours.health)) == (wanted.rejected, +Counter(wanted.health))
    assert (ours.scrubbed is None) == (wanted.scrubbed is None)
    if ours.scrubbed is not None and wanted.scrubbed is not None:
        request = REQUESTS[signal]
        assert canonical(request.FromString(ours.scrubbed)) == canonical(request.FromString(wanted.scrubbed))


def canonical(message: Message) -> bytes:
    return message.SerializeToString(deterministic=True)


def conformance_bodies() -> Iterator[tuple[Signal, bytes]]:
    folders = [CONFORMANCE, CONFORMANCE.with_name("captures")]
    if (CONFORMANCE.parents[2] / "shared").exists():
        folders.append(shared("conformance"))
    for folder in folders:
        for file in sorted(folder.glob("*/*.pb")):
            body = file.read_bytes()
            body = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
            yield ("metrics" if file.name.endswith(".metrics.pb") else "traces"), body


def test_every_capture_decodes_to_the_same_batches() -> None:
    taken = [differ(signal, body) for signal, body in conformance_bodies()]
    assert all(taken)
    assert len(taken) > 150


# Generated bodies.

TEXTS = st.text(max_size=12)
KEYS = st.one_of(
    st.sampled_from(["service.name", "slo.request", "gen_ai.request.model", "event.name", "k", "", "w3c.tracestate"]),
    st.sampled_from([row.replace("*", ".x") for row in CONTENT_KEYS]),
    st.sampled_from(["gen_ai.prompt.name", "gen_ai.usage.input_tokens", "otel.dropped_links_count"]),
    TEXTS,
)
INTEGERS = st.one_of(st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, -1, 2**53, -(2**63)]))
SCALARS = st.one_of(st.none(), st.booleans(), INTEGERS, st.floats(), TEXTS, st.binary(max_size=7))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=4)),
    max_leaves=8,
)
#: Lists of pairs, so that keys repeat.
ATTRIBUTES = st.lists(st.tuples(KEYS, VALUES), max_size=6).map(
    lambda found: [KeyValue(key=key, value=any_value(value)) for key, value in found]
)
IDS = st.one_of(st.binary(min_size=16, max_size=16), st.sampled_from([b"", bytes(16), bytes(15), b"\x01" * 16]))
SPAN_IDS = st.one_of(st.binary(min_size=8, max_size=8), st.sampled_from([b"", bytes(8), b"\x01" * 8, b"\x01" * 9]))
INSTANTS = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**63 - 1, 2**63]))
NAMES = st.one_of(st.sampled_from(["exception", *(row.replace("*", "x") for row in CONTENT_EVENTS)]), TEXTS)
MESSAGES = st.one_of(st.text(alphabet="ab:'\"`\n \u3000é“([{", max_size=20), st.text(min_size=190, max_size=210), TEXTS)
COUNTS = st.integers(0, 2**32 - 1)
OPEN_ENUM = st.sampled_from([0, 1, 2, 3, 5, 6, -1, 2**31 - 1])


@st.composite
def spans(draw: st.DrawFn) -> dict[str, Any]:
    event = st.fixed_dictionaries({"time_unix_nano": INSTANTS, "name": NAMES, "attributes": ATTRIBUTES})
    link = st.fixed_dictionaries({"trace_id": IDS, "span_id": SPAN_IDS, "attributes": ATTRIBUTES})
    return {
        "trace_id": draw(IDS),
        "span_id": draw(SPAN_IDS),
        "parent_span_id": draw(SPAN_IDS),
        "trace_state": draw(TEXTS),
        "name": draw(TEXTS),
        "kind": draw(OPEN_ENUM),
        "start_time_unix_nano": draw(INSTANTS),
        "end_time_unix_nano": draw(INSTANTS),
        "attributes": draw(ATTRIBUTES),
        "dropped_attributes_count": draw(COUNTS),
        "dropped_events_count": draw(st.sampled_from([0, 1])),
        "events": draw(st.lists(event, max_size=3)),
        "links": draw(st.lists(link, max_size=2)),
        "status": {"message": draw(MESSAGES), "code": draw(OPEN_ENUM)},
    }


def scope(draw: st.DrawFn) -> dict[str, Any]:
    return {"name": draw(TEXTS), "version": draw(TEXTS), "attributes": draw(ATTRIBUTES)}


@st.composite
def traces(draw: st.DrawFn) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_spans.add(resource={"attributes": draw(ATTRIBUTES)})
        for _ in range(draw(st.integers(0, 2))):
            group.scope_spans.add(scope=scope(draw), spans=draw(st.lists(spans(), max_size=4)))
    return request


@st.composite
def logs(draw: st.DrawFn) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    record = st.fixed_dictionaries(
        {
            "trace_id": IDS,
            "span_id": SPAN_IDS,
            "time_unix_nano": INSTANTS,
            "observed_time_unix_nano": INSTANTS,
            "severity_number": OPEN_ENUM,
            "severity_text": TEXTS,
            "event_name": NAMES,
            "attributes": ATTRIBUTES,
            "dropped_attributes_count": COUNTS,
        },
        optional={"body": VALUES.map(any_value)},
    )
    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_logs.add(resource={"attributes": draw(ATTRIBUTES)})
        group.scope_logs.add(scope=scope(draw), log_records=draw(st.lists(record, max_size=4)))
    return request


FLAGS = st.sampled_from([0, 0, 1, 2**32 - 1])
POINT = {
    "attributes": ATTRIBUTES,
    "start_time_unix_nano": INSTANTS,
    "time_unix_nano": INSTANTS,
    "flags": FLAGS,
}
EXEMPLAR = {"filtered_attributes": ATTRIBUTES, "time_unix_nano": INSTANTS, "trace_id": IDS, "span_id": SPAN_IDS}
EXEMPLARS = {
    "exemplars": st.lists(
        st.one_of(
            st.fixed_dictionaries(EXEMPLAR),
            st.fixed_dictionaries({**EXEMPLAR, "as_int": INTEGERS}),
            st.fixed_dictionaries({**EXEMPLAR, "as_double": st.floats()}),
        ),
        max_size=2,
    )
}
COUNT = st.integers(0, 2**64 - 1)
SUMS = {"sum": st.floats(), "min": st.floats(), "max": st.floats()}
NUMBERS = st.one_of(
    st.fixed_dictionaries({**POINT, **EXEMPLARS, "as_double": st.floats()}),
    st.fixed_dictionaries({**POINT, "as_int": INTEGERS}),
    st.fixed_dictionaries(POINT),
)


@st.composite
def histograms(draw: st.DrawFn) -> dict[str, Any]:
    counts = draw(st.lists(COUNT, max_size=4))
    right = max(len(counts) - 1, 0)
    bounds = draw(st.lists(st.floats(), max_size=4) | st.lists(st.floats(), min_size=right, max_size=right))
    sent = draw(st.fixed_dictionaries({**POINT, **EXEMPLARS, "count": COUNT}, optional=SUMS))
    return {**sent, "bucket_counts": counts, "explicit_bounds": bounds}


BUCKETS = st.fixed_dictionaries(
    {"offset": st.integers(-(2**31), 2**31 - 1), "bucket_counts": st.lists(COUNT, max_size=4)}
)
SCALES = st.one_of(st.integers(-12, 22), st.integers(-(2**31), 2**31 - 1))
EXPONENTIALS = st.fixed_dictionaries(
    {
        **POINT,
        **EXEMPLARS,
        "count": COUNT,
        "scale": SCALES,
        "zero_count": COUNT,
        "zero_threshold": st.floats(),
        "positive": BUCKETS,
        "negative": BUCKETS,
    },
    optional=SUMS,
)
QUANTILES = st.lists(st.fixed_dictionaries({"quantile": st.floats(), "value": st.floats()}), max_size=3)
SUMMARIES = st.fixed_dictionaries({**POINT, "count": COUNT, "sum": st.floats(), "quantile_values": QUANTILES})
TEMPORALITY = st.sampled_from([0, 1, 2, 3, -1])
DATA = st.one_of(
    st.fixed_dictionaries({"gauge": st.fixed_dictionaries({"data_points": st.lists(NUMBERS, max_size=3)})}),
    st.fixed_dictionaries(
        {
            "sum": st.fixed_dictionaries(
                {
                    "data_points": st.lists(NUMBERS, max_size=3),
                    "aggregation_temporality": TEMPORALITY,
                    "is_monotonic": st.booleans(),
                }
            )
        }
    ),
    *(
        st.fixed_dictionaries(
            {
                kind: st.fixed_dictionaries(
                    {"data_points": st.lists(points, max_size=3), "aggregation_temporality": TEMPORALITY}
                )
            }
        )
        for kind, points in (("histogram", histograms()), ("exponential_histogram", EXPONENTIALS))
    ),
    st.fixed_dictionaries({"summary": st.fixed_dictionaries({"data_points": st.lists(SUMMARIES, max_size=3)})}),
    st.just({}),
)


@st.composite
def metrics(draw: st.DrawFn) -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    for _ in range(draw(st.integers(0, 2))):
        group = request.resource_metrics.add(resource={"attributes": draw(ATTRIBUTES)})
        found = [
            {
                "name": draw(TEXTS),
                "description": draw(TEXTS),
                "unit": draw(TEXTS),
                "metadata": draw(ATTRIBUTES),
                **draw(DATA),
            }
            for _ in range(draw(st.integers(0, 4)))
        ]
        group.scope_metrics.add(scope=scope(draw), metrics=found)
    return request


MANY = settings(max_examples=120)


@MANY
@given(traces())
def test_generated_traces_decode_to_the_same_batches(request: ExportTraceServiceRequest) -> None:
    assert differ("traces", request.SerializeToString())


@MANY
@given(metrics())
def test_generated_metrics_decode_to_the_same_batches(request: ExportMetricsServiceRequest) -> None:
    assert differ("metrics", request.SerializeToString())


@MANY
@given(logs())
def test_generated_logs_decode_to_the_same_batches(request: ExportLogsServiceRequest) -> None:
    assert differ("logs", request.SerializeToString())


# Numbers.


def test_doubles_are_written_as_orjson_writes_them() -> None:
    rng = random.Random(5)
    numbers = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(20_000)]
    numbers += [rng.uniform(-1, 1) * 10.0 ** rng.randint(-20, 25) for _ in range(20_000)]
    numbers += [round(rng.uniform(0, 100), rng.randint(0, 9)) for _ in range(20_000)]
    numbers += [sign * 2.0**power for power in range(-1074, 1024) for sign in (1, -1)]
    numbers += [5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, 9007199254740993.0, 0.0, -0.0, 1e22, 1e23]
    numbers = [number for number in numbers if number - number == 0.0]
    batches = native.decode("traces", trace_request(attributes={"n": numbers}).SerializeToString())
    assert batches is not None
    (attrs,) = batches.spans["attrs"].to_pylist()
    assert attrs == orjson.dumps({"n": numbers}).decode()


# Bodies that are broken, or written as no encoder does.


def mutations(body: bytes, rng: random.Random) -> Iterator[bytes]:
    """Yield the body with bytes flipped, cut out, repeated, or cut off."""
    for _ in range(150):
        data = bytearray(body)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            match rng.randrange(5):
                case 0:
                    data[at] ^= 1 << rng.randrange(8)
                case 1:
                    data[at] = rng.choice([0, 1, 2, 0x7F, 0x80, 0xFF, rng.randrange(256)])
                case 2:
                    del data[at : at + rng.randint(1, 9)]
                case 3:
                    data[at:at] = data[at : at + rng.randint(1, 30)]
                case 4:
                    del data[max(at, 1) :]
            if not data:
                break
        yield bytes(data)


def verdict(decode: Callable[[], object]) -> bool:
    try:
        decode()
    except BadBodyError:
        return False
    return True


def test_what_c_takes_of_mutated_bodies_is_what_the_reference_takes() -> None:
    rng = random.Random(11)
    seeds = [(signal, body) for signal, body in conformance_bodies() if len(body) < 6000][::12]
    taken = refused = 0
    for signal, seed in seeds:
        for body in mutations(seed, rng):
            if differ(signal, body):
                taken += 1
            elif not verdict(lambda signal=signal, body=body: reference(signal, body, content=DROP)):  # type: ignore[misc]
                refused += 1
    assert taken > 200
    assert refused > 200


SPAN = trace_request(attributes={"k": 1}).resource_spans[0].scope_spans[0].spans[0].SerializeToString()


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def in_body(span: bytes) -> bytes:
    return field(1, field(2, field(2, span)))


@pytest.mark.parametrize(
    ("body", "taken"),
    [
        (in_body(SPAN + field(99, b"unknown")), True),
        (in_body(SPAN + varint(99 << 3) + b"\x07"), True),
        (in_body(SPAN + b"\xa3\x06" + field(7, b"x") + b"\xa4\x06"), True),  # an unknown group
        (in_body(SPAN + b"\x28\x07"), True),  # the number of `name` with another type is an unknown field
        (in_body(SPAN + field(5, b"first") + field(5, b"last")), True),
        (field(1, field(2, field(2, SPAN)) + field(1, field(1, field(1, b"late")))), True),  # the resource comes last
        (in_body(SPAN + field(15, b"\x18\x02") + field(15, b"\x18\x01")), False),  # a message in two halves is merged
        (field(1, field(1, field(1, field(1, b"a"))) + field(1, field(1, field(1, b"b")))), False),
        (in_body(SPAN + field(9, field(1, b"k") + field(2, b"\x10\x01" + field(1, b"text")))), True),  # the last wins
        (in_body(SPAN + field(9, field(1, b"k") + field(2, field(1, b"text") + b"\x10\x01"))), True),
        (in_body(SPAN + field(9, field(2, b""))), True),
        (in_body(SPAN + field(9, b"")), True),
        (in_body(SPAN.replace(b"\x2a\x04work", b"\x2a\x84\x00work")), True),  # a length in more bytes than it needs
    ],
)
def test_unusual_encodings_mean_the_same(body: bytes, taken: bool) -> None:
    reference("traces", body, content=DROP)  # all of them are OTLP
    assert differ("traces", body) is taken


@pytest.mark.parametrize(
    "text", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"abcdefgh\x80"]
)
@pytest.mark.parametrize("place", [lambda t: field(5, t), lambda t: field(9, field(1, t)), lambda t: field(3, t)])
def test_text_that_is_no_utf8_is_refused(text: bytes, place: Callable[[bytes], bytes]) -> None:
    body = in_body(SPAN + place(text))
    assert native.decode("traces", body) is None
    with pytest.raises(BadBodyError):
        reference("traces", body, content=DROP)


@pytest.mark.parametrize("levels", [5, 28, 29, 40, 400])
def test_deep_values_are_read_or_refused_as_by_the_reference(levels: int) -> None:
    value = field(1, b"deep")
    for _ in range(levels):
        value = field(6, field(1, field(1, b"k") + field(2, value)))  # a map of one key
    body = in_body(SPAN + field(9, field(1, b"deep") + field(2, value)))
    assert differ("traces", body) is (levels <= 28)
    if levels > 33:
        with pytest.raises(BadBodyError):
            reference("traces", body, content=DROP)


def test_many_keys_repeated_spans_and_long_texts_decode_to_the_same_batches() -> None:
    request = trace_request(300, attributes={f"key {n}": "x" * n for n in range(60)})
    found = request.resource_spans[0].scope_spans[0].spans
    for span in list(found)[::7]:
        found.add().CopyFrom(span)
    found[3].attributes.extend(pairs({f"only here {n}": n for n in range(3000)}))
    found[4].name = '\x00"\\/\b\f\n\r\t\x1f\x7f é 🙂' * 5000
    found[4].attributes.extend(pairs({"text": found[4].name, "bytes": bytes(range(256))}))
    assert differ("traces", request.SerializeToString())


def test_content_of_a_span_that_is_not_stored_reaches_no_journal() -> None:
    request = trace_request(2, attributes={"gen_ai.prompt": "secret"})
    first, second = request.resource_spans[0].scope_spans[0].spans
    first.links.add(trace_id=b"short", attributes=pairs({"gen_ai.prompt": "secret"}))
    second.events.add(name="gen_ai.choice", attributes=pairs({"said": "secret"}))
    second.trace_id = b""
    request.resource_spans[0].scope_spans[0].spans.add().CopyFrom(first)
    body = request.SerializeToString()
    for batches in (native.decode("traces", body), reference("traces", body, content=DROP)):
        assert isinstance(batches, SpanBatches)
        assert batches.scrubbed is not None
        assert b"secret" not in batches.scrubbed
        assert json.loads(batches.spans["attrs"][0].as_py()) == {}
    assert differ("traces", body)


def test_content_of_a_histogram_that_is_rejected_reaches_no_journal() -> None:
    request = ExportMetricsServiceRequest()
    points = request.resource_metrics.add().scope_metrics.add().metrics.add(name="h").histogram.data_points
    secret = pairs({"gen_ai.prompt": "secret", "k": "v"})
    point = points.add(bucket_counts=[1, 2], attributes=secret)
    point.exemplars.add(filtered_attributes=secret)
    points.add(bucket_counts=[3], attributes=secret)
    body = request.SerializeToString()
    assert differ("metrics", body)
    batches = native.decode("metrics", body)
    assert (batches.rejected, batches.health[None, "bad_buckets"], batches.metrics.num_rows) == (1, 1, 1)
    assert b"secret" not in batches.scrubbed


@pytest.mark.parametrize(
    "content",
    [Content("keep"), Content("hash", key=b"k"), Content("truncate", 3), Content(tenant_from_user=True, key=b"k")],
)
def test_other_rules_than_drop_are_left_to_the_reference(content: Content) -> None:
    body = trace_request(attributes={"gen_ai.prompt": "secret", "user.id": "u"}).SerializeToString()
    assert_equal("traces", decode_body("traces", body, content=content), reference("traces", body, content=content))
    assert decoder_of(content) == "python"
