"""First token and gaps between tokens under an open-loop load, with and without what the scheduler does about them.

python benchmarks/runtime_load.py [smollm2 | PATH]
"""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
from machine import describe
from runtime_servers import Server

from tailbudget.gpu_runtime.models import resolve
from tailbudget.instrument.errors import UserError

CODE = """
import sys
from tailbudget.gpu_runtime import RuntimeSettings, serve
serve(RuntimeSettings(sys.argv[1], port=int(sys.argv[2]), served_name="m", max_running=16, device="cpu", {settings}))
"""
#: Variant -> what differs from the defaults of this benchmark.
VARIANTS = {
    "all": "",
    "prompts in one piece": "prefill_chunk=100_000",
    "no prefix cache": "prefix_cache=False",
    "with speculation": "speculate=2",
}
#: Poisson arrivals: most ask something behind a common beginning, some bring a long text, a few want it quoted.
RATE_A_S, REQUESTS, LONG_EVERY, QUOTE_EVERY = 0.6, 24, 6, 5
COMMON_TOKENS, OWN_TOKENS, LONG_TOKENS, ANSWER_TOKENS = 256, 24, 1200, 32


@dataclass
class Seen:
    """What a client saw of one request: when it was due, and when each piece of the answer came, in seconds."""

    due_s: float
    came_s: list[float] = field(default_factory=list)


def _prompt(number: int) -> list[int]:
    chance = random.Random(number)
    own = [chance.randint(100, 40_000) for _ in range(OWN_TOKENS)]
    if number % LONG_EVERY == LONG_EVERY - 1:
        return [chance.randint(100, 40_000) for _ in range(LONG_TOKENS)]
    if number % QUOTE_EVERY == QUOTE_EVERY - 1:
        return [*own, *own, *own, *own]
    return [*[(31 * index) % 40_000 + 10 for index in range(COMMON_TOKENS)], *own]


async def _ask(client: httpx.AsyncClient, number: int, due_s: float) -> Seen:
    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
    seen = Seen(due_s)
    body = {"model": "m", "prompt": _prompt(number), "max_tokens": ANSWER_TOKENS, "temperature": 0,
            "ignore_eos": True, "stream": True}  # fmt: skip
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                seen.came_s.append(time.perf_counter())
    return seen


async def _load(port: int, numbers: range) -> list[Seen]:
    chance, due_s = random.Random(1), time.perf_counter() + 0.5
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        tasks = []
        for number in numbers:
            due_s += chance.expovariate(RATE_A_S)
            tasks.append(asyncio.create_task(_ask(client, number, due_s)))
        return await asyncio.gather(*tasks)


def _percentiles(values_s: Sequence[float]) -> str:
    ordered = sorted(values_s)
    return "".join(f"{ordered[int(share * (len(ordered) - 1))] * 1e3:8.0f}" for share in (0.5, 0.95, 0.99))


def main() -> None:
    """Print one line a variant."""
    print(describe())
    try:
        path = resolve(sys.argv[1] if len(sys.argv) > 1 else "smollm2")
    except UserError as error:
        sys.exit(str(error))
    print(f"{REQUESTS} requests, {RATE_A_S} a second; milliseconds, by the client's clock")
    print(f"{'':22}{'first token p50':>16}{'p95':>8}{'p99':>8}{'gap p50':>12}{'p95':>8}{'p99':>8}{'CPU-s':>8}")
    for name, settings in VARIANTS.items():
        server = Server(name, sys.executable, CODE.format(settings=settings), 18441)
        server.start(path)
        try:
            asyncio.run(_load(server.port, range(1000, 1002)))  # what is made on first use
            start_s = server.cpu_s()
            seen = asyncio.run(_load(server.port, range(REQUESTS)))
            spent_s = server.cpu_s() - start_s
        finally:
            server.stop()
        firsts = [each.came_s[0] - each.due_s for each in seen if each.came_s]
        gaps = [after - before for each in seen for before, after in pairwise(each.came_s)]
        print(f"{name:22}        {_percentiles(firsts)}    {_percentiles(gaps)}{spent_s:8.1f}", flush=True)


if __name__ == "__main__":
    main()
