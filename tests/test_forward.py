"""Accepted bodies are passed on as they came, once, and no target slows, fails or outlives ingest."""

import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest

from tailbudget.collector.settings import CollectorSettings
from tailbudget.instrument.errors import UserError

from .collector_support import JSON, PROTOBUF, Collector, collector, trace_body
from .otlp_support import call, channel
from .support import free_port, wait_until


@dataclass(frozen=True)
class Got:
    """A request that a target received."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Backend:
    """A target that records what it gets; `answer` gives the status and Retry-After of the n-th request."""

    answer: Callable[[int], tuple[int, str | None]] = lambda _: (200, None)
    got: list[Got] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[bytes]:
        return [one.body for one in self.got]


@contextmanager
def backend(answer: Callable[[int], tuple[int, str | None]] = lambda _: (200, None)) -> Iterator[Backend]:
    made = Backend(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status, later = made.answer(len(made.got) - 1)
            self.send_response(status)
            if later is not None:
                self.send_header("Retry-After", later)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def counted(running: Collector, name: str) -> dict[str, float]:
    """Return the samples of a counter by their labels but the target's address."""
    text = running.get("/metrics")[1].decode()
    found = re.findall(rf"^tailbudget_forward{name}{{(.*?)}} (\S+)$", text, re.MULTILINE)
    return {re.sub(r',?target=".*?"', "", labels): float(value) for labels, value in found}


def test_a_body_is_passed_on_as_it_came_whatever_way_it_took(tmp_path: Path) -> None:
    plain, packed, called = trace_body(2, seed=701), gzip.compress(trace_body(2, seed=702)), trace_body(2, seed=703)
    secret = trace_body(1, seed=704, attributes={"gen_ai.prompt": "kept for the others"})
    text = json.dumps({"resourceLogs": [{"schemaUrl": "é"}]}, indent=3).encode()
    with backend() as target:
        url = f"http://user:p%40ss@127.0.0.1:{target.port}/otlp/"
        with collector(tmp_path / "data", forward=[url], forward_headers=["X-Scope-OrgID=a=b"]) as running:
            assert running.post("/v1/traces", plain)[0] == 200
            assert running.post("/v1/traces", packed, content_encoding="gzip")[0] == 200
            assert running.post("/v1/logs", text, content_type=JSON)[0] == 200
            with channel(running.grpc_port) as wire:
                assert call(wire, "traces", called, compression=grpc.Compression.Gzip).code is grpc.StatusCode.OK
            assert running.post("/v1/traces", secret)[0] == 200
            wait_until(lambda: len(target.got) == 5)
            wait_until(lambda: counted(running, "ed_bodies_total") == {"": 5.0})
            assert b"p%40ss" not in running.get("/metrics")[1]
    assert target.bodies == [plain, packed, text, called, secret]
    kinds = [(got.path, got.headers["content-type"], got.headers.get("content-encoding")) for got in target.got]
    assert kinds == [
        ("/otlp/v1/traces", PROTOBUF, None),
        ("/otlp/v1/traces", PROTOBUF, "gzip"),
        ("/otlp/v1/logs", JSON, None),
        ("/otlp/v1/traces", PROTOBUF, None),
        ("/otlp/v1/traces", PROTOBUF, None),
    ]
    assert {got.headers["authorization"] for got in target.got} == {"Basic dXNlcjpwQHNz"}
    assert {got.headers["x-scope-orgid"] for got in target.got} == {"a=b"}


def test_neither_a_repeat_nor_what_was_refused_is_passed_on(tmp_path: Path) -> None:
    body, last = trace_body(2, seed=711), trace_body(2, seed=712)
    with backend() as target, collector(tmp_path / "data", forward=[target.url]) as running:
        for _ in range(3):
            assert running.post("/v1/traces", body)[0] == 200
        assert running.post("/v1/traces", gzip.compress(body), content_encoding="gzip")[0] == 200
        assert running.post("/v1/traces", body[:-1])[0] == 400
        assert running.post("/v1/traces", last)[0] == 200
        wait_until(lambda: last in target.bodies)
        assert target.bodies == [body, last]


def test_a_busy_target_is_asked_again_in_order_and_a_refusal_costs_one_body(tmp_path: Path) -> None:
    answers = {0: (503, "1"), 1: (429, None), 3: (400, None)}
    bodies = [trace_body(1, seed=720 + number) for number in range(4)]
    with (
        backend(lambda number: answers.get(number, (200, None))) as target,
        collector(tmp_path / "data", forward=[target.url]) as running,
    ):
        for body in bodies:
            assert running.post("/v1/traces", body)[0] == 200
        wait_until(lambda: len(target.got) == 6)
        assert target.bodies == [bodies[0]] * 3 + bodies[1:]
        wait_until(lambda: counted(running, "ed_bodies_total") == {"": 3.0})
        assert counted(running, "_dropped_bodies_total") == {'reason="http_400"': 1.0}
        assert counted(running, "_queue_bytes") == {"": 0.0}


@pytest.mark.parametrize("kind", ["hanging", "refusing", "slow"])
def test_a_bad_target_neither_slows_nor_fails_ingest_and_ends_with_it(tmp_path: Path, kind: str) -> None:
    released = threading.Event()

    def answer(_: int) -> tuple[int, str | None]:
        released.wait(0.3 if kind == "slow" else 600)
        return 200, None

    with backend(answer) as target, backend() as good:
        url = f"http://127.0.0.1:{free_port()}" if kind == "refusing" else target.url
        settings = {"forward": [url, good.url], "forward_queue_bytes": 12_000}
        with collector(tmp_path / "data", **settings) as running:
            bodies = [trace_body(20, seed=730 + number) for number in range(40)]
            assert sum(map(len, bodies)) > 40_000
            for body in bodies:
                assert running.post("/v1/traces", body)[0] == 200
                assert kind != "hanging" or len(target.got) <= 1  # the first one is not answered before the end
                wait_until(lambda body=body: body in good.bodies)  # type: ignore[misc]
            dropped = counted(running, "_dropped_bodies_total")
            assert dropped['reason="queue_full"'] > 15
            assert max(counted(running, "_queue_bytes").values()) <= 12_000
            assert running.stop() == 0
        released.set()
    assert good.bodies == bodies


def test_what_is_queued_leaves_at_a_clean_end(tmp_path: Path) -> None:
    bodies = [trace_body(1, seed=740 + number) for number in range(20)]
    with backend() as target, collector(tmp_path / "data", forward=[target.url]) as running:
        for body in bodies:
            assert running.post("/v1/traces", body)[0] == 200
        assert running.stop() == 0
        assert target.bodies == bodies


@pytest.mark.parametrize(
    "wrong",
    [
        {"forward": ("tempo:4318",)},
        {"forward": ("http://",)},
        {"forward": ("http://h:port",)},
        {"forward": ("http://h/?q=1",)},
        {"forward": ("http://h/é",)},
        {"forward": ("http://h", "http://h")},
        {"forward_headers": ("X-Token",)},
        {"forward_headers": ("X Token=a",)},
        {"forward_headers": ("X-Token=a\r\nb",)},
        {"forward_headers": ("Content-Type=a",)},
    ],
)
def test_a_target_that_cannot_be_is_refused_at_the_start(tmp_path: Path, wrong: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(UserError, match="forward"):
        CollectorSettings(data=tmp_path, **wrong)  # type: ignore[arg-type]
