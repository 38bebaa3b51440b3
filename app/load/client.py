"""One request over HTTP: sent when it was planned, its answer read as it streams, each part stamped."""

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final

import aiohttp
import orjson

from .behaviour import Behaviour
from .results import Result
from .target import Target

#: What a client that is told to come back, but not when, waits.
RETRY_S: Final = 1.0
#: A connection that was idle for longer is not used again: servers close theirs after 5 s and more, and a request that
#: meets the closing fails.
IDLE_S: Final = 2.0
REFUSED: Final = (429, 503)


@dataclass(frozen=True, slots=True)
class Order:
    """What to send, and how its client behaves."""

    body: bytes
    headers: Mapping[str, str]
    behaviour: Behaviour


class Clock:
    """Unix nanoseconds that never jump: read once, then counted on."""

    def __init__(self) -> None:
        self._anchor_ns = time.time_ns() - time.perf_counter_ns()

    def now_ns(self) -> int:
        """Return unix nanoseconds."""
        return time.perf_counter_ns() + self._anchor_ns


class Client:
    """Connections to a target, as many as there are requests at once; `timeout_s` is all the time a request has."""

    def __init__(self, target: Target, *, timeout_s: float, clock: Clock) -> None:
        self._target = target
        self._timeout_s = timeout_s
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Client":
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, keepalive_timeout=IDLE_S),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Content-Type": "application/json"} if self._target.method != "GET" else {},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def send(self, order: Order, result: Result) -> None:
        """Send the request now and fill in `result`; a fault of the network or the server is an outcome."""
        result.late_ms = (self._clock.now_ns() - result.planned_ns) / 1e6
        limit_s = order.behaviour.leaves_after_s
        leaving = limit_s is not None and limit_s < self._timeout_s
        try:
            async with asyncio.timeout(limit_s if leaving else self._timeout_s):
                await self._until_served(order, result)
        except TimeoutError:
            result.outcome = "left" if leaving else "timeout"
        except (aiohttp.ClientError, OSError, ValueError) as error:
            result.outcome, result.error = "error", type(error).__name__
        result.total_ms = (self._clock.now_ns() - result.planned_ns) / 1e6

    async def _until_served(self, order: Order, result: Result) -> None:
        while (wait_s := await self._attempt(order, result)) is not None and result.attempts <= order.behaviour.retries:
            result.attempts += 1
            result.waited_ms += wait_s * 1e3
            await asyncio.sleep(wait_s)

    async def _attempt(self, order: Order, result: Result) -> float | None:
        """Send it once; return after how many seconds to come back, None when it was not refused."""
        if self._session is None:
            raise RuntimeError("the client is not open: use it under `async with`")
        target = self._target
        request = self._session.request(target.method, target.url, data=order.body or None, headers=order.headers)
        async with request as answer:
            result.status = answer.status
            result.outcome = outcome_of(answer.status)
            if answer.status >= 400:
                await answer.read()
                return retry_after_s(answer.headers) if answer.status in REFUSED else None
            if await self._read(answer, order.behaviour, result):
                answer.close()  # the connection too: that is how a server learns that its client is gone
        return None

    async def _read(self, answer: aiohttp.ClientResponse, behaviour: Behaviour, result: Result) -> bool:
        """Read the answer to its end; return whether the client left before."""
        streams = answer.content_type == "text/event-stream"
        reader = Events(result, openai=self._target.api != "http")
        whole = bytearray()
        async for block in answer.content.iter_any():
            parts = result.chunks
            if streams:
                reader.feed(block, (self._clock.now_ns() - result.planned_ns) / 1e6)
            elif len(whole) < 1 << 20:
                whole += block
            if behaviour.leaves_after_chunks is not None and result.chunks >= behaviour.leaves_after_chunks:
                result.outcome = "left"
                return True
            if behaviour.reads_s and result.chunks > parts:
                await self._dawdle(behaviour.reads_s * (result.chunks - parts), result)
        if not streams and self._target.api != "http":
            reader.take_usage(_object(orjson.loads(whole)))
        return False

    async def _dawdle(self, wait_s: float, result: Result) -> None:
        began_ns = self._clock.now_ns()
        await asyncio.sleep(wait_s)
        result.consumer_ms += (self._clock.now_ns() - began_ns) / 1e6


def outcome_of(status: int) -> str:
    """Return the outcome that an HTTP status stands for."""
    if status in REFUSED:
        return "shed"
    return "ok" if status < 400 else "rejected" if status < 500 else "error"


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Return the seconds of Retry-After; RETRY_S where it is absent or a date."""
    with suppress(ValueError):
        return max(0.0, float(headers.get("Retry-After", "")))
    return RETRY_S


class Events:
    """Reads server-sent events: the first token, the number of parts, the tokens that were counted."""

    def __init__(self, result: Result, *, openai: bool) -> None:
        self._result = result
        self._openai = openai
        self._rest = b""

    def feed(self, block: bytes, at_ms: float) -> None:
        """Take bytes that came at `at_ms` after the planned sending."""
        lines = (self._rest + block).split(b"\n")
        self._rest = lines.pop()
        for data in _data(lines):
            if data == b"[DONE]":
                continue
            if not self._openai:
                self._token(at_ms)
                continue
            event = _object(orjson.loads(data))
            if any(_has_token(_object(choice)) for choice in event.get("choices") or ()):
                self._token(at_ms)
            if event.get("error"):
                self._result.outcome, self._result.error = "error", "event"
            self.take_usage(event)

    def take_usage(self, event: dict[str, Any]) -> None:
        """Take the tokens that an answer, or the last part of one, tells."""
        if told := event.get("usage"):
            usage = _object(told)
            self._result.input_tokens = usage.get("prompt_tokens")
            self._result.output_tokens = usage.get("completion_tokens")
            self._result.cached_tokens = _object(usage.get("prompt_tokens_details") or {}).get("cached_tokens")

    def _token(self, at_ms: float) -> None:
        self._result.chunks += 1
        if self._result.ttft_ms is None:
            self._result.ttft_ms = at_ms


def _data(lines: list[bytes]) -> Iterator[bytes]:
    return (line[5:].strip() for line in lines if line.startswith(b"data:"))


def _object(value: Any) -> dict[str, Any]:
    """Return a JSON object; raises ValueError for anything else, which is no answer of such an API."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _has_token(choice: dict[str, Any]) -> bool:
    delta = _object(choice.get("delta") or choice)
    return any(delta.get(name) for name in ("content", "text", "reasoning_content", "reasoning", "tool_calls"))
