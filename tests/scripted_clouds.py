"""Models behind the doors of cloud platforms: Amazon Bedrock, Google Vertex AI and Azure, scripted.

A model whose name has `limited` is refused, one with `breaks` fails in the middle of its stream. Every answer says
"Hello you. Bye", of 11 tokens in, 3 of them cached, and 4 out.
"""

import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.scripted_server import ScriptedServer

WORDS = ("Hello", " you", ".", " Bye")
EVENT_STREAM = "application/vnd.amazon.eventstream"
COUNTS = {"x-amzn-bedrock-input-token-count": "11", "x-amzn-bedrock-output-token-count": "4"}
USAGE = {"inputTokens": 7, "cacheReadInputTokens": 3, "cacheWriteInputTokens": 1, "outputTokens": 4, "totalTokens": 15}
INVOCATION = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 11, "outputTokenCount": 4}}


def frame(kind: str, said: dict[str, Any], *, message: str = "event") -> bytes:
    """Return one message of Amazon's event stream: lengths, their checksum, headers, JSON, the checksum of all."""
    names = {":message-type": message, ":content-type": "application/json"}
    names[":event-type" if message == "event" else ":exception-type"] = kind
    headers = b"".join(
        bytes([len(name)]) + name.encode() + b"\x07" + struct.pack("!H", len(value)) + value.encode()
        for name, value in names.items()
    )
    payload = json.dumps(said).encode()
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    body = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return body + struct.pack("!I", zlib.crc32(body))


def chunk(said: dict[str, Any]) -> bytes:
    """Return a chunk of what a model says in its own words."""
    return frame("chunk", {"bytes": base64.b64encode(json.dumps(said).encode()).decode()})


def converse_events() -> list[tuple[str, dict[str, Any]]]:
    """Return the events of ConverseStream, by name."""
    deltas = [("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}}) for word in WORDS]
    return [
        ("messageStart", {"role": "assistant"}),
        *deltas,
        ("contentBlockStop", {"contentBlockIndex": 0}),
        ("messageStop", {"stopReason": "end_turn"}),
        ("metadata", {"usage": USAGE, "metrics": {"latencyMs": 5}}),
    ]


def anthropic_events(model: str) -> list[dict[str, Any]]:
    """Return the events of Anthropic's Messages API."""
    usage = {"input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1, "output_tokens": 1}
    begun = {"id": "m-1", "type": "message", "role": "assistant", "model": f"{model}-1", "content": [], "usage": usage}
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS
    ]
    return [
        {"type": "message_start", "message": begun | {"stop_reason": None, "stop_sequence": None}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]


def native_events(model: str) -> list[dict[str, Any]]:
    """Return the chunks that a model of this family gives when Bedrock invokes it."""
    if model.startswith("anthropic."):
        events = anthropic_events(model)
    elif model.startswith("amazon.nova"):
        events = [{name: said} for name, said in converse_events()]
    elif model.startswith("amazon.titan"):
        events = [{"outputText": word, "index": 0, "completionReason": None} for word in WORDS]
        events[-1] |= {"completionReason": "FINISH", "totalOutputTextTokenCount": 4, "inputTextTokenCount": 11}
    elif model.startswith("meta."):
        events = [{"generation": word, "generation_token_count": n + 1} for n, word in enumerate(WORDS)]
        events.append({"generation": "", "stop_reason": "stop", "generation_token_count": 4})
    elif model.startswith("mistral."):
        events = [{"outputs": [{"text": word, "stop_reason": None}]} for word in WORDS]
        events.append({"outputs": [{"text": "", "stop_reason": "stop"}]})
    else:
        events = [{"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]} for word in WORDS]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "model": f"{model}-1"})
    events[-1] |= INVOCATION
    return events


def native_answer(model: str) -> dict[str, Any]:
    """Return the whole answer of a model of this family."""
    text = "".join(WORDS)
    if model.startswith("anthropic."):
        usage = {"input_tokens": 7, "cache_read_input_tokens": 3, "cache_creation_input_tokens": 1, "output_tokens": 4}
        whole = {"id": "m-1", "type": "message", "role": "assistant", "model": f"{model}-1", "stop_sequence": None}
        return whole | {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn", "usage": usage}
    if "embed" in model:
        return {"embedding": [0.5, 0.5], "inputTextTokenCount": 11}
    if model.startswith("amazon.titan"):
        found = {"tokenCount": 4, "outputText": text, "completionReason": "FINISH"}
        return {"inputTextTokenCount": 11, "results": [found]}
    if model.startswith("meta."):
        return {"generation": text, "prompt_token_count": 11, "generation_token_count": 4, "stop_reason": "stop"}
    return {"outputs": [{"text": text, "stop_reason": "stop"}]}


class Clouds:
    """`headers` are of the requests that came to Bedrock."""

    def __init__(self) -> None:
        self.headers: list[dict[str, str]] = []
        self._plain = ScriptedServer()

    def app(self) -> Starlette:
        """Return the ASGI app."""
        vertex = "/{version}/projects/{project}/locations/{region}/publishers"
        return Starlette(
            routes=[
                Route("/model/{model}/{how}", self._bedrock, methods=["POST"]),
                Route(vertex + "/anthropic/models/{model_how}", self._anthropic, methods=["POST"]),
                Route("/projects/{project}/locations/{region}/publishers/anthropic/models/{model_how}",
                      self._anthropic, methods=["POST"]),
                Route(vertex + "/google/models/{method}", self._plain._gemini, methods=["POST"]),
                Route("/openai/deployments/{model}/chat/completions", self._plain._chat, methods=["POST"]),
                Route("/openai/v1/chat/completions", self._plain._chat, methods=["POST"]),
            ]
        )  # fmt: skip

    async def _bedrock(self, request: Request) -> Response:
        self.headers.append(dict(request.headers))
        model, how = request.path_params["model"], request.path_params["how"]
        if "limited" in model:
            said = {"message": "secret: too many requests"}
            return JSONResponse(said, status_code=429, headers={"x-amzn-errortype": "ThrottlingException"})
        if how == "converse":
            message = {"role": "assistant", "content": [{"text": "".join(WORDS)}]}
            whole = {"output": {"message": message}, "stopReason": "end_turn", "usage": USAGE}
            return JSONResponse(whole | {"metrics": {"latencyMs": 5}})
        if how == "invoke":
            return JSONResponse(native_answer(model), headers=COUNTS)
        frames = [frame(*each) for each in converse_events()]
        if how == "invoke-with-response-stream":
            frames = [chunk(said) for said in native_events(model)]
        if "breaks" in model:
            failure = {"message": "secret"}
            frames[3:] = [frame("modelStreamErrorException", failure, message="exception")]
        return StreamingResponse(_one_by_one(frames), media_type=EVENT_STREAM)

    async def _anthropic(self, request: Request) -> Response:
        model, _, how = request.path_params["model_how"].partition(":")
        if how == "rawPredict":
            return JSONResponse(native_answer(f"anthropic.{model}"))
        events = [f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in anthropic_events(model)]
        return StreamingResponse(_one_by_one(events), media_type="text/event-stream")


async def _one_by_one(parts: list[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
