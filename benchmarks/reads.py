"""Reads over 10 M stored spans through the API, alone and beside ingest; acknowledgements alone and beside reads.

`python benchmarks/reads.py [SPANS]` makes a day of spans and requests in DuckDB, then starts a collector on them. The
limit is each question asked of the same file in this process, without HTTP and with nobody else. No view removes
duplicates at query time: a span is stored once because landing and assembly see to it.
"""

import gzip
import http.client
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import duckdb
from ingest import SPANS as BODY_SPANS
from ingest import Collector, body, send
from machine import describe

from tailbudget.collector.land.database import open_database

SPANS: Final = 10_000_000
HERE: Final = Path(__file__).parent
ROUNDS: Final = 40
#: A steady load that leaves room: about 6,000 spans a second.
BODIES_PER_S: Final = 12
LOAD_S: Final = 12.0
READERS: Final = 2

QUESTIONS: Final = {
    "p95 of requests, last 15 min": """
        select count(*) as n, quantile_cont(total_ms, 0.95) as p95_ms from requests
        where started >= $until::TIMESTAMPTZ - interval 15 minute""",
    "p95 of spans, last 15 min": """
        select count(*) as n, quantile_cont(duration_ns, 0.95) / 1e6 as p95_ms from spans
        where started >= $until::TIMESTAMPTZ - interval 15 minute""",
    "p95 by span name, last 15 min": """
        select name, count(*) as n, quantile_cont(duration_ns, 0.95) / 1e6 as p95_ms from spans
        where started >= $until::TIMESTAMPTZ - interval 15 minute group by name""",
    "p95 of requests, all of the day": "select quantile_cont(total_ms, 0.95) as p95_ms from requests",
}
Ask = Callable[[str], object]


def fill(data: Path, *, spans: int, until: datetime) -> None:
    """Make the data folder."""
    began = time.perf_counter()
    with open_database(data, memory_limit="1GB") as connection:
        connection.execute((HERE / "fill_reads.sql").read_text(), {"until": until, "spans": spans})
        connection.execute((HERE / "fill_requests.sql").read_text())
    size = (data / "tailbudget.duckdb").stat().st_size / 2**20
    print(f"{spans:,} spans, {spans // 16:,} requests, {size:,.0f} MiB, made in {time.perf_counter() - began:.0f} s")


def times_ms(ask: Ask, sql: str, *, rounds: int = ROUNDS) -> list[float]:
    """Return how long each of the rounds took; the first, which warms up, is left out."""
    found = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        ask(sql)
        found.append((time.perf_counter() - began) * 1e3)
    return found[1:]


def shown(found: list[float]) -> str:
    """Return median and 95th percentile."""
    return f"{statistics.median(found):7.1f} ms p50 {statistics.quantiles(found, n=20)[18]:7.1f} ms p95"


@contextmanager
def through_api(port: int, until: datetime) -> Iterator[Ask]:
    """Give what asks over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(sql: str) -> object:
        params = {"until": until.isoformat()} if "$until" in sql else {}
        connection.request(
            "POST", "/v1/sql", json.dumps({"sql": sql, "params": params}), {"Accept": "application/json"}
        )
        answer = connection.getresponse()
        found = answer.read()
        assert answer.status == 200, found
        return found

    try:
        yield ask
    finally:
        connection.close()


def limits(data: Path, until: datetime) -> dict[str, list[float]]:
    """Return the times of the questions asked of the file directly."""
    with duckdb.connect(str(data / "tailbudget.duckdb"), read_only=True, config={"threads": 2}) as connection:

        def ask(sql: str) -> object:
            return connection.execute(sql, {"until": until} if "$until" in sql else {}).fetchall()

        return {name: times_ms(ask, sql) for name, sql in QUESTIONS.items()}


def ingest(port: int, seed: int, acks_s: list[float]) -> None:
    """Send bodies at the pace for `LOAD_S`, over one connection."""
    began = time.perf_counter()
    for number in range(round(LOAD_S * BODIES_PER_S)):
        time.sleep(max(0.0, began + number / BODIES_PER_S - time.perf_counter()))
        send(port, [PACKED[(seed + number) % len(PACKED)]], acks_s)


def read_until(ended: threading.Event, port: int, until: datetime, found: list[float]) -> None:
    """Ask all questions in turn until the event."""
    with through_api(port, until) as ask:
        while not ended.is_set():
            for sql in QUESTIONS.values():
                found += times_ms(ask, sql, rounds=1)


def beside(collector: Collector, until: datetime, *, seed: int, readers: int) -> tuple[list[float], list[float]]:
    """Return the times of acknowledgements, and of reads by so many readers meanwhile."""
    acks_s: list[float] = []
    reads: list[float] = []
    ended = threading.Event()
    threads = [
        threading.Thread(target=read_until, args=(ended, collector.api_port, until, reads)) for _ in range(readers)
    ]
    for thread in threads:
        thread.start()
    ingest(collector.http_port, seed, acks_s)
    ended.set()
    for thread in threads:
        thread.join()
    return [ack * 1e3 for ack in acks_s], reads


#: Packed before any clock starts; each is sent once, since a repeat costs nothing.
PACKED: Final = [gzip.compress(body(seed), 1) for seed in range(round(2 * LOAD_S * BODIES_PER_S))]


def main() -> None:
    """Run all of it."""
    spans = int(sys.argv[1]) if len(sys.argv) > 1 else SPANS
    until = datetime.now(UTC)
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        fill(data, spans=spans, until=until)
        direct = limits(data, until)
        collector = Collector(data)
        collector.start()
        try:
            with through_api(collector.api_port, until) as ask:
                for name, sql in QUESTIONS.items():
                    print(f"{name:34} {shown(times_ms(ask, sql))}    limit: {shown(direct[name])}")
                alone = [took for sql in QUESTIONS.values() for took in times_ms(ask, sql)]
            acks, _ = beside(collector, until, seed=0, readers=0)
            busy_acks, busy_reads = beside(collector, until, seed=len(PACKED) // 2, readers=READERS)
            rate = BODIES_PER_S * BODY_SPANS
            print(f"acknowledged, {rate:,} spans/s        {shown(acks)}")
            print(f"  beside {READERS} readers without pause   {shown(busy_acks)}")
            print(f"reads of all four questions        {shown(alone)}")
            print(f"  {READERS} readers beside that ingest     {shown(busy_reads)}, {len(busy_reads)} reads")
            print(f"resident set                       {collector.peak_mib():7.0f} MiB at most")
        finally:
            collector.end()


if __name__ == "__main__":
    main()
