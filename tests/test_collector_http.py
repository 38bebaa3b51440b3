"""OTLP over HTTP is answered as the protocol says, whatever is sent."""

import gzip
import random
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from .collector_support import Collector, collector, metrics_body, send, span_ids, trace_body, trace_request
from .support import wait_until


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("http") / "data", max_body_bytes=4_000_000) as found:
        yield found


BODY = trace_body(3, seed=11)


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/traces", b"", {}, 200),
        ("/v1/metrics", b"", {}, 200),
        ("/v1/logs", b"", {}, 200),
        ("/v1/traces", BODY, {"content_type": "application/x-protobuf; charset=utf-8"}, 200),
        ("/v1/traces", trace_body(2, seed=12), {"content_encoding": "identity"}, 200),
        ("/v1/traces", gzip.compress(trace_body(2, seed=13)), {"content_encoding": "gzip"}, 200),
        ("/v1/traces", gzip.compress(trace_body(2, seed=14)[:9]) + gzip.compress(trace_body(2, seed=14)[9:]),
         {"content_encoding": "gzip"}, 200),
        ("/v1/metrics", metrics_body(), {}, 200),
        ("/v1/traces", b"\xff\xff", {}, 400),
        ("/v1/traces", BODY[:-5], {}, 400),
        ("/v1/traces", gzip.compress(BODY)[:-12], {"content_encoding": "gzip"}, 400),
        ("/v1/traces", b"no gzip", {"content_encoding": "gzip"}, 400),
        ("/v1/traces", b"", {"content_encoding": "gzip"}, 200),
        ("/v1/traces", b"{}", {"content_type": "application/json"}, 415),
        ("/v1/traces", BODY, {"content_type": "text/plain"}, 415),
        ("/v1/traces", zlib.compress(BODY), {"content_encoding": "deflate"}, 415),
        ("/v1/traces", bytes(4_000_001), {}, 413),
        ("/v1/traces", gzip.compress(bytes(4_000_001)), {"content_encoding": "gzip"}, 413),
        ("/v2/traces", BODY, {}, 404),
        ("/", BODY, {}, 404),
    ],
)  # fmt: skip
def test_the_status_says_what_is_wrong(
    running: Collector, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    assert running.post(path, body, **headers)[0] == status


def test_a_method_but_post_is_refused_with_the_one_that_is_allowed(running: Collector) -> None:
    status, headers, _ = send(running.http_port, "GET", "/v1/traces", b"", {})
    assert (status, headers["allow"]) == (405, "POST")


def test_a_gzip_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1_000_000_000), compresslevel=1)
    with collector(tmp_path / "data") as running:
        before = peak_mib(running)
        assert running.post("/v1/traces", bomb, content_encoding="gzip")[0] == 413
        assert peak_mib(running) - before < 300


def peak_mib(running: Collector) -> float:
    assert running.process is not None
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def test_rejected_spans_are_counted_exactly_and_the_others_stored(running: Collector) -> None:
    request = trace_request(5, seed=21)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[1].trace_id, spans[3].span_id = bytes(16), b"\x01"
    status, _, answer = running.post("/v1/traces", request.SerializeToString())
    assert status == 200
    assert ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans == 2
    kept = spans[0].trace_id.hex()
    wait_until(lambda: running.value(f"select count(*) from spans where trace_id = '{kept}'") == 1)


def test_logs_are_acknowledged_and_counted_as_not_stored(running: Collector) -> None:
    request = ExportLogsServiceRequest()
    request.resource_logs.add().scope_logs.add().log_records.add()
    status, _, answer = running.post("/v1/logs", request.SerializeToString())
    assert status == 200
    assert ExportLogsServiceResponse.FromString(answer).partial_success.rejected_log_records == 1
    running.post("/v1/traces", trace_body(seed=22))
    counted = "select n from ingest_health where signal = 'logs' and reason = 'signal_not_stored'"
    wait_until(lambda: running.rows(counted) == [{"n": 1}])


def test_no_bytes_make_the_collector_answer_500_or_fall_silent(running: Collector) -> None:
    rng = random.Random(7)
    for _ in range(300):
        body = bytearray(BODY)
        for _ in range(rng.randrange(1, 8)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        assert running.post("/v1/traces", bytes(body))[0] in (200, 400)
        assert running.post("/v1/metrics", bytes(body))[0] in (200, 400)
    last = trace_body(seed=23)
    assert running.post("/v1/traces", last)[0] == 200
    ((trace_id, _),) = span_ids(last)
    wait_until(lambda: running.value(f"select count(*) from spans where trace_id = '{trace_id}'") == 1)
    assert b"tailbudget_failures_total{" not in running.get("/metrics")[1]


def test_a_sender_that_leaves_half_way_harms_nobody(running: Collector) -> None:
    with socket.create_connection(("127.0.0.1", running.http_port)) as half:
        half.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n")
        half.sendall(b"Content-Length: 1000\r\n\r\nhalf")
    assert running.post("/v1/traces", trace_body(seed=24))[0] == 200
