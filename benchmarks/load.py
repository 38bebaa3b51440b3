"""How late `tailbudget load` sends at 200 requests a second, and how its percentiles agree with another client's.

`python benchmarks/load.py [SECONDS]` sends to a scripted server in a process of its own. Beside the lateness stands
that of a bare timer in a process of its own at the same time: nobody comes below it on this machine.
"""

import asyncio
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.load_support import independent, model, route, scripted, send, traffic

from tailbudget.app.load.runner import Step
from tailbudget.app.load.session import Session

RATE = 200.0
LIMIT_MS = 5.0
RANKS = (50, 95, 99)
REQUESTS = 100


def timer(seconds: float, out: Any) -> None:
    """Put the 99th percentile of how late a bare timer wakes, in milliseconds."""

    async def wake() -> list[float]:
        began_s, late_ms = time.perf_counter(), []
        for number in range(int(seconds * RATE)):
            at_s = began_s + number / RATE
            await asyncio.sleep(max(0.0, at_s - time.perf_counter()))
            late_ms.append((time.perf_counter() - at_s) * 1e3)
        return late_ms

    out.put(float(np.percentile(asyncio.run(wake()), 99)))


def lateness(url: str, seconds: float) -> None:
    """Print how late requests were sent."""
    context = multiprocessing.get_context("spawn")
    out: Any = context.Queue()
    beside = context.Process(target=timer, args=(seconds, out))
    beside.start()
    began_s = time.process_time()
    asked = traffic("100", "8", arrivals="poisson")
    stepped = asyncio.run(Session(model(url), asked).run(Step(1, "requests/s", RATE, seconds)))
    cpu_ms = (time.process_time() - began_s) * 1e3 / len(stepped.results)
    bare_ms = out.get()
    beside.join()
    late_ms = stepped.figures["late_ms"]
    verdict = "within" if late_ms["p99"] < LIMIT_MS else "OVER"
    print(
        f"{len(stepped.results):,} streams at {RATE:g}/s: late p50 {late_ms['p50']:.2f}, p99 {late_ms['p99']:.2f} ms "
        f"({verdict} {LIMIT_MS:g}), a bare timer p99 {bare_ms:.2f} ms, ratio {late_ms['p99'] / bare_ms:.2f}; "
        f"{cpu_ms:.2f} CPU-ms a request"
    )


def agreement(url: str) -> None:
    """Print percentiles of the same requests, sent by both at the same time, each from a process of its own."""
    body = {"sse": 1, "parts": 2, "gap_ms": 10}
    with multiprocessing.get_context("spawn").Pool(1) as other:
        theirs = other.apply_async(independent, (url, body, REQUESTS))
        _, stepped = send(route(url, **body, spread="{n}"), traffic(), clients=1, requests=REQUESTS)
        b = theirs.get(600)
    for rank in RANKS:
        mine, its = (float(np.percentile(values, rank)) for values in ([one.total_ms for one in stepped.results], b))
        verdict = "agree" if abs(mine - its) <= max(2.0, 0.02 * its) else "DIFFER"
        print(f"p{rank}: {mine:.1f} ms, httpx {its:.1f} ms: {verdict} within 2 % or 2 ms")


def main(seconds: float) -> None:
    """Print both."""
    print(describe())
    with scripted() as url:
        lateness(url, seconds)
        agreement(url)


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
