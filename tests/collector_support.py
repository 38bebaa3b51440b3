"""A collector in a process of its own, and the bodies that tests send to it."""

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric, NumberDataPoint, Sum

from .forked import Process, python
from .support import free_port, wait_until

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
#: A fixed clock: 2026-01-01T00:00:00Z.
T0_NS = 1_767_225_600_000_000_000
S = 1_000_000_000

PROGRAM = """
import json, pathlib, sys
from tailbudget.collector import CollectorSettings, serve
from tailbudget.instrument.errors import UserError
settings = json.loads(sys.argv[1])
try:
    paths = {name: pathlib.Path(settings[name]) for name in ("data", "tls_cert", "tls_key") if name in settings}
    objectives = tuple(map(pathlib.Path, settings.get("slo", ())))
    serve(CollectorSettings(**settings | paths | {"slo": objectives}))
except UserError as error:
    sys.exit(str(error))
"""


@dataclass
class Collector:
    """A collector on free ports; `start` and `kill` may be called in turn on one data folder."""

    data: Path
    settings: Mapping[str, object] = field(default_factory=dict)
    http_port: int = field(default_factory=free_port)
    api_port: int = field(default_factory=free_port)
    grpc_port: int = field(default_factory=free_port)
    process: Process | None = None
    program: str = PROGRAM
    #: Started as a program is, with all that it imports, where that is what a test is about.
    anew: bool = False

    def launch(self) -> Process:
        """Start the process without waiting for it."""
        ports = {"http_port": self.http_port, "api_port": self.api_port, "grpc_port": self.grpc_port}
        settings = json.dumps({"data": str(self.data), **ports, **self.settings})
        imports = None if self.anew else "tailbudget.collector"
        self.process = python(self.program, settings, imports=imports)
        return self.process

    def start(self) -> "Collector":
        """Start the process and wait until it accepts OTLP."""
        process = self.launch()

        def ready() -> bool:
            assert process.poll() is None, process.communicate()[1]
            return self.get("/readyz")[0] == 200

        wait_until(ready, what="the collector's /readyz")
        return self

    def stop(self) -> int:
        """Send SIGTERM and return the exit status."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=120)
        assert "Traceback" not in errors, errors
        status = self.process.wait()
        self.process = None
        return status

    def cpu_s(self) -> float:
        """Return the CPU seconds that the process has used, with the kernel's for it."""
        assert self.process is not None
        used = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """GET from the API; status 0 when nobody answers."""
        try:
            status, _, body = send(self.api_port, "GET", path, b"", headers)
        except (OSError, HTTPException):
            return 0, b""
        return status, body

    def post(self, path: str, body: bytes, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """POST to the OTLP port; keyword `content_encoding` is the header Content-Encoding."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return send(self.http_port, "POST", path, body, {"content-type": PROTOBUF, **named})

    def ask(self, sql: str, *, accept: str = JSON, **fields: object) -> tuple[int, bytes]:
        """POST a query; return status and answer."""
        query = json.dumps({"sql": sql, **fields}).encode()
        status, _, body = send(self.api_port, "POST", "/v1/sql", query, {"accept": accept})
        return status, body

    def rows(self, sql: str, params: Mapping[str, object] = {}) -> list[dict[str, Any]]:
        """Return the rows of a query that succeeds."""
        status, body = self.ask(sql, params=dict(params))
        assert status == 200, body
        rows: list[dict[str, Any]] = json.loads(body)
        return rows

    def value(self, sql: str) -> Any:
        """Return the only value of a query."""
        ((value,),) = (row.values() for row in self.rows(sql))
        return value


@contextmanager
def started(running: Collector) -> Iterator[Collector]:
    """Run a collector; it is killed at the end unless the test has ended it."""
    try:
        yield running.start()
    finally:
        if running.process is not None:
            running.kill()


def collector(data: Path, **settings: object) -> AbstractContextManager[Collector]:
    """Run a collector with these settings; it is killed at the end unless the test has ended it."""
    return started(Collector(data, settings))


def send(
    port: int, method: str, path: str, body: bytes, headers: Mapping[str, str]
) -> tuple[int, Mapping[str, str], bytes]:
    """Send one request to loopback and return status, headers by lower-case name and body."""
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body if method == "POST" else None, dict(headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def any_value(value: object) -> AnyValue:
    """Return `value` as OTLP has it; None is an absent value."""
    match value:
        case None:
            return AnyValue()
        case bool():
            return AnyValue(bool_value=value)
        case int():
            return AnyValue(int_value=value)
        case float():
            return AnyValue(double_value=value)
        case bytes():
            return AnyValue(bytes_value=value)
        case list():
            return AnyValue(array_value=ArrayValue(values=[any_value(item) for item in value]))
        case dict():
            return AnyValue(kvlist_value=KeyValueList(values=pairs(value)))
        case _:
            return AnyValue(string_value=str(value))


def pairs(attributes: Mapping[str, object]) -> list[KeyValue]:
    """Return attributes as OTLP has them."""
    return [KeyValue(key=key, value=any_value(value)) for key, value in attributes.items()]


def trace_request(
    spans: int = 1,
    *,
    seed: int = 1,
    start_ns: int = T0_NS,
    service: str = "shop",
    attributes: Mapping[str, object] = {},
) -> ExportTraceServiceRequest:
    """Return a request with root spans of random ids, each 1 s long, that carry the attributes."""
    rng = random.Random(seed)
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.extend(pairs({"service.name": service}))
    scope = group.scope_spans.add()
    for _ in range(spans):
        scope.spans.add(
            trace_id=rng.randbytes(16),
            span_id=rng.randbytes(8),
            name="work",
            start_time_unix_nano=start_ns,
            end_time_unix_nano=start_ns + S,
            attributes=pairs(attributes),
        )
    return request


def trace_body(spans: int = 1, *, seed: int = 1, attributes: Mapping[str, object] = {}) -> bytes:
    """Return `trace_request` serialised, its spans starting now."""
    return trace_request(spans, seed=seed, start_ns=time.time_ns(), attributes=attributes).SerializeToString()


def span_ids(body: bytes) -> list[tuple[str, int]]:
    """Return (trace_id as UUID text without dashes, span_id) of the spans of a body."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        (span.trace_id.hex(), int.from_bytes(span.span_id, "big"))
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def counter(
    name: str,
    value: float,
    attributes: Mapping[str, object] = {},
    *,
    start_ns: int,
    t_ns: int,
    cumulative: bool = False,
) -> Metric:
    """Return a counter with one point."""
    temporality = (
        AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
        if cumulative
        else AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
    )
    point = NumberDataPoint(
        start_time_unix_nano=start_ns, time_unix_nano=t_ns, as_double=value, attributes=pairs(attributes)
    )
    return Metric(name=name, sum=Sum(data_points=[point], aggregation_temporality=temporality, is_monotonic=True))


def gauge(name: str, value: float, attributes: Mapping[str, object] = {}, *, t_ns: int) -> Metric:
    """Return a gauge with one point."""
    metric = Metric(name=name)
    metric.gauge.data_points.add(time_unix_nano=t_ns, as_double=value, attributes=pairs(attributes))
    return metric


def metrics_body(*metrics: Metric, instance: str = "i1") -> bytes:
    """Return an ExportMetricsServiceRequest."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    group.resource.attributes.extend(pairs({"service.name": "shop", "service.instance.id": instance}))
    group.scope_metrics.add().metrics.extend(metrics)
    return request.SerializeToString()


def varint(number: int) -> bytes:
    """Return a number as protobuf writes lengths."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
