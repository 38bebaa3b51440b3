"""The simulator tells how a real run went: the runtime on the tiny model, asked as Azure's users asked theirs."""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.step_time import StepFit, step_fits
from tailbudget.analytics.window import Window
from tailbudget.app.trace_files import read
from tailbudget.gpu_runtime.settings import RuntimeSettings
from tailbudget.gpu_runtime.simulator import Arrival, StepTime, simulate
from tailbudget.instrument import vocabulary
from tailbudget.instrument.vocabulary import ENGINE_METRICS

from .runtime_support import Receiver, receiver, server
from .spans import database
from .support import wait_until

pytestmark = pytest.mark.slow
#: Most of a step is slept, as if a device computed it, so that what else this machine does changes its length little.
SETTINGS: Final[dict[str, Any]] = {
    "max_running": 4, "max_waiting": 1000, "max_context": 512, "prefix_cache": False, "step_delay_ms": 25.0,
}  # fmt: skip
REQUESTS, STRETCH = 220, 1.55
#: A machine that runs at another speed in the burst than beside it has no one formula: three runs are given.
RUNS: Final = 3
WITHIN: Final = 0.15


def _arrivals() -> list[Arrival]:
    """Return what Azure's users asked, lengths and rate scaled to this model."""
    found = read("azure-conversation")[:REQUESTS]
    return [
        replace(
            arrival,
            at_s=arrival.at_s * STRETCH,
            prompt_tokens=min(1 + arrival.prompt_tokens // 16, 200),
            output_tokens=min(max(2, arrival.output_tokens // 10), 60),
        )
        for arrival in found
    ]


async def _ask(url: str, arrivals: Sequence[Arrival]) -> None:
    chance, began_s = random.Random(1), time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=1000)) as http:

        async def ask(arrival: Arrival) -> None:
            prompt = [5 + chance.randrange(400) for _ in range(arrival.prompt_tokens)]
            await asyncio.sleep(began_s + arrival.at_s - time.monotonic())
            body = {"model": "tiny", "prompt": prompt, "max_tokens": arrival.output_tokens, "ignore_eos": True}
            (await http.post("/v1/completions", json=body)).raise_for_status()

        await asyncio.gather(*map(ask, arrivals))


def _samples(received: Receiver) -> list[dict[str, float]]:
    """Return the rows of `engine` that the points are, `t` in microseconds."""
    rows: dict[int, dict[str, float]] = {}
    for name, _, point in received.points:
        if name in ENGINE_METRICS:
            row = rows.setdefault(point.time_unix_nano // 1000, {})
            row[ENGINE_METRICS[name]] = point.as_double or point.as_int
    return [{**row, "t": t} for t, row in rows.items() if row.get("steps")]


def _fit(samples: Sequence[dict[str, float]]) -> StepFit:
    connection = database()
    for row in samples:
        connection.execute(
            "insert into engine by name select make_timestamptz($t::bigint) as t, 'box' as instance, true as up, "
            "$steps as steps, $step_ms * 1000 as step_ms, $batch_tokens as batch_tokens, $prompt as prompt_tokens",
            {
                "t": row["t"],
                "prompt": row["prompt_tokens"],
                **{k: row[k] for k in ("steps", "step_ms", "batch_tokens")},
            },
        )
    now = datetime.now(UTC)
    (fit,) = step_fits(ConnectionReader(connection), Window(now - timedelta(hours=1), now))
    return fit


def _served(received: Receiver) -> list[tuple[Arrival, float]]:
    """Return each request as it arrived, and the milliseconds that it queued."""
    spans = sorted(received.spans, key=lambda span: int(span.start_time_unix_nano))
    found = []
    for span in spans:
        told = {a.key: a.value.double_value or a.value.int_value for a in span.attributes}
        at_s = (span.start_time_unix_nano - spans[0].start_time_unix_nano) / 1e9
        tokens = (int(told[f"gen_ai.usage.{side}_tokens"]) for side in ("input", "output"))
        prompt_tokens, output_tokens = tokens
        arrival = Arrival(at_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        found.append((arrival, 1e3 * told[vocabulary.TIME_IN_QUEUE]))
    return found


def _errors() -> dict[str, float]:
    """Return by how much simulation and run differ, as a share of the run's figure."""
    with receiver() as received, server(received.endpoint, **SETTINGS) as (url, _):
        asyncio.run(_ask(url, _arrivals()))
        wait_until(lambda: len(received.spans) == REQUESTS, timeout_s=20)
        wait_until(lambda: sum(row["steps"] for row in _samples(received)) > 0 and _is_idle(received), timeout_s=20)
    samples, served = _samples(received), _served(received)
    fit = _fit(samples)
    formula = StepTime(fit.base_ms, stream_ms=fit.stream_ms, prompt_token_ms=fit.prompt_token_ms)
    # The delay is part of the steps that were measured.
    run = simulate(
        [arrival for arrival, _ in served],
        step_time=formula,
        settings=RuntimeSettings(**{**SETTINGS, "step_delay_ms": 0}),
    )
    steps = sum(row["steps"] for row in samples)
    streams = sum(row["steps"] * row["batch_tokens"] - row["prompt_tokens"] for row in samples)
    pairs = {
        "queue": (sum(queue_ms for _, queue_ms in served), sum(row.queue_ms or 0 for row in run.ended)),
        "steps": (steps, run.steps.n),
        "batch": (streams / steps, run.steps.streams / run.steps.n),
        "busy": (sum(row["steps"] * row["step_ms"] for row in samples), run.steps.busy_ns / 1e9),
    }
    return {name: abs(simulated / real - 1) for name, (real, simulated) in pairs.items()}


def _is_idle(received: Receiver) -> bool:
    tokens = [point.as_double for name, _, point in received.points if name == "slo.engine.generation_tokens"]
    return bool(tokens[-1] == 0)


def test_the_queue_and_the_batch_of_a_real_run_come_out_within_15_percent() -> None:
    tried = []
    for _ in range(RUNS):
        tried.append(_errors())
        if max(tried[-1].values()) < WITHIN:
            return
    pytest.fail(f"shares by which simulation and run differ: {tried}")
