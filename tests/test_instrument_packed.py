"""Model calls of SDKs that nobody wrapped are read where their answers come packed, as those of real providers do."""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

from tests.instrument_support import Recorded, serve
from tests.scripted_server import ScriptedServer
from tests.test_instrument_model_sdks import (
    ASK,
    USAGE,
    asked_by,
    by_aiohttp,
    by_async_httpx,
    by_httpx,
    by_requests,
    named,
    of_openai,
    only,
    read,
)

WINDOW_BITS = {"gzip": 31, "deflate": 15}


class Packing:
    """Packs each part of the answers of an ASGI app by itself, so that a stream still streams."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.coding = "gzip"
        self.raw_headers: list[tuple[bytes, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.raw_headers = list(scope.get("headers", ()))
        packer = zlib.compressobj(wbits=WINDOW_BITS[self.coding])

        async def packed(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message["headers"] if pair[0] != b"content-length"]
                message["headers"] = [*headers, (b"content-encoding", self.coding.encode())]
            elif message["type"] == "http.response.body":
                body = packer.compress(message.get("body", b"")) + packer.flush(zlib.Z_SYNC_FLUSH)
                message["body"] = body if message.get("more_body") else body + packer.flush()
            await send(message)

        await self._app(scope, receive, packed if scope["type"] == "http" else send)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[Packing, str]]:
    packing = Packing(ScriptedServer().app())
    with serve(packing) as url:
        yield packing, url


@pytest.fixture(params=["gzip", "deflate"])
def url(served: tuple[Packing, str], request: pytest.FixtureRequest) -> str:
    served[0].coding = request.param
    return served[1]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with asked_by("openai", "httpx", "aiohttp", "urllib3") as recorded:
        yield recorded


@pytest.mark.parametrize("ask", [by_httpx, by_requests, by_aiohttp, by_async_httpx], ids=named)
async def test_a_packed_stream_is_read_as_it_comes(
    recorded: Recorded, url: str, ask: Callable[[str, str], Any]
) -> None:
    await read(ask, url, "ok")
    said = only(recorded)
    assert {name: said[name] for name in USAGE} == USAGE
    assert (said["slo.stream.end"], said["slo.stream.chunks"]) == ("complete", 6)
    assert len(said["slo.stream.gaps"]) == 1 + 4 * 3
    assert said["slo.time_to_first_token"] > 0


def whole_by_requests(url: str) -> None:
    assert requests.post(url, json={"model": "ok", "messages": ASK}, timeout=120).json()["id"] == "c-1"


def whole_by_urllib3(url: str) -> None:
    with urllib3.PoolManager() as pool:
        assert pool.request("POST", url, json={"model": "ok", "messages": ASK}).json()["id"] == "c-1"


def streamed_whole_by_httpx(url: str) -> None:
    with httpx.stream("POST", url, json={"model": "ok", "messages": ASK}, timeout=120) as answer:
        assert b"c-1" in answer.read()


def streamed_whole_by_openai(url: str) -> None:
    client = of_openai(url.removesuffix("/v1/chat/completions"))
    with client.chat.completions.with_streaming_response.create(model="ok", messages=ASK) as answer:
        assert answer.parse().id == "c-1"


@pytest.mark.parametrize(
    "ask", [whole_by_requests, whole_by_urllib3, streamed_whole_by_httpx, streamed_whole_by_openai], ids=named
)
def test_a_packed_answer_has_its_usage(recorded: Recorded, url: str, ask: Callable[[str], None]) -> None:
    ask(f"{url}/v1/chat/completions")
    said = only(recorded)
    assert {name: said[name] for name in USAGE} == USAGE
    assert said["gen_ai.response.finish_reasons"] == ("stop",)


@pytest.mark.parametrize("decompresses", [True, False])
async def test_a_session_that_unpacks_nothing_itself_is_understood_too(
    recorded: Recorded, url: str, decompresses: bool
) -> None:
    asked = {"model": "ok", "messages": ASK}
    async with (
        aiohttp.ClientSession(auto_decompress=decompresses) as session,
        session.post(f"{url}/v1/chat/completions", json=asked) as answer,
    ):
        await answer.read()
    assert only(recorded)["gen_ai.usage.output_tokens"] == 4


def test_headers_that_come_twice_stay_two(recorded: Recorded, served: tuple[Packing, str]) -> None:
    headers = urllib3.HTTPHeaderDict({"x-tag": "a"})
    headers.add("x-tag", "b")
    with urllib3.PoolManager() as pool:
        pool.request("GET", f"{served[1]}/plain", headers=headers)
    sent = [value for name, value in served[0].raw_headers if name == b"x-tag"]
    assert sent == [b"a", b"b"]
    assert "traceparent" not in headers
