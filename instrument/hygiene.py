"""What a prompt is made of, in counts: never a word of it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.util.types import AttributeValue

from .guard import Guard
from .request import RequestState, current_request
from .vocabulary import (
    PROMPT_ESTIMATED,
    PROMPT_IMAGE_BYTES,
    PROMPT_IMAGES,
    PROMPT_JSON_BYTES,
    PROMPT_MESSAGES,
    PROMPT_SHARE_PREFIX,
    PROMPT_TOKENS,
    PROMPT_VERSION,
)

TokenCounter = Callable[[str], int]

#: English prose has about four characters a token; code and other scripts have fewer. Hence "estimated".
CHARACTERS_A_TOKEN: Final = 4
SYSTEM_ROLES: Final = ("system", "developer")
#: Arguments of a call, first that is given: what is asked, and what stands before it as the system's word.
MESSAGES: Final = ("messages", "input", "contents", "prompt")
SYSTEM: Final = ("system", "instructions", "system_instruction", "systemInstruction")
#: Keys under which message parts of the SDKs carry text; values that are no text are looked into.
TEXT_KEYS: Final = ("text", "content", "parts", "output", "arguments")
IMAGE_KEYS: Final = ("image_url", "source", "inline_data", "inlineData", "file_data", "fileData")
#: Parts that carry a tool's arguments or result as JSON, and under which key.
JSON_KEYS: Final = ("input", "args", "response")
#: Ends of a text that may be JSON.
JSON_ENDS: Final = ("}", "]")
#: Attributes of what a prompt is made of.
SHARES: Final = tuple(PROMPT_SHARE_PREFIX + name for name in ("system", "history", "tools", "retrieved"))
NO_SHARES: Final = dict.fromkeys(SHARES, 0.0)
CALL_KEYS: Final = (
    "function_call", "functionCall", "function_response", "functionResponse", "toolUse", "toolResult", "image",
)  # fmt: skip

guard = Guard("prompt")
_counter: TokenCounter | None = None


def count_tokens_with(counter: TokenCounter | None) -> None:
    """Count the tokens of prompts with `counter` from now on; None estimates again, at four characters a token."""
    global _counter
    _counter = counter


@guard
def describe_prompt(*, version: str | None = None, retrieved: Iterable[str] = ()) -> None:
    """Say of the current request's prompt which version it is and which texts in it were retrieved.

    Of the texts only their length is kept, until the request ends. Outside of a request it does nothing.
    """
    if request := current_request():
        request.prompt_version = version or request.prompt_version
        request.retrieved_tokens += sum(map(_tokens, retrieved))


@dataclass(slots=True)
class _Counts:
    system: int = 0
    history: int = 0
    question: int = 0
    tools: int = 0
    images: int = 0
    image_bytes: int = 0
    json_bytes: int = 0

    @property
    def total(self) -> int:
        return self.system + self.history + self.question + self.tools


def hygiene_of(arguments: Mapping[str, Any], request: RequestState | None) -> Mapping[str, AttributeValue]:
    """Return the `hygiene` of a call with these arguments of an SDK, or of the JSON on the wire, in this request."""
    try:
        asked = arguments.get("messages") or _given(arguments, MESSAGES)
        return _hygiene(asked, arguments.get("tools"), _given(arguments, SYSTEM), request)
    except Exception as error:
        if not guard.swallow(error):
            raise
        return {}


def _given(arguments: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        if value := arguments.get(name):
            return value
    return None


def hygiene(messages: Any, *, tools: Any = None, system: Any = None) -> Mapping[str, AttributeValue]:
    """Return `slo.prompt.*` of a call: tokens, the shares of its parts, images, JSON.

    `messages` is what the SDKs of OpenAI, Anthropic and Google take: text or messages, as dictionaries or objects.
    `system` is given where it is no message. Empty where nothing can be counted; raises nothing.
    """
    with guard:
        return _hygiene(messages, tools, system, current_request())
    return {}


def _hygiene(messages: Any, tools: Any, system: Any, request: RequestState | None) -> dict[str, AttributeValue]:
    listed = messages if isinstance(messages, (list, tuple)) else [messages]
    counts = _Counts()
    roles = [_get(message, "role") for message in listed]
    # Texts and parts without a role are one question together.
    last_question = len(roles) - 1 - roles[::-1].index("user") if "user" in roles else 0
    for at, message in enumerate(listed):
        part = "system" if roles[at] in SYSTEM_ROLES else "history" if at < last_question else "question"
        _count(counts, part, message)
    if not counts.total and not counts.images:
        return {}
    if system:
        _count(counts, "system", system)
    if isinstance(tools, (list, tuple)) and tools:
        schemas = json.dumps(tools, default=_plain)
        counts.tools = _tokens(schemas)
        counts.json_bytes += len(schemas)
    return _attributes(counts, len(listed), request)


def _attributes(counts: _Counts, messages: int, request: RequestState | None) -> dict[str, AttributeValue]:
    total = counts.total
    attributes: dict[str, AttributeValue] = {
        PROMPT_TOKENS: total,
        PROMPT_ESTIMATED: _counter is None,
        PROMPT_MESSAGES: messages,
        PROMPT_JSON_BYTES: counts.json_bytes,
    }
    if counts.images:
        attributes |= {PROMPT_IMAGES: counts.images, PROMPT_IMAGE_BYTES: counts.image_bytes}
    retrieved = request.retrieved_tokens if request else 0
    attributes |= NO_SHARES
    parts = (counts.system, counts.history, counts.tools, retrieved)
    if total and any(parts):
        attributes |= {name: min(1.0, tokens / total) for name, tokens in zip(SHARES, parts, strict=True)}
    if request and request.prompt_version:
        attributes[PROMPT_VERSION] = request.prompt_version
    return attributes


def _count(counts: _Counts, part: str, message: Any) -> None:
    content = message if isinstance(message, str) else _get(message, "content")
    # The usual message is a role and a text: looking for all else in it costs four times as much.
    plain = isinstance(content, str) and (content is message or (isinstance(message, dict) and len(message) == 2))
    tokens = 0
    for text in (content,) if plain else _texts(message, counts):
        tokens += _counter(text) if _counter else -(-len(text) // CHARACTERS_A_TOKEN)
        if text[-1:] in JSON_ENDS and text[0] + text[-1] in ("{}", "[]"):  # parsing it would cost too much
            counts.json_bytes += len(text)
    setattr(counts, part, getattr(counts, part) + tokens)


def _texts(part: Any, counts: _Counts) -> Iterator[str]:
    """Yield the texts of a message or a part of one; images are counted on the way."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, (list, tuple)):
        for each in part:
            yield from _texts(each, counts)
    elif part is not None:
        yield from _fields(part, counts)


def _fields(part: Any, counts: _Counts) -> Iterator[str]:
    for key in IMAGE_KEYS:
        if image := _get(part, key):
            counts.images += 1
            counts.image_bytes += _image_bytes(image)
    for call in _get(part, "tool_calls") or ():
        yield from _texts(_get(call, "function"), counts)
    for key in (*CALL_KEYS, *TEXT_KEYS):
        yield from _texts(_get(part, key), counts)
    for key in JSON_KEYS:
        if (said := _get(part, key)) and isinstance(said, (dict, list)):
            yield json.dumps(said, default=_plain)


def _image_bytes(image: Any) -> int:
    """Return the size of an image that is sent along; 0 for one that is only named by its address."""
    found = (_get(image, name) for name in ("url", "data", "bytes")) if not isinstance(image, str) else (image,)
    data = next(filter(None, found), "")
    if isinstance(data, bytes):
        return len(data)
    text = str(data)
    if text.startswith(("http://", "https://")):
        return 0
    encoded = len(text) - (text.find(",", 0, 100) + 1)  # behind `data:image/png;base64,`
    return encoded * 3 // 4 - text.endswith("=") - text.endswith("==")


def _tokens(text: str) -> int:
    return _counter(text) if _counter else -(-len(text) // CHARACTERS_A_TOKEN)


def _get(part: Any, name: str) -> Any:
    if isinstance(part, (dict, Mapping)):  # a dictionary is known without asking the abstract class
        return part.get(name)
    return getattr(part, name, None)


def _plain(value: Any) -> Any:
    return value.model_dump() if hasattr(value, "model_dump") else str(value)
