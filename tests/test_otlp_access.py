"""Both OTLP ports ask for the token and speak TLS where they are told to, and bound what is on the way in."""

import asyncio
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPSConnection
from pathlib import Path
from typing import cast

import grpc
import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from tailbudget.collector.asgi import Message
from tailbudget.collector.counters import Counters
from tailbudget.collector.receive import http
from tailbudget.collector.receive.cors import Cors
from tailbudget.collector.receive.intake import Intake
from tailbudget.collector.receive.receiver import Receiver
from tailbudget.collector.receive.refusal import FAULTS, refusal_of
from tailbudget.collector.receive.room import BusyError, Room
from tailbudget.collector.receive.rpc import STATUSES
from tailbudget.collector.settings import CollectorSettings
from tailbudget.instrument.errors import UserError

from .collector_support import Collector, collector, send, trace_body
from .otlp_support import call, channel
from .support import wait_until

CODE = grpc.StatusCode
BODY = trace_body(2, seed=411)
TOKEN = "s3cret-token"


@dataclass(frozen=True)
class Pair:
    """A certificate for localhost and its key."""

    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("tls")
    made = Pair(folder / "cert.pem", folder / "key.pem")
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(made.key), "-out", str(made.certificate)]
    try:
        subprocess.run([*request, *names, *files], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl to make a certificate")
    return made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Iterator[Collector]:
    settings = {"token": TOKEN, "tls_cert": str(pair.certificate), "tls_key": str(pair.key)}
    with collector(tmp_path_factory.mktemp("guarded") / "data", **settings) as found:
        yield found


def post(running: Collector, pair: Pair, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    context = ssl.create_default_context(cafile=str(pair.certificate))
    connection = HTTPSConnection("localhost", running.http_port, context=context, timeout=120)
    try:
        connection.request("POST", "/v1/traces", BODY, {"content-type": "application/x-protobuf", **headers})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    "given", [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Bearer"}]
)
def test_without_the_token_nothing_is_taken_on_either_port(
    guarded: Collector, pair: Pair, given: dict[str, str]
) -> None:
    status, headers, body = post(guarded, pair, **given)
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert Status.FromString(body).code == CODE.UNAUTHENTICATED.value[0]
    with channel(guarded.grpc_port, certificate=pair.certificate.read_bytes()) as wire:
        answer = call(wire, "traces", BODY, metadata=given)
    assert answer.code is CODE.UNAUTHENTICATED
    assert "OTEL_EXPORTER_OTLP_HEADERS" in answer.reason


def test_with_the_token_both_ports_take_bodies_over_tls(guarded: Collector, pair: Pair) -> None:
    assert post(guarded, pair, authorization=f"Bearer {TOKEN}")[0] == 200
    with channel(guarded.grpc_port, certificate=pair.certificate.read_bytes()) as wire:
        assert call(wire, "traces", BODY, metadata={"authorization": f"bearer {TOKEN}"}).code is CODE.OK


def test_plain_text_is_not_spoken_on_a_tls_port(guarded: Collector) -> None:
    with channel(guarded.grpc_port) as wire:
        assert call(wire, "traces", BODY, timeout_s=5).code is CODE.UNAVAILABLE
    with pytest.raises(OSError):
        guarded.post("/v1/traces", BODY)


def test_files_that_are_no_certificate_are_refused_in_one_line(tmp_path: Path, pair: Pair) -> None:
    for certificate, key in ((tmp_path / "absent", pair.key), (pair.key, pair.certificate)):
        with pytest.raises(UserError, match="--tls-cert"):
            CollectorSettings(data=tmp_path, tls_cert=certificate, tls_key=key)


def test_the_token_does_not_show_in_what_settings_print(tmp_path: Path) -> None:
    assert TOKEN not in repr(CollectorSettings(data=tmp_path, token=TOKEN))


def test_a_browser_may_send_from_a_listed_origin_alone(tmp_path: Path) -> None:
    asked = {"origin": "https://app.example", "access-control-request-method": "POST"}
    asked["access-control-request-headers"] = "content-type,authorization"
    with collector(tmp_path / "data", cors_origins=["https://app.example"]) as running:
        status, headers, _ = send(running.http_port, "OPTIONS", "/v1/traces", b"", asked)
        assert (status, headers["access-control-allow-origin"]) == (204, "https://app.example")
        assert headers["access-control-allow-headers"] == "content-type,authorization"
        status, headers, _ = running.post("/v1/traces", BODY, origin="https://app.example")
        assert (status, headers["access-control-allow-origin"], headers["vary"]) == (
            200,
            "https://app.example",
            "Origin",
        )
        asked["origin"] = "https://other.example"
        status, headers, _ = send(running.http_port, "OPTIONS", "/v1/traces", b"", asked)
        assert status == 405
        assert "access-control-allow-origin" not in headers


def test_by_default_no_page_may_send() -> None:
    assert Cors(()).headers("https://app.example") == {}
    assert Cors(()).preflight({b"origin": b"https://app.example"}) == {}
    assert Cors(("*",)).headers("null") == {"access-control-allow-origin": "*"}


@pytest.mark.parametrize("origin", ["app.example", "https://app.example/page", ""])
def test_an_origin_that_is_none_is_refused(tmp_path: Path, origin: str) -> None:
    with pytest.raises(UserError, match=r"expected one such as https://app\.example"):
        CollectorSettings(data=tmp_path, cors_origins=(origin,))


def test_bodies_beyond_the_memory_for_them_are_told_to_come_back(tmp_path: Path) -> None:
    with collector(tmp_path / "data", bodies_bytes=100_000) as running, ExitStack() as open_ones:
        half = open_ones.enter_context(socket.create_connection(("127.0.0.1", running.http_port)))
        half.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-protobuf\r\n")
        half.sendall(b"Content-Length: 200000\r\n\r\n" + bytes(99_000))

        def refused() -> bool:
            status, headers, _ = running.post("/v1/traces", trace_body(20, seed=412))
            assert status == 200 or headers["retry-after"] == "5"
            return status == 503

        wait_until(refused, what="a body that finds no room")
        with channel(running.grpc_port) as wire:
            answer = call(wire, "traces", trace_body(20, seed=413))
            assert (answer.code, answer.retry_s) == (CODE.UNAVAILABLE, 5)
        half.close()
        wait_until(lambda: running.post("/v1/traces", trace_body(20, seed=412))[0] == 200, what="room again")
        assert running.post("/v1/traces", trace_body(2000, seed=414))[0] == 200  # larger than all of it, alone


def test_no_more_bodies_than_may_be_are_taken_at_once() -> None:
    room = Room(bodies=2, nbytes=10)
    with room.enter(), room.enter(), pytest.raises(BusyError, match="2 bodies"), room.enter():
        pass
    with room.enter():
        pass
    with room.hold() as first:
        first.take(25)
        with pytest.raises(BusyError, match="25 bytes"), room.hold() as second:
            second.take(1)
        first.take(25)
    with room.hold() as third:
        third.take(10)


def test_sixty_calls_at_once_are_all_taken(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running, ExitStack() as stack:
        wires = [stack.enter_context(channel(running.grpc_port)) for _ in range(4)]
        codes: list[grpc.StatusCode] = []
        threads = [
            threading.Thread(
                target=lambda n=n: codes.append(call(wires[n % 4], "traces", trace_body(1, seed=500 + n)).code)
            )
            for n in range(60)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert codes == [CODE.OK] * 60


async def test_a_body_that_does_not_arrive_in_time_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_WITHIN_S", 0.05)
    room = Room(bodies=1, nbytes=100)
    counters = Counters()
    receiver = Receiver(cast("Intake", None), counters=counters, room=room, max_body_bytes=100, pass_on=lambda _: None)
    app = http.OtlpApp(receiver, counters=counters, token=None, cors=Cors(()))
    parts = iter([{"type": "http.request", "body": bytes(80), "more_body": True}])
    sent: list[Message] = []

    async def receive() -> Message:
        if (part := next(parts, None)) is None:
            await asyncio.Event().wait()
        return part or {}

    async def keep(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/traces"}
    await app({**scope, "headers": [(b"content-type", b"application/x-protobuf")]}, receive, keep)
    assert sent[0]["status"] == 408
    assert "0.05 s" in Status.FromString(sent[1]["body"]).message
    with room.hold() as first, room.hold() as second:  # nothing is held any more
        first.take(50)
        second.take(50)


def test_a_fault_that_nobody_foresaw_is_logged_and_sent_again(caplog: pytest.LogCaptureFixture) -> None:
    refusal = refusal_of(KeyError("x" * 5000))
    assert (refusal.status, refusal.code, len(refusal.reason)) == (503, CODE.UNAVAILABLE.value[0], 500)
    assert "KeyError" in caplog.text


def test_the_page_on_otlp_names_every_fault_and_option() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "otlp.md").read_text(encoding="utf-8")
    for status, code in FAULTS.values():
        assert f"| {status} | {STATUSES[code].name} |" in page
    for option in ("--grpc", "--token-file", "--tls-cert", "--tls-key", "--cors-origin", "--forward"):
        assert option in page
