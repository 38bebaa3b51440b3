"""A real service with real clients is diagnosed through a real collector: each sick route is found, its twin is not."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from .ailing import HANDLERS, TWINS
from .clinic import Row, ask, assembled, found, service
from .collector_support import Collector, collector
from .instrument_support import ModelServer, certificate, serve
from .proxies import forwarding
from .scripted_server import ScriptedServer
from .support import wait_until

#: Route of `tests.ailing` -> the rule that finds its sick twin.
RULE_OF: Final = {
    "agent_loop": "agent_loop",
    "agent_loop_again": "agent_loop",
    "buffered_stream": "buffered_stream",
    "cold_start_loading": "cold_start",
    "cold_start_unknowing": "cold_start",
    "dropped": "dropped",
    "far_endpoint": "far_endpoint",
    "no_pooling": "no_pooling",
    "output_uncapped": "output_uncapped",
    "output_uncapped_long": "output_uncapped",
    "oversized_model": "oversized_model",
    "prompt_bloat": "prompt_bloat",
    "rate_limited": "rate_limited",
    "tool_series": "tool_series",
}
RULES: Final = tuple(sorted(set(RULE_OF.values())))
#: Route -> what the finding is about, where that is no route.
SUBJECT_OF: Final = {
    "cold_start_loading": "retrieval load index",
    "far_endpoint": "far",
    "no_pooling": "unpooled",
    "rate_limited": "refusing",
}
#: Route -> milliseconds that are slept there for nothing, and the figure that has them.
LEAST_MS: Final = {
    "agent_loop_again": ("saved_ms", 15),
    "buffered_stream": ("held_ms", 1000),
    "far_endpoint": ("round_trip_ms", 1140),
    "rate_limited": ("backoff_ms", 40),
    "tool_series": ("saved_ms", 380),
}
#: What the refusing provider refuses: the model is `busy-9`.
REFUSALS: Final = 9
#: Requests to each twin. Half of them suffice: traffic may stand across the edge of two five minutes.
EACH: Final = 22
FEWEST: Final[dict[str, float]] = {"fewest": EACH // 2 - 1}
#: Of a pool's connections four are opened, and on a busy machine a loop takes 50 ms, on one with fifteen at work a core
#: 300, to notice that one is.
SETTINGS: Final[dict[str, dict[str, float]]] = {
    "far_endpoint": {"fewest": 3, "far_ms": 1000},
}
FAR_S: Final = 1.2


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Everybody whom the service calls."""
    folder = tmp_path_factory.mktemp("around")
    index, tls = folder / "index.json", certificate(folder)
    index.write_text(json.dumps({f"word {n}": n for n in range(1000)}))
    words = ["word "] * 40
    with ExitStack() as stack:

        def run(app: Any, **options: Any) -> str:
            return stack.enter_context(serve(app, **options))

        model = run(ModelServer(words).app())
        web, other = (run(ScriptedServer().app(), tls=tls) for _ in range(2))
        far, near = (
            stack.enter_context(forwarding(urlsplit(web).port or 0, delay_s=delay_s)) for delay_s in (FAR_S, 0)
        )
        yield {
            "certificate": tls.chain,
            "index": str(index),
            "model": f"{model}/v1",
            "stuck": f"{model}/stuck/v1",
            "router": f"{run(ModelServer(['the ', 'first']).app())}/v1",
            "slow": f"{run(ModelServer(['word '] * 12, delay_s=0.1).app())}/v1",
            "wordy": f"{run(ModelServer(['word '] * 600).app())}/v1",
            "refusing": f"{run(ScriptedServer().app())}/v1",
            "generous": f"{run(ScriptedServer(left=90, left_tokens=45_000).app())}/v1",
            "unpooled": web,
            "pooled": other,
            "far": f"https://localhost:{far}",
            "near": f"https://localhost:{near}",
        }


@pytest.fixture(scope="module")
def diagnosed(urls: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Row]]]:
    """What each rule finds after clients have asked every route."""
    with collector(tmp_path_factory.mktemp("data")) as running:
        with service("clinic", f"http://127.0.0.1:{running.http_port}", urls) as url:
            start_s = ask_a_young_service(running, url)
            for name in sorted(HANDLERS.keys() - {"cold_start_unknowing"}):
                twins = [f"/{name}/{twin}" for twin in TWINS]
                asyncio.run(ask(url, [*twins, *(["/dropped/sick?leave"] if name == "dropped" else [])] * EACH))
        assembled(running, EACH * (2 * len(HANDLERS) + 3))
        settings = {**SETTINGS, "cold_start": {"start_s": start_s}}
        yield {rule: found(running, rule, **settings.get(rule, FEWEST)) for rule in RULES}


def ask_a_young_service(running: Collector, url: str) -> float:
    """Ask for the same twice, and return how old in seconds the service was between."""
    things = [f"/cold_start_unknowing/{twin}?thing={n}" for n in range(EACH) for twin in TWINS]
    asyncio.run(ask(url, things, at_once=EACH))
    answered_s = time.time()
    wait_until(lambda: running.value("select count(*) from metrics") > 0, what="a metric of the service")
    began_s: float = running.value("select epoch(min(coalesce(started, t))) from metrics")
    asyncio.run(ask(url, things))
    return answered_s - began_s


def subject(row: Row, urls: dict[str, str]) -> str:
    """Return what a finding is about: a route, a span, or who is called."""
    scope = row["scope"]
    peers = {urlsplit(url).netloc: name for name, url in urls.items()}
    return str(scope.get("route") or scope.get("span") or peers[scope["peer"]])


@pytest.mark.parametrize("name", HANDLERS)
def test_the_trouble_of_a_route_is_found(name: str, diagnosed: dict[str, list[Row]], urls: dict[str, str]) -> None:
    rows = [row for row in diagnosed[RULE_OF[name]] if subject(row, urls) == SUBJECT_OF.get(name, f"/{name}/sick")]
    assert rows
    figure, least_ms = LEAST_MS.get(name, ("", 0))
    for row in rows:
        assert not figure or row["evidence"][figure] >= least_ms


@pytest.mark.parametrize("rule", RULES)
def test_its_twin_and_all_other_routes_are_left_alone(
    rule: str, diagnosed: dict[str, list[Row]], urls: dict[str, str]
) -> None:
    sick = {SUBJECT_OF.get(name, f"/{name}/sick") for name in HANDLERS if RULE_OF[name] == rule}
    assert {subject(row, urls) for row in diagnosed[rule]} == sick


def test_a_call_that_was_refused_and_tried_again_counts_as_refused(diagnosed: dict[str, list[Row]]) -> None:
    refused = sum(row["evidence"]["n"] * row["evidence"]["refused_share"] for row in diagnosed["rate_limited"])
    assert REFUSALS / 3 <= round(refused) <= REFUSALS  # a call has three attempts
