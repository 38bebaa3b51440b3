"""Traffic for the demo: real arrivals, scaled to this machine, clients that leave, two incidents, and what was seen."""

import argparse
import asyncio
import csv
import itertools
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from .narrator import Narrator
from .timeline import EVENTS

ARRIVALS = Path(__file__).parents[1] / "load" / "samples" / "azure_conversation.csv"
#: Share of the time in which the decoding core is wanted: enough stream-seconds for the sag detector to compare, and
#: below a half, where the incident makes the tail and not the queue.
UTILISATION = 0.45
#: Half of what the demo's objective allows: nothing is to fire before the first incident, and with 0.02 a ticket did.
LEAVING_SHARE = 0.015
#: More at once than this and the next arrival is skipped: the load stays bounded whatever the machine does.
MOST_AT_ONCE = 6
#: Generated tokens of the trace are divided by this, then kept in the range, so that an answer takes a second or two.
TOKENS_DIVISOR = 3
TOKENS_RANGE = (32, 96)
#: Answers to measure before the traffic begins: how long one is differs from question to question.
CALIBRATION = 5
QUESTIONS = (
    "What does {} do?",
    "Who would use {} and why?",
    "What is {} good for?",
    "Which other packages need {}?",
    "What is the licence of {}?",
)
PACKAGES = ("duckdb", "streamlit", "httpx", "starlette", "uvicorn", "click", "pandas", "torch", "jinja2", "openai")


class Clients:
    """The people who ask: each call of `ask` is one of them."""

    def __init__(self, demo: str, *, seed: int = 7) -> None:
        self._random = random.Random(seed)  # noqa: S311 - who leaves when is no secret
        self._http = httpx.AsyncClient(base_url=demo, timeout=httpx.Timeout(180, connect=5))
        self.answered = self.left = self.failed = self.skipped = 0

    async def ask(self, max_tokens: int, *, may_leave: bool = True) -> float:
        """Ask one question and read the answer, or leave half-way; return the seconds it took."""
        question, leaves_after = self.draw(may_leave=may_leave)
        body = {"question": question, "max_tokens": max_tokens}
        began = time.monotonic()
        try:
            async with self._http.stream("POST", "/chat", json=body) as answer:
                answer.raise_for_status()
                await self._read(answer, leaves_after)
        except httpx.HTTPError:
            self.failed += 1
        return time.monotonic() - began

    async def _read(self, answer: httpx.Response, leaves_after: int | None) -> None:
        pieces = 0
        async for line in answer.aiter_lines():
            pieces += line.startswith("data: ")
            if pieces == leaves_after:
                self.left += 1
                return
        self.answered += 1

    def draw(self, *, may_leave: bool = True) -> tuple[str, int | None]:
        """Return what the next of them asks, and after how many pieces of the answer they leave, None for never."""
        question = self._random.choice(QUESTIONS).format(self._random.choice(PACKAGES))
        leaves = may_leave and self._random.random() < LEAVING_SHARE
        return question, self._random.randint(1, 8) if leaves else None


def arrivals() -> Iterator[tuple[float, int]]:
    """Yield (seconds since the start, generated tokens), the trace over and over."""
    with ARRIVALS.open(encoding="utf-8") as file:
        rows = [(float(row["offset_s"]), int(row["generated_tokens"])) for row in csv.DictReader(file)]
    length_s = rows[-1][0]
    for lap in itertools.count():
        for offset_s, generated in rows:
            yield lap * length_s + offset_s, generated


def answer_tokens(generated: int) -> int:
    """Return how many tokens to ask for where the trace generated `generated`."""
    low, high = TOKENS_RANGE
    return min(max(generated // TOKENS_DIVISOR, low), high)


async def replay(clients: Clients, *, stretch: float) -> None:
    """Send the trace's requests at `stretch` times its intervals, for ever."""
    began, running = time.monotonic(), set[asyncio.Task[float]]()
    for offset_s, generated in arrivals():
        await asyncio.sleep(max(0.0, began + offset_s * stretch - time.monotonic()))
        if len(running) >= MOST_AT_ONCE:
            clients.skipped += 1
            continue
        task = asyncio.create_task(clients.ask(answer_tokens(generated)))
        running.add(task)
        task.add_done_callback(running.discard)


async def incidents(targets: dict[str, str], narrator: Narrator) -> None:
    """Let each event of the timeline happen at its time."""
    async with httpx.AsyncClient(timeout=10) as http:
        for event in EVENTS:
            await asyncio.sleep(max(0.0, event.at_s - narrator.elapsed_s()))
            answer = await http.post(f"{targets[event.target]}/control", json={event.key: event.value})
            answer.raise_for_status()
            narrator.say(f"-- {event.says}")


def trace_rate() -> float:
    """Return the trace's own requests a second."""
    with ARRIVALS.open(encoding="utf-8") as file:
        offsets = [float(row["offset_s"]) for row in csv.DictReader(file)]
    return len(offsets) / offsets[-1]


async def run(*, demo: str, runtime: str, api: str) -> None:
    """Measure how long an answer takes here, then replay, play the incidents and tell what is seen, for ever."""
    clients = Clients(demo)
    await clients.ask(TOKENS_RANGE[0], may_leave=False)
    narrator = Narrator(api)  # its clock starts now
    narrator.say("the first request is answered")
    alone_s = statistics.mean([await clients.ask(TOKENS_RANGE[1], may_leave=False) for _ in range(CALIBRATION)])
    rate = UTILISATION / alone_s
    stretch = trace_rate() / rate
    narrator.say(
        f"an answer takes {alone_s:.1f} s here: {rate:.2f} requests a second, real arrivals {stretch:.0f}x slower"
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(replay(clients, stretch=stretch))
        group.create_task(incidents({"demo": demo, "runtime": runtime}, narrator))
        group.create_task(narrator.watch(clients))


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("demo", "runtime", "api"):
        parser.add_argument(f"--{name}", required=True, help="base address")
    asyncio.run(run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
