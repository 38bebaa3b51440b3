"""What turning spans into requests costs, and how long it takes, with millions of spans stored already.

`python benchmarks/assemble.py [STORED_MILLIONS]` (default 10) prints CPU-seconds per 1,000 requests and spans per
CPU-second in bulk on an empty database; then writes so many million spans, with their requests and calls, into a data
folder, and prints CPU-seconds per 1,000 requests at 1,000 and 10,000 requests a minute beside the landing of their
spans, and what a collector in a process of its own needs from the last span of a request to its row.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import describe
from tests.collector_support import Collector
from tests.spans import EPOCH_NS, MS, Span, Trace, database, land

from tailbudget.collector.assemble import Assembler
from tailbudget.collector.land.database import open_database

STORED = Path(__file__).with_name("stored.sql").read_text(encoding="utf-8")
PER_MINUTE = (1_000, 10_000)
TICK_S, TICKS = 2.0, 8
SEND_S, LAG_S = 0.25, 20.0
CALL = {
    "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "slo.time_to_first_token": 0.3,
    "slo.stream.end": "complete", "gen_ai.usage.output_tokens": 24,
}  # fmt: skip
ENGINE = {
    "gen_ai.latency.e2e": 0.75, "gen_ai.latency.time_in_queue": 0.1, "gen_ai.latency.time_in_model_prefill": 0.15,
    "gen_ai.latency.time_in_model_decode": 0.5,
}  # fmt: skip


def request(number: int, *, at: float | None = None) -> list[Span]:
    """Return a request of 14 spans: a service, its retrieval, three tools at once, a call and its engine.

    It starts `at` milliseconds after EPOCH_NS.
    """
    trace = Trace(number)
    at = number * 10.0 if at is None else at
    attrs = {
        "slo.request": "/chat",
        "slo.request.id": f"r{number}",
        "slo.budget.total": 0.9,
        "slo.budget.retrieval": 0.1,
    }
    root = trace.add("POST /chat", at, at + 1000, kind="SERVER", attrs=attrs)
    trace.add("retrieval docs", at + 10, at + 160, under=root, attrs={"slo.stage": "retrieval"})
    trace.add("prompt chat", at + 160, at + 170, under=root, attrs={"slo.stage": "prompt"})
    for end in (173, 176, 179):
        trace.add("execute_tool t", at + 170, at + end, under=root, attrs={"slo.stage": "tools"})
    answer = {"gen_ai.response.id": f"chatcmpl-{number}"}
    call = trace.add("chat m", at + 180, at + 950, under=root, kind="CLIENT", attrs={**CALL, **answer})
    trace.add("POST", at + 181, at + 290, under=call, kind="CLIENT", attrs={"http.request.method": "POST"})
    trace.add(
        "llm_request", at + 190, at + 940, under=call, kind="SERVER", service="engine", attrs={**ENGINE, **answer}
    )
    for start in range(950, 1000, 10):
        trace.add("render", at + start, at + start + 8, under=root, attrs={"slo.stage": "post"})
    return trace.spans


def ticks(connection: duckdb.DuckDBPyConnection, sizes: list[int], *, at_ms: float) -> Iterator[tuple[int, int, float]]:
    """Yield (requests, spans, CPU-seconds of assembly) a size, in as many ticks as it takes."""
    assembler = Assembler(connection)
    first = 1_000_000
    for size in sizes:
        spans = [span for number in range(first, first + size) for span in request(number, at=at_ms + number % 1000)]
        first += size
        land(connection, spans)
        began, requests = time.process_time(), 0
        while requests < size:
            requests += assembler.tick(datetime.now(UTC)).requests
        yield requests, len(spans), time.process_time() - began


def in_bulk() -> None:
    """Print what ticks of several sizes cost on an empty database."""
    for requests, spans, cpu_s in ticks(database(), [1, 1, 300, 5000], at_ms=0):
        print(
            f"assemble {requests:>6} requests at once: {cpu_s * 1e3:7.0f} CPU-ms, "
            f"{cpu_s / requests * 1e3:7.3f} CPU-s per 1,000 requests, {spans / cpu_s:9,.0f} spans per CPU-second"
        )
    assembler = Assembler(database())
    began = time.process_time()
    for _ in range(200):
        assembler.tick(datetime.now(UTC))
    print(f"assemble idle tick: {(time.process_time() - began) / 200 * 1e6:.0f} CPU-us")


def store(data: Path, *, millions: int) -> None:
    """Write so many million spans of the last hours, with the requests and calls they became, into the folder."""
    connection = open_database(data)
    for statement in connection.extract_statements(STORED):
        named = {"spans": millions * 1_000_000, "until_us": time.time_ns() // 1000 - 60_000_000}
        connection.execute(statement, {key: named[key] for key in statement.named_parameters}).fetchall()
    connection.execute("checkpoint")
    connection.close()


def at_a_rate(data: Path, per_minute: int, *, millions: int) -> None:
    """Print the CPU-seconds of assembly at a rate of requests, its spans landing before each tick."""
    connection = open_database(data)
    now_ms = (time.time_ns() - EPOCH_NS) / MS
    sizes = [round(per_minute / 60 * TICK_S)] * (TICKS + 1)
    costs = list(ticks(connection, sizes, at_ms=now_ms))[1:]  # the first of a process fills caches
    cpu_s, requests = sum(cost[2] for cost in costs), sum(cost[0] for cost in costs)
    print(
        f"assemble {per_minute:>6} requests a minute, {millions} M spans stored: "
        f"{cpu_s / requests * 1e3:.3f} CPU-s per 1,000 requests, {cpu_s / TICKS / TICK_S * 100:.1f} % of a core"
    )
    connection.execute("delete from spans_open where service in ('shop', 'engine')")
    connection.execute("delete from requests where service = 'shop'")
    connection.close()


def lag(data: Path, per_minute: int, *, millions: int) -> None:
    """Print the time from the last span of a request, posted to a collector, to its row in `requests`."""
    running, found, watchers = Collector(data).start(), list[float](), list[threading.Thread]()
    number, began = per_minute * 100_000, time.monotonic()
    while time.monotonic() < began + LAG_S:
        sent = time.monotonic()
        size = max(round(per_minute / 60 * SEND_S), 1)
        at_ms = (time.time_ns() - EPOCH_NS) / MS - 1000  # they end now
        running.post("/v1/traces", otlp([span for one in range(size) for span in request(number + one, at=at_ms)]))
        number += size
        if len(watchers) < sent - began:  # one a second
            watchers.append(threading.Thread(target=_watch, args=(running, f"r{number - 1}", found)))
            watchers[-1].start()
        time.sleep(max(SEND_S - (time.monotonic() - sent), 0))
    for watcher in watchers:
        watcher.join()
    running.stop()
    print(
        f"assemble {per_minute:>6} requests a minute, {millions} M spans stored: last span to row "
        f"p50 {statistics.median(found):.2f} s, worst of {len(found)} {max(found):.2f} s"
    )


def _watch(running: Collector, request_id: str, found: list[float]) -> None:
    began = time.monotonic()
    query = "select count(*) from requests where request_id = $id and started > since('5 minutes')"
    while not running.rows(query, {"id": request_id})[0]["count_star()"]:
        time.sleep(0.1)
    found.append(time.monotonic() - began)


def otlp(spans: list[Span]) -> bytes:
    """Return the spans as a body of an OTLP request, one resource a service."""
    body = ExportTraceServiceRequest()
    for service in sorted({span.service for span in spans}):
        resource = body.resource_spans.add()
        resource.resource.attributes.append(KeyValue(key="service.name", value=AnyValue(string_value=service)))
        resource.scope_spans.add().spans.extend(_proto(span) for span in spans if span.service == service)
    return body.SerializeToString()


def _proto(span: Span) -> trace_pb2.Span:
    return trace_pb2.Span(
        trace_id=span.trace_id,
        span_id=span.span_id.to_bytes(8, "big"),
        parent_span_id=(span.parent or 0).to_bytes(8, "big") if span.parent else b"",
        name=span.name,
        kind=trace_pb2.Span.SpanKind.Value(f"SPAN_KIND_{span.kind}"),
        start_time_unix_nano=EPOCH_NS + round(span.start_ms * MS),
        end_time_unix_nano=EPOCH_NS + round(span.end_ms * MS),
        attributes=[KeyValue(key=key, value=_value(value)) for key, value in span.attrs.items()],
    )


def _value(value: object) -> AnyValue:
    if isinstance(value, str):
        return AnyValue(string_value=value)
    return AnyValue(int_value=value) if isinstance(value, int) else AnyValue(double_value=float(str(value)))


def main() -> None:
    """Print the figures."""
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(describe())
    in_bulk()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        store(data, millions=millions)
        for per_minute in PER_MINUTE:
            at_a_rate(data, per_minute, millions=millions)
        for per_minute in PER_MINUTE:
            lag(data, per_minute, millions=millions)


if __name__ == "__main__":
    main()
