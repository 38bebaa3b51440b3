"""Sends the answers to one request over HTTP, whole or as server-sent events, and notices when its reader leaves."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .bodies import Bodies, event
from .messages import RequestError
from .protocol import Asked
from .reports import Delta
from .sampling import Chosen
from .scheduler import Generation
from .tokenizer import TextTokenizer

#: None: the client has left.
Deltas = asyncio.Queue[Delta | None]
#: How a generation ended that has no whole answer -> the status that says so.
STATUS = {"cancelled": 503, "deadline": 408, "error": 500}
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Reply(Response):
    """The response to one request, with one answer or several. However it ends, the engine learns of it.

    `forget` is called then, too.
    """

    def __init__(
        self,
        answers: Sequence[Generation],
        asked: Asked,
        *,
        deltas: Deltas,
        tokenizer: TextTokenizer,
        forget: Callable[[], None],
    ) -> None:
        # Response.__init__ is for bodies that are known beforehand.
        self.background = None
        self._answers = answers
        self._stream = asked.stream
        self._opens_with_role = asked.chat
        self._deltas = deltas
        self._forget = forget
        self._bodies = Bodies(answers, asked, created_s=int(time.time()), tokenizer=tokenizer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watcher = asyncio.create_task(self._watch(receive))
        try:
            await (self._send_stream(send) if self._stream else self._send_whole(scope, receive, send))
        finally:
            watcher.cancel()
            for each in self._answers:
                each.cancelled = True  # has no effect on one that is over
            self._forget()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._deltas.put_nowait(None)

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        texts = [""] * len(self._answers)
        chosen: list[list[Chosen]] = [[] for _ in self._answers]
        left = len(self._answers)
        while (delta := await self._deltas.get()) is not None:
            index = self._answers.index(delta.generation)
            texts[index] += delta.text
            chosen[index] += delta.chosen
            left -= delta.done
            error = _error(delta.generation) if delta.done else None
            if error or not left:
                response = _refusal(error) if error else JSONResponse(self._bodies.whole(texts, chosen))
                return await response(scope, receive, send)
        return None

    async def _send_stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        left = set(self._answers)
        while left:
            arrived = [await self._deltas.get()]
            while not self._deltas.empty():
                arrived.append(self._deltas.get_nowait())
            if None in arrived:
                return
            # With the first token, not before: many a client takes the first chunk of any kind for it.
            body = self._bodies.role() if self._opens_with_role else b""
            self._opens_with_role = False
            for delta in (each for each in arrived if each is not None):
                body += self._chunks(delta)
                if delta.done:
                    left.remove(delta.generation)
                    if delta.generation.end != "complete":
                        await send(_part(body, more=False))
                        return
            await send(_part(body + (b"" if left else self._bodies.closing()), more=bool(left)))

    def _chunks(self, delta: Delta) -> bytes:
        error = _error(delta.generation) if delta.done else None
        return event(error.body) if error else self._bodies.chunk(delta)


def _error(generation: Generation) -> RequestError | None:
    """Return why an ended generation has no whole answer, None when it has."""
    if generation.end == "complete":
        return None
    status = STATUS[generation.end or "error"]
    return RequestError(generation.error or "the request was cancelled", status=status, code=generation.end)


def _refusal(error: RequestError) -> Response:
    # SDKs try again after 408 by themselves, and nobody waits for the answer any more.
    headers = {"x-should-retry": "false"} if error.code == "deadline" else None
    return JSONResponse(error.body, error.status, headers)


def _part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}
