"""What the tests of `instrument` share: telemetry in memory, an OTLP receiver, a model server, uvicorn in a thread."""

import asyncio
import contextlib
import gzip
import json
import shutil
import subprocess
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk._logs import LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tailbudget.instrument import hooks, providers
from tailbudget.instrument.guard import Guard
from tests.support import free_port, wait_until


class Recorded:
    """Spans and metrics of one test."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider(shutdown_on_exit=False)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader], shutdown_on_exit=False)
        self._log_exporter = InMemoryLogRecordExporter()  # type: ignore[no-untyped-call]
        self.logger_provider = LoggerProvider(shutdown_on_exit=False)
        self.logger_provider.add_log_record_processor(SimpleLogRecordProcessor(self._log_exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        """Ended spans, in the order in which they ended."""
        return list(self._exporter.get_finished_spans())

    @property
    def logs(self) -> list[ReadableLogRecord]:
        """Log records, in the order in which they were emitted."""
        return list(self._log_exporter.get_finished_logs())

    def named(self, name: str) -> ReadableSpan:
        """Return the one ended span of this name, waiting for it."""
        found = wait_until(lambda: [span for span in self.spans if span.name == name], what=f"a span named {name!r}")
        assert len(found) == 1, f"{len(found)} spans named {name!r}"
        return found[0]

    def id_of(self, name: str) -> int:
        """Return the span id of the one ended span of this name."""
        context = self.named(name).get_span_context()
        assert context is not None
        return context.span_id

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes of the one ended span of this name."""
        return dict(self.named(name).attributes or {})

    def points(self, metric: str) -> list[tuple[dict[str, Any], float]]:
        """Collect now and return attributes and value of each point of a metric."""
        data = self._reader.get_metrics_data()
        return [
            (dict(point.attributes or {}), point.value)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            if found.name == metric
            for point in found.data.data_points
            if isinstance(point, NumberDataPoint)
        ]

    def histograms(self) -> list[tuple[str, HistogramDataPoint]]:
        """Collect now and return name and point of each histogram."""
        data = self._reader.get_metrics_data()
        return [
            (found.name, point)
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for found in scope.metrics
            for point in found.data.data_points
            if isinstance(point, HistogramDataPoint)
        ]


@contextlib.contextmanager
def recording() -> Iterator[Recorded]:
    """Record in memory what the body emits; errors that the guard would swallow are raised."""
    recorded = Recorded()
    providers.use(recorded.tracer_provider, recorded.meter_provider, recorded.logger_provider)
    Guard.reraise = True
    try:
        yield recorded
    finally:
        Guard.reraise = False
        providers.use(None)
        recorded.tracer_provider.shutdown()
        recorded.meter_provider.shutdown()
        recorded.logger_provider.shutdown()


@contextlib.contextmanager
def hooked(*libraries: str) -> Iterator[Recorded]:
    """Record what these libraries do in the body."""
    with recording() as recorded:
        hooks.install(only=libraries)
        try:
            yield recorded
        finally:
            hooks.uninstall()


@dataclass
class Sink:
    """A receiver of OTLP over HTTP that keeps what it got."""

    port: int = 0
    traces: list[ExportTraceServiceRequest] = field(default_factory=list)
    metrics: list[ExportMetricsServiceRequest] = field(default_factory=list)
    logs: list[ExportLogsServiceRequest] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def span_names(self) -> list[str]:
        """Return the names of all received spans."""
        return [span.name for span in self.spans()]

    def spans(self) -> list[Any]:
        """Return all received spans."""
        return [
            span for body in list(self.traces) for r in body.resource_spans for s in r.scope_spans for span in s.spans
        ]

    def log_records(self) -> list[Any]:
        """Return all received log records."""
        return [
            record
            for body in list(self.logs)
            for r in body.resource_logs
            for s in r.scope_logs
            for record in s.log_records
        ]

    def resource(self) -> dict[str, str]:
        """Return the resource of the first body of spans."""
        return {a.key: a.value.string_value for a in self.traces[0].resource_spans[0].resource.attributes}

    def metric_named(self, name: str) -> list[Any]:
        """Return all received metrics of this name."""
        bodies = list(self.metrics)
        found = (m for body in bodies for r in body.resource_metrics for s in r.scope_metrics for m in s.metrics)
        return [metric for metric in found if metric.name == name]


@contextlib.contextmanager
def sink() -> Iterator[Sink]:
    """Run an OTLP receiver on a free port."""
    received = Sink()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            elif self.headers.get("content-encoding") == "deflate":
                body = zlib.decompress(body)
            received.headers.append({name.lower(): value for name, value in self.headers.items()})
            if self.path == "/v1/traces":
                received.traces.append(ExportTraceServiceRequest.FromString(body))
            elif self.path == "/v1/logs":
                received.logs.append(ExportLogsServiceRequest.FromString(body))
            else:
                received.metrics.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    received.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class Certificate(NamedTuple):
    """Files of a certificate that signs itself, for `localhost`."""

    key: str
    chain: str


def certificate(folder: Path) -> Certificate:
    """Make a certificate; skips the test where the openssl command is not."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command for a certificate")
    made = Certificate(str(folder / "key.pem"), str(folder / "cert.pem"))
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command = ["openssl", "req", *kind, "-keyout", made.key, "-out", made.chain, *names]
    subprocess.run(command, check=True, capture_output=True)
    return made


@contextlib.contextmanager
def serve(app: Any, *, tls: Certificate | None = None) -> Iterator[str]:
    """Serve an ASGI app on uvicorn in a thread; gives its base URL."""
    port = free_port()
    config = uvicorn.Config(app, port=port, log_level="critical", lifespan="on")
    if tls:
        config.ssl_keyfile, config.ssl_certfile = tls.key, tls.chain
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started, what="uvicorn")
    try:
        yield f"https://localhost:{port}" if tls else f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


@dataclass
class ModelServer:
    """An OpenAI-compatible server that says a fixed list of words, one every `delay_s`."""

    words: list[str]
    delay_s: float = 0.0
    usage: bool = True
    headers: list[dict[str, str]] = field(default_factory=list)
    clients_gone: int = 0
    said: int = 0

    def app(self) -> Starlette:
        """Return the ASGI app."""
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
                Route("/stuck/v1/chat/completions", self._hang, methods=["POST"]),
            ]
        )

    async def _hang(self, request: Request) -> Response:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return Response()

    async def _complete(self, request: Request) -> Response:
        asked = await request.json()
        self.headers.append(dict(request.headers))
        if asked["model"] == "missing":
            return JSONResponse({"error": {"message": "no such model as secret-prompt"}}, status_code=404)
        if asked.get("stream"):
            return StreamingResponse(self._stream(asked["model"]), media_type="text/event-stream")
        await asyncio.sleep(self.delay_s)
        message = {"role": "assistant", "content": "".join(self.words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(self._body("chat.completion", asked["model"], [choice], usage=True))

    def _body(self, kind: str, model: str, choices: list[Any], *, usage: bool) -> dict[str, Any]:
        body: dict[str, Any] = {"id": "answer-1", "object": kind, "created": 1, "model": f"{model}-0613"}
        counts = {"prompt_tokens": 11, "completion_tokens": len(self.words), "total_tokens": 11 + len(self.words)}
        details = {"prompt_tokens_details": {"cached_tokens": 4}}
        return body | {"choices": choices} | ({"usage": counts | details} if usage else {})

    def _event(self, model: str, delta: dict[str, Any], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return f"data: {json.dumps(self._body('chat.completion.chunk', model, [choice], usage=False))}\n\n"

    async def _stream(self, model: str) -> AsyncIterator[str]:
        try:
            yield self._event(model, {"role": "assistant", "content": ""})
            for word in self.words:
                await asyncio.sleep(self.delay_s)
                self.said += 1
                yield self._event(model, {"content": word})
            yield self._event(model, {}, "stop")
            if self.usage:
                yield f"data: {json.dumps(self._body('chat.completion.chunk', model, [], usage=True))}\n\n"
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.clients_gone += 1
            raise
