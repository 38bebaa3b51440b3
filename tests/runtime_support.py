"""What the runtime's tests share: the tiny model, an engine in this process, a server in its own, an OTLP receiver."""

import gzip
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tailbudget.gpu_runtime.engine import Engine
from tailbudget.gpu_runtime.kv import PAGE_TOKENS
from tailbudget.gpu_runtime.model import Llama
from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.reports import Delta, Observer
from tailbudget.gpu_runtime.scheduler import Generation
from tailbudget.gpu_runtime.settings import RuntimeSettings
from tailbudget.gpu_runtime.tiny import write_tiny_model
from tailbudget.gpu_runtime.tokenizer import TextTokenizer
from tailbudget.gpu_runtime.weights import open_model

from .forked import python
from .support import free_port, scratch, wait_until

# Two threads on a contended machine took 2 s a token.
torch.set_num_threads(1)
#: Parameters of tests that run on every device; the CUDA ones say why they do not.
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")],
    ),
]
on_devices = pytest.mark.parametrize("device", DEVICES)


@cache
def tiny_path() -> Path:
    """Return the file of the tiny model, written once a test run."""
    return write_tiny_model(scratch() / "tiny.gguf")


@cache
def tiny_model(device: str = "cpu") -> tuple[Llama, TextTokenizer]:
    """Return the tiny model in float32 with its tokenizer."""
    file = open_model(tiny_path())
    return Llama(file, form="float32", device=device), TextTokenizer(file.vocabulary)


def page_tokens(device: str) -> int:
    """Return how many tokens a page of the KV cache has on a device; settings count pages of 16."""
    return PAGE_TOKENS[device]


class Notes:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.streams = 0
        self.tokens = 0
        self.active_ns = 0
        self.ended: list[Generation] = []

    def decoding(self, change: int) -> None:
        self.streams += change

    def step(self, *, tokens: int, active_ns: int) -> None:
        self.tokens += tokens
        self.active_ns += active_ns

    def finished(self, generation: Generation) -> None:
        self.ended.append(generation)


class Bench:
    """A running engine on the tiny model and everything it emitted, in order."""

    def __init__(self, settings: RuntimeSettings, observer: Observer) -> None:
        model, self.tokenizer = tiny_model(settings.device)
        self.deltas: list[Delta] = []
        self._count = 0
        self.engine = Engine(
            model, tokenizer=self.tokenizer, settings=settings, observer=observer, emit=self.deltas.extend
        )

    def submit(self, prompt: str | Sequence[int], *, max_tokens: int = 8, **params: Any) -> Generation:
        """Submit a prompt, greedy unless `params` say otherwise; returns at once."""
        import time

        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        self._count += 1
        sampling = SamplingParams(max_tokens, **{"temperature": 0.0, **params})
        generation = Generation(f"request-{self._count}", ids, sampling, time.perf_counter_ns())
        self.engine.submit(generation)
        return generation

    def finish(self, generation: Generation) -> str:
        """Wait until a generation is over; returns its text."""
        wait_until(lambda: any(d.done for d in self.of(generation)), what=f"{generation.id} ending")
        return "".join(delta.text for delta in self.of(generation))

    def of(self, generation: Generation) -> list[Delta]:
        """Return what was emitted for a generation."""
        return [delta for delta in tuple(self.deltas) if delta.generation is generation]


@contextmanager
def engine(observer: Observer | None = None, **settings: Any) -> Iterator[Bench]:
    """Run an engine in this process, on the CPU unless told otherwise; keyword arguments are runtime settings."""
    chosen = RuntimeSettings(**{"dtype": "float32", "device": "cpu", "max_context": 512, **settings})
    bench = Bench(chosen, observer or Notes())
    bench.engine.start()
    try:
        yield bench
    finally:
        bench.engine.stop()


class Receiver:
    """An OTLP/HTTP endpoint on loopback that keeps the spans and metric points it gets."""

    def __init__(self) -> None:
        received = self
        self.spans: list[Any] = []
        self.points: list[tuple[str, dict[str, str], Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                received.take(self.path, gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", free_port()), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, path: str, body: bytes) -> None:
        """Decode one export request."""
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.spans += [span for scope in resource.scope_spans for span in scope.spans]
            return
        for each in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            for metric in (metric for scope in each.scope_metrics for metric in scope.metrics):
                for point in (metric.gauge or metric.sum).data_points or metric.sum.data_points:
                    self.points.append((metric.name, {a.key: a.value.string_value for a in point.attributes}, point))

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run an OTLP receiver."""
    running = Receiver()
    try:
        yield running
    finally:
        running.close()


IMPORTS = "tailbudget.gpu_runtime.server"
RUN = (
    "import logging, sys; logging.basicConfig(level=logging.INFO); "
    "from tailbudget.gpu_runtime import RuntimeSettings, serve; serve(RuntimeSettings(**eval(sys.argv[1])))"
)


@contextmanager
def server(endpoint: str, *, environment: dict[str, str] | None = None, **settings: Any) -> Iterator[tuple[str, Any]]:
    """Run the runtime in a process of its own: the tiny model on the CPU unless told otherwise.

    Yields base URL and process.
    """
    port = settings.get("port") or free_port()
    chosen = {"model": str(tiny_path()), "port": port, "dtype": "float32", "device": "cpu", **settings}
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRIC_EXPORT_INTERVAL": "500", **(environment or {})}
    process = python(RUN, repr(chosen), imports=IMPORTS, environment=own)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: process.poll() is not None or _healthy(url), timeout_s=180, what="the runtime being ready")
        yield url, process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False
