"""Spans per CPU-second over the whole chain: HTTP with gzip bodies of 512 spans in, committed to DuckDB out.

`python benchmarks/ingest.py [SECONDS]` starts a collector on free ports and a folder of its own, sends as fast as it
acknowledges, waits until every span can be queried, and prints the figures beside the limit of this machine: the same
bodies unpacked and parsed by protobuf, nothing else.
"""

import gzip
import http.client
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tailbudget.analytics.recognise import PROMOTED
from tailbudget.collector.receive.decode import decode_traces

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe
from tests.support import free_port

SPANS = 512
TRACE_SPANS = 16  # one request: a server span, stages, a call
SENDERS = 4
DISTINCT = 64  # bodies that are packed before the clock starts
PROGRAM = """
import pathlib, sys
from tailbudget.collector import CollectorSettings, serve
data, http, api, grpc = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:])
serve(CollectorSettings(data=data, http_port=http, api_port=api, grpc_port=grpc))
"""


def attributes(number: int) -> list[KeyValue]:
    """Return what a streamed model call of ours carries: 12 attributes."""
    texts = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-small",
        "gen_ai.response.id": f"chatcmpl-{number:08x}",
        "server.address": "10.0.0.7",
        "slo.stream.end": "complete",
    }
    numbers = {"gen_ai.usage.input_tokens": 700 + number, "gen_ai.usage.output_tokens": 40, "slo.stream.chunks": 41}
    seconds = {"slo.time_to_first_token": 0.21, "slo.stream.max_gap": 0.08, "gen_ai.response.time_to_first_chunk": 0.2}
    return [
        *(KeyValue(key=key, value=AnyValue(string_value=text)) for key, text in texts.items()),
        *(KeyValue(key=key, value=AnyValue(int_value=number)) for key, number in numbers.items()),
        *(KeyValue(key=key, value=AnyValue(double_value=number)) for key, number in seconds.items()),
    ]


def body(seed: int) -> bytes:
    """Return a request of 512 spans: 32 traces, a root each."""
    rng = random.Random(seed)
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = "shop"
    spans = group.scope_spans.add().spans
    now_ns = time.time_ns()
    for number in range(SPANS):
        if number % TRACE_SPANS == 0:
            trace_id, root = rng.randbytes(16), rng.randbytes(8)
        spans.add(
            trace_id=trace_id,
            span_id=root if number % TRACE_SPANS == 0 else rng.randbytes(8),
            parent_span_id=b"" if number % TRACE_SPANS == 0 else root,
            name="chat gpt-small",
            kind=Span.SPAN_KIND_CLIENT,
            start_time_unix_nano=now_ns + number * 1_000_000,
            end_time_unix_nano=now_ns + number * 1_000_000 + 800_000_000,
            attributes=attributes(number),
        )
    return request.SerializeToString()


def spans_per_cpu_s(work: Callable[[], object], *, seconds: float = 1.5) -> float:
    """Return how many spans `work`, which handles one body, does in a second of CPU time."""
    work()
    bodies, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        work()
        bodies += 1
    return bodies * SPANS / (time.process_time() - began)


class Collector:
    """A collector process and what the kernel says of it."""

    def __init__(self, data: Path) -> None:
        self.http_port, self.api_port = free_port(), free_port()
        ports = [str(self.http_port), str(self.api_port), str(free_port())]
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(data), *ports])
        while not self._ready():
            time.sleep(0.05)

    def _ready(self) -> bool:
        try:
            return self.get("/readyz") == b"ready\n"
        except OSError:
            return False

    def get(self, path: str) -> bytes:
        """GET from the API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=5)
        connection.request("GET", path)
        return connection.getresponse().read()

    def value(self, sql: str) -> int:
        """Return the only value of a query."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=60)
        connection.request("POST", "/v1/sql", json.dumps({"sql": sql}), {"Accept": "application/json"})
        (row,) = json.loads(connection.getresponse().read())
        return int(next(iter(row.values())))

    def cpu_s(self) -> float:
        """Return user and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Return the largest resident set so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def send(port: int, packed: list[bytes], acks_s: list[float]) -> None:
    """Post the bodies over one connection and add the time of each acknowledgement."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    for data in packed:
        while True:
            began = time.perf_counter()
            connection.request("POST", "/v1/traces", data, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            time.sleep(0.2)
        acks_s.append(time.perf_counter() - began)


def storm(collector: Collector, bodies: int) -> None:
    """Send as fast as it is acknowledged and print what it cost."""
    packed = [gzip.compress(body(seed), 1) for seed in range(bodies)]
    acks_s: list[float] = []
    cpu_s, began = collector.cpu_s(), time.perf_counter()
    threads = [
        threading.Thread(target=send, args=(collector.http_port, packed[number::SENDERS], acks_s))
        for number in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sent_s = time.perf_counter() - began
    while collector.value("select count(*) from spans") < bodies * SPANS:
        time.sleep(0.1)
    landed_s = time.perf_counter() - began
    while collector.value("select count(*) from dirty"):
        time.sleep(0.1)
    cpu_s = collector.cpu_s() - cpu_s
    p50, p99 = (statistics.quantiles(acks_s, n=100)[rank - 1] * 1e3 for rank in (50, 99))
    print(f"whole chain                {bodies * SPANS / cpu_s:10,.0f} spans/CPU-s, assembly included")
    print(f"sent, landed               {bodies * SPANS / sent_s:10,.0f} and {bodies * SPANS / landed_s:,.0f} spans/s")
    print(f"acknowledged               {p50:10.1f} ms p50, {p99:.1f} ms p99, {SENDERS} senders")
    print(f"resident set               {collector.peak_mib():10.0f} MiB at most")


def freshness(collector: Collector, *, rounds: int = 15) -> None:
    """Print how long one body takes from its acknowledgement until SQL sees it."""
    waits_s = []
    before = collector.value("select count(*) from spans")
    for number in range(rounds):
        acks_s: list[float] = []
        send(collector.http_port, [gzip.compress(body(1_000_000 + number))], acks_s)
        began = time.perf_counter()
        while collector.value("select count(*) from spans") < before + (number + 1) * SPANS:
            time.sleep(0.01)
        waits_s.append(time.perf_counter() - began)
    median_ms, most_ms = statistics.median(waits_s) * 1e3, max(waits_s) * 1e3
    print(f"queryable after            {median_ms:10.0f} ms median, {most_ms:.0f} ms at most")


def main() -> None:
    """Run all of it."""
    bodies = int(float(sys.argv[1]) * 40) if len(sys.argv) > 1 else 400
    print(f"{describe()}\nbodies of {SPANS} spans with 12 attributes, gzip")
    plain = body(1)
    packed = gzip.compress(plain, 1)
    limit = spans_per_cpu_s(lambda: ExportTraceServiceRequest.FromString(gzip.decompress(packed)))
    decoded = spans_per_cpu_s(lambda: decode_traces(plain, promoted=PROMOTED))
    print(f"limit: unpack and parse    {limit:10,.0f} spans/CPU-s")
    print(f"decode to Arrow            {decoded:10,.0f} spans/CPU-s")
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder) / "data")
        try:
            storm(collector, bodies)
            freshness(collector)
        finally:
            collector.process.terminate()
            collector.process.wait()


if __name__ == "__main__":
    main()
