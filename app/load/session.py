"""A load run: its steps one after the other, each judged when it is over, and what they say together."""

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics.objectives import Objective
from tailbudget.analytics.reader import Reader
from tailbudget.instrument.vocabulary import STAGES

from .behaviour import PATIENT, Behaviour
from .client import Client, Clock, Order
from .disruption import Disruption, phases
from .judge import Broken, Kept, broken, good, judge, rows
from .live import Live
from .plan import Traffic
from .results import Result, Sample, figures, percentiles
from .runner import Runner, Step
from .served import served
from .soak import Soak
from .target import Target
from .telemetry import Sender
from .traces import Shape

#: Results that a step keeps; a soak, whose percentiles are its slices', keeps fewer.
MOST_KEPT: Final = 50_000
MOST_IN_SOAK: Final = 5_000
#: The run id of requests that are not counted.
WARM_UP: Final = "warm-up"
#: Asks again where it is refused: what went wrong may take a moment to be over.
CALM: Final = Behaviour(retries=5)


@dataclass
class Stepped:
    """A step that is over: its figures, how the objectives fared, what broke, and its requests."""

    step: Step
    figures: dict[str, Any]
    kept: Sequence[Kept]
    goodput_per_s: float
    results: Sequence[Result]
    requests: pa.Table
    told: int
    broke: Broken | None = None

    @property
    def holds(self) -> bool | None:
        """Whether all objectives that counted a request hold; None where none counted any."""
        judged = [one.holds for one in self.kept if one.holds is not None]
        return all(judged) if judged else None

    def stages(self) -> dict[str, dict[str, float]]:
        """Return percentiles of the time in each stage that took any, over all requests whose stages are known."""
        columns = {stage: self.requests[f"{stage}_ms"].to_pylist() for stage in STAGES}
        return {stage: percentiles(values) for stage, values in columns.items() if any(values)}

    def figures_told(self) -> dict[str, Any]:
        """Return the step as a plain object, as reports and the collector have it."""
        return {
            "step": self.step.number,
            "unit": self.step.unit,
            "offered": self.step.offered,
            **self.figures,
            "goodput_per_s": round(self.goodput_per_s, 3),
            "holds": self.holds,
            "objectives": [{**asdict(one), "holds": one.holds} for one in self.kept],
            "broke": asdict(self.broke) if self.broke else None,
            "stages": self.stages(),
            "with_telemetry": self.told,
        }


async def _ended(task: "asyncio.Task[None] | None") -> None:
    if task:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def new_run_id() -> str:
    """Return a name for a run: when it began, and four hexadecimal digits."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class StoppedError(Exception):
    """The run was stopped between two steps."""


@dataclass
class Session:
    """Runs steps against one target. `reader` is the collector's, None where stages are not to be had."""

    target: Target
    traffic: Traffic
    objectives: Sequence[Objective] = ()
    reader: Reader | None = None
    run_id: str = field(default_factory=new_run_id)
    timeout_s: float = 60.0
    live: Live | None = None
    soaks: bool = False
    memory: Callable[[], float | None] = lambda: None
    disruption: Disruption | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    done: list[Stepped] = field(default_factory=list)
    stopped: bool = False
    _runner: Runner | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def stop(self) -> None:
        """End the step that runs as if its time were over; further steps are refused."""
        self.stopped = True
        if self._runner:
            self._runner.stop()

    async def run(self, step: Step) -> Stepped:
        """Send a step and judge it; raises StoppedError after `stop`."""
        if self.stopped:
            raise StoppedError
        sample = Sample(MOST_IN_SOAK if self.soaks else MOST_KEPT)
        began, clock = datetime.now(UTC), Clock()
        sender = Sender(self.run_id, self.target)
        soak = Soak(began_ns=clock.now_ns(), lasts_s=step.lasts_s, memory=self.memory) if self.soaks else None
        async with Client(self.target, timeout_s=self.timeout_s, clock=clock) as client:
            runner = Runner(
                self.target,
                self.traffic,
                client=client,
                sender=sender,
                clock=clock,
                numbers=self._numbers,
                keep=self._keeping(sample, soak),
            )
            self._runner = runner
            sampling = asyncio.create_task(soak.watch(clock.now_ns)) if soak else None
            watching = asyncio.create_task(self.live.watch(step, runner)) if self.live else None
            breaking = asyncio.create_task(self.disruption.run(step.lasts_s)) if self.disruption else None
            try:
                lasted_s = await runner.run(step)
            finally:
                await _ended(watching)
                await _ended(sampling)
            if breaking:
                await breaking
            stepped = await self._judged(step, sample, began, lasted_s=lasted_s)
            if soak:
                stepped.figures["soak"] = soak.told()
            if self.disruption:
                stepped.figures["phases"] = phases(sample.results, lasts_s=step.lasts_s)
            if self.traffic.crowd or self.disruption:
                stepped.figures["healthy_after"] = await self._asked_once(client, sender, clock)
        told = {name: value for name, value in stepped.figures_told().items() if name != "soak"}
        sender.tell_step(told, at_ns=clock.now_ns())
        self.done.append(stepped)
        return stepped

    async def _asked_once(self, client: Client, sender: Sender, clock: Clock) -> bool:
        """Return whether a plain request is answered now that all that went wrong is over."""
        warm_up = replace(sender, run_id=WARM_UP)
        result, shape = Result(0, 0, clock.now_ns()), next(self.traffic.lengths.shapes(0))
        span, headers = warm_up.begin(result, PATIENT, offered=0.0)
        body = self.target.body(Shape(shape.input_tokens, 1), 0)
        await client.send(Order(body, {**self.target.headers, **headers}, CALM), result)
        warm_up.end(span, result)
        return result.outcome == "ok"

    def _keeping(self, sample: Sample, soak: Soak | None) -> Callable[[Result], None]:
        def keep(result: Result) -> None:
            sample.add(result)
            if soak:
                soak.keep(result)
            if self.live:
                self.live.keep(result)

        return keep

    async def _judged(self, step: Step, sample: Sample, began: datetime, *, lasted_s: float) -> Stepped:
        known: dict[str, Any] = {}
        results = sample.results
        if (
            self.reader and results and len(results) == sample.n
        ):  # what does not fit here does not fit from there either
            expected = sum(one.outcome != "unsent" for one in results)
            known = await asyncio.to_thread(served, self.reader, self.run_id, since=began, expected=expected)
        requests = rows(results, known, run_id=self.run_id, target=self.target)
        kept = judge(requests, self.objectives)
        stepped = Stepped(
            step,
            figures(sample, lasted_s=lasted_s),
            kept,
            good(requests, self.objectives) / max(len(results), 1) * sample.n / lasted_s,
            results,
            requests,
            len(known),
        )
        calm = min((*self.done, stepped), key=lambda one: one.step.offered or 0.0)
        stepped.broke = broken(requests, self.objectives, kept, calm=calm.requests)
        return stepped
