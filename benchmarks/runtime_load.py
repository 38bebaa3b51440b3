"""First token and gaps between tokens under an open-loop load, with and without what the engine does about them.

python benchmarks/runtime_load.py [smollm2 | PATH] [--short]

Prints a table as docs/runtime.md has it, within six minutes.
"""

import argparse
import asyncio
import json
import random
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

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
#: Most ask something behind a common beginning, some bring a long text.
LONG_EVERY, COMMON_TOKENS, OWN_TOKENS, LONG_TOKENS = 6, 256, 24, 1200
#: What is to be copied: a list that an answer goes on with, as one that quotes or edits its prompt does.
LINES = 12
#: A load that does not end by then is given up: the machine is slower than its arrivals. And all loads together.
LIMIT_S, TOGETHER_S = 60.0, 330.0
SHORT = 6


def _mixed(number: int) -> list[int]:
    chance = random.Random(number)
    own = [chance.randint(100, 40_000) for _ in range(OWN_TOKENS)]
    if number % LONG_EVERY == LONG_EVERY - 1:
        return [chance.randint(100, 40_000) for _ in range(LONG_TOKENS)]
    return [*[(31 * index) % 40_000 + 10 for index in range(COMMON_TOKENS)], *own]


def _copying(number: int) -> str:
    chance = random.Random(number)
    lines = [f"{name} = settings[{name!r}]" for name in (f"value_{chance.randint(100, 999)}" for _ in range(LINES))]
    block = "\n".join(lines)
    return f"# the first part\n{block}\n# the same once more\n{block}\n# and once more\n{lines[0]}\n"


@dataclass(frozen=True)
class Load:
    """Poisson arrivals of `requests` prompts at `rate_a_s`, each answered with `tokens`."""

    prompt: Callable[[int], list[int] | str]
    rate_a_s: float
    requests: int
    tokens: int


MIXED = Load(_mixed, rate_a_s=0.8, requests=32, tokens=32)
COPYING = Load(_copying, rate_a_s=0.8, requests=16, tokens=96)
#: Row -> what is asked, and what differs from the defaults of this benchmark.
ROWS: dict[str, tuple[Load, str]] = {
    "mixed prompts, as set": (MIXED, ""),
    "prompts in one piece": (MIXED, "prefill_chunk=100_000"),
    "no prefix cache": (MIXED, "prefix_cache=False"),
    "answers that copy, as set": (COPYING, ""),
    "with `--speculate 4`": (COPYING, "speculate=4"),
}
HEAD = ("milliseconds", "first token p50", "p95", "gap p50", "p95", "p99", "a token, p50", "CPU-s", "guesses right")


@dataclass
class Seen:
    """What a client saw of one request: when it was due, and when each piece of the answer came, in seconds."""

    due_s: float
    came_s: list[float] = field(default_factory=list)


async def _ask(client: httpx.AsyncClient, load: Load, number: int, due_s: float) -> Seen:
    await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
    seen = Seen(due_s)
    body = {"model": "m", "prompt": load.prompt(number), "max_tokens": load.tokens, "temperature": 0,
            "ignore_eos": True, "stream": True}  # fmt: skip
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["text"]:
                seen.came_s.append(time.perf_counter())
    return seen


async def _asked(port: int, load: Load, numbers: range, limit_s: float) -> list[Seen]:
    """Return what the clients saw; TimeoutError where they are not done within `limit_s`."""
    chance, due_s = random.Random(1), time.perf_counter() + 0.5
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=600) as client, asyncio.timeout(limit_s):
        tasks = []
        for number in numbers:
            due_s += chance.expovariate(load.rate_a_s)
            tasks.append(asyncio.create_task(_ask(client, load, number, due_s)))
        return await asyncio.gather(*tasks)


def _percentiles(values_s: Sequence[float], *shares: float) -> list[str]:
    ordered = sorted(values_s)
    return [f"{ordered[int(share * (len(ordered) - 1))] * 1e3:,.0f}" for share in shares]


def _guesses(port: int) -> str:
    """Return how many of the guessed tokens were right, as a share; nothing where none was guessed."""
    told = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
    drafted, right = (
        float(re.findall(rf"^tailbudget:spec_decode_num_{kind}_tokens_total.* (\S+)$", told, re.MULTILINE)[0])
        for kind in ("draft", "accepted")
    )
    return f"{right / drafted:.0%}" if drafted else ""


def _row(name: str, path: Path, *, short: bool, until_s: float) -> list[str]:
    load, settings = ROWS[name]
    server = Server(name, sys.executable, CODE.format(settings=settings), 18441)
    server.start(path)

    def asked(numbers: range) -> list[Seen]:
        return asyncio.run(_asked(server.port, load, numbers, min(LIMIT_S, until_s - time.monotonic())))

    try:
        asked(range(1000, 1002))  # what is made on first use
        start_s = server.cpu_s()
        seen = asked(range(SHORT if short else load.requests))
        spent_s, guesses = server.cpu_s() - start_s, _guesses(server.port)
    except TimeoutError:
        return [name, "not answered in time: this machine is too slow for the load"]
    finally:
        server.stop()
    firsts = [each.came_s[0] - each.due_s for each in seen]
    gaps = [after - before for each in seen for before, after in pairwise(each.came_s)]
    # Guesses that are right come with the token before them: gaps grow then, and a token takes less.
    a_token = [(each.came_s[-1] - each.came_s[0]) / (load.tokens - 1) for each in seen]
    told = (firsts, 0.5, 0.95), (gaps, 0.5, 0.95, 0.99), (a_token, 0.5)
    figures = [figure for values_s, *shares in told for figure in _percentiles(values_s, *shares)]
    return [name, *figures, f"{spent_s:.1f}", guesses]


def main() -> None:
    """Print one line a row of ROWS."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="smollm2")
    parser.add_argument("--short", action="store_true", help=f"{SHORT} requests a row: to see that it works")
    asked = parser.parse_args()
    print(describe())
    try:
        path = resolve(asked.model)
    except UserError as error:
        sys.exit(str(error))
    for load in (MIXED, COPYING):
        kind = load.prompt.__name__.strip("_")
        print(f"{kind}: {load.requests} requests, {load.rate_a_s} a second, {load.tokens} tokens each")
    print()
    until_s = time.monotonic() + TOGETHER_S
    for cells in (HEAD, ["---"] * len(HEAD)):
        print(f"| {' | '.join(cells)} |")
    for name in ROWS:
        print(f"| {' | '.join(_row(name, path, short=asked.short, until_s=until_s))} |", flush=True)


if __name__ == "__main__":
    main()
