"""OTLP over gRPC is answered as the protocol says, and a body is the same body whatever port it takes."""

import asyncio
import gzip
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from tailbudget.collector.counters import Counters
from tailbudget.collector.receive import rpc
from tailbudget.collector.receive.intake import Accepted, Intake
from tailbudget.collector.receive.receiver import Receiver
from tailbudget.collector.receive.room import Room

from .collector_support import Collector, collector, gauge, metrics_body, span_ids, trace_body, trace_request
from .otlp_support import METHODS, call, channel
from .support import free_port, wait_until
from .test_collector_http import nested, peak_mib

CODE = grpc.StatusCode
BODY = trace_body(3, seed=211)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("grpc") / "data", max_body_bytes=4_000_000) as found:
        yield found


@pytest.fixture(scope="module")
def wire(running: Collector) -> Iterator[grpc.Channel]:
    with channel(running.grpc_port) as opened:
        yield opened


@pytest.mark.parametrize(
    ("method", "body", "code"),
    [
        ("traces", b"", CODE.OK),
        ("metrics", b"", CODE.OK),
        ("logs", b"", CODE.OK),
        ("traces", BODY, CODE.OK),
        ("metrics", metrics_body(gauge("g", 1.0, t_ns=1)), CODE.OK),
        ("traces", b"\xff\xff", CODE.INVALID_ARGUMENT),
        ("logs", b"\xff\xff", CODE.INVALID_ARGUMENT),
        ("traces", BODY[:-5], CODE.INVALID_ARGUMENT),
        ("traces", bytes(4_000_001), CODE.RESOURCE_EXHAUSTED),
        ("/opentelemetry.proto.collector.trace.v1.TraceService/Import", BODY, CODE.UNIMPLEMENTED),
        ("/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export", BODY, CODE.UNIMPLEMENTED),
    ],
)
def test_the_code_says_what_is_wrong(wire: grpc.Channel, method: str, body: bytes, code: grpc.StatusCode) -> None:
    assert call(wire, method, body).code is code


def test_bad_data_are_described_in_the_details(wire: grpc.Channel) -> None:
    answer = call(wire, "traces", b"\xff\xff")
    assert answer.reason.startswith("2 bytes are not an ExportTraceServiceRequest")
    assert answer.violations == [answer.reason] == [answer.status.message]
    assert answer.status.code == CODE.INVALID_ARGUMENT.value[0]


def test_a_body_is_one_body_whatever_port_and_packing_it_takes(running: Collector, wire: grpc.Channel) -> None:
    body = trace_body(5, seed=212)
    assert call(wire, "traces", body).code is CODE.OK
    assert call(wire, "traces", body, compression=grpc.Compression.Gzip).code is CODE.OK
    assert running.post("/v1/traces", gzip.compress(body), content_encoding="gzip")[0] == 200
    trace_id, _ = span_ids(body)[0]
    wait_until(lambda: running.value(f"select count(*) from spans where trace_id = '{trace_id}'") == 1)
    repeats = "select sum(n)::bigint from ingest_health where signal = 'traces' and reason = 'repeated_body'"
    wait_until(lambda: running.value(repeats) == 2)


def test_what_is_rejected_is_counted_exactly_and_told_why(running: Collector, wire: grpc.Channel) -> None:
    request = trace_request(5, seed=213)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[1].trace_id, spans[3].span_id = bytes(16), b"\x01"
    partial = ExportTraceServiceResponse.FromString(
        call(wire, "traces", request.SerializeToString()).body
    ).partial_success
    assert (partial.rejected_spans, partial.error_message) == (
        2,
        "a trace id has 16 bytes, a span id 8, neither is all zero",
    )
    metrics = ExportMetricsServiceRequest()
    points = metrics.resource_metrics.add().scope_metrics.add().metrics.add(name="h").histogram.data_points
    points.add(time_unix_nano=1, bucket_counts=[1], explicit_bounds=[1.0])
    points.add(time_unix_nano=2, bucket_counts=[1, 0], explicit_bounds=[1.0])
    answer = call(wire, "metrics", metrics.SerializeToString())
    assert ExportMetricsServiceResponse.FromString(answer.body).partial_success.rejected_data_points == 1
    assert not ExportTraceServiceResponse.FromString(call(wire, "traces", BODY).body).HasField("partial_success")


def test_what_grpc_itself_refuses_is_counted_too(running: Collector, wire: grpc.Channel) -> None:
    before = refused(running)
    assert call(wire, "logs", bytes(4_000_001)).code is CODE.RESOURCE_EXHAUSTED
    assert call(wire, "/some.Service/Export", BODY).code is CODE.UNIMPLEMENTED
    assert running.post("/v1/profiles", BODY)[0] == 404
    wait_until(lambda: refused(running) - before == Counter({("logs", "unread"): 1, ("unknown", "http_404"): 2}))


def refused(running: Collector) -> Counter[tuple[str, str]]:
    counted = "select signal, reason, sum(n)::bigint as n from ingest_health"
    rows = running.rows(f"{counted} where reason in ('unread', 'http_404') group by all")
    return Counter({(row["signal"], row["reason"]): row["n"] for row in rows})


def test_a_call_without_a_message_is_refused(wire: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        wire.stream_unary(METHODS["traces"])(iter(()))
    assert cast("grpc.Call", refusal.value).code() is CODE.INVALID_ARGUMENT


def test_a_full_journal_is_unavailable_and_says_when_to_come_back(tmp_path: Path) -> None:
    with collector(tmp_path / "data", journal_bytes=10) as running, channel(running.grpc_port) as wire:
        answer = call(wire, "traces", BODY)
        assert answer.code is CODE.UNAVAILABLE
        assert answer.retry_s == 5
        status, headers, _ = running.post("/v1/traces", BODY)
        assert (status, headers["retry-after"]) == (503, "5")


def test_a_bomb_is_refused_before_more_than_the_limit_was_unpacked(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running, channel(running.grpc_port) as wire:
        before = peak_mib(running)
        answer = call(wire, "traces", bytes(300_000_000), compression=grpc.Compression.Gzip)
        assert answer.code is CODE.RESOURCE_EXHAUSTED
        assert peak_mib(running) - before < 200
        items = nested(b"\x12\x00" * 4_000_000, 2, 1)
        assert call(wire, "traces", items).code is CODE.RESOURCE_EXHAUSTED
        assert call(wire, "traces", BODY).code is CODE.OK


def test_ready_means_that_both_ports_take_bodies_and_sigterm_ends_both(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running, channel(running.grpc_port) as wire:
        stop = threading.Event()
        codes: list[grpc.StatusCode] = []

        def send() -> None:
            seed = 0
            while not stop.is_set():
                seed += 1
                codes.append(call(wire, "traces", trace_body(20, seed=seed), timeout_s=5).code)

        assert call(wire, "traces", BODY).code is CODE.OK
        with ThreadPoolExecutor(1) as pool:
            sending = pool.submit(send)
            wait_until(lambda: len(codes) > 20)
            assert running.process is not None
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(120) == 0
            stop.set()
            sending.result()
        _, errors = running.process.communicate()
        assert "Traceback" not in errors
        running.process = None
        assert set(codes) <= {CODE.OK, CODE.UNAVAILABLE, CODE.CANCELLED}
        running.start()
        acknowledged = 20 * codes.count(CODE.OK) + 3
        wait_until(lambda: running.value("select count(*) from spans") >= acknowledged)


def test_kill_9_loses_and_doubles_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    bodies = [trace_body(20, seed=220 + number) for number in range(60)]
    sent = threading.Semaphore(0)
    with collector(tmp_path / "data") as running, channel(running.grpc_port) as wire, ThreadPoolExecutor(1) as pool:

        def send_until_taken() -> None:
            for body in bodies:
                while call(wire, "traces", body, timeout_s=5).code is not CODE.OK:
                    time.sleep(0.1)
                sent.release()

        sending = pool.submit(send_until_taken)
        for _ in range(2):
            for _ in range(15):
                assert sent.acquire(timeout=120)
            running.kill()
            running.start()
        sending.result(60)
        wait_until(lambda: running.value("select count(*) from spans") == 1200)
        assert running.value("select count(distinct (trace_id, span_id)) from spans") == 1200


class SlowIntake:
    """Stands in for an intake whose disk does not answer until it is told to."""

    def __init__(self) -> None:
        self.answers = asyncio.Event()
        self.asked = 0

    async def accept(self, *_: object) -> Accepted:
        self.asked += 1
        await self.answers.wait()
        return Accepted(0, repeated=False)


async def test_calls_beyond_those_that_may_wait_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "THREADS", 2)
    monkeypatch.setattr(rpc, "WAITING", 3)
    intake, counters, number = SlowIntake(), Counters(), free_port()
    port = rpc.GrpcPort("127.0.0.1", number, max_body_bytes=1000)
    room = Room(bodies=100, nbytes=1000)
    receiver = Receiver(
        cast("Intake", intake), counters=counters, room=room, max_body_bytes=1000, pass_on=lambda _: None
    )
    port.start(receiver, counters=counters, token=None)
    with channel(number) as wire, ThreadPoolExecutor(10) as pool:
        calls = [asyncio.get_running_loop().run_in_executor(pool, call, wire, "traces", b"") for _ in range(10)]
        done, _ = await asyncio.wait(calls, timeout=2)
        assert not done  # a refusal needs a thread too
        assert intake.asked == 2
        intake.answers.set()
        answers = await asyncio.gather(*calls)
    await port.stop(grace_s=1)
    refused = [answer for answer in answers if answer.code is CODE.UNAVAILABLE]
    assert {answer.retry_s for answer in refused} == {5}
    assert (len(refused), sum(answer.code is CODE.OK for answer in answers)) == (5, 5)
