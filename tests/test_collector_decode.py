"""OTLP bodies become Arrow batches with every value in its place."""

import json
import math
from typing import NoReturn
from uuid import UUID

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tailbudget.collector.receive import decoder
from tailbudget.collector.receive.decode import BadBodyError, decode_metrics, decode_traces
from tailbudget.collector.receive.intake import decode
from tailbudget.collector.receive.points import PointReader
from tailbudget.collector.receive.privacy import DROP

from .collector_support import T0_NS, S, counter, gauge, metrics_body, pairs, trace_request, varint


def test_every_kind_of_value_keeps_its_meaning_as_json() -> None:
    values = {
        "text": "é\x00",
        "empty": "",
        "yes": True,
        "int": -(2**63),
        "double": 0.1,
        "nan": math.nan,
        "inf": -math.inf,
        "bytes": b"\xff\x00",
        "list": [1, ["a", None], {"b": 2.5}],
        "map": {"c": {"d": []}},
        "nothing": None,
    }
    spans = decode_traces(trace_request(attributes=values).SerializeToString()).spans
    assert json.loads(spans["attrs"][0].as_py()) == values | {"nan": "NaN", "inf": "-Infinity", "bytes": "/wA="}


def test_promoted_keys_are_text_columns_that_are_null_where_a_span_lacks_them() -> None:
    request = trace_request(2)
    first, second = request.resource_spans[0].scope_spans[0].spans
    first.attributes.extend(pairs({"a": "text", "b": 7, "c": True, "d": [1], "e": None}))
    second.attributes.extend(pairs({"a": "x"}))
    spans = decode_traces(request.SerializeToString(), promoted=["a", "b", "c", "d", "e", "f"]).spans
    assert spans.select(["a", "b", "c", "d"]).to_pylist() == [
        {"a": "text", "b": "7", "c": "true", "d": "[1]"},
        {"a": "x", "b": None, "c": None, "d": None},
    ]
    assert not {"e", "f"} & set(spans.schema.names)  # no span has a value


def test_a_span_is_what_was_sent() -> None:
    request = trace_request(service="shop")
    span = request.resource_spans[0].scope_spans[0].spans[0]
    request.resource_spans[0].scope_spans[0].scope.name = "lib"
    span.trace_id, span.span_id, span.parent_span_id = bytes(range(16)), b"\x00" * 7 + b"\x09", b"\xff" * 8
    span.kind, span.status.code, span.status.message = Span.SPAN_KIND_CLIENT, Status.STATUS_CODE_ERROR, "broken"
    span.trace_state, span.dropped_events_count = "ot=th:8", 3
    span.events.add(name="e", time_unix_nano=5, attributes=pairs({"k": 1}))
    span.links.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8)
    batches = decode_traces(request.SerializeToString())
    (row,) = batches.spans.to_pylist()
    resource_id = batches.resources["resource_id"][0].as_py()
    assert row == {
        "trace_id": UUID(bytes=bytes(range(16))),
        "span_id": 9,
        "parent_span_id": 2**64 - 1,
        "name": "work",
        "kind": "CLIENT",
        "start_ns": T0_NS,
        "end_ns": T0_NS + S,
        "status": "ERROR",
        "status_message": "broken",
        "service": "shop",
        "scope": "lib",
        "resource_id": resource_id,
        "attrs": '{"w3c.tracestate":"ot=th:8","otel.dropped_events_count":3}',
    }
    assert batches.events.to_pylist() == [
        {"trace_id": row["trace_id"], "span_id": 9, "name": "e", "t_ns": 5, "attrs": '{"k":1}'}
    ]
    assert batches.links["linked_trace_id"].to_pylist() == [UUID(bytes=b"\x01" * 16)]


@pytest.mark.parametrize(
    ("trace_id", "span_id"),
    [(b"", b"\x01" * 8), (b"\x01" * 15, b"\x01" * 8), (bytes(16), b"\x01" * 8), (b"\x01" * 16, bytes(8))],
)
def test_a_span_without_valid_ids_is_rejected_alone(trace_id: bytes, span_id: bytes) -> None:
    request = trace_request(3)
    bad = request.resource_spans[0].scope_spans[0].spans[1]
    bad.trace_id, bad.span_id = trace_id, span_id
    batches = decode_traces(request.SerializeToString())
    assert (batches.spans.num_rows, batches.rejected) == (2, 1)
    assert batches.health == {("shop", "accepted"): 2, ("shop", "bad_id"): 1}


def test_a_span_that_a_body_repeats_is_taken_once() -> None:
    request = trace_request(1)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans.add().CopyFrom(spans[0])
    batches = decode_traces(request.SerializeToString())
    assert (batches.spans.num_rows, batches.rejected) == (1, 0)


def test_instants_beyond_the_year_2262_are_cut() -> None:
    batches = decode_traces(trace_request(start_ns=2**64 - 2 * S).SerializeToString())
    assert batches.spans["start_ns"].to_pylist() == [2**63 - 1]


def test_a_resource_has_one_id_whatever_the_order_of_its_attributes() -> None:
    ids = set()
    for attributes in ({"service.name": "a", "x": 1}, {"x": 1, "service.name": "a"}):
        request = trace_request()
        del request.resource_spans[0].resource.attributes[:]
        request.resource_spans[0].resource.attributes.extend(pairs(attributes))
        ids.add(decode_traces(request.SerializeToString()).resources["resource_id"][0].as_py())
    assert len(ids) == 1


@pytest.mark.parametrize("body", [b"\xff", b"not protobuf", trace_request().SerializeToString()[:-3]])
def test_what_is_no_message_is_refused(body: bytes) -> None:
    with pytest.raises(BadBodyError):
        decode_traces(body)


def test_an_empty_message_has_no_rows() -> None:
    assert decode_traces(b"", promoted=["a"]).rows == 0
    assert decode_metrics(b"").rows == 0


def test_points_of_all_kinds_become_rows() -> None:
    request = ExportMetricsServiceRequest.FromString(
        metrics_body(counter("c", 2.5, {"k": "v"}, start_ns=1, t_ns=2, cumulative=True))
    )
    metrics = request.resource_metrics[0].scope_metrics[0].metrics
    metrics.add(name="g", unit="s").gauge.data_points.add(time_unix_nano=3, as_int=7)
    histogram = metrics.add(name="h").histogram
    histogram.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    histogram.data_points.add(time_unix_nano=4, count=3, sum=6.0, min=0.5, explicit_bounds=[1.0], bucket_counts=[1, 2])
    exponential = metrics.add(name="e").exponential_histogram.data_points.add(time_unix_nano=5, count=4, scale=0)
    exponential.positive.offset = 0
    exponential.positive.bucket_counts.extend([1, 2])
    exponential.zero_count = 1
    summary = metrics.add(name="s").summary.data_points.add(time_unix_nano=6, count=2, sum=3.0)
    for quantile, value in ((0.5, 1.25), (0.99, 1.75)):
        summary.quantile_values.add(quantile=quantile, value=value)
    rows = {row["name"]: row for row in decode_metrics(request.SerializeToString()).metrics.to_pylist()}
    assert (rows["c"]["value"], rows["c"]["temporality"], rows["c"]["attrs"]) == (2.5, "cumulative", '{"k":"v"}')
    assert (rows["g"]["value"], rows["g"]["unit"], rows["g"]["start_ns"]) == (7.0, "s", None)
    assert (rows["h"]["n"], rows["h"]["total"], rows["h"]["counts"]) == (3, 6.0, [1, 2])
    assert (rows["e"]["bounds"], rows["e"]["counts"]) == ([1.0, 2.0, 4.0], [1, 1, 2])
    assert (rows["h"]["min"], rows["h"]["max"]) == (0.5, None)
    assert (rows["s"]["n"], rows["s"]["total"]) == (2, 3.0)
    assert (rows["s"]["bounds"], rows["s"]["quantile_values"]) == ([0.5, 0.99], [1.25, 1.75])


def test_nothing_that_a_point_says_is_lost() -> None:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    scope.scope.attributes.extend(pairs({"tier": "a"}))
    metric = scope.metrics.add(name="ns", description="since boot")
    exact = metric.gauge.data_points.add(time_unix_nano=1, as_int=2**60 + 1, flags=1)
    exact.exemplars.add(
        time_unix_nano=9,
        as_double=math.inf,
        trace_id=b"t" * 16,
        span_id=b"s" * 8,
        filtered_attributes=pairs({"user": "u", "gen_ai.prompt": "secret"}),
    )
    exact.exemplars.add(as_int=4)
    histogram = scope.metrics.add(name="h").histogram.data_points.add(time_unix_nano=2, count=0, sum=0.0)
    histogram.min, histogram.max = -1.5, 0.0
    scope.metrics.add(name="e").exponential_histogram.data_points.add(time_unix_nano=3, zero_threshold=1e-9, max=4.0)
    batches = decode_metrics(request.SerializeToString())
    found, held, zero = batches.metrics.to_pylist()
    assert (found["value_int"], found["flags"], found["description"]) == (2**60 + 1, 1, "since boot")
    assert found["attrs"] == '{"tier":"a"}'
    assert json.loads(found["exemplars"]) == [
        {"t_ns": 9, "value": "Infinity", "trace_id": "74" * 16, "span_id": "73" * 8, "attrs": {"user": "u"}},
        {"t_ns": 0, "value": 4, "trace_id": None, "span_id": None, "attrs": {}},
    ]
    assert batches.scrubbed is not None
    assert b"secret" not in batches.scrubbed
    assert (held["total"], held["min"], held["max"], held["exemplars"], held["flags"]) == (0.0, -1.5, 0.0, None, None)
    assert (zero["zero_threshold"], zero["min"], zero["max"]) == (1e-9, None, 4.0)


def test_a_histogram_without_its_buckets_is_rejected_alone() -> None:
    request = ExportMetricsServiceRequest()
    points = request.resource_metrics.add().scope_metrics.add().metrics.add(name="h").histogram.data_points
    points.add(time_unix_nano=1, count=3, explicit_bounds=[1.0, 2.0], bucket_counts=[1, 2])
    points.add(time_unix_nano=2, count=3, explicit_bounds=[1.0], bucket_counts=[1, 2])
    points.add(time_unix_nano=3, count=3)
    batches = decode_metrics(request.SerializeToString())
    assert (batches.metrics["t_ns"].to_pylist(), batches.rejected) == ([2, 3], 1)
    assert batches.health == {(None, "accepted"): 2, (None, "bad_buckets"): 1}


@pytest.mark.parametrize("scale", [20, -10, -11, -2000, 1100, 2**31 - 1, -(2**31)])
def test_an_exponential_histogram_of_any_scale_has_bounds(scale: int) -> None:
    request = ExportMetricsServiceRequest()
    metric = request.resource_metrics.add().scope_metrics.add().metrics.add(name="e")
    point = metric.exponential_histogram.data_points.add(time_unix_nano=5, count=3, scale=scale)
    point.positive.offset = -1
    point.positive.bucket_counts.extend([1, 2])
    (row,) = decode_metrics(request.SerializeToString()).metrics.to_pylist()
    low, one, high = row["bounds"]
    assert (one, row["counts"]) == (1.0, [0, 1, 2])
    assert 0.0 <= low <= one <= high
    assert high == (math.inf if scale <= -10 else pytest.approx(2.0**2.0**-scale))


def test_a_body_that_the_decoder_does_not_expect_is_bad_for_good(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unexpected(*_: object, **__: object) -> NoReturn:
        raise KeyError("unforeseen")

    monkeypatch.setattr(decoder, "NATIVE", False)
    monkeypatch.setattr(PointReader, "read", unexpected)
    with pytest.raises(BadBodyError, match="unforeseen"):
        decode("metrics", metrics_body(gauge("g", 1.0, t_ns=1)), content=DROP)
    assert "cannot be decoded" in caplog.text


def test_deep_values_are_refused_not_followed_without_end() -> None:
    value = b"\x10\x01"  # a bool
    for _ in range(5_000):
        value = b"\x0a" + varint(len(value)) + value  # ArrayValue.values
        value = b"\x2a" + varint(len(value)) + value  # AnyValue.array_value
    body = b"\x12" + varint(len(value)) + value  # KeyValue.value
    for tag in (b"\x4a", b"\x12", b"\x12", b"\x0a"):  # Span.attributes, spans, scope_spans, resource_spans
        body = tag + varint(len(body)) + body
    with pytest.raises(BadBodyError):
        decode_traces(body)
