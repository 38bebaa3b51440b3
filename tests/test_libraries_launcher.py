"""Under OpenTelemetry's launcher, beside its own instrumentors: one server span a request, and hangs are told of."""

import sys
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.instrument_support import sink
from tests.support import free_port, wait_until
from tests.test_instrument_endings import NEVER
from tests.test_instrument_zero_code import ancestors, attributes, get, running, span_named

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
#: `opentelemetry-instrument`, wherever its package is installed.
LAUNCH = [sys.executable, "-c", "from opentelemetry.instrumentation.auto_instrumentation import run; run()"]
ITS_EXPORTERS = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_LOGS_EXPORTER": "otlp"}
HANGS = """
import time, tailbudget

with tailbudget.request("hangs", budgets_ms={"ttft": 100}):
    time.sleep(3)
"""


FASTAPI = """
from fastapi import FastAPI
from tailbudget import stage

app = FastAPI()

@app.get("/chat/{name}")
async def chat(name: str):
    with stage("retrieval"):
        return name
"""
FLASK = """
from flask import Flask
from tailbudget import stage

app = Flask(__name__)

@app.get("/chat/<name>")
def chat(name):
    with stage("retrieval"):
        return name
"""


@pytest.fixture(autouse=True)
def installed() -> None:
    pytest.importorskip("opentelemetry.distro", reason="opentelemetry-distro is not installed")


def test_a_request_that_hangs_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(HANGS)
    with sink() as collector:
        command = [*LAUNCH, sys.executable, "service.py"]
        with running(command, tmp_path, collector, **ITS_EXPORTERS) as service:
            assert service.wait(120) == 0
        assert collector.span_names() == ["hangs"]
        assert [record.event_name for record in collector.log_records()] == ["slo.request.running"]
        assert collector.metric_named("slo.requests.ended")


def test_a_server_that_a_signal_stops_delivers_what_the_launchers_providers_hold(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "service.py").write_text(FASTAPI)
    with sink() as collector:
        server = [sys.executable, "-m", "uvicorn", "service:app", "--log-level", "warning", "--port", str(port)]
        with running([*LAUNCH, *server], tmp_path, collector, **ITS_EXPORTERS, **NEVER):
            wait_until(lambda: "why" in get(f"http://127.0.0.1:{port}/chat/why"), what="an answer")
            assert not collector.traces
        assert "retrieval" in collector.span_names()
        assert collector.metric_named("slo.requests.ended")


@pytest.mark.parametrize(
    ("theirs", "code", "server", "route"),
    [
        ("fastapi", FASTAPI, ["-m", "uvicorn", "service:app", "--log-level", "warning", "--port"], "/chat/{name}"),
        ("flask", FLASK, ["-m", "flask", "--app", "service", "run", "--port"], "/chat/<name>"),
    ],
    ids=["fastapi", "flask"],
)
def test_a_request_has_one_server_span_that_says_what_we_saw(
    tmp_path: Path, theirs: str, code: str, server: list[str], route: str
) -> None:
    pytest.importorskip(f"opentelemetry.instrumentation.{theirs}", reason=f"{theirs}'s instrumentor is not installed")
    port = free_port()
    (tmp_path / "service.py").write_text(code)
    with sink() as collector:
        command = [*LAUNCH, sys.executable, *server, str(port)]
        with running(command, tmp_path, collector, **ITS_EXPORTERS):
            wait_until(lambda: "why" in get(f"http://127.0.0.1:{port}/chat/why"), what="an answer")
            retrieval = span_named(collector, "retrieval")
            (request,) = wait_until(
                lambda: [span for span in collector.spans() if span.kind == Span.SPAN_KIND_SERVER],
                what="the server's span",
            )
        scopes = {scope.scope.name for body in collector.traces for r in body.resource_spans for scope in r.scope_spans}
    said = attributes(request)
    assert request.span_id in ancestors(retrieval, collector)
    assert (said["http.route"], said["slo.outcome"]) == (route, "ok")
    assert 0 < said["slo.http.time_to_first_byte"] <= said["slo.http.time_to_last_byte"]
    assert len(scopes) == 2  # theirs is at work too
