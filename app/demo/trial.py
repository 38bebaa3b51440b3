"""Runs one guard's workload on the real runtime, without the guard and with it, and prints both side by side."""

import argparse
import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from openai import APIError

import tailbudget
from tailbudget.instrument.errors import UserError
from tailbudget.instrument.guards import RefusedError

from .service import Assistant
from .trials import TRIALS, Ask, Question, Trial, Work, questions

REQUESTS = 200
#: A run ends after this, whatever was asked by then; what it prints says how many that were.
LIMIT_S = 240.0
#: A client that was refused does something else for so long.
PAUSE_S = 2.0


@dataclass
class Run:
    """What came of one run: milliseconds of the requests that were answered, and counts."""

    name: str
    answered_ms: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    cost: Counter[str] = field(default_factory=Counter)
    took_s: float = 0.0

    def line(self) -> str:
        """Return the run as a row under `HEAD`."""
        figures = "".join(f"{percentile(self.answered_ms, share):10,.0f}" for share in (0.5, 0.95, 0.99))
        cost = ", ".join(f"{n:,} {what}" for what, n in sorted(self.cost.items()))
        return f"{self.name:<8}{len(self.answered_ms):9}{self.refused:9}{self.failed:8}{figures}   {cost}"


HEAD = f"{'':<8}{'answered':>9}{'refused':>9}{'failed':>8}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}   cost"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of the values do not exceed; NaN of none."""
    ranked = sorted(values)
    return ranked[max(0, -int(-share * len(ranked) // 1) - 1)] if ranked else float("nan")


async def run(trial: Trial, name: str, assistant: Assistant, *, guarded: bool, requests: int, limit_s: float) -> Run:
    """Ask `requests` questions from the trial's clients, or fewer when `limit_s` is over."""
    result, work = Run("guarded" if guarded else "bare"), Work(assistant, guarded)
    ask, waiting = trial.build(work), iter(questions(requests))
    route = f"trial {name} {result.name}"
    began_s = time.monotonic()

    async def client() -> None:
        for question in waiting:
            if time.monotonic() - began_s > limit_s:
                return
            await _one(question, ask, result, route=route, counts=question.important or not trial.important_only)

    await asyncio.gather(*(client() for _ in range(trial.clients)))
    result.cost, result.took_s = work.cost, time.monotonic() - began_s
    return result


async def _one(question: Question, ask: Ask, result: Run, *, route: str, counts: bool) -> None:
    started_ns = time.perf_counter_ns()
    try:
        with tailbudget.request(route):
            await ask(question)
    except RefusedError:
        result.refused += 1
        await asyncio.sleep(PAUSE_S)
        return
    except APIError:
        result.failed += 1
        return
    if counts:
        result.answered_ms.append((time.perf_counter_ns() - started_ns) / 1e6)


async def compare(name: str, *, model_url: str, requests: int = REQUESTS, limit_s: float = LIMIT_S) -> list[Run]:
    """Run a trial without its guard and with it, and print both. The model is asked once before, to be warm."""
    trial, assistant = TRIALS[name], Assistant(model_url)
    if not await assistant.ready():
        raise UserError(f"no model answers on {model_url}: start one with 'tailbudget runtime'")
    with contextlib.suppress(APIError):
        await Work(assistant, guarded=False).generate(questions(1)[0], [])
    print(f"guard {name}: {trial.trouble}; {requests} requests, {trial.clients} at once", flush=True)
    print(HEAD, flush=True)
    runs = []
    for guarded in (False, True):
        done = await run(trial, name, assistant, guarded=guarded, requests=requests, limit_s=limit_s)
        print(done.line(), flush=True)
        runs.append(done)
    await assistant.close()
    print(
        f"done: the dashboard has each request under the routes 'trial {name} ...'; Ctrl-C ends all of it", flush=True
    )
    return runs


def main() -> None:
    """Compare, then wait for the end, so that the dashboard can be looked at."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--guard", required=True, choices=TRIALS)
    parser.add_argument("--model-url", required=True)
    parser.add_argument("--requests", type=int, default=REQUESTS)
    given = parser.parse_args()
    tailbudget.init("guard-trial")
    asyncio.run(compare(given.guard, model_url=given.model_url, requests=given.requests))
    tailbudget.shutdown()
    signal.pause()


if __name__ == "__main__":
    main()
