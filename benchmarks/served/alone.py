"""A service and its model in one process, nothing between them: the instructions that instrumenting adds to a request.

Hooks are put in and taken out in turn, so that all else stays where it is: exact to some per cent, on a busy machine
too. Counted in the thread of the event loop: what sends spans and metrics runs in others.
"""

import asyncio
import math
import os
import statistics
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx2
from fastapi import FastAPI

import tailbudget
from served import streaming
from served.instructions import INSTRUCTIONS, Counter
from tailbudget.instrument import hooks

#: Chunks of an answer: what is done once a request, with the first sentence, and with all of a benchmark's answer.
LENGTHS = (1, 21, 200)
ROUNDS, REQUESTS = 16, 6
SCOPE = {
    "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "GET",
    "path": "/chat", "raw_path": b"/chat", "root_path": "", "scheme": "http", "query_string": b"pace_ms=0",
    "headers": [(b"host", b"127.0.0.1:1"), (b"accept", b"*/*"), (b"user-agent", b"bench")],
    "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
}  # fmt: skip


class Words(httpx2.AsyncByteStream):
    """The body of an answer, which comes once: openai's SDK asks again for what may follow the last event."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = iter(parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part


class Model(httpx2.AsyncBaseTransport):
    """Answers every request with so many chunks."""

    def __init__(self, chunks: int) -> None:
        self._parts = [event.encode() for event in streaming.events(chunks)]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:  # noqa: ARG002
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Words(self._parts))


async def ask(app: FastAPI, requests: int) -> None:
    """Let the app answer so many requests, one after the other."""

    async def receive() -> dict[str, Any]:
        if asked:
            await asyncio.Event().wait()
        asked.append(True)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        """Take a part of the answer."""

    for _ in range(requests):
        asked: list[bool] = []
        await app(dict(SCOPE), receive, send)


async def added(chunks: int, url: str) -> list[float]:
    """Return the thousands of instructions that hooks and spans add to a request, by round."""
    app = streaming.service(url, httpx2.AsyncClient(transport=Model(chunks)))
    await ask(app, 2)
    middleware: Any = app.middleware_stack
    counter = Counter(os.getpid(), INSTRUCTIONS, thread=threading.get_native_id())
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for hooked in taken:
            (hooks.install if hooked else hooks.uninstall)()
            app.middleware_stack = middleware if hooked else middleware.app
            await ask(app, 3)
            before = counter.total()
            await ask(app, REQUESTS)
            taken[hooked].append((counter.total() - before) / REQUESTS / 1e3)
    return [ours - bare for bare, ours in zip(*taken.values(), strict=True)]


def main(url: str) -> None:
    """Print what is added; spans go to the collector at this URL."""
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = url
    if math.isnan(Counter(os.getpid(), INSTRUCTIONS).total()):
        print("request alone: this machine counts no instructions")
        return
    tailbudget.init("bench")
    for chunks in LENGTHS:
        low, middle, high = statistics.quantiles(asyncio.run(added(chunks, url)), n=4)
        print(
            f"request of {chunks:3} chunks, nothing beside the event loop: {middle:+,.0f} thousand instructions ",
            end="",
        )
        print(f"(half of the rounds {low:+,.0f} to {high:+,.0f})", flush=True)
    tailbudget.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
