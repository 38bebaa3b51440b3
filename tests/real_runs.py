"""A run of the real runtime in its own process: who asks when, what the engine told of it, how long requests waited."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.step_time import StepFit, step_fits
from tailbudget.analytics.window import Window
from tailbudget.gpu_runtime.simulator import Arrival
from tailbudget.instrument import vocabulary
from tailbudget.instrument.vocabulary import ENGINE_METRICS

from .runtime_support import Receiver, receiver, server
from .spans import database
from .support import wait_until

Sample = dict[str, float]


@dataclass(frozen=True)
class Served:
    """A request as it arrived, and milliseconds by the engine's own stamps."""

    arrival: Arrival
    queue_ms: float
    ttft_ms: float


class RealRun:
    """A running server, and what it was asked so far."""

    def __init__(self, url: str, received: Receiver) -> None:
        self._url, self._received = url, received

    def serve(self, arrivals: Sequence[Arrival]) -> tuple[list[Served], list[Sample]]:
        """Ask as the arrivals say; return what became of each, and the rows of `engine` until all was quiet."""
        received = self._received
        received.spans.clear()
        received.points.clear()
        asyncio.run(_ask(self._url, arrivals))
        wait_until(lambda: len(received.spans) == len(arrivals))
        wait_until(lambda: _is_idle(received))
        return _served(received), _samples(received)


@contextmanager
def real_run(**settings: Any) -> Iterator[RealRun]:
    """Run the runtime on the tiny model in a process of its own."""
    with receiver() as received, server(received.endpoint, **settings) as (url, _):
        yield RealRun(url, received)


def fit(samples: Sequence[Sample]) -> StepFit:
    """Return the step's formula, fitted to rows of `engine` by the question that users ask."""
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
    (found,) = step_fits(ConnectionReader(connection), Window(now - timedelta(hours=1), now))
    return found


async def _ask(url: str, arrivals: Sequence[Arrival]) -> None:
    chance, began_s = random.Random(1), time.monotonic()
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=httpx.Limits(max_connections=1000)) as http:

        async def ask(arrival: Arrival) -> None:
            prompt = [5 + chance.randrange(400) for _ in range(arrival.prompt_tokens)]
            await asyncio.sleep(began_s + arrival.at_s - time.monotonic())
            body = {"model": "tiny", "prompt": prompt, "max_tokens": arrival.output_tokens, "ignore_eos": True}
            (await http.post("/v1/completions", json=body)).raise_for_status()

        await asyncio.gather(*map(ask, arrivals))


def _samples(received: Receiver) -> list[Sample]:
    """Return the rows of `engine` that the points are, `t` in microseconds."""
    rows: dict[int, dict[str, float]] = {}
    for name, _, point in received.points:
        if name in ENGINE_METRICS:
            row = rows.setdefault(point.time_unix_nano // 1000, {})
            row[ENGINE_METRICS[name]] = point.as_double or point.as_int
    return [{**row, "t": t} for t, row in rows.items() if row.get("steps")]


def _served(received: Receiver) -> list[Served]:
    spans = sorted(received.spans, key=lambda span: int(span.start_time_unix_nano))
    found = []
    for span in spans:
        told = {a.key: a.value.double_value or a.value.int_value for a in span.attributes}
        at_s = (span.start_time_unix_nano - spans[0].start_time_unix_nano) / 1e9
        prompt_tokens, output_tokens = (int(told[f"gen_ai.usage.{side}_tokens"]) for side in ("input", "output"))
        arrival = Arrival(at_s, prompt_tokens=prompt_tokens, output_tokens=output_tokens)
        times_ms = (1e3 * told[key] for key in (vocabulary.TIME_IN_QUEUE, vocabulary.ENGINE_TIME_TO_FIRST_TOKEN))
        found.append(Served(arrival, *times_ms))
    return found


def _is_idle(received: Receiver) -> bool:
    tokens = [point.as_double for name, _, point in received.points if name == "slo.engine.generation_tokens"]
    return bool(tokens[-1] == 0)
