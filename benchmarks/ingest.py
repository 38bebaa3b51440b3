"""Spans per CPU-second over the whole chain: HTTP with gzip bodies of 512 spans in, committed to DuckDB out.

`python benchmarks/ingest.py [BODIES]` sends as fast as it is acknowledged to a collector with the Python decoder, to
one that assembles as well, and to one with the C decoder that only lands, each on free ports and a folder of its own.
It waits until every span is committed and prints the figures beside a limit of this machine: the same bodies unpacked
and parsed by protobuf, nothing else. Then it sends at 80 % of what was reached, and stops and kills the collector to
see how soon it is back.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tailbudget.collector.receive.decoder import NATIVE, decode_body, reference
from tailbudget.collector.receive.privacy import DROP

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe
from tests.support import free_port

SPANS = 512
TRACE_SPANS = 16  # one request: a server span, stages, a call
SENDERS = 4
BODIES = 400
FRESH_ROUNDS = 15
HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
#: Assembly runs in the same process and is no part of the chain: the last argument turns it off.
PROGRAM = """
import pathlib, sys
from tailbudget.collector import CollectorSettings, collector, serve
if sys.argv[5] == "land alone":
    collector.Collector._chores = lambda self: []
data, http, api, grpc = pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:5])
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


def body(seed: int, *, service: str = "shop") -> bytes:
    """Return a request of 512 spans: 32 traces, a root each."""
    rng = random.Random(seed)
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add()
    group.resource.attributes.add(key="service.name").value.string_value = service
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
    """A collector process and what the kernel says of it; `start` may follow `stop` or `kill` on the same folder."""

    def __init__(self, data: Path, *, decoder: str = "native", work: str = "all") -> None:
        self.http_port, self.api_port = free_port(), free_port()
        ports = [str(self.http_port), str(self.api_port), str(free_port())]
        self._arguments = [str(data), *ports, work]
        self._environment = os.environ | {"TAILBUDGET_DECODER": decoder}

    def start(self) -> float:
        """Start the process and return the seconds until it accepts OTLP."""
        began = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM, *self._arguments], env=self._environment)
        while not self._ready():
            time.sleep(0.02)
        return time.perf_counter() - began

    def end(self, *, kill: bool = False) -> None:
        """Stop the process cleanly, or kill it."""
        (self.process.kill if kill else self.process.terminate)()
        self.process.wait()

    def _ready(self) -> bool:
        try:
            return self.get("/readyz") == b"ready\n"
        except OSError:
            return False

    def get(self, path: str) -> bytes:
        """GET from the API."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def value(self, sql: str) -> int:
        """Return the only value of a query."""
        connection = http.client.HTTPConnection("127.0.0.1", self.api_port, timeout=60)
        connection.request("POST", "/v1/sql", json.dumps({"sql": sql}), {"Accept": "application/json"})
        (row,) = json.loads(connection.getresponse().read())
        connection.close()
        return int(next(iter(row.values())))

    def cpu_s(self) -> float:
        """Return user and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Return the largest resident set so far."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


@contextmanager
def running(*, decoder: str = "native", work: str = "land alone") -> Iterator[Collector]:
    """Run a collector on a new folder until the end."""
    with tempfile.TemporaryDirectory() as folder:
        collector = Collector(Path(folder) / "data", decoder=decoder, work=work)
        collector.start()
        try:
            yield collector
        finally:
            collector.end()


def send(port: int, packed: Sequence[bytes], acks_s: list[float], due_s: Sequence[float] = ()) -> None:
    """Post the bodies over one connection, each not before it is due, and add the time of each acknowledgement."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for number, data in enumerate(packed):
        began = time.perf_counter()
        if due_s:
            time.sleep(max(due_s[number] - began, 0))
            began = due_s[number]  # a late sender counts the wait
        while True:
            connection.request("POST", "/v1/traces", data, HEADERS)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                break
            time.sleep(0.2)
        acks_s.append(time.perf_counter() - began)


def send_all(collector: Collector, packed: Sequence[bytes], *, per_s: float = 0.0) -> list[float]:
    """Post the bodies over several connections, as fast as they are acknowledged or so many a second."""
    acks_s: list[float] = []
    began = time.perf_counter()
    due_s = [began + number / per_s for number in range(len(packed))] if per_s else []
    threads = [
        threading.Thread(
            target=send, args=(collector.http_port, packed[number::SENDERS], acks_s, due_s[number::SENDERS])
        )
        for number in range(SENDERS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return acks_s


def wait_for(collector: Collector, spans: int) -> None:
    """Return once so many spans are committed."""
    while collector.value("select count(*) from spans") < spans:
        time.sleep(0.1)


def quantiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """Return p50 and p99 in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100)
    return cuts[49] * 1e3, cuts[98] * 1e3


def storm(collector: Collector, packed: Sequence[bytes], name: str) -> tuple[float, float]:
    """Send as fast as it is acknowledged and print what it cost; return spans per CPU-second and bodies a second."""
    cpu_s, began = collector.cpu_s(), time.perf_counter()
    acks_s = send_all(collector, packed)
    wait_for(collector, len(packed) * SPANS)
    landed_s = time.perf_counter() - began
    while collector.value("select count(*) from dirty") and name.endswith("assembly"):
        time.sleep(0.1)
    spans_per_s = len(packed) * SPANS / (collector.cpu_s() - cpu_s)
    p50, p99 = quantiles_ms(acks_s)
    print(
        f"{name:34}{spans_per_s:10,.0f} spans/CPU-s  {len(packed) * SPANS / landed_s:9,.0f} spans/s  "
        f"acknowledged p50 {p50:.1f} ms, p99 {p99:.1f} ms  at most {collector.peak_mib():.0f} MiB"
    )
    return spans_per_s, len(packed) / landed_s


def steady(collector: Collector, packed: Sequence[bytes], *, per_s: float, before: int) -> None:
    """Send at a rate while landing goes on; print acknowledgements, and how soon SQL sees one body among the others."""
    waits_s: list[float] = []

    def probe() -> None:
        for number in range(FRESH_ROUNDS):
            mark = f"probe-{number}"
            send(collector.http_port, [gzip.compress(body(1_000_000 + number, service=mark), 1)], [])
            began = time.perf_counter()
            while not collector.value(f"select count(*) from resources where service = '{mark}'"):
                time.sleep(0.02)
            waits_s.append(time.perf_counter() - began)

    prober = threading.Thread(target=probe)
    prober.start()
    acks_s = send_all(collector, packed, per_s=per_s)
    prober.join()
    wait_for(collector, before + (len(packed) + FRESH_ROUNDS) * SPANS)
    p50, p99 = quantiles_ms(acks_s)
    print(f"at 80 % ({per_s * SPANS:,.0f} spans/s)       acknowledged p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(
        f"queryable after                   {statistics.median(waits_s) * 1e3:10.0f} ms median, "
        f"{max(waits_s) * 1e3:.0f} ms at most, of {len(waits_s)}"
    )


def readiness(collector: Collector, packed: Sequence[bytes]) -> None:
    """Print how soon the collector accepts again, the second time with bodies that it has still to land."""
    collector.end()
    clean_s = collector.start()
    send_all(collector, packed)
    collector.end(kill=True)
    killed_s = collector.start()
    print(f"ready after a clean stop          {clean_s:10.2f} s, after kill -9 {killed_s:.2f} s")


def main() -> None:
    """Run all of it."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else BODIES
    print(f"{describe()}\nbodies of {SPANS} spans with 12 attributes, gzip")
    plain = body(1)
    packed_one = gzip.compress(plain, 1)
    limit = spans_per_cpu_s(lambda: ExportTraceServiceRequest.FromString(gzip.decompress(packed_one)))
    python = spans_per_cpu_s(lambda: reference("traces", plain, content=DROP))
    native = spans_per_cpu_s(lambda: decode_body("traces", plain, content=DROP)) if NATIVE else python
    print(f"limit: unpack and parse           {limit:10,.0f} spans/CPU-s")
    print(f"decode to Arrow                   {native:10,.0f} spans/CPU-s in C, {python:,.0f} in Python")
    packed = [gzip.compress(body(seed), 1) for seed in range(count)]
    with running(decoder="python") as collector:
        slow, _ = storm(collector, packed[: count // 2], "committed, Python decoder")
    with running(work="all") as collector:
        storm(collector, packed[: count // 2], "committed, C decoder, and assembly")
    with running() as collector:
        fast, per_s = storm(collector, packed, "committed, C decoder")
        print(f"C beside Python                   {fast / slow:10.1f} times, beside the limit {fast / limit:.2f}")
        more = [gzip.compress(body(seed), 1) for seed in range(count, 2 * count)]
        steady(collector, more[: count // 2], per_s=0.8 * per_s, before=count * SPANS)
        readiness(collector, more[count // 2 :])


if __name__ == "__main__":
    main()
