"""The OpenAI HTTP protocol: what a request may say, and the bodies of answers, chunks and errors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .scheduler import Generation, SamplingParams

JSON = dict[str, Any]
#: OpenAI's default for /v1/completions; chats go on to the end of the context.
COMPLETION_MAX_TOKENS = 16
#: Parameters that are not built -> the values that ask for nothing. Anything else is refused, never silently dropped.
NOTHING: dict[str, tuple[object, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "echo": (None, False),
    "suffix": (None, ""),
    "logprobs": (None, False, 0),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
}


class RequestError(Exception):
    """A request that gets an error body; `str()` is its message."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None, retry_s: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_s = status, param, code, retry_s

    @property
    def body(self) -> JSON:
        """The error as OpenAI's clients read it."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class Asked:
    """A parsed request with one of `messages`, `text` and `ids`; `max_tokens` None goes on to the context's end."""

    model: str
    messages: list[dict[str, str]]
    text: str
    ids: list[int]
    stream: bool
    include_usage: bool
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    ignore_eos: bool

    @property
    def chat(self) -> bool:
        """Whether it came as a chat."""
        return bool(self.messages)

    def params(self, *, prompt_tokens: int, context: int) -> SamplingParams:
        """Return how to sample; RequestError when prompt and answer do not fit into `context` tokens."""
        wanted = self.max_tokens or max(1, context - prompt_tokens)
        if prompt_tokens + wanted > context:
            raise RequestError(
                f"the maximum context is {context} tokens, this request needs {prompt_tokens + wanted} "
                f"({prompt_tokens} of the prompt, {wanted} of the answer): shorten the prompt or lower max_tokens",
                param="messages" if self.chat else "prompt",
                code="context_length_exceeded",
            )
        return SamplingParams(wanted, self.temperature, self.top_p, self.seed, self.stop, self.ignore_eos)


def parse(body: object, *, chat: bool) -> Asked:
    """Return what a request body asks for; RequestError names the parameter that is wrong."""
    if not isinstance(body, dict):
        raise RequestError("the body is no JSON object")
    for name, harmless in NOTHING.items():
        if body.get(name) not in harmless:
            raise RequestError(f"{name} is {body[name]!r}: this server has no {name}, leave it out", param=name)
    limit = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    options = body.get("stream_options") or {}
    prompt = "" if chat else _prompt(body)
    return Asked(
        model=_text(body, "model"),
        messages=_messages(body) if chat else [],
        text=prompt if isinstance(prompt, str) else "",
        ids=prompt if isinstance(prompt, list) else [],
        stream=_flag(body, "stream"),
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_tokens=_whole(body, limit, low=1, default=None if chat else COMPLETION_MAX_TOKENS),
        temperature=_number(body, "temperature", low=0.0, high=2.0),
        top_p=_number(body, "top_p", low=1e-6, high=1.0),
        seed=_whole(body, "seed", low=-(2**63), default=None),
        stop=_stop(body),
        ignore_eos=_flag(body, "ignore_eos"),
    )


def _wrong(body: JSON, name: str, expected: str) -> RequestError:
    given = repr(body[name])[:80] if name in body else "missing"
    return RequestError(f"{name} is {given}: expected {expected}", param=name)


def _text(body: JSON, name: str) -> str:
    if not isinstance(body.get(name), str):
        raise _wrong(body, name, "a string")
    return str(body[name])


def _flag(body: JSON, name: str) -> bool:
    if body.get(name) not in (None, False, True):
        raise _wrong(body, name, "true or false")
    return bool(body.get(name))


def _whole(body: JSON, name: str, *, low: int, default: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise _wrong(body, name, f"an integer from {low} on")
    return value


def _number(body: JSON, name: str, *, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise _wrong(body, name, f"a number from {low:g} to {high:g}")
    return float(value)


def _stop(body: JSON) -> tuple[str, ...]:
    value = body.get("stop") or []
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(stop, str) and stop for stop in stops):
        raise _wrong(body, "stop", "a string or up to four strings")
    return tuple(stops)


def _prompt(body: JSON) -> str | list[int]:
    prompt = body.get("prompt")
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return prompt
    raise _wrong(body, "prompt", "a text or a list of token ids")


def _messages(body: JSON) -> list[dict[str, str]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong(body, "messages", "a list of messages")
    return [_message(message, index) for index, message in enumerate(messages)]


def _message(message: object, index: int) -> dict[str, str]:
    name = f"messages[{index}]"
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise RequestError(f"{name} has no role: expected {{'role': ..., 'content': ...}}", param=name)
    content = message.get("content") or ""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    typed = [part for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    texts = [part["text"] for part in typed if isinstance(part.get("text"), str)]
    if len(texts) != len(parts):
        raise RequestError(f"{name} has content that is no text: this model reads text only", param=name)
    return {"role": message["role"], "content": "".join(texts)}


class Bodies:
    """The JSON bodies of one answer, whole or in chunks."""

    def __init__(self, generation: Generation, asked: Asked, *, created_s: int) -> None:
        self._generation = generation
        self._asked = asked
        self._head: JSON = {"id": generation.id, "created": created_s, "model": asked.model}

    def whole(self, text: str) -> JSON:
        """Return the body of an answer that is not streamed."""
        choice: JSON = {"index": 0, "logprobs": None, "finish_reason": self._generation.finish}
        choice |= {"message": {"role": "assistant", "content": text}} if self._asked.chat else {"text": text}
        kind = "chat.completion" if self._asked.chat else "text_completion"
        return {**self._head, "object": kind, "choices": [choice], "usage": self.usage()}

    def role(self) -> bytes:
        """Return the chunk that opens a streamed chat: a role and no token."""
        return self._event([self._choice({"role": "assistant", "content": ""}, None)])

    def chunk(self, text: str, *, finish: str | None = None) -> bytes:
        """Return the chunk of a piece of text, or of the end with its reason."""
        if self._asked.chat:
            return self._event([self._choice({"content": text} if text else {}, finish)])
        return self._event([{"index": 0, "text": text, "logprobs": None, "finish_reason": finish}])

    def closing(self) -> bytes:
        """Return what follows the last chunk: the usage, if it was asked for, and the end mark."""
        usage = self._event([], self.usage()) if self._asked.include_usage else b""
        return usage + b"data: [DONE]\n\n"

    def usage(self) -> JSON:
        """Return the token counts; special tokens that the model generated count."""
        prompt, answer = len(self._generation.prompt), len(self._generation.output)
        counts = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
        return {**counts, "prompt_tokens_details": {"cached_tokens": 0}}

    @staticmethod
    def _choice(delta: JSON, finish: str | None) -> JSON:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    def _event(self, choices: list[JSON], usage: JSON | None = None) -> bytes:
        kind = "chat.completion.chunk" if self._asked.chat else "text_completion"
        body = {**self._head, "object": kind, "choices": choices}
        if self._asked.include_usage:
            body["usage"] = usage
        return event(body)


def event(body: Mapping[str, Any]) -> bytes:
    """Return a body as one server-sent event."""
    return b"data: " + json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
