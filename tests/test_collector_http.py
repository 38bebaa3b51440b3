"""OTLP over HTTP is answered as the protocol says, whatever is sent."""

import gzip
import random
import socket
import zlib
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tailbudget.collector.journal.record import Signal
from tailbudget.collector.receive.census import TooManyItemsError, check_items

from .collector_support import Collector, collector, metrics_body, send, span_ids, trace_body, trace_request, varint
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
        ("/v1/traces", b"{}", {"content_type": "application/json"}, 200),
        ("/v1/traces", BODY, {"content_type": "application/json"}, 400),
        ("/v1/traces", b"{}", {}, 400),
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


def test_a_body_that_is_too_large_is_told_how_large_it_may_be(running: Collector) -> None:
    for body, encoding in ((bytes(4_000_001), "identity"), (gzip.compress(bytes(4_000_001)), "gzip")):
        status, _, answer = running.post("/v1/traces", body, content_encoding=encoding)
        assert status == 413
        assert "4000000 bytes" in Status.FromString(answer).message


def test_a_method_but_post_is_refused_with_the_one_that_is_allowed(running: Collector) -> None:
    status, headers, _ = send(running.http_port, "GET", "/v1/traces", b"", {})
    assert (status, headers["allow"]) == (405, "POST")


def test_a_gzip_bomb_is_refused_without_being_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(1_000_000_000), compresslevel=1)
    with collector(tmp_path / "data") as running:
        before = peak_mib(running)
        assert running.post("/v1/traces", bomb, content_encoding="gzip")[0] == 413
        assert peak_mib(running) - before < 300


@pytest.mark.parametrize("signal", ["traces", "metrics"])
def test_a_body_of_millions_of_empty_items_is_refused_before_it_is_parsed(tmp_path: Path, signal: Signal) -> None:
    items = nested(b"\x12\x00" * 4_000_000, 2, 1) if signal == "traces" else nested(b"\x0a\x00" * 4_000_000, 5, 2, 2, 1)
    with collector(tmp_path / "data") as running:
        before = peak_mib(running)
        status, _, answer = running.post(f"/v1/{signal}", gzip.compress(items), content_encoding="gzip")
        assert status == 413
        assert "--max-items" in Status.FromString(answer).message
        assert peak_mib(running) - before < 150


@pytest.mark.parametrize("more", [0, 1])
def test_spans_are_counted_on_the_wire_as_the_parser_counts_them(more: int) -> None:
    request = trace_request(300, attributes={"k": 2**40, "d": 0.5, "long": "x" * 300})
    request.resource_spans[0].schema_url = "u"
    request.resource_spans.add().scope_spans.add().spans.add(flags=1, start_time_unix_nano=7)
    body = request.SerializeToString()
    with pytest.raises(TooManyItemsError) if more else nullcontext():
        check_items("traces", body, most=301 - more)


@pytest.mark.parametrize("more", [0, 1])
def test_events_and_links_are_counted_on_the_wire(more: int) -> None:
    request = trace_request(3, attributes={"letters": "Zj" * 500})
    for span in request.resource_spans[0].scope_spans[0].spans:
        for _ in range(40):
            span.events.add()
            span.links.add(trace_id=b"x" * 16)
    with pytest.raises(TooManyItemsError, match="events and links") if more else nullcontext():
        check_items("traces", request.SerializeToString(), most=240 - more)


def test_points_of_all_kinds_are_counted_on_the_wire() -> None:
    request = ExportMetricsServiceRequest()
    metrics = request.resource_metrics.add().scope_metrics.add().metrics
    for kind in ("gauge", "sum", "histogram", "exponential_histogram", "summary"):
        getattr(metrics.add(name=kind), kind).data_points.add(time_unix_nano=1)
    check_items("metrics", request.SerializeToString(), most=5)
    with pytest.raises(TooManyItemsError):
        check_items("metrics", request.SerializeToString(), most=4)


def nested(body: bytes, *fields: int) -> bytes:
    """Return `body` as the only field of messages in each other, innermost first."""
    for number in fields:
        body = bytes([number << 3 | 2]) + varint(len(body)) + body
    return body


def peak_mib(running: Collector) -> float:
    assert running.process is not None
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def test_rejected_spans_are_counted_exactly_and_the_others_stored(running: Collector) -> None:
    request = trace_request(5, seed=21)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[1].trace_id, spans[3].span_id = bytes(16), b"\x01"
    for _ in ("sent", "repeated"):
        status, _, answer = running.post("/v1/traces", request.SerializeToString())
        assert status == 200
        assert ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans == 2
    kept = spans[0].trace_id.hex()
    wait_until(lambda: running.value(f"select count(*) from spans where trace_id = '{kept}'") == 1)


def test_a_repeat_is_told_what_its_first_was_also_after_a_new_start(tmp_path: Path) -> None:
    request = trace_request(5, seed=25)
    request.resource_spans[0].scope_spans[0].spans[1].trace_id = bytes(16)
    with collector(tmp_path / "data") as found:
        assert found.post("/v1/traces", request.SerializeToString())[0] == 200
        found.kill()
        _, headers, answer = found.start().post("/v1/traces", request.SerializeToString())
        assert headers["tailbudget-repeated"] == "true"
        assert ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (gzip.compress(BODY)[:-12], "bytes of gzip end early"),
        (gzip.compress(BODY) + b"more", "bytes of gzip end early: expected whole members and nothing behind them"),
        (b"\x1f\x8b\x08\xff" + bytes(20), "24 bytes are no gzip"),
    ],
)
def test_what_is_wrong_with_gzip_is_said(running: Collector, body: bytes, said: str) -> None:
    status, _, answer = running.post("/v1/traces", body, content_encoding="gzip")
    assert status == 400
    assert said in Status.FromString(answer).message


def test_no_bytes_make_the_collector_answer_500_or_fall_silent(running: Collector) -> None:
    rng = random.Random(7)
    for _ in range(300):
        body = bytearray(BODY)
        for _ in range(rng.randrange(1, 8)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        assert running.post("/v1/traces", bytes(body))[0] in (200, 400)
        assert running.post("/v1/metrics", bytes(body))[0] in (200, 400)
        assert running.post("/v1/logs", bytes(body))[0] in (200, 400)
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
