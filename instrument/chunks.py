"""What a streamed chunk says: whether it carries a token, the text to read, the usage and finish reason reported."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Text that a chunk shows to the reader, "" for a token without visible text (reasoning, tool call), None for no token.
ChunkReader = Callable[[Any], str | None]

#: Where OpenAI-compatible servers put generated tokens that nobody reads as the answer.
HIDDEN_TOKENS = ("reasoning_content", "reasoning", "tool_calls", "function_call")


@dataclass(slots=True)
class Reported:
    """What the model server said about the call; None where it said nothing. Counts are tokens."""

    response_id: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    #: Why the server could not answer, where it says so in an answer of status 200.
    failure: str | None = None

    def take(self, message: Any) -> None:
        """Add what one chunk, or a whole answer, reports. Usage may come with every chunk: the largest count stays."""
        self.response_id = self.response_id or field(message, "id") or None
        self.model = self.model or field(message, "model") or None
        for choice in field(message, "choices") or ():
            self.finish_reason = self.finish_reason or field(choice, "finish_reason")
        usage = field(message, "usage")
        if usage is not None:
            self.input_tokens = larger(self.input_tokens, field(usage, "prompt_tokens"))
            self.output_tokens = larger(self.output_tokens, field(usage, "completion_tokens"))
            self.cached_tokens = larger(
                self.cached_tokens, field(field(usage, "prompt_tokens_details"), "cached_tokens")
            )


def reader_for(chunk: Any) -> ChunkReader:
    """Return the reader for chunks like this one: text, chat completion objects, their JSON; any other is a token."""
    if isinstance(chunk, str):
        return read_text
    if isinstance(chunk, dict) and "choices" in chunk:
        return _read_slowly
    if hasattr(chunk, "choices"):
        return read_chat
    return read_opaque


def read_text(chunk: str) -> str | None:
    """Read a piece of text; the empty one is no token."""
    return chunk or None


def read_opaque(chunk: Any) -> str | None:  # noqa: ARG001
    """Read a chunk of an unknown kind: a token, whose text cannot be seen."""
    return ""


def read_chat(chunk: Any) -> str | None:
    """Read a `ChatCompletionChunk`; the usual one, with content, costs a few attribute look-ups (45 ns)."""
    choices = chunk.choices
    if choices:
        content: str | None = choices[0].delta.content
        if content:
            return content
    return _read_slowly(chunk)


def _read_slowly(chunk: Any) -> str | None:
    hidden = False
    for choice in field(chunk, "choices") or ():
        delta = field(choice, "delta")
        text = field(delta, "content") or field(delta, "refusal")
        if text:
            return str(text)
        hidden = hidden or any(field(delta, name) for name in HIDDEN_TOKENS)
    return "" if hidden else None


def field(message: Any, name: str) -> Any:
    """Return a field of an SDK's object or of JSON, None where it is absent."""
    return message.get(name) if isinstance(message, dict) else getattr(message, name, None)


def larger(known: int | None, said: Any) -> int | None:
    """Return the larger of the counts; usage may come with every chunk."""
    if not isinstance(said, int):
        return known
    return said if known is None else max(known, said)
