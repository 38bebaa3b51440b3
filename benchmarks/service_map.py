"""What the pages that read spans ask of a collector, quiet and while it lands: Map, and Diagnoses of all that is there.

`python benchmarks/service_map.py [SPANS ...]` makes two days of traces of 16 spans and asks through the API, a question
after the other; then Map's again beside ingest at half of what an empty collector lands. CPU is that of the collector's
process, which lands and assembles too where it says so. The goal is no page over 3 s.
"""

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pyarrow as pa
from ingest import Collector, running
from machine import describe
from soak import SPANS as BODY_SPANS
from soak import capacity
from viewers import Seen, run

from tailbudget.analytics import diagnoses, service_map
from tailbudget.analytics.reader import ApiReader, Reader
from tailbudget.analytics.window import Window
from tailbudget.collector.land.database import open_database

SPANS: Final = (1_700_000, 13_000_000)
TRACE_SPANS: Final = 16
ROUNDS: Final = 3
HERE: Final = Path(__file__).parent
Ask = Callable[[Reader], pa.Table]


def fill(data: Path, *, spans: int, until: datetime) -> None:
    """Make the data folder."""
    with open_database(data, memory_limit="1GB", temp_limit="20GB") as connection:
        for statement in (HERE / "fill_map.sql").read_text().split(";\n"):
            values = {"until": until, "traces": spans // TRACE_SPANS}
            connection.execute(statement, {name: one for name, one in values.items() if f"${name}" in statement})


def timed(collector: Collector, reader: Reader, questions: dict[str, Ask]) -> None:
    """Print the median seconds and CPU seconds of each question."""
    for name, ask in questions.items():
        took_s, cpu_s = [], []
        for _ in range(ROUNDS):
            began_s, spent_s = time.perf_counter(), collector.cpu_s()
            ask(reader)
            took_s.append(time.perf_counter() - began_s)
            cpu_s.append(collector.cpu_s() - spent_s)
        took = f"{statistics.median(took_s):6.2f} s, at most {max(took_s):6.2f}"
        print(f"  {name:22} {took}, {statistics.median(cpu_s):6.2f} CPU s")


def measure(data: Path, *, spans: int, per_s: float) -> None:
    """Fill, ask, and ask again beside so many bodies a second."""
    until = datetime.now(UTC)
    fill(data, spans=spans, until=until)
    window = Window(until - timedelta(days=2), until)
    page: dict[str, Ask] = {"Map: hops": service_map.edges, "Map: services": service_map.services}
    collector = Collector(data)
    collector.start()
    try:
        reader = ApiReader(f"http://127.0.0.1:{collector.api_port}", timeout_s=300)
        looked_at = service_map.edges(reader).to_pylist()[0]
        print(
            f"{spans:,} spans; the map looks at one trace in {looked_at['one_in']}, {looked_at['traces']:,} of the day"
        )
        timed(collector, reader, {**page, "Diagnoses of two days": lambda one: diagnoses.findings(one, window)})
        print(f"  beside {per_s * BODY_SPANS:,.0f} spans a second")
        done = threading.Event()
        sender = threading.Thread(target=_send, args=(collector, per_s, done))
        sender.start()
        timed(collector, reader, page)
        done.set()
        sender.join()
    finally:
        collector.end()


def _send(collector: Collector, per_s: float, done: threading.Event) -> None:
    while not done.is_set():
        run(collector, per_s=per_s, seconds=1, found=Seen())


def main() -> None:
    """Run all of it."""
    print(describe())
    with running(work="all") as collector:
        per_s = capacity(collector)[0] / 2
    for spans in map(int, sys.argv[1:]) if sys.argv[1:] else SPANS:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder) / "data", spans=spans, per_s=per_s)


if __name__ == "__main__":
    main()
