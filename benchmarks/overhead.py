"""What instrumenting costs: a span, a streamed chunk, the import, and a streaming service beside its bare self.

Run with `python benchmarks/overhead.py`. The best of several rounds counts: other work on the machine only adds. The
other instrumentors are measured where they are installed: `make test-libraries` makes `.venv-libraries`, whose python
runs this script with them. `python benchmarks/overhead.py tailbudget --pairs 30` compares the service alone, at the
pace of real models: ten pairs tell a share with a standard error of 0.5 %, forty with 0.25.
"""

import argparse
import asyncio
import importlib.util
import math
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
from machine import describe
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import INVALID_SPAN
from served import alone, streaming
from served.instructions import CYCLES, INSTRUCTIONS, Counter

from tailbudget import stage, stream
from tailbudget.instrument import calls, dialects, providers, wire

SPANS = 5_000
CHUNKS = 1_000
STREAMS = 30
ROUNDS = 7
#: Milliseconds from chunk to chunk (0: as fast as they go), and answers of each service, at once and in all. Tokens of
#: real models take 5 to 20 ms.
PACES = ((0.0, 2, 96), (5.0, 4, 64))
#: Pairs of processes a variant: of equals one is up to 5 % dearer than the other, by where its memory happens to lie.
#: More pairs help, longer ones hardly: shares of pairs of 24 requests scatter by 1.8 %, of 192 by 1.4 %.
PAIRS = 10
#: Spans are sent a second after they ended: whoever is measured pays for it in its own turn.
EXPORTED_AFTER_S = 1.1
STREAMING = Path(streaming.__file__)
#: For a process of its own that imports `served` as well.
BESIDE = os.pathsep.join((str(STREAMING.parent.parent), os.environ.get("PYTHONPATH", "")))
ATTRIBUTES: dict[str, Any] = {f"slo.bench.attribute_{i}": value for i, value in enumerate(("a", 1, 2.5, True) * 2)}


def best_ns(work: Callable[[], int], rounds: int = ROUNDS) -> float:
    """Return the fewest nanoseconds a unit over the rounds; `work` returns how many units it did."""
    times = []
    for _ in range(rounds):
        started_ns = time.perf_counter_ns()
        units = work()
        times.append((time.perf_counter_ns() - started_ns) / units)
    return min(times)


def our_spans() -> int:
    """Open and close stages with 8 attributes, `slo.stage` being one."""
    attributes = dict(list(ATTRIBUTES.items())[1:])
    for _ in range(SPANS):
        with stage("retrieval", "bench", **attributes):
            pass
    return SPANS


def bare_spans(provider: TracerProvider) -> Callable[[], int]:
    """Return the same work with OpenTelemetry alone."""
    tracer = provider.get_tracer("bench")

    def work() -> int:
        for _ in range(SPANS):
            with tracer.start_as_current_span("retrieval bench", attributes=ATTRIBUTES):
                pass
        return SPANS

    return work


def chat_chunk(text: str) -> Any:
    """Return a chunk of the shape of a chat completion's."""
    delta = SimpleNamespace(content=text, tool_calls=None)
    return SimpleNamespace(id="c", model="m", usage=None, choices=[SimpleNamespace(delta=delta, finish_reason=None)])


def on_the_wire(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Return the parts of an answer, observed as those of a client that no hook knows."""
    call = calls.begin("bench", calls.Asked(dialects.CHAT, model="bench", streamed=True))
    return wire.observed(parts, wire.Observer(call)) if call else parts


def read_streams(chunks: list[Any], wrapped: Callable[[Iterator[Any]], Iterator[Any]]) -> Callable[[], int]:
    """Return work that reads streams of these chunks to their end."""

    def work() -> int:
        for _ in range(STREAMS):
            for _chunk in wrapped(iter(chunks)):
                pass
        return STREAMS * len(chunks)

    return work


async def _produce(chunks: list[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


def read_async_streams(
    chunks: list[Any], wrapped: Callable[[AsyncIterator[Any]], AsyncIterator[Any]]
) -> Callable[[], int]:
    """Return work that reads asynchronous streams of these chunks to their end."""

    async def read() -> None:
        for _ in range(STREAMS):
            async for _chunk in wrapped(_produce(chunks)):
                pass

    def work() -> int:
        asyncio.run(read())
        return STREAMS * len(chunks)

    return work


@contextmanager
def private_providers() -> Iterator[TracerProvider]:
    """Record spans for real and throw them away: export is another thread's work."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())
    providers.use(provider)
    try:
        yield provider
    finally:
        providers.use(None)
        provider.shutdown()


IMPORT = """
import resource, time
import opentelemetry.sdk.trace.export, opentelemetry.sdk.metrics.export
import opentelemetry.exporter.otlp.proto.http.trace_exporter, opentelemetry.exporter.otlp.proto.http.metric_exporter
def resident_kb():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() // 1024
started_s, before_kb = time.perf_counter(), resident_kb()
import tailbudget
imported_s = time.perf_counter()
tailbudget.init("bench")
print((imported_s - started_s) * 1e3, (time.perf_counter() - imported_s) * 1e3, resident_kb() - before_kb)
"""


def import_costs(rounds: int = 5) -> tuple[float, float, float]:
    """Return the least of: ms of the import, ms of `init`, kB of both, beyond the SDK and its exporters."""
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    found = [
        [float(word) for word in subprocess.run(
            [sys.executable, "-c", IMPORT], env=environment, capture_output=True, text=True, check=True
        ).stdout.split()]
        for _ in range(rounds)
    ]  # fmt: skip
    imported_ms, begun_ms, grown_kb = (min(column) for column in zip(*found, strict=True))
    return imported_ms, begun_ms, grown_kb


def cpu_ms(pid: int) -> tuple[float, float]:
    """Return the CPU milliseconds that all threads of a process have used, and those of them beside its first."""
    used = {thread.name: _used_ms(thread) for thread in Path(f"/proc/{pid}/task").iterdir()}
    return sum(used.values()), sum(used.values()) - used[str(pid)]


def _used_ms(thread: Path) -> float:
    return int((thread / "schedstat").read_text().split()[0]) / 1e6


@contextmanager
def started(name: str, model_url: str = "") -> Iterator[tuple[int, str]]:
    """Run a part of the service; gives its process id and URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(STREAMING), name, str(port), model_url]
    with subprocess.Popen(command) as process:
        try:
            deadline_s = time.monotonic() + 60
            while time.monotonic() < deadline_s and process.poll() is None:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                time.sleep(0.1)
            yield process.pid, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def ask(url: str, requests: int, pace_ms: float, at_once: int) -> float:
    """Return the seconds that so many streamed answers took, so many of them at once."""
    async with httpx.AsyncClient(timeout=60) as client:

        async def some() -> None:
            for _ in range(requests // at_once):
                (await client.get(f"{url}/chat", params={"pace_ms": pace_ms})).raise_for_status()

        begun_s = time.perf_counter()
        await asyncio.gather(*(some() for _ in range(at_once)))
        return time.perf_counter() - begun_s


@dataclass
class Used:
    """What a process of each pair used, a request; NaN where nobody may count. Instructions are of user space."""

    requests_per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    aside_ms: list[float] = field(default_factory=list)  # of it, in threads beside the event loop's
    user_ms: list[float] = field(default_factory=list)  # of it, by the share of its cycles
    system_ms: list[float] = field(default_factory=list)  # the rest of it
    instructions: list[float] = field(default_factory=list)
    cycles: list[float] = field(default_factory=list)


class Served:
    """A service that runs in a process of its own, and what it has used since it was made."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._counters = [
            Counter(pid, INSTRUCTIONS), Counter(pid, CYCLES), Counter(pid, CYCLES, kernel=True)
        ]  # fmt: skip
        self._before = self._figures()

    def tell(self, used: Used, requests: int, took_s: float) -> None:
        """Add what so many requests took; the export of their spans counts."""
        figures = [(now - then) / requests for now, then in zip(self._figures(), self._before, strict=True)]
        spent_ms, aside_ms, instructions, cycles, in_kernel = figures
        used.requests_per_s.append(requests / took_s)
        used.cpu_ms.append(spent_ms)
        used.aside_ms.append(aside_ms)
        used.user_ms.append(spent_ms * cycles / (cycles + in_kernel))
        used.system_ms.append(spent_ms * in_kernel / (cycles + in_kernel))
        used.instructions.append(instructions)
        used.cycles.append(cycles)

    def _figures(self) -> tuple[float, ...]:
        return (*cpu_ms(self._pid), *(counter.total() for counter in self._counters))


def services() -> None:
    """Print what each instrumentor makes of a service that streams.

    It runs beside a bare one, both asked at the same time: what else the machine does befalls both. New processes each
    time, since the layout of its memory makes one slower than its twin. The control is a bare one beside another.
    """
    with ExitStack() as stack:
        model_url = stack.enter_context(started("model"))[1]
        subprocess.run([sys.executable, alone.__file__, model_url], env=os.environ | {"PYTHONPATH": BESIDE}, check=True)
        names = [name for name, (_, module) in streaming.VARIANTS.items() if installed(module)]
        for pace_ms, at_once, requests in PACES:
            pace = f"a chunk every {pace_ms:g} ms" if pace_ms else "chunks as fast as they go"
            print(f"service, {streaming.CHUNKS} chunks an answer, {at_once} answers at once, {pace}, {PAIRS} pairs:")
            for name in names:
                compare(name, model_url, (pace_ms, at_once, requests), PAIRS)
    for name in streaming.VARIANTS.keys() - set(names):
        print(f"service, {name}: not installed; make test-libraries, then .venv-libraries/bin/python {sys.argv[0]}")


def compare(name: str, model_url: str, pace: tuple[float, int, int], pairs: int) -> None:
    """Print what a variant makes of the service at one of the paces."""
    theirs, mine = Used(), Used()
    for number in range(pairs):
        pair = [("bare", theirs), (name, mine)]
        beside(pair[:: -1 if number % 2 else 1], model_url, *pace)
    show(name, mine, theirs)


def beside(pair: list[tuple[str, Used]], model_url: str, pace_ms: float, at_once: int, requests: int) -> None:
    """Start two services, ask both at once, and add to each `Used` what its service used."""

    async def asked(number: int) -> list[float]:
        return await asyncio.gather(*(ask(url, number, pace_ms, at_once) for _, url in running))

    with ExitStack() as stack:
        running = [stack.enter_context(started(name, model_url)) for name, _ in pair]
        asyncio.run(asked(2 * at_once))  # warms up
        time.sleep(EXPORTED_AFTER_S)
        served = [Served(pid) for pid, _ in running]
        took_s = asyncio.run(asked(requests))
        time.sleep(EXPORTED_AFTER_S)
        for (_, used), one, seconds in zip(pair, served, took_s, strict=True):
            one.tell(used, requests, seconds)


def show(name: str, mine: Used, theirs: Used) -> None:
    """Print two lines on a variant; a share is of what the bare service of the same pair used.

    More CPU than instructions is no contradiction: what telemetry adds runs once a chunk or a request and finds nothing
    of its own in the caches: half an instruction a cycle, where the service's own loop does two.
    """
    found = shares(mine, theirs, "cpu_ms")
    low, middle, high = statistics.quantiles(found, n=4)
    error = statistics.stdev(found) / len(found) ** 0.5
    used_ms, per_s = statistics.median(mine.cpu_ms), statistics.median(mine.requests_per_s)
    user_us, system_us = (1e3 * more(mine, theirs, measure) for measure in ("user_ms", "system_ms"))
    a_cycle = statistics.median(mine.instructions) / statistics.median(mine.cycles)
    title = "bare, one beside the other" if name == "bare" else name
    print(f"  {title:43} {per_s:6.1f} requests/s, {used_ms:5.1f} CPU ms a request, ", end="")
    print(f"{statistics.mean(found):+.1%} (standard error {error:.1%}; median {middle:+.1%}, ", end="")
    print(f"half of the pairs {low:+.1%} to {high:+.1%})", end="\n" if math.isnan(a_cycle) else ": ")
    if not math.isnan(a_cycle):
        print(f"{user_us:+.0f} us user, {system_us:+.0f} us system")
    print(f"  {'':43} {statistics.median(mine.aside_ms) / used_ms:.1%} of it beside the event loop; ", end="")
    if math.isnan(a_cycle):
        print("this machine counts no instructions")
        return
    print(f"{statistics.median(shares(mine, theirs, 'instructions')):+.2%} instructions: ", end="")
    print(f"{more(mine, theirs, 'instructions') / 1e3:+,.0f} thousand, {a_cycle:.2f} a cycle")


def more(mine: Used, theirs: Used, measure: str) -> float:
    """Return the median over the pairs of how much more of it these processes used a request than those."""
    return statistics.median(ours - bare for ours, bare in _pairs(mine, theirs, measure))


def shares(mine: Used, theirs: Used, measure: str) -> list[float]:
    """Return by how much more of it these processes used than those, pair by pair."""
    return [ours / bare - 1 for ours, bare in _pairs(mine, theirs, measure)]


def _pairs(mine: Used, theirs: Used, measure: str) -> list[tuple[float, float]]:
    return list(zip(getattr(mine, measure), getattr(theirs, measure), strict=True))


def installed(module: str) -> bool:
    """Say whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def main() -> None:
    """Print the figures, or those alone that are asked for."""
    asking = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    asking.add_argument("variant", nargs="?", choices=streaming.VARIANTS, help="compare a service with this alone")
    asking.add_argument("--pairs", type=int, default=PAIRS, help="so many pairs of services, two at least")
    asked = asking.parse_args()
    print(describe())
    if asked.variant:
        with started("model") as (_, model_url):
            compare(asked.variant, model_url, PACES[-1], max(2, asked.pairs))
    else:
        everything()


def everything() -> None:
    """Print what a span, a chunk and the import cost, and what becomes of the service."""
    kinds = {"text": ["word "] * CHUNKS, "chat completion": [chat_chunk("word ")] * CHUNKS}
    with private_providers() as provider:
        ours_us, bare_us = best_ns(our_spans) / 1e3, best_ns(bare_spans(provider)) / 1e3
        print(f"span with 8 attributes: {ours_us:.1f} us, bare OpenTelemetry {bare_us:.1f} us")
        for kind, chunks in kinds.items():
            bare = best_ns(read_streams(chunks, lambda it: it))
            ours = best_ns(read_streams(chunks, lambda it: stream(it, model="bench", span=INVALID_SPAN)))
            print(f"{kind} chunk: {ours - bare:.0f} ns added ({ours:.0f} ns against {bare:.0f} ns)")
            bare = best_ns(read_async_streams(chunks, lambda it: it))
            ours = best_ns(read_async_streams(chunks, lambda it: stream(it, model="bench", span=INVALID_SPAN)))
            print(f"{kind} chunk, async: {ours - bare:.0f} ns added ({ours:.0f} ns against {bare:.0f} ns)")
        events = [event.encode() for event in streaming.events(CHUNKS)]
        bare, ours = best_ns(read_streams(events, lambda it: it)), best_ns(read_streams(events, on_the_wire))
        print(f"event of a client that is not hooked, on the wire: {ours - bare:.0f} ns added")
    imported_ms, begun_ms, grown_kb = import_costs()
    print(f"import {imported_ms:.0f} ms, init {begun_ms:.0f} ms, {grown_kb / 1024:.1f} MB, all beyond the SDK's own")
    services()


if __name__ == "__main__":
    main()
