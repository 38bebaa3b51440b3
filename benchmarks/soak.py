"""A collector at half of its capacity with readers: memory stays flat, the journal bounded, and nothing fails.

`python benchmarks/soak.py [SECONDS]` (default 600) finds out how fast this machine lands, then sends at half of that
spans that began three hours ago, so that sealing runs all the time, while two readers ask and every answer is checked.
It prints a line a quarter of a minute and ends with status 1 when memory grew, something failed or a span is missing.
"""

import gzip
import http.client
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ingest import Collector
from machine import describe
from tests.collector_support import trace_request

SPANS: Final = 512
TRACE_SPANS: Final = 16
AGO_NS: Final = 3 * 3600 * 10**9
#: Long beside the two seconds after which traces are assembled.
CALIBRATION_S: Final = 15.0
SAMPLE_EVERY_S: Final = 5.0
#: Memory of the last quarter may be so much above that of the second: caches fill up in the first.
GROWTH: Final = 1.10
JOURNAL_BYTES: Final = 64 * 2**20
ATTRIBUTES: Final = {"slo.request": "/chat", "http.route": "/chat", "slo.tenant": "acme", "text": "x" * 100}
QUESTIONS: Final = (
    "select count(*) from requests where started >= now() - interval 15 minute",
    "select quantile_cont(total_ms, 0.95) from requests",
    "select name, count(*), max(duration_ns) from spans where started >= now() - interval 6 hour group by name",
    "select count(*) from spans",
)


@dataclass
class Soak:
    """What was seen."""

    rss_mib: list[float] = field(default_factory=list)
    journal_bytes: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)
    acks_s: list[float] = field(default_factory=list)
    reads_s: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    sent: int = 0
    stored: int = 0
    sealed: int = 0

    @property
    def growth(self) -> float:
        """Memory of the last quarter over that of the second."""
        quarter = max(len(self.rss_mib) // 4, 1)
        return statistics.median(self.rss_mib[-quarter:]) / statistics.median(self.rss_mib[quarter : 2 * quarter])

    @property
    def verdict(self) -> list[str]:
        """What is wrong, nothing when all is well."""
        found = [f"{len(self.errors)} errors, the first: {self.errors[0]}"] if self.errors else []
        if self.growth > GROWTH:
            found.append(f"memory grew {self.growth:.2f}-fold")
        if max(self.journal_bytes) > JOURNAL_BYTES:
            found.append(f"the journal had {max(self.journal_bytes):,.0f} bytes")
        if self.stored != self.sent:
            found.append(f"{self.sent:,} spans were acknowledged, {self.stored:,} are stored")
        if not self.sealed:
            found.append("nothing was sealed")
        return found


def packed(seed: int) -> bytes:
    """Return a body of spans that began hours ago."""
    request = trace_request(SPANS, seed=seed, start_ns=time.time_ns() - AGO_NS, attributes=ATTRIBUTES)
    spans = request.resource_spans[0].scope_spans[0].spans
    for at, span in enumerate(spans):
        if at % TRACE_SPANS:
            root = spans[at - at % TRACE_SPANS]
            span.trace_id, span.parent_span_id = root.trace_id, root.span_id
            del span.attributes[0]  # one request a trace
    return gzip.compress(request.SerializeToString(), 1)


def post(collector: Collector, data: bytes) -> None:
    """Send one body. Raises OSError when it is not acknowledged."""
    connection = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=30)
    headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"}
    connection.request("POST", "/v1/traces", data, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status != 200:
        raise OSError(f"{answer.status}: {text[:200]!r}")


def capacity(collector: Collector) -> tuple[float, int]:
    """Return how many bodies a second are acknowledged, landed and assembled beside their sender; how many were sent."""
    sent, began = 0, time.monotonic()
    while time.monotonic() - began < CALIBRATION_S:
        post(collector, packed(10**9 + sent))
        sent += 1
    while collector.value("select count(*) from spans") < sent * SPANS:
        time.sleep(0.05)
    while collector.value("select count(*) from dirty"):
        time.sleep(0.05)
    return sent / (time.monotonic() - began), sent


def guarded(found: Soak, stop: threading.Event, work: Callable[[], None]) -> threading.Thread:
    """Start a thread that repeats `work` until `stop`, and keeps what it raises."""

    def run() -> None:
        while not stop.is_set():
            try:
                work()
            except Exception as error:
                found.errors.append(f"{type(error).__name__}: {error}")
                stop.wait(0.5)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def metric(collector: Collector, name: str) -> float:
    """Return one gauge of /metrics."""
    lines = collector.get("/metrics").decode().splitlines()
    return float(next(line.split()[-1] for line in lines if line.startswith(f"{name} ")))


def rss_mib(collector: Collector) -> float:
    """Return the resident set now."""
    status = Path(f"/proc/{collector.process.pid}/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) / 1024


def soak(data: Path, *, seconds: float, say: Callable[[str], object] = lambda _: None) -> Soak:
    """Run all of it and return what was seen."""
    found, stop = Soak(), threading.Event()
    collector = Collector(data)
    collector.start()
    try:
        most_per_s, sent = capacity(collector)
        found.sent, per_s = sent * SPANS, most_per_s / 2
        say(f"capacity {2 * per_s * SPANS:,.0f} spans/s, sending {per_s * SPANS:,.0f}")
        seeds, turns = iter(range(1, 10**9)), iter(range(10**9))
        due_s = time.monotonic()

        def send() -> None:
            nonlocal due_s
            body = packed(next(seeds))
            stop.wait(max(due_s - time.monotonic(), 0))
            due_s = max(due_s + 1 / per_s, time.monotonic() - 1)
            began = time.perf_counter()
            post(collector, body)
            found.acks_s.append(time.perf_counter() - began)
            found.sent += SPANS

        def read() -> None:
            began = time.perf_counter()
            collector.value(f"select count(*) from ({QUESTIONS[next(turns) % len(QUESTIONS)]})")
            found.reads_s.append(time.perf_counter() - began)
            stop.wait(0.25)

        threads = [guarded(found, stop, work) for work in (send, read, read)]
        began_s = time.monotonic()
        while (passed_s := time.monotonic() - began_s) < seconds:
            time.sleep(SAMPLE_EVERY_S)
            found.rss_mib.append(rss_mib(collector))
            found.journal_bytes.append(metric(collector, "tailbudget_journal_bytes"))
            found.lag_s.append(metric(collector, "tailbudget_landing_lag_seconds"))
            if len(found.rss_mib) % 3 == 0:
                say(
                    f"{passed_s:6.0f} s  {found.sent:12,} spans  {found.rss_mib[-1]:6.0f} MiB  "
                    f"journal {found.journal_bytes[-1] / 2**20:5.1f} MiB  lag {found.lag_s[-1]:4.1f} s"
                )
        stop.set()
        for thread in threads:
            thread.join()
        give_up_s = time.monotonic() + 60
        while collector.value("select count(*) from spans") < found.sent and time.monotonic() < give_up_s:
            time.sleep(0.2)
        found.stored = collector.value("select count(*) from spans")
        found.sealed = collector.value("select coalesce(sum(n), 0)::bigint from sealed_files where \"view\" = 'spans'")
    finally:
        collector.end()
    return found


def main() -> None:
    """Run it and print the figures."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        found = soak(Path(folder) / "data", seconds=seconds, say=print)
    ack_p50, ack_p99 = (statistics.quantiles(found.acks_s, n=100)[rank - 1] * 1e3 for rank in (50, 99))
    read_p50, read_p99 = (statistics.quantiles(found.reads_s, n=100)[rank - 1] * 1e3 for rank in (50, 99))
    print(f"acknowledged   {ack_p50:.1f} ms p50, {ack_p99:.1f} ms p99")
    print(f"read           {read_p50:.0f} ms p50, {read_p99:.0f} ms p99, {len(found.reads_s):,} answers")
    print(
        f"lag            {max(found.lag_s):.1f} s at most, journal {max(found.journal_bytes) / 2**20:.1f} MiB at most"
    )
    print(
        f"memory         {found.growth:.3f} of the second quarter's in the last, {max(found.rss_mib):.0f} MiB at most"
    )
    print(f"spans          {found.sent:,} acknowledged, {found.stored:,} stored, {found.sealed:,} of them sealed")
    print("\n".join(found.verdict) or "all is well")
    sys.exit(bool(found.verdict))


if __name__ == "__main__":
    main()
