"""A server that speaks the APIs of several model providers and does what the name of the model asks for.

`ok` answers; `stall` waits 1.2 s in the middle; `breaks` cuts the connection in the middle; `busy-N` refuses N times
with 429 and Retry-After, then answers; `limited` always refuses; `slow` says a word every 20 ms, for long. Of the
Responses API `fails` ends with an error of its own and `errs` with an event that is one, both with status 200.
"""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

STALL_S = 1.2
BACKOFF_S = 0.05


@dataclass
class ScriptedServer:
    """`headers` are of the requests that came, `asked` counts them by model.

    Its answers say that `left` of 100 requests and `left_tokens` of 50,000 tokens are left.
    """

    left: int = 7
    left_tokens: int = 123
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    clients_gone: int = 0

    @property
    def limits(self) -> dict[str, str]:
        """What the headers of an answer say of a client's limits."""
        return {
            "x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": str(self.left),
            "anthropic-ratelimit-tokens-limit": "50000",
            "anthropic-ratelimit-tokens-remaining": str(self.left_tokens),
        }  # fmt: skip

    def app(self) -> Starlette:
        """Return the ASGI app."""
        routes = {
            "/v1/chat/completions": self._chat,
            "/v1/responses": self._responses,
            "/v1/embeddings": self._embeddings,
            "/v1/messages": self._messages,
            "/api/chat": self._ollama,
            "/api/embed": self._ollama_embed,
            "/v1/models/{method}": self._gemini,
            "/v1beta/models/{method}": self._gemini,
            "/plain": self._plain,
        }
        return Starlette(routes=[Route(path, function, methods=["GET", "POST"]) for path, function in routes.items()])

    async def _begin(self, request: Request, model: str | None = None) -> tuple[dict[str, Any], Response | None]:
        said = json.loads(await request.body() or b"{}")
        model = model or str(said.get("model", ""))
        self.headers.append(dict(request.headers))
        self.asked[model] += 1
        refusals = int(model.split("-")[1]) if model.startswith("busy-") else 0
        if model == "limited" or self.asked[model] <= refusals:
            headers = self.limits | {"retry-after-ms": str(int(BACKOFF_S * 1000)), "retry-after": "0.05"}
            return said, JSONResponse({"error": {"message": "secret"}}, status_code=429, headers=headers)
        return said, None

    async def _words(self, model: str) -> AsyncIterator[str]:
        for n, word in enumerate(["Hello", " you", ".", " Bye"] if model != "slow" else ["word "] * 1000):
            if model == "stall" and n == 2:
                await asyncio.sleep(STALL_S)
            if model == "slow":
                await asyncio.sleep(0.02)
            if model == "breaks" and n == 2:
                raise ConnectionResetError("cut")
            yield word

    def _stream(self, parts: AsyncIterator[str], kind: str = "text/event-stream") -> Response:
        async def watched() -> AsyncIterator[str]:
            try:
                async for part in parts:
                    yield part
            except (asyncio.CancelledError, GeneratorExit):
                self.clients_gone += 1
                raise

        return StreamingResponse(watched(), media_type=kind, headers=self.limits)

    async def _plain(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        return JSONResponse({"hi": "there"}, status_code=int(request.query_params.get("status", 200)))

    async def _chat(self, request: Request) -> Response:
        said, refusal = await self._begin(request)
        if refusal:
            return refusal
        usage = {"prompt_tokens": 11, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
        base = {"id": "c-1", "model": f"{said['model']}-1", "created": 1, "object": "chat.completion"}
        if not said.get("stream"):
            message = {"role": "assistant", "content": "Hello you. Bye"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            return JSONResponse(base | {"choices": [choice], "usage": usage}, headers=self.limits)

        async def events() -> AsyncIterator[str]:
            base["object"] = "chat.completion.chunk"
            async for word in self._words(said["model"]):
                choice: dict[str, Any] = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                yield f"data: {json.dumps(base | {'choices': [choice]})}\n\n"
            choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
            yield f"data: {json.dumps(base | {'choices': [choice]})}\n\n"
            yield f"data: {json.dumps(base | {'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"

        return self._stream(events())

    async def _responses(self, request: Request) -> Response:
        said, refusal = await self._begin(request)
        if refusal:
            return refusal
        details = {"input_tokens_details": {"cached_tokens": 3}, "output_tokens_details": {"reasoning_tokens": 0}}
        usage = {"input_tokens": 11, "output_tokens": 4, "total_tokens": 15} | details
        whole = {
            "id": "r-1", "object": "response", "created_at": 1, "model": f"{said['model']}-1", "output": [],
            "parallel_tool_calls": False, "tool_choice": "auto", "tools": [], "status": "completed", "usage": usage,
        }  # fmt: skip
        if said["model"] == "fails":
            whole |= {"status": "failed", "error": {"code": "server_error", "message": "secret"}, "usage": None}
        if not said.get("stream"):
            return JSONResponse(whole, headers=self.limits)

        async def events() -> AsyncIterator[str]:
            begun = whole | {"status": "in_progress", "usage": None}
            yield _sse({"type": "response.created", "sequence_number": 0, "response": begun})
            item = {"id": "i", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
            yield _sse({"type": "response.output_item.added", "output_index": 0, "item": item, "sequence_number": 1})
            part = {"part": {"type": "output_text", "text": "", "annotations": []}, "sequence_number": 1}
            at = {"item_id": "i", "output_index": 0, "content_index": 0}
            yield _sse({"type": "response.content_part.added"} | at | part)
            async for word in self._words(said["model"]):
                place = {"item_id": "i", "output_index": 0, "content_index": 0, "logprobs": [], "sequence_number": 1}
                yield _sse({"type": "response.output_text.delta", "delta": word} | place)
            if said["model"] == "errs":
                yield _sse({"type": "error", "code": "overloaded", "message": "secret", "sequence_number": 2})
                return
            text = {"type": "output_text", "text": "Hello you. Bye", "annotations": []}
            done = item | {"status": "completed", "content": [text]}
            yield _sse({"type": "response.output_item.done", "output_index": 0, "item": done, "sequence_number": 2})
            last = whole | {"output": [done]}
            yield _sse({"type": f"response.{whole['status']}", "sequence_number": 2, "response": last})

        return self._stream(events())

    async def _embeddings(self, request: Request) -> Response:
        said, refusal = await self._begin(request)
        data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
        body = {
            "object": "list",
            "data": data,
            "model": f"{said['model']}-1",
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        }
        return refusal or JSONResponse(body)

    async def _messages(self, request: Request) -> Response:
        said, refusal = await self._begin(request)
        if refusal:
            return refusal
        usage = {"input_tokens": 8, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 0, "output_tokens": 1}
        message: dict[str, Any] = {
            "id": "m-1", "type": "message", "role": "assistant", "model": f"{said['model']}-1", "content": [],
            "stop_reason": None, "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        if not said.get("stream"):
            content = [{"type": "text", "text": "Hello you. Bye"}]
            end = {"content": content, "stop_reason": "end_turn", "usage": usage | {"output_tokens": 4}}
            return JSONResponse(message | end, headers=self.limits)

        async def events() -> AsyncIterator[str]:
            yield _sse({"type": "message_start", "message": message})
            block = {"type": "text", "text": ""}
            yield _sse({"type": "content_block_start", "index": 0, "content_block": block})
            async for word in self._words(said["model"]):
                delta = {"type": "text_delta", "text": word}
                yield _sse({"type": "content_block_delta", "index": 0, "delta": delta})
            yield _sse({"type": "content_block_stop", "index": 0})
            end = {"stop_reason": "end_turn", "stop_sequence": None}
            yield _sse({"type": "message_delta", "delta": end, "usage": {"output_tokens": 4}})
            yield _sse({"type": "message_stop"})

        return self._stream(events())

    async def _ollama(self, request: Request) -> Response:
        said, refusal = await self._begin(request)
        if refusal:
            return refusal
        counts = {"done": True, "done_reason": "stop", "prompt_eval_count": 11, "eval_count": 4}
        base = {"model": said["model"], "created_at": "2026-01-01T00:00:00Z"}
        if said.get("stream") is False:
            return JSONResponse(base | {"message": {"role": "assistant", "content": "Hello you. Bye"}} | counts)

        async def lines() -> AsyncIterator[str]:
            async for word in self._words(said["model"]):
                yield json.dumps(base | {"message": {"role": "assistant", "content": word}, "done": False}) + "\n"
            yield json.dumps(base | {"message": {"role": "assistant", "content": ""}} | counts) + "\n"

        return self._stream(lines(), "application/x-ndjson")

    async def _ollama_embed(self, request: Request) -> Response:
        said, _ = await self._begin(request)
        return JSONResponse({"model": said["model"], "embeddings": [[0.1, 0.2]], "prompt_eval_count": 5})

    async def _gemini(self, request: Request) -> Response:
        model, _, method = request.path_params["method"].partition(":")
        _, refusal = await self._begin(request, model)
        if refusal:
            return refusal
        counts = {
            "promptTokenCount": 11,
            "candidatesTokenCount": 4,
            "cachedContentTokenCount": 3,
            "totalTokenCount": 15,
        }
        base = {"modelVersion": f"{model}-1", "responseId": "g-1"}
        if method == "batchEmbedContents":
            return JSONResponse({"embeddings": [{"values": [0.1, 0.2]}]})

        def answer(text: str) -> dict[str, Any]:
            return base | {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}]}

        if method == "generateContent":
            whole = answer("Hello you. Bye")
            whole["candidates"][0]["finishReason"] = "STOP"
            return JSONResponse(whole | {"usageMetadata": counts})

        async def events() -> AsyncIterator[str]:
            async for word in self._words(model):
                yield f"data: {json.dumps(answer(word))}\r\n\r\n"
            last = answer("")
            last["candidates"][0]["finishReason"] = "STOP"
            yield f"data: {json.dumps(last | {'usageMetadata': counts})}\r\n\r\n"

        return self._stream(events())


def _sse(event: dict[str, Any]) -> str:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n"
