"""How each provider's API says what it says: the token in a chunk, and the usage, ids and reasons around them.

Objects of an SDK and the JSON on the wire are read alike.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .chunks import ChunkReader, Reported, field, larger, reader_for

Take = Callable[[Reported, Any], None]


@dataclass(frozen=True)
class Dialect:
    """`operation` in the GenAI conventions; `read` None means to find out by the first chunk.

    `has_token` finds what only the JSON of an event with a token has, which then need not be read: quotes within texts
    are escaped, so that `"content":` is a name wherever it stands. Events that it does not find may have a token too.
    """

    operation: str
    read: ChunkReader | None
    take: Take
    has_token: re.Pattern[bytes] | None = None


def _get(message: Any, *names: str) -> Any:
    """Return the first of these fields that says anything."""
    for name in names:
        value = field(message, name)
        if value is not None:
            return value
    return None


def _text_or_hidden(text: Any, *, hidden: Any) -> str | None:
    if isinstance(text, str) and text:
        return text
    return "" if hidden else None


def _plain(value: Any) -> str | None:
    """Return an enumeration's or a text's value."""
    value = getattr(value, "value", value)
    return str(value) if value else None


def _count(reported: Reported, usage: Any, *, into: Mapping[str, tuple[str, ...]]) -> None:
    for name, fields in into.items():
        setattr(reported, name, larger(getattr(reported, name), _get(usage, *fields)))


def read_completion(chunk: Any) -> str | None:
    """Read a chunk of OpenAI's older completions."""
    return next((str(text) for choice in _get(chunk, "choices") or () if (text := _get(choice, "text"))), None)


#: Ends of the types of a response's events that carry a token which nobody reads as the answer.
HIDDEN_EVENTS = ("reasoning_text.delta", "reasoning_summary_text.delta", "_call_arguments.delta", "_call_input.delta")


def read_response(event: Any) -> str | None:
    """Read an event of OpenAI's Responses API."""
    kind = str(_get(event, "type") or "")
    if kind in ("response.output_text.delta", "response.refusal.delta"):
        return _get(event, "delta") or None
    return "" if kind.endswith(HIDDEN_EVENTS) else None


def take_response(reported: Reported, event: Any) -> None:
    """Take what an event of the Responses API, or a whole response, reports."""
    said = _get(event, "response") or event
    if _get(event, "type") == "error":
        reported.failure = str(_get(event, "code") or "error")
    if _get(said, "object") != "response":
        return
    reported.response_id = reported.response_id or _get(said, "id")
    reported.model = _get(said, "model") or reported.model
    status = _get(said, "status")
    if status in ("completed", "incomplete", "failed", "cancelled"):
        reported.finish_reason = _get(_get(said, "incomplete_details"), "reason") or status
    if status == "failed":
        reported.failure = str(_get(_get(said, "error"), "code") or status)
    usage = _get(said, "usage")
    _count(reported, usage, into={"input_tokens": ("input_tokens",), "output_tokens": ("output_tokens",)})
    _count(reported, _get(usage, "input_tokens_details"), into={"cached_tokens": ("cached_tokens",)})


def read_message_event(event: Any) -> str | None:
    """Read an event of Anthropic's Messages API."""
    if _get(event, "type") != "content_block_delta":
        return None
    delta = _get(event, "delta")
    return _text_or_hidden(_get(delta, "text"), hidden=_get(delta, "thinking", "partial_json"))


def take_message(reported: Reported, event: Any) -> None:
    """Take what an event of the Messages API, or a whole message, reports.

    The output tokens of `message_start` are a placeholder, and what is read from or written to the cache is no part of
    `input_tokens` there, while the conventions want all of the prompt.
    """
    kind = _get(event, "type")
    said = _get(event, "message") if kind == "message_start" else event
    if kind not in ("message", "message_start", "message_delta"):
        return
    reported.response_id = reported.response_id or _get(said, "id")
    reported.model = reported.model or _get(said, "model")
    reported.finish_reason = _get(_get(said, "delta") or said, "stop_reason") or reported.finish_reason
    usage = _get(said, "usage")
    parts = [_get(usage, name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")]
    if isinstance(parts[0], int):
        reported.input_tokens = larger(reported.input_tokens, sum(part or 0 for part in parts))
        _count(reported, usage, into={"cached_tokens": ("cache_read_input_tokens",)})
    if kind != "message_start":
        _count(reported, usage, into={"output_tokens": ("output_tokens",)})


def read_gemini(chunk: Any) -> str | None:
    """Read a chunk of Google's generate_content."""
    hidden = False
    for candidate in _get(chunk, "candidates") or ():
        for part in _get(_get(candidate, "content"), "parts") or ():
            text, thought = _get(part, "text"), _get(part, "thought")
            if text and not thought:
                return str(text)
            hidden = hidden or bool(text or _get(part, "function_call", "functionCall"))
    return "" if hidden else None


def take_gemini(reported: Reported, answer: Any) -> None:
    """Take what a chunk or an answer of generate_content reports; thinking is output."""
    reported.response_id = reported.response_id or _get(answer, "response_id", "responseId")
    reported.model = reported.model or _get(answer, "model_version", "modelVersion")
    for candidate in _get(answer, "candidates") or ():
        reason = _plain(_get(candidate, "finish_reason", "finishReason"))
        reported.finish_reason = reason.lower() if reason else reported.finish_reason
    usage = _get(answer, "usage_metadata", "usageMetadata")
    said = _get(usage, "candidates_token_count", "candidatesTokenCount")
    if isinstance(said, int):
        thoughts = _get(usage, "thoughts_token_count", "thoughtsTokenCount") or 0
        reported.output_tokens = larger(reported.output_tokens, said + thoughts)
    _count(
        reported,
        usage,
        into={
            "input_tokens": ("prompt_token_count", "promptTokenCount"),
            "cached_tokens": ("cached_content_token_count", "cachedContentTokenCount"),
        },
    )


def read_ollama(chunk: Any) -> str | None:
    """Read a line of Ollama's chat or generate."""
    message = _get(chunk, "message") or chunk
    return _text_or_hidden(_get(message, "content", "response"), hidden=_get(message, "thinking", "tool_calls"))


def take_ollama(reported: Reported, answer: Any) -> None:
    """Take what a line of Ollama's, or a whole answer, reports."""
    reported.model = reported.model or _get(answer, "model")
    reported.finish_reason = _get(answer, "done_reason") or reported.finish_reason
    _count(reported, answer, into={"input_tokens": ("prompt_eval_count",), "output_tokens": ("eval_count",)})


def read_converse(event: Any) -> str | None:
    """Read an event of Amazon Bedrock's ConverseStream."""
    delta = _get(_get(event, "contentBlockDelta"), "delta")
    return _text_or_hidden(_get(delta, "text"), hidden=_get(delta, "toolUse", "reasoningContent"))


def take_converse(reported: Reported, answer: Any) -> None:
    """Take what an event of ConverseStream, or a whole answer of Converse, reports; see `take_message` on input."""
    reason = _get(_get(answer, "messageStop") or answer, "stopReason")
    reported.finish_reason = reason or reported.finish_reason
    usage = _get(_get(answer, "metadata") or answer, "usage")
    parts = [_get(usage, name) for name in ("inputTokens", "cacheReadInputTokens", "cacheWriteInputTokens")]
    if isinstance(parts[0], int):
        reported.input_tokens = larger(reported.input_tokens, sum(part or 0 for part in parts))
    _count(reported, usage, into={"output_tokens": ("outputTokens",), "cached_tokens": ("cacheReadInputTokens",)})


#: What Bedrock itself counted, whatever model it is: in the last chunk, or made of the headers of a whole answer.
INVOCATION = "amazon-bedrock-invocationMetrics"
#: Where models that Bedrock invokes say text, why they stopped, and how many tokens there were.
INVOKED_TEXT = ("outputText", "generation", "text", "completion")
INVOKED_STOP = ("completionReason", "stop_reason", "finish_reason")
INVOKED_COUNTS = {"input_tokens": ("prompt_token_count", "inputTextTokenCount"),
                  "output_tokens": ("generation_token_count", "totalOutputTextTokenCount", "tokenCount")}  # fmt: skip
CONVERSED = ("contentBlockDelta", "messageStart", "messageStop", "metadata", "stopReason")


@functools.lru_cache(maxsize=1)  # a chunk is read for its text, then for what it reports
def _parsed(text: bytes) -> dict[str, Any]:
    said = json.loads(text)
    return said if isinstance(said, dict) else {}


def _invoked(answer: Any) -> tuple[dict[str, Any], dict[str, Any], Dialect | None]:
    """Return what a chunk or an answer says, the part of it that has the text, and the dialect of it, if it is one."""
    packed = _get(_get(answer, "chunk"), "bytes")
    said: dict[str, Any] = _parsed(packed) if packed else answer
    if "choices" in said:
        return said, {}, CHAT
    if _get(said, "type") is not None:
        return said, {}, MESSAGES
    if any(name in said for name in CONVERSED):
        return said, {}, CONVERSE
    parts = _get(said, "outputs", "results", "generations")
    return said, parts[0] if isinstance(parts, list) and parts else said, None


def read_invoked(event: Any) -> str | None:
    """Read a chunk of InvokeModelWithResponseStream, in the words of whichever model it is."""
    said, part, dialect = _invoked(event)
    if dialect:
        return (dialect.read or reader_for(said))(said)
    return _text_or_hidden(_get(part, *INVOKED_TEXT), hidden=False)


def take_invoked(reported: Reported, answer: Any) -> None:
    """Take what a chunk, or a whole answer of InvokeModel, reports."""
    said, part, dialect = _invoked(answer)
    if dialect:
        dialect.take(reported, said)
    else:
        reason = _get(part, *INVOKED_STOP)
        reported.finish_reason = reason.lower() if isinstance(reason, str) else reported.finish_reason
        _count(reported, {**said, **part}, into=INVOKED_COUNTS)
    counted = {"input_tokens": ("inputTokenCount",), "output_tokens": ("outputTokenCount",)}
    _count(reported, _get(said, INVOCATION), into=counted)


def take_embeddings(reported: Reported, answer: Any) -> None:
    """Take the usage of embeddings: input alone, whatever API made them."""
    reported.model = _get(answer, "model") or reported.model
    usage = _get(answer, "usage", INVOCATION) or answer
    names = ("prompt_tokens", "prompt_eval_count", "inputTextTokenCount", "inputTokenCount")
    _count(reported, usage, into={"input_tokens": names})


def _pattern(text: str) -> re.Pattern[bytes]:
    """Return what finds these names with a text behind the last, not the empty one.

    `{` and `[` begin objects and lists, in which no other may stand before the next name: servers add more words to
    their events, such as the whole answer so far, or what a source says.
    """
    names = text.replace("[", r"\[\s*").replace("{", r"\{[^{}]*").replace(": ", r":\s*")
    return re.compile(rf'{names}:\s*"[^"]'.encode())


CHAT = Dialect("chat", None, Reported.take, _pattern('"delta": {"content"'))
COMPLETION = Dialect("text_completion", read_completion, Reported.take, _pattern('"choices": [{"text"'))
RESPONSES = Dialect("chat", read_response, take_response, _pattern('"type": "response.output_text.delta".*"delta"'))
MESSAGES = Dialect(
    "chat", read_message_event, take_message, _pattern('"type": "content_block_delta".*"delta": {"text"')
)
GEMINI = Dialect("generate_content", read_gemini, take_gemini, _pattern('"parts": [{"text"'))
CONVERSE = Dialect("chat", read_converse, take_converse)
INVOKED = Dialect("chat", read_invoked, take_invoked)
OLLAMA = Dialect("chat", read_ollama, take_ollama, _pattern('(?:"message": {"content"|"response")'))
EMBEDDINGS = Dialect("embeddings", None, take_embeddings)
