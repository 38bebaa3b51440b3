"""Ten viewers of live pages beside ingest at half of its capacity, for `dashboard.py`: what they cost each other.

A viewer speaks Streamlit's protocol as a browser does, and asks again as often as the page says; it draws nothing and
gives way to all else, since that is done on the viewers' machines. Who sends is elsewhere too: it has a CPU as soon as
it wakes up, else its own wait would be part of what it measures. Stretches of time with and without viewers come in
pairs, each the other way round than the one before; what is said is the median of the pairs' ratios, with their
quartiles, so that what else the machine does falls on both sides, or out.
"""

import asyncio
import gzip
import http.client
import json
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from ingest import HEADERS, Collector
from soak import ATTRIBUTES, SPANS, TRACE_SPANS, capacity
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from tests.collector_support import trace_request
from tests.support import free_port
from websockets.asyncio.client import ClientConnection, connect

from tailbudget.collector.giving_way import go_first, may_interrupt

PAGES: Final = (
    "", "", "latency", "latency", "stages", "violations", "token-rate", "gpu", "diagnoses", "map",
)  # fmt: skip
#: How often the time until a span can be asked for is taken, and how long between two looks.
MARK_EVERY_S: Final = 0.5
LOOK_EVERY_S: Final = 0.05
#: What a question that begins now sees: `now()` is the instant at which its transaction began.
LOOK: Final = "select count(*) as n, epoch(now()) as began_s from spans_open where trace_id = $trace::uuid"


@dataclass
class Seen:
    """What a stretch of time showed, in seconds."""

    acks_s: list[float] = field(default_factory=list)
    visible_s: list[float] = field(default_factory=list)  # until a question that begins then sees the span
    queryable_s: list[float] = field(default_factory=list)  # until its answer is there
    reads_s: list[float] = field(default_factory=list)  # of such a question
    pages_s: list[tuple[float, str]] = field(default_factory=list)
    pictures: int = 0
    collector_cpu_s: float = 0.0
    dashboard_cpu_s: float = 0.0
    machine_cpu_s: float = 0.0  # of every process
    stolen_s: float = 0.0  # that the machine's host gave to others
    took_s: float = 0.0


class Bodies:
    """Request bodies that differ in their trace ids alone, so that making one costs next to nothing."""

    def __init__(self, *, seed: int) -> None:
        request = trace_request(SPANS, seed=seed, start_ns=time.time_ns() - 10**9, attributes=ATTRIBUTES)
        spans = request.resource_spans[0].scope_spans[0].spans
        for at, span in enumerate(spans):
            if at % TRACE_SPANS:
                root = spans[at - at % TRACE_SPANS]
                span.trace_id, span.parent_span_id = root.trace_id, root.span_id
                del span.attributes[0]  # one request a trace
        self._ids = sorted({span.trace_id for span in spans})
        self._body = request.SerializeToString()

    def fresh(self) -> tuple[bytes, bytes]:
        """Return a packed body nobody sent before, and one of its trace ids."""
        body = self._body
        for trace_id in self._ids:
            body = body.replace(trace_id, mark := os.urandom(16))
        return gzip.compress(body, 1), mark


def run(collector: Collector, *, per_s: float, seconds: float, found: Seen) -> None:
    """Send at a rate, and add what was seen."""
    bodies, marks = Bodies(seed=time.time_ns()), threading.Semaphore(1)
    connection = http.client.HTTPConnection("127.0.0.1", collector.http_port, timeout=60)
    go_first()
    began_s = due_s = time.perf_counter()
    next_mark_s, waiting = began_s, []
    while due_s < began_s + seconds:
        data, mark = bodies.fresh()
        time.sleep(max(due_s - time.perf_counter(), 0))
        sent_s = due_s  # a late sender counts the wait
        connection.request("POST", "/v1/traces", data, HEADERS)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"refused: {answer.status}")
        found.acks_s.append(time.perf_counter() - sent_s)
        if sent_s >= next_mark_s and marks.acquire(blocking=False):
            next_mark_s = sent_s + MARK_EVERY_S
            sent_at_s = time.time() - (time.perf_counter() - sent_s)
            waiting.append(threading.Thread(target=_until_queryable, args=(collector, mark, sent_at_s, found, marks)))
            waiting[-1].start()
        due_s += 1 / per_s
    connection.close()
    for one in waiting:
        one.join()


def _until_queryable(
    collector: Collector, mark: bytes, sent_at_s: float, found: Seen, marks: threading.Semaphore
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", collector.api_port, timeout=60)
    body = json.dumps({"sql": LOOK, "params": {"trace": mark.hex()}})
    try:
        while True:
            asked_s = time.perf_counter()
            connection.request("POST", "/v1/sql", body, {"Accept": "application/json"})
            (row,) = json.loads(connection.getresponse().read())
            found.reads_s.append(time.perf_counter() - asked_s)
            if row["n"]:
                break
            time.sleep(LOOK_EVERY_S)
        found.queryable_s.append(time.time() - sent_at_s)
        found.visible_s.append(row["began_s"] - sent_at_s)
    finally:
        connection.close()
        marks.release()


@contextmanager
def dashboard(api: str) -> Iterator[tuple[str, int]]:
    """Give the address of a running dashboard, and its process."""
    port = free_port()
    with served([sys.executable, "-m", "tailbudget.app.main", "app", "--api", api, "--port", str(port)], port) as found:
        yield found


@contextmanager
def served(command: list[str], port: int) -> Iterator[tuple[str, int]]:
    """Run a Streamlit server until the end, and give its address and process once it answers."""
    process = subprocess.Popen(command)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urlopen(f"{address}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


@contextmanager
def spent(found: Seen, collector: Collector, dashboard: int) -> Iterator[None]:
    """Add the CPU time that both processes take meanwhile: figures that other programs hardly change."""
    before, began_s = (collector.cpu_s(), _cpu_s(dashboard), *_machine_cpu_s()), time.perf_counter()
    yield
    found.took_s += time.perf_counter() - began_s
    found.collector_cpu_s += collector.cpu_s() - before[0]
    found.dashboard_cpu_s += _cpu_s(dashboard) - before[1]
    used_s, stolen_s = _machine_cpu_s()
    found.machine_cpu_s += used_s - before[2]
    found.stolen_s += stolen_s - before[3]


def _machine_cpu_s() -> tuple[float, float]:
    """Return what all processes used, and what the machine's host gave to others while they wanted it."""
    user, nice, system, _, _, _, _, stolen, *_ = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK"), stolen / os.sysconf("SC_CLK_TCK")


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def ten(address: str, *, seconds: float, found: Seen) -> Iterator[None]:
    """Look at the pages meanwhile, in a process of its own."""
    command = [sys.executable, __file__, "--view", address, str(seconds)]
    viewers = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield
    finally:
        told, _ = viewers.communicate()
    saw = json.loads(told)
    found.pages_s += map(tuple, saw["pages_s"])
    found.pictures += saw["pictures"]


async def view(address: str, page: str, *, until_s: float) -> tuple[list[tuple[float, str]], int]:
    """Return the seconds that each run of a live page took, from asking to its end, and how many pictures it drew."""
    took_s: list[tuple[float, str]] = []
    pictures = 0
    url = f"{address.replace('http', 'ws', 1)}/_stcore/stream"
    async with connect(url, subprotocols=["streamlit"], max_size=None) as socket:  # type: ignore[list-item]
        asked_s, script, again = await _ask(socket, page_name=page), "", None
        while time.perf_counter() < until_s:
            try:
                message = ForwardMsg.FromString(bytes(await asyncio.wait_for(socket.recv(), 0.2)))  # type: ignore[arg-type]
            except TimeoutError:
                message = ForwardMsg()
            if message.HasField("new_session"):
                script = message.new_session.page_script_hash
            elif message.HasField("delta"):
                kind = message.delta.new_element.WhichOneof("type")
                pictures += kind == "vega_lite_chart"
                if kind == "exception":
                    raise SystemExit(f"{page or 'overview'}: {message.delta.new_element.exception.message}")
            elif message.HasField("auto_rerun"):
                again = message.auto_rerun
            elif message.HasField("script_finished"):
                took_s.append((time.perf_counter() - asked_s, page or "overview"))
                asked_s = float("inf")
                due_s = time.perf_counter() + (again.interval if again else 5)
            if asked_s == float("inf") and time.perf_counter() >= due_s:
                asked_s = await _ask(socket, script=script, fragment=again.fragment_id if again else "")
    return took_s, pictures


async def _ask(socket: ClientConnection, *, page_name: str = "", script: str = "", fragment: str = "") -> float:
    message = BackMsg()
    state = message.rerun_script
    state.page_name, state.page_script_hash, state.fragment_id = page_name, script, fragment
    state.query_string, state.is_auto_rerun = "range=15m", bool(fragment)
    await socket.send(message.SerializeToString())
    return time.perf_counter()


async def viewers(address: str, seconds: float) -> dict[str, object]:
    """Return what all of them saw: pages_s, pictures."""
    until_s = time.perf_counter() + seconds
    found = await asyncio.gather(*(view(address, page, until_s=until_s) for page in PAGES))
    return {"pages_s": [one for took_s, _ in found for one in took_s], "pictures": sum(one for _, one in found)}


def rank(values: list[float], percent: int) -> float:
    """Return a percentile in ms."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1] * 1e3


#: What is said of each stretch of time: words, seconds seen, percentile, and whether 20 % more is too much.
FIGURES: Final[tuple[tuple[str, Callable[[Seen], list[float]], int, bool], ...]] = (
    ("ack p50", lambda seen: seen.acks_s, 50, False),
    ("ack p99", lambda seen: seen.acks_s, 99, True),
    ("visible p50", lambda seen: seen.visible_s, 50, True),
    ("visible p95", lambda seen: seen.visible_s, 95, True),
    ("queryable p50", lambda seen: seen.queryable_s, 50, True),
    ("queryable p95", lambda seen: seen.queryable_s, 95, True),
    ("its read p50", lambda seen: seen.reads_s, 50, False),
    ("its read p95", lambda seen: seen.reads_s, 95, False),
)


def beside(collector: Collector, api: str, *, seconds: float, rounds: int) -> None:
    """Print what viewers cost ingest on a running collector, and what they waited."""
    per_s = capacity(collector)[0] / 2
    rights = "may" if may_interrupt() else "may not"
    print(f"capacity {2 * per_s * SPANS:,.0f} spans/s; sending {per_s * SPANS:,.0f}, load {os.getloadavg()[0]:.1f}")
    print(f"what acknowledges {rights} interrupt (real-time priority)")
    pairs = []
    with dashboard(api) as (address, pid):
        subprocess.run([sys.executable, __file__, "--view", address, "6"], check=True, stdout=subprocess.DEVNULL)
        for turn in range(rounds):
            alone, watched = Seen(), Seen()
            for found in (alone, watched) if turn % 2 == 0 else (watched, alone):
                with ExitStack() as meanwhile:
                    meanwhile.enter_context(spent(found, collector, pid))
                    if found is watched:
                        meanwhile.enter_context(ten(address, seconds=seconds, found=found))
                    run(collector, per_s=per_s, seconds=seconds, found=found)
            pairs.append((alone, watched))
    for name, values, percent, limited in FIGURES:
        _say(name, [tuple(rank(values(one), percent) for one in pair) for pair in pairs], limited=limited)
    for name, cpu_s in CPU.items():
        sides = zip(*pairs, strict=True)
        before, after = (sum(map(cpu_s, side)) / sum(seen.took_s for seen in side) for side in sides)
        print(f"{name:14} {before:8.2f} cores alone, {after:8.2f} with viewers")
    runs = sorted(one for _, watched in pairs for one in watched.pages_s)
    pages_s = [took_s for took_s, _ in runs]
    print(f"pages          {len(runs)} runs with {sum(watched.pictures for _, watched in pairs)} pictures")
    print(f"               {rank(pages_s, 50):.0f} ms p50, {rank(pages_s, 95):.0f} ms p95; at most (goal 3,000):")
    slowest = (f"{took_s * 1e3:.0f} ms {page}" for took_s, page in reversed(runs[-5:]))
    print(f"               {', '.join(slowest)}")


CPU: Final[dict[str, Callable[[Seen], float]]] = {
    "collector": lambda seen: seen.collector_cpu_s,
    "dashboard": lambda seen: seen.dashboard_cpu_s,
    "all processes": lambda seen: seen.machine_cpu_s,
    "stolen": lambda seen: seen.stolen_s,
}


def _say(name: str, pairs: list[tuple[float, ...]], *, limited: bool) -> None:
    before, after = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratios = sorted(watched / alone - 1 for alone, watched in pairs)
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    print(
        f"{name:14} {before:8.1f} ms alone, {after:8.1f} ms with {len(PAGES)} viewers: "
        f"{middle:+.0%} ({low:+.0%} to {high:+.0%} of {len(ratios)} pairs{', goal +20%' if limited else ''})"
    )


if __name__ == "__main__" and sys.argv[1:2] == ["--view"]:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    print(json.dumps(asyncio.run(viewers(sys.argv[2], float(sys.argv[3])))))
