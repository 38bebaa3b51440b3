"""OTLP's JSON is the message that it stands for: equal content is one body, and what cannot be one is refused."""

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tailbudget.collector.receive.decode import BadBodyError, decode_traces
from tailbudget.collector.receive.otlp_json import TooManyValuesError, to_protobuf

from .collector_support import JSON, Collector, any_value, collector, pairs, span_ids, trace_request
from .support import CONFORMANCE, wait_until

IDS = {"traceId", "spanId", "parentSpanId", "trace_id", "span_id", "parent_span_id"}
VALUES: dict[str, object] = {
    "text": 'Grüße, "\\ \U0001f680',
    "true": True,
    "false": False,
    "zero": 0,
    "large": -(2**63),
    "double": 0.1,
    "infinite": float("-inf"),
    "bytes": b"\x00\xff\xfe>?",
    "list": [1, "a", [None, {"k": [b""]}]],
    "map": {"a": {"b": 1.5}, "": None},
    "empty text": "",
    "absent": None,
}


def metrics_of_all_kinds() -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    scope = request.resource_metrics.add().scope_metrics.add()
    scope.metrics.add(name="g").gauge.data_points.add(time_unix_nano=2**64 - 1, as_int=-7)
    total = scope.metrics.add(name="s", unit="1").sum
    total.is_monotonic = True
    total.aggregation_temporality = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    total.data_points.add(as_double=0.25, exemplars=[{"as_int": 4, "trace_id": b"t" * 16, "span_id": b"s" * 8}])
    scope.metrics.add(name="h").histogram.data_points.add(
        count=3, sum=-1.0, min=-2.0, max=0.0, explicit_bounds=[0.5], bucket_counts=[1, 2]
    )
    exponential = scope.metrics.add(name="e").exponential_histogram.data_points.add(count=1, scale=-3, zero_count=1)
    exponential.positive.offset = -4
    exponential.positive.bucket_counts.extend([0, 2**63])
    summary = scope.metrics.add(name="q").summary.data_points.add(count=2, sum=3.0, flags=1)
    summary.quantile_values.add(quantile=0.5, value=float("inf"))
    return request


def messages() -> Iterator[Message]:
    yield metrics_of_all_kinds()
    traces = trace_request(3, attributes=VALUES)
    span = traces.resource_spans[0].scope_spans[0].spans[0]
    span.parent_span_id, span.flags, span.trace_state = b"\x01" * 8, 257, "ot=th:8"
    span.kind = Span.SpanKind.SPAN_KIND_CLIENT
    span.status.code, span.status.message = Status.StatusCode.STATUS_CODE_ERROR, "broken"
    span.events.add(name="e", time_unix_nano=5, attributes=pairs(VALUES))
    span.links.add(trace_id=b"\xab" * 16, span_id=b"\xcd" * 8)
    yield traces
    logs = ExportLogsServiceRequest()
    record = logs.resource_logs.add().scope_logs.add().log_records.add(severity_number=17, trace_id=b"\x02" * 16)
    record.body.CopyFrom(any_value(VALUES))
    yield logs
    for file in sorted(CONFORMANCE.glob("*/*.pb*")):
        body = file.read_bytes()
        body = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
        kind = ExportMetricsServiceRequest if ".metrics." in file.name else ExportTraceServiceRequest
        yield kind.FromString(body)


def in_json(message: Message, *, original_names: bool = False, enums_as_numbers: bool = True) -> Any:
    """Return the message as protobuf's own JSON mapping has it, with OTLP's hex ids."""
    found = MessageToDict(message, preserving_proto_field_name=original_names, use_integers_for_enums=enums_as_numbers)
    return with_hex_ids(found)


def with_hex_ids(value: Any) -> Any:
    if isinstance(value, list):
        return [with_hex_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {k: base64.b64decode(v).hex() if k in IDS else with_hex_ids(v) for k, v in value.items()}


@pytest.mark.parametrize("original_names", [False, True])
@pytest.mark.parametrize("enums_as_numbers", [False, True])
def test_every_message_comes_back_from_json_as_it_was(*, original_names: bool, enums_as_numbers: bool) -> None:
    count = 0
    for message in messages():
        text = json.dumps(in_json(message, original_names=original_names, enums_as_numbers=enums_as_numbers))
        assert to_protobuf(text.encode(), type(message)) == message.SerializeToString(deterministic=True)
        count += 1
    assert count > 50


def span(**fields: object) -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [fields]}]}]}).encode()


def parsed(text: bytes) -> Any:
    (found,) = ExportTraceServiceRequest.FromString(
        to_protobuf(text, ExportTraceServiceRequest)
    ).resource_spans[0].scope_spans[0].spans  # fmt: skip
    return found


def attribute(**value: object) -> Any:
    return parsed(span(attributes=[{"key": "k", "value": value}])).attributes[0].value


@pytest.mark.parametrize("number", [1767225600000000000, "1767225600000000000", 1.7672256e18, "1.7672256e18"])
def test_a_64_bit_integer_may_be_a_number_or_its_text(number: object) -> None:
    assert parsed(span(startTimeUnixNano=number)).start_time_unix_nano == 1767225600000000000


@pytest.mark.parametrize("text", ["+/8=", "+/8", "-_8=", "-_8"])
def test_bytes_are_base64_of_either_alphabet(text: str) -> None:
    assert attribute(bytesValue=text).bytes_value == b"\xfb\xff"


def test_ids_are_hex_in_either_case() -> None:
    found = parsed(span(traceId="5B8EFFF798038103D269B633813FC60C", spanId="eee19b7ec3c1b174"))
    assert (found.trace_id.hex(), found.span_id.hex()) == ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174")


def test_unknown_fields_and_nulls_are_skipped_and_of_equal_keys_the_last_wins() -> None:
    text = (
        b'{"resourceSpans":[{"scopeSpans":[{"spans":[{"name":"a","name":"b","kind":null,"new":[{}]}]}],"x":1}],"y":{}}'
    )
    found = parsed(text)
    assert (found.name, found.kind) == ("b", 0)


@pytest.mark.parametrize(
    "identity", ["", "abc", "zz" * 16, "ab" * 15, "ab" * 5000, "W47/95gDgQPSabYzgT/GDA==", "00" * 16]
)
def test_a_span_whose_id_is_none_is_rejected_alone(identity: str) -> None:
    good = {"traceId": "ab" * 16, "spanId": "cd" * 8}
    text = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [good, {**good, "traceId": identity}]}]}]})
    batches = decode_traces(to_protobuf(text.encode(), ExportTraceServiceRequest))
    assert (batches.spans.num_rows, batches.rejected) == (1, 1)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "are not JSON"),
        (b"{", "are not JSON"),
        (b'{"resourceSpans":[', "are not JSON"),
        (b'\xff{"resourceSpans":[]}', "are not JSON"),
        (b'{"resourceSpans":[{"schemaUrl":"\\ud800"}]}', "are not JSON"),
        (b'{"resourceSpans":NaN}', "are not JSON"),
        (b"[" * 100_000, "are not JSON"),
        (b"[]", "list: expected an object, ExportTraceServiceRequest"),
        (b'"text"', "expected an object"),
        (b"null", "expected an object"),
        (b'{"resourceSpans":{}}', "resourceSpans is dict: expected a list"),
        (b'{"resourceSpans":[null]}', "None: expected an object"),
        (span(name=5), "5: expected a string"),
        (span(name=["a"]), "list: expected a string"),
        (span(traceId=7), "7: expected a string"),
        (span(startTimeUnixNano="soon"), "soon"),
        (span(startTimeUnixNano=-1), "No ExportTraceServiceRequest in JSON"),
        (span(startTimeUnixNano=2**64), "are not JSON|No ExportTraceServiceRequest"),
        (span(startTimeUnixNano="9" * 5000), "infinity|expected an integer"),
        (span(startTimeUnixNano=1.5), "1.5: expected an integer"),
        (span(startTimeUnixNano=True), "True: expected an integer"),
        (span(kind="SPAN_KIND_SAUNA"), "SPAN_KIND_SAUNA"),
        (span(kind=2**40), "No ExportTraceServiceRequest in JSON"),
        (span(attributes=[{"key": "k", "value": {"boolValue": "true"}}]), "'true': expected true or false"),
        (span(attributes=[{"key": "k", "value": {"doubleValue": "x"}}]), "x"),
        (
            span(attributes=[{"key": "k", "value": {"bytesValue": "="}}, {"key": "k", "value": {"bytesValue": "a"}}]),
            "a",
        ),
        (span(attributes={"k": "v"}), "attributes is dict: expected a list"),
    ],
)
def test_what_is_no_message_is_refused_with_a_reason(text: bytes, told: str) -> None:
    with pytest.raises(BadBodyError, match=f"(?i){told}"):
        to_protobuf(text, ExportTraceServiceRequest)


@pytest.mark.parametrize("depth", [40, 60, 250])
def test_values_nest_as_deep_as_protobuf_follows_them(depth: int) -> None:
    value: object = {"intValue": 1}
    for _ in range(depth):
        value = {"arrayValue": {"values": [value]}}
    text = span(attributes=[{"key": "k", "value": value}])
    if depth == 40:
        decode_traces(to_protobuf(text, ExportTraceServiceRequest))
    else:
        with pytest.raises(BadBodyError, match=r"inside each other|not JSON"):
            to_protobuf(text, ExportTraceServiceRequest)


def test_text_that_needs_too_much_memory_once_parsed_is_refused_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orjson, "loads", lambda _: pytest.fail("it was parsed"))
    with pytest.raises(TooManyValuesError, match="smaller batches"):
        to_protobuf(b'{"resourceSpans":[' + b"{}," * 1_500_000, ExportTraceServiceRequest)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("json") / "data", max_body_bytes=4_000_000) as found:
        yield found


def test_json_and_protobuf_of_equal_content_are_one_body(running: Collector) -> None:
    request = trace_request(4, seed=311)
    text = json.dumps(in_json(request)).encode()
    ids = span_ids(request.SerializeToString())
    for body, headers in (
        (text, {"content_type": JSON}),
        (gzip.compress(text), {"content_type": f"{JSON}; charset=utf-8", "content_encoding": "gzip"}),
        (request.SerializeToString(deterministic=True), {}),
    ):
        assert running.post("/v1/traces", body, **headers)[0] == 200
    stored = f"select count(*) from spans where trace_id in ({', '.join(repr(trace) for trace, _ in ids)})"
    wait_until(lambda: running.value(stored) == 4)
    repeats = "select sum(n)::bigint from ingest_health where reason = 'repeated_body'"
    wait_until(lambda: running.value(repeats) == 2)


def test_json_is_answered_in_json(running: Collector) -> None:
    def post(path: str, text: bytes, **headers: str) -> tuple[int, Any]:
        status, fields, body = running.post(path, text, content_type=JSON, **headers)
        assert fields["content-type"] == JSON
        return status, json.loads(body)

    good = {"traceId": "ab" * 16, "spanId": "cd" * 8}
    text = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [good, {"name": "no id"}]}]}]}).encode()
    why = "a trace id has 16 bytes, a span id 8, neither is all zero"
    assert post("/v1/traces", b"{}") == (200, {})
    assert post("/v1/traces", text) == (200, {"partialSuccess": {"rejectedSpans": "1", "errorMessage": why}})
    status, error = post("/v1/traces", b"{")
    assert (status, error["code"]) == (400, 3)
    assert "not JSON" in error["message"]
    assert error["details"][0]["fieldViolations"][0]["description"] == error["message"]
    assert post("/v1/traces", b"{}", content_encoding="deflate")[0] == 415
    assert post("/v1/traces", bytes(4_000_001))[0] == 413
    assert post("/v1/nothing", b"{}")[0] == 404


def test_a_full_journal_says_in_json_when_to_come_back(tmp_path: Path) -> None:
    with collector(tmp_path / "data", journal_bytes=10) as small:
        status, headers, body = small.post("/v1/logs", b'{"resourceLogs":[{}]}', content_type=JSON)
    assert (status, headers["retry-after"]) == (503, "5")
    error = json.loads(body)
    assert (error["code"], error["details"][0]["retryDelay"]) == (14, "5s")


def test_logs_and_metrics_in_json_land(running: Collector) -> None:
    metrics, logs = metrics_of_all_kinds(), ExportLogsServiceRequest()
    logs.resource_logs.add().scope_logs.add().log_records.add(
        time_unix_nano=1_767_225_600_000_000_000
    ).body.string_value = "hi"
    for path, message in (("/v1/metrics", metrics), ("/v1/logs", logs)):
        assert running.post(path, json.dumps(in_json(message)).encode(), content_type=JSON)[0] == 200
    wait_until(lambda: running.value("select count(*) from metrics") == 5)
    assert running.value("select value_int from metrics where name = 'g'") == -7
    wait_until(lambda: running.value("select count(*) from logs") == 1)
