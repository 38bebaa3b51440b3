"""A page of hostile input to both OTLP ports: refused or taken, never an internal fault, and what follows lands."""

import gzip
import json
import random
import re
import socket
from collections.abc import Iterator

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from .collector_support import (
    JSON,
    PROTOBUF,
    Collector,
    any_value,
    collector,
    pairs,
    span_ids,
    trace_body,
    trace_request,
)
from .otlp_support import call, channel
from .support import wait_until

CODE = grpc.StatusCode
#: What may be said to a hostile body: that it is taken, bad, too large or of an unknown kind.
STATUSES = {200, 400, 413, 415}
CODES = {CODE.OK, CODE.INVALID_ARGUMENT, CODE.RESOURCE_EXHAUSTED}
GOOD = trace_request(3, seed=601, attributes={"k": "v" * 50}).SerializeToString()
TEXT = json.dumps(
    {"resourceSpans": [{"scopeSpans": [{"spans": [{"traceId": "ab" * 16, "spanId": "cd" * 8, "name": "n"}]}]}]}
).encode()
Sent = tuple[str, bytes, dict[str, str]]


def odd_spans() -> ExportTraceServiceRequest:
    """Return spans that are valid protobuf and that nobody should send."""
    request = trace_request(12, seed=602)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[0].trace_id, spans[1].span_id, spans[2].parent_span_id = b"x" * 1_000_000, b"", b"y" * 15
    spans[3].start_time_unix_nano, spans[3].end_time_unix_nano = 2**64 - 1, 1
    spans[4].kind = -(2**31)  # type: ignore[assignment]
    spans[5].status.code = 2**31 - 1  # type: ignore[assignment]
    spans[6].name = "\x00 \u202e \ufeff" * 1000
    spans[6].status.message = "\x00: \x00"
    spans[7].attributes.extend(pairs({"\x00": "\x00", "": "", "k" * 100_000: "v" * 1_000_000}))
    spans[8].attributes.extend(pairs({"same": n})[0] for n in range(5000))
    nested: object = 1
    for _ in range(40):
        nested = [{"k": nested}] if _ % 2 else {"k": [nested]}
    spans[9].attributes.extend(
        pairs({"not a number": float("nan"), "infinite": float("inf"), "bytes": bytes(range(256))})
    )
    spans[10].links.add(trace_id=b"z" * 999)
    spans[10].events.add(name="", time_unix_nano=2**64 - 1)
    spans[11].dropped_attributes_count = 2**32 - 1
    spans[11].parent_span_id = spans[11].span_id
    request.resource_spans[0].resource.attributes.extend(
        pairs({"service.name": None, "service.version": [1, {"a": None}]})
    )
    return request


def odd_points() -> ExportMetricsServiceRequest:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    metrics.add(name="")
    metrics.add(name="\x00").gauge.data_points.add()
    metrics.add(name="nan").sum.data_points.add(as_double=float("nan"), time_unix_nano=2**64 - 1)
    metrics.add(name="least").sum.data_points.add(as_int=-(2**63), start_time_unix_nano=2**64 - 1)
    metrics.add(name="slo.decode.tokens").gauge.data_points.add(
        as_double=float("inf"), attributes=pairs({"model": [1]})
    )
    metrics.add(name="hw.gpu.utilization").summary.data_points.add(sum=float("nan"), quantile_values=[{"quantile": 7}])
    for scale in (-(2**31), 2**31 - 1):
        point = metrics.add(name="e").exponential_histogram.data_points.add(scale=scale, count=2**64 - 1)
        point.positive.offset, point.negative.offset = 2**31 - 1, -(2**31)
        point.positive.bucket_counts.extend([2**64 - 1] * 3)
        point.negative.bucket_counts.extend([0] * 3)
    return request


def odd_records() -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    records.add(trace_id=b"x", span_id=b"y" * 77, severity_number=-5, time_unix_nano=2**64 - 1, event_name="\x00")
    records.add(body=any_value({"\x00": float("nan"), "list": [b"\xff", None]}), flags=2**32 - 1)
    return request


def page() -> Iterator[Sent]:
    """Yield (signal, body, headers)."""
    rng = random.Random(6)
    packed = gzip.compress(GOOD)
    zipped = {"content_encoding": "gzip"}
    for size in (1, 2, 7, 100, 5000):
        garbage = rng.randbytes(size)
        for media in (PROTOBUF, JSON, "text/plain", ""):
            yield "traces", garbage, {"content_type": media}
        yield "metrics", garbage, {}
        yield "logs", garbage, {}
        yield "traces", garbage, zipped
    for cut in range(1, len(GOOD), 11):
        yield "traces", GOOD[:cut], {}
    for cut in range(1, len(packed), 7):
        yield "traces", packed[:cut], zipped
        yield "traces", packed[:cut] + b"\x00" + packed[cut + 1 :], zipped
    yield "traces", packed + b"trailing garbage", zipped
    yield "traces", gzip.compress(packed), zipped
    yield "traces", gzip.compress(b"") * 1000, zipped
    yield "traces", gzip.compress(bytes(200_000_000), 1), zipped
    yield "traces", gzip.compress(b"{" * 100_000_000, 1), {**zipped, "content_type": JSON}
    for encoding in ("gzip, gzip", "br", "zstd", "GZIP", "\x7f"):
        yield "traces", packed, {"content_encoding": encoding}
    for message in (odd_spans(), odd_points(), odd_records()):
        for signal in ("traces", "metrics", "logs"):
            yield signal, message.SerializeToString(), {}
    yield from (("traces", text, {"content_type": JSON}) for text in hostile_json())


def hostile_json() -> Iterator[bytes]:
    for cut in range(0, len(TEXT), 3):
        yield TEXT[:cut]
    for number in (
        b"NaN",
        b"Infinity",
        b"1e400",
        b"-0",
        b"1" * 400,
        b'"' + b"9" * 400 + b'"',
        b"[]",
        b"{}",
        b'""',
        b"null",
    ):
        yield TEXT.replace(b'"n"', b'"n","startTimeUnixNano":' + number)
        yield TEXT.replace(b'"n"', b'"n","attributes":[{"key":"k","value":{"doubleValue":' + number + b"}}]")
    yield TEXT.replace(b"ab" * 16, b"ab" * 500_000)
    yield TEXT.replace(b'"n"', b'"n","name":"m","traceId":null,"kind":{}')
    yield TEXT.replace(b'"n"', b'"n","__class__":{"x":[[]]},"DESCRIPTOR":1,"SerializeToString":2')
    yield TEXT.replace(b'"n"', b'"\\u0000\\uffff"')
    yield TEXT.replace(b'"n"', b'"\\udead"')
    yield TEXT.decode().encode("utf-16")
    yield b"\xef\xbb\xbf" + TEXT
    yield TEXT + TEXT
    for opening in (b"[", b'{"resourceSpans":[', b'{"a":'):
        yield opening * 200_000
    yield b"[" + b"0," * 5_000_000 + b"0]"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("hostile") / "data") as found:
        yield found


def test_nothing_that_is_sent_makes_an_internal_fault_and_what_follows_lands(running: Collector) -> None:
    sent = 0
    with channel(running.grpc_port) as wire:
        for signal, body, headers in page():
            status, _, answer = running.post(f"/v1/{signal}", body, **headers)
            assert status in STATUSES, (signal, body[:80], headers, status, answer)
            code = call(wire, signal, body).code if len(body) < 4_000_000 else CODE.OK
            assert code in CODES, (signal, body[:80], code)
            sent += 1
        assert sent > 200
        over_http, over_grpc = trace_body(seed=611), trace_body(seed=612)
        assert running.post("/v1/traces", over_http)[0] == 200
        assert call(wire, "traces", over_grpc).code is CODE.OK
    last = ", ".join(repr(trace_id) for body in (over_http, over_grpc) for trace_id, _ in span_ids(body))
    wait_until(lambda: running.value(f"select count(*) from spans where trace_id in ({last})") == 2)
    metrics = running.get("/metrics")[1].decode()
    assert not re.findall(r'tailbudget_failures_total\{.*|.*"(?:unlandable|unreadable|damaged)".*', metrics)
    assert running.value("select count(*) from spans where contains(name, chr(0))") >= 1
    assert running.value("select count(*) from metrics where kind = 'exponential_histogram'") >= 2
    assert running.value("select count(*) from logs") >= 2


@pytest.mark.parametrize("port", ["http_port", "grpc_port"])
def test_bytes_that_are_no_http_harm_nobody(running: Collector, port: str) -> None:
    rng = random.Random(8)
    starts = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01",
        b"POST /v1/traces HTTP/1.1\r\n",
    ]
    for start in starts:
        with socket.create_connection(("127.0.0.1", getattr(running, port))) as other:
            other.sendall(start + rng.randbytes(3000))
    assert running.post("/v1/traces", trace_body(seed=621))[0] == 200
    with channel(running.grpc_port) as wire:
        assert call(wire, "traces", trace_body(seed=622)).code is CODE.OK


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"Content-Length: -1", b"400"),
        (b"Content-Length: 5\r\nContent-Length: 6", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"Content-Length: 99999999999999999999", b"413"),
        (b"Content-Length: 3\r\nContent-Encoding: \xff\xfe", b"415"),
        (b"X: " + b"y" * 200_000, b"400"),
    ],
)
def test_headers_that_lie_are_refused(running: Collector, head: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", running.http_port), timeout=120) as other:
        try:
            other.sendall(
                b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n"
                + head
                + b"\r\n\r\nabc"
            )
            answer = other.recv(100)
        except ConnectionResetError:
            return  # closed while it was still sending
    assert answer.split()[1:2] in ([status], []), answer
