"""The oldest clients that are promised: each stream is one span, each connection has its phases.

`make test-libraries` runs this in a venv of such versions, and in the one of the newest.
"""

import asyncio
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import aiohttp
import httpx
import pytest
import requests

from tests import test_instrument_network as network
from tests.instrument_support import Recorded, serve
from tests.scripted_server import ScriptedServer
from tests.test_instrument_model_sdks import (
    ASK,
    CLIENTS,
    SDKS,
    anthropic_messages,
    asked_by,
    async_anthropic,
    async_openai,
    by_aiohttp,
    by_async_httpx,
    by_httpx,
    by_requests,
    named,
    of_anthropic,
    of_openai,
    only,
    openai_chat,
    read,
)
from tests.test_instrument_network import scripted, secure

__all__ = ["scripted", "secure"]
pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
STREAMS = [
    openai_chat, async_openai, anthropic_messages, async_anthropic, by_httpx, by_async_httpx, by_requests, by_aiohttp
]  # fmt: skip


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    names = ("openai", "anthropic", "httpx", "aiohttp", "urllib3", "requests")
    print("\n" + ", ".join(f"{name} {version(name)}" for name in names))
    with serve(ScriptedServer().app()) as url:
        yield url


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with asked_by(*CLIENTS) as recorded:
        yield recorded


every_stream = pytest.mark.parametrize("ask", STREAMS, ids=named)


@every_stream
async def test_a_stream_that_ends_is_complete(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    await read(ask, url, "ok")
    said = only(recorded)
    assert said["slo.stream.end"] == "complete"
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (11, 4)
    assert 0 < said["slo.time_to_first_token"] <= said["slo.time_to_final"]
    assert said["gen_ai.request.stream"] is True
    assert said["slo.net.attempts"] == 1
    assert {"slo.net.connect", "slo.net.send", "slo.net.wait_headers"} <= set(said)


@every_stream
async def test_a_stream_that_breaks_is_an_error(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017 - of nine kinds
        await read(ask, url, "breaks")
    assert only(recorded)["slo.stream.end"] == "error"


@every_stream
async def test_a_stream_that_is_left_is_closed(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    await read(ask, url, "slow", chunks=3)
    said = only(recorded)
    assert said["slo.stream.end"] in ("closed", "cancelled", "abandoned")  # the last where nobody closed it
    assert said["slo.time_to_first_token"] > 0


@pytest.mark.parametrize("ask", [each for each in STREAMS if each in SDKS], ids=named)
async def test_retries_are_attempts_of_one_call(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    await read(ask, url, f"busy-2-{named(ask)}")
    said = only(recorded)
    assert (said["slo.net.attempts"], said["slo.ratelimit.refused"]) == (3, 2)
    assert said["slo.net.backoff"] > 0


async def by_aiohttp_whole(url: str) -> None:
    session = aiohttp.ClientSession()
    async with session, session.post(f"{url}/v1/chat/completions", json={"model": "ok", "messages": ASK}) as answer:
        await answer.json()


WHOLE: dict[str, Callable[[str], Any]] = {
    "openai": lambda url: of_openai(url).chat.completions.create(model="ok", messages=ASK),
    "openai raw": lambda url: of_openai(url).chat.completions.with_raw_response.create(model="ok", messages=ASK),
    "anthropic": lambda url: of_anthropic(url).messages.create(model="ok", messages=ASK, max_tokens=9),
    "httpx": lambda url: httpx.post(f"{url}/v1/chat/completions", json={"model": "ok", "messages": ASK}),
    "requests": lambda url: requests.post(
        f"{url}/v1/chat/completions", json={"model": "ok", "messages": ASK}, timeout=120
    ),
    "aiohttp": lambda url: asyncio.run(by_aiohttp_whole(url)),
}


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_comes_whole_has_its_usage(recorded: Recorded, url: str, name: str) -> None:
    WHOLE[name](url)
    said = only(recorded)
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (11, 4)
    assert said["gen_ai.response.finish_reasons"] in (("stop",), ("end_turn",))


def test_embeddings_are_retrieval(recorded: Recorded, url: str) -> None:
    of_openai(url).embeddings.create(model="ok", input="hi", encoding_format="float")
    assert only(recorded)["gen_ai.operation.name"] == "embeddings"


@pytest.mark.parametrize("ask", [network.twice_with_httpx, network.twice_with_async_httpx,
                                 network.twice_with_requests, network.twice_with_aiohttp], ids=named)  # fmt: skip
async def test_the_phases_of_a_connection(
    recorded: Recorded, secure: tuple[str, str], ask: Callable[[str, str], Any]
) -> None:
    await network.test_each_phase_of_a_connection_is_timed_and_a_reused_one_has_none(recorded, secure, ask)


async def test_waiting_for_the_pool(recorded: Recorded, scripted: tuple[ScriptedServer, str]) -> None:
    await network.test_waiting_for_a_connection_of_the_pool_is_seen(recorded, scripted)
