"""Real engines, asked for fifty minutes of a clock that the test turns, are diagnosed through a real collector."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import pytest

from .ailing import TWINS
from .clinic import Row, ask, assembled, found, service
from .clock_support import Clock
from .collector_support import Collector, collector
from .nvml_support import compiled
from .runtime_support import server
from .support import free_port, wait_until

pytestmark = pytest.mark.slow
#: Most of a step is slept, as if a device computed it, so that what else this machine does changes its length little.
STEP_MS: Final = 20.0
#: One slot, and in another region; a batch that takes a prompt in one piece; a batch that takes it in chunks, and that
#: starts only once it has been asked.
ENGINES: Final[dict[str, dict[str, Any]]] = {
    "narrow": {"max_running": 1, "max_waiting": 200, "control": True},
    "wide": {"max_running": 64, "prefill_chunk": 16_384},
    "cold": {"max_running": 64, "prefill_chunk": 64},
}
REGIONS: Final = {"narrow": "mars", "wide": "earth", "cold": "earth", "clinic": "earth"}
#: Which engine answers the sick twin of a route, and which the healthy one.
AT: Final = {"sick": "narrow", "well": "wide"}
BUSY, IDLE = "90", "5"


@dataclass(frozen=True)
class Case:
    """What a rule finds: the field of `scope` that tells the twins apart, and both of its values."""

    scope: str
    sick: str
    well: str
    settings: dict[str, float]


CASES: Final = {
    # Sixteen streams are more than a quarter of such a limit, one is not; five seconds have five samples.
    "batching_misconfig": Case("instance", "cold", "wide", {"batch_limit": 32, "fewest": 4}),
    "cold_start": Case("server", "cold", "wide", {"cold_factor": 10}),
    # By the regions alone: a busy loop takes its time to notice a connection.
    "far_endpoint": Case("peer", "narrow", "wide", {"far_ms": 10_000}),
    "hol_blocking": Case("server", "wide", "cold", {"slow_factor": 14}),
    "looks_fast_ends_late": Case("route", "/hasty/sick", "/hasty/well", {}),
    "noisy_tenant": Case("server", "narrow", "wide", {"least_ms": 3000}),
    "p95_over_2s": Case("route", "/waiting/sick", "/waiting/well", {"limit_ms": 3000}),
    "queue_precedes_timeout": Case("route", "/waiting/sick", "/waiting/well", {"timeout_s": 8}),
    "scheduler_bug": Case("instance", "narrow", "wide", {"least_s": 5, "fewest": 4}),
    "unpredictable": Case("route", "/varied/sick", "/varied/well", {}),
}

RULES: Final = tuple(CASES)


class Practice:
    """The service, its engines, and the time; minute 0 began fifty minutes ago, at the start of five minutes."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.clock = Clock(folder)
        self.collector: Collector = stack.enter_context(collector(folder / "data"))
        self.began_s = time.time() // 300 * 300 - 3000
        self._endpoint = f"http://127.0.0.1:{self.collector.http_port}"
        self._stack = stack
        self._engines: dict[str, ExitStack] = {}
        self._util = folder / "util"
        self._driver = compiled(folder)
        self._ports = {name: free_port() for name in ENGINES}
        self.minute(0, gpu=IDLE)
        self.asked = 0

    def minute(self, number: int, *, gpu: str = IDLE) -> None:
        """Let it be the start of a minute; nothing may be under way."""
        self._util.write_text(gpu)
        self.now_s = self.began_s + 60 * number
        self.clock.turn_to(self.now_s + 1)

    def start(self) -> None:
        """Start the service and the engines that are there from the beginning."""
        self.start_engine("narrow")
        self.start_engine("wide")
        urls = {name: f"http://127.0.0.1:{port}/v1" for name, port in self._ports.items()}
        self.url = self._stack.enter_context(
            service("clinic", self._endpoint, urls, **self.clock.environment, **_region("clinic"))
        )

    def start_engine(self, name: str) -> None:
        """Start an engine on the tiny model; the narrow one has the GPUs' driver."""
        driver = {"LD_LIBRARY_PATH": str(self._driver), "UTIL": str(self._util)} if name == "narrow" else {}
        settings = {"max_context": 2048, "step_delay_ms": STEP_MS, "prefix_cache": False, **ENGINES[name]}
        environment = {**self.clock.environment, **_region(name), **driver}
        self._engines[name] = self._stack.enter_context(ExitStack())
        self._engines[name].enter_context(
            server(self._endpoint, environment=environment, port=self._ports[name], **settings)
        )

    def stop_engine(self, name: str) -> None:
        """End an engine's process."""
        self._engines[name].close()

    def path(self, route: str, at: str, tokens: int, *, words: int = 1) -> str:
        return f"/{route}?at={at}&model=tiny&tokens={tokens}&words={words}"

    async def ask(self, paths: Sequence[str], *, at_once: int = 200, tenant: str = "some") -> None:
        self.asked += len(paths)
        await ask(self.url, paths, at_once=at_once, baggage=f"slo.tenant={tenant}")

    def of(self, engine: str, metric: str) -> float:
        """Return a figure that an engine tells Prometheus."""
        text = httpx.get(f"http://{self.address(engine)}/metrics").text
        lines = [line for line in text.splitlines() if line.startswith(f"tailbudget:{metric}")]
        return float(lines[0].rpartition(" ")[2])

    def has_said(self, engine: str, tokens: float) -> bool:
        return self.of(engine, "generation_tokens_total") >= tokens

    def control(self, engine: str, delay_ms: float) -> None:
        """Let each step of an engine take so long."""
        httpx.post(f"http://{self.address(engine)}/control", json={"step_delay_ms": delay_ms}).raise_for_status()

    def address(self, engine: str) -> str:
        """Return an engine's address."""
        return f"127.0.0.1:{self._ports[engine]}"

    def name(self, address: str) -> str:
        """Return whose address it is."""
        names = {str(port): name for name, port in self._ports.items()}
        return names.get(str(urlsplit(f"//{address}").port), address)


def _region(name: str) -> dict[str, str]:
    return {"OTEL_RESOURCE_ATTRIBUTES": f"cloud.region={REGIONS[name]}"}


async def queue_that_grows(practice: Practice) -> None:
    """Ask little for ten minutes, then, with one tenant in front, more each minute."""
    for minute in range(15):
        practice.minute(minute)
        large, small = (1, 3) if minute < 10 else (20 + 2 * (minute - 10), 5)
        for twin in TWINS:
            path = practice.path(f"waiting/{twin}", AT[twin], 10)
            await asyncio.gather(
                practice.ask([path] * large, tenant="large"), practice.ask([path] * small, tenant="small")
            )


async def answers_of_other_lengths(practice: Practice) -> None:
    """Ask for a few long answers among short ones, and for answers that are long all of them; twins: for none such."""
    practice.minute(15)
    varied = [practice.path("varied/sick", "wide", 120 if n % 8 == 0 else 4) for n in range(104)]
    hasty = {twin: practice.path(f"hasty/{twin}", "wide", tokens) for twin, tokens in (("sick", 160), ("well", 4))}
    await practice.ask([hasty["sick"]] * 50, at_once=17)
    await practice.ask([*varied, *[hasty["well"]] * 50], at_once=16)
    await practice.ask([practice.path("varied/well", "wide", 30)] * 104, at_once=26)


async def ask_the_cold_engine(practice: Practice) -> None:
    """Ask, then start the engine: the client tries again until it answers."""
    under_way = f"""select count(*) from metrics
        where name = 'slo.requests.active' and attrs->>'$.route' = '/steady/sick' and value > 0
            and t > to_timestamp({practice.now_s})"""
    first = asyncio.create_task(practice.ask([practice.path("steady/sick", "cold", 4)]))
    await until(lambda: practice.collector.value(under_way) > 0)
    await asyncio.to_thread(practice.start_engine, "cold")
    await first


async def engine_that_is_asked_before_it_is_there(practice: Practice) -> None:
    """Scale from nothing."""
    practice.minute(20)
    await ask_the_cold_engine(practice)


async def engine_that_was_stopped_while_nobody_asked(practice: Practice) -> None:
    """Scale to nothing, and from it when somebody asks a quarter of an hour after the last one."""
    practice.stop_engine("cold")
    practice.minute(50)
    await ask_the_cold_engine(practice)


async def long_prompts_beside_streams(practice: Practice) -> None:
    """Ask short ones, then long ones while six stream, then short ones; of both engines alike."""
    practice.minute(25)
    for at in ("wide", "cold"):
        short = practice.path("steady/well", at, 8)
        await practice.ask([short] * 14, at_once=4)
        before = practice.of(at, "generation_tokens_total")
        streams = asyncio.create_task(practice.ask([practice.path("steady/well", at, 150)] * 6))
        await until(partial(practice.has_said, at, before + 30))
        await practice.ask([practice.path("steady/well", at, 2, words=1900)] * 6)
        await streams
        await practice.ask([short] * 6, at_once=2)


async def batch_of_one(practice: Practice) -> None:
    """Keep both engines in a batch, then one of them with one stream at a time."""
    for minute, alone in ((30, 16), (35, 1)):
        practice.minute(minute, gpu=BUSY)
        paths = [practice.path("steady/well", at, 250) for at, n in (("wide", 16), ("cold", alone)) for _ in range(n)]
        await practice.ask(paths)


async def engine_that_stands_still(practice: Practice) -> None:
    """Stop the narrow engine's steps beside an idle GPU until the collector has seen it for a while."""
    practice.minute(40)
    stuck = f"""select count(*) from engine
        where waiting >= 5 and instance = '{practice.address("narrow")}' and t > to_timestamp({practice.now_s})"""
    practice.control("narrow", 4000)
    requests = asyncio.create_task(practice.ask([practice.path("steady/well", at, 4) for at in ("narrow",) * 7]))
    await until(lambda: practice.collector.value(stuck) >= 8)
    practice.control("narrow", STEP_MS)
    await requests


async def until(condition: Callable[[], bool]) -> None:
    """Wait without holding up what else this loop does."""
    await asyncio.to_thread(wait_until, condition, timeout_s=180)


HAPPENED: Final[tuple[Callable[[Practice], Awaitable[None]], ...]] = (
    queue_that_grows,
    answers_of_other_lengths,
    engine_that_is_asked_before_it_is_there,
    long_prompts_beside_streams,
    batch_of_one,
    engine_that_stands_still,
    engine_that_was_stopped_while_nobody_asked,
)


@pytest.fixture(scope="module")
def diagnosed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Row]]]:
    """What each rule finds after all that happened; addresses of engines are their names."""
    with ExitStack() as stack:
        practice = Practice(tmp_path_factory.mktemp("practice"), stack)
        practice.start()

        async def happen() -> None:
            for happens in HAPPENED:
                await happens(practice)

        asyncio.run(happen())
        assembled(practice.collector, practice.asked)
        yield {
            rule: [
                {**row, "about": practice.name(str(row["scope"][case.scope]))}
                for row in found(practice.collector, rule, **case.settings)
            ]
            for rule, case in CASES.items()
        }


@pytest.mark.parametrize("rule", RULES)
def test_the_trouble_is_found(rule: str, diagnosed: dict[str, list[Row]]) -> None:
    assert CASES[rule].sick in {row["about"] for row in diagnosed[rule]}


@pytest.mark.parametrize("rule", RULES)
def test_its_healthy_twin_is_left_alone(rule: str, diagnosed: dict[str, list[Row]]) -> None:
    assert CASES[rule].well not in {row["about"] for row in diagnosed[rule]}


def test_an_engine_is_cold_for_its_first_request_and_again_after_nobody_asked(
    diagnosed: dict[str, list[Row]],
) -> None:
    rows = [row for row in diagnosed["cold_start"] if row["about"] == "cold"]
    assert {row["evidence"]["idle_since"] is None for row in rows} == {True, False}
