"""CPU-seconds per 1,000 requests and spans per CPU-second of the assembler, and what an idle tick costs.

python benchmarks/assemble.py [requests]
"""

import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import describe
from tests.spans import Span, Trace, database, land

from tailbudget.collector.assemble import Assembler

NOW = datetime(2026, 3, 1, 13, tzinfo=UTC)
CALL = {
    "gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "slo.time_to_first_token": 0.3,
    "slo.stream.end": "complete", "gen_ai.usage.output_tokens": 24,
}  # fmt: skip
ENGINE = {
    "gen_ai.latency.e2e": 0.75, "gen_ai.latency.time_in_queue": 0.1, "gen_ai.latency.time_in_model_prefill": 0.15,
    "gen_ai.latency.time_in_model_decode": 0.5,
}  # fmt: skip


def request(number: int) -> list[Span]:
    """Return a request of 14 spans: a service, its retrieval, three tools at once, a call and its engine."""
    trace = Trace(number)
    at = number * 10.0
    attrs = {"slo.request": "/chat", "slo.budget.total": 0.9, "slo.budget.retrieval": 0.1}
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


def ticks(sizes: list[int]) -> Iterator[tuple[int, int, float]]:
    """Yield (requests, spans, CPU-seconds) a size, in as many ticks as it takes, on one growing database."""
    connection = database()
    assembler = Assembler(connection)
    first = 1
    for size in sizes:
        spans = [span for number in range(first, first + size) for span in request(number)]
        first += size
        land(connection, spans)
        began, requests = time.process_time(), 0
        while requests < size:
            requests += assembler.tick(NOW).requests
        yield requests, len(spans), time.process_time() - began


def idle_us() -> float:
    """Return CPU-microseconds of a tick that has nothing to do."""
    assembler = Assembler(database())
    began = time.process_time()
    for _ in range(200):
        assembler.tick(NOW)
    return (time.process_time() - began) / 200 * 1e6


def main() -> None:
    """Print the figures."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    print(describe())
    for requests, spans, cpu_s in ticks([1, 300, most]):
        print(
            f"assemble {requests:>6} requests at once: {cpu_s * 1e3:7.0f} CPU-ms, "
            f"{cpu_s / requests * 1e3:7.3f} CPU-s per 1,000 requests, {spans / cpu_s:9,.0f} spans per CPU-second"
        )
    print(f"assemble idle tick: {idle_us():.0f} CPU-us")


if __name__ == "__main__":
    main()
