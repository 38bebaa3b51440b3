"""On the real runtime with the tiny model a sweep ends within one step of the knee that trying every load finds."""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from tailbudget.analytics.objectives import Limit, Objective
from tailbudget.app.load.prompts import Prompts
from tailbudget.app.load.runner import Step
from tailbudget.app.load.session import Session, Stepped
from tailbudget.app.load.sweep import Knee, sweep
from tailbudget.app.load.target import Target

from .load_support import traffic
from .runtime_support import server
from .support import wait_until

#: Two at once, 9 steps of at least 25 ms a request: about 8 requests a second.
SETTINGS: dict[str, Any] = {"max_running": 2, "step_delay_ms": 25.0, "max_waiting": 512}
TOKENS = 8
RATES = [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]
LIMIT_MS, TARGET, LASTS_S = 1000.0, 0.9, 12.0
SLO = Objective(name="total", target=TARGET, limits=(Limit("total", LIMIT_MS),))


async def _tried(url: str, model: str, rate: float) -> bool:
    """Return whether the objective holds at a rate, by another client with instants and a clock of its own."""
    rng, at_s, plan = random.Random(f"plan {rate}"), 0.0, []
    while (at_s := at_s + rng.expovariate(rate)) < LASTS_S:
        plan.append(at_s)
    body = {"model": model, "max_tokens": TOKENS, "messages": [{"role": "user", "content": "The river runs"}]}
    async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as client:
        began_s = time.monotonic()

        async def one(planned_s: float) -> bool:
            await asyncio.sleep(max(0.0, began_s + planned_s - time.monotonic()))
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
            return answer.status_code == 200 and (time.monotonic() - began_s - planned_s) * 1e3 < LIMIT_MS

        good = await asyncio.gather(*map(one, plan))
    return sum(good) >= TARGET * len(good)


def _brute_force(url: str, model: str, rates: Sequence[float]) -> float:
    """Return the highest rate before the first that does not hold."""
    knee = 0.0
    for rate in rates:
        if not asyncio.run(_tried(url, model, rate)):
            break
        knee = rate
    return knee


@pytest.mark.slow
def test_the_knee_on_the_runtime_is_within_one_step_of_a_brute_force_search() -> None:
    with server("http://127.0.0.1:9", **SETTINGS) as (url, _):
        model = wait_until(lambda: str(httpx.get(f"{url}/v1/models").json()["data"][0]["id"]), what="its model")
        target = Target(f"{url}/v1/chat/completions", "chat", Prompts(512), model)

        async def swept() -> Knee:
            session = Session(target, traffic("10", str(TOKENS)), [SLO])

            async def run(rate: float) -> Stepped:
                return await session.run(Step(len(session.done) + 1, "requests/s", rate, LASTS_S))

            return await sweep(RATES, run)

        found = asyncio.run(swept())
        tried = _brute_force(url, model, RATES)
    assert found.load is not None
    assert found.beyond is not None  # the range reaches beyond what it carries
    assert abs(RATES.index(found.load) - RATES.index(tried)) <= 1
