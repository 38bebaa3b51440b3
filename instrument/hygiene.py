"""What a prompt is made of, in counts: never a word of it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.util.types import AttributeValue

from .guard import Guard
from .request import current_request
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
#: Keys under which message parts of the SDKs carry text; values that are no text are looked into.
TEXT_KEYS: Final = ("text", "content", "parts", "output", "arguments", "input")
IMAGE_KEYS: Final = ("image_url", "source", "inline_data", "file_data")

_counter: TokenCounter | None = None


def count_tokens_with(counter: TokenCounter | None) -> None:
    """Count the tokens of prompts with `counter` from now on; None estimates again, at four characters a token."""
    global _counter
    _counter = counter


@Guard("prompt")
def describe_prompt(*, version: str | None = None, retrieved: Iterable[str] = ()) -> None:
    """Say of the current request's prompt which version it is and which texts in it were retrieved.

    Of the texts only their length is kept, until the request ends. Outside of a request it does nothing.
    """
    if request := current_request():
        request.prompt_version = version or request.prompt_version
        request.retrieved_tokens += sum(map(_tokens, retrieved))


@dataclass
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


def hygiene(messages: Any, *, tools: Any = None, system: Any = None) -> Mapping[str, AttributeValue]:
    """Return `slo.prompt.*` of a call: tokens, the shares of its parts, images, JSON.

    `messages` is what the SDKs of OpenAI, Anthropic and Google take: text or messages, as dictionaries or objects.
    `system` is given where it is no message. Empty where nothing can be counted; raises nothing.
    """
    with Guard("prompt"):
        return _hygiene(messages, tools, system)
    return {}


def _hygiene(messages: Any, tools: Any, system: Any) -> dict[str, AttributeValue]:
    listed = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    if not isinstance(listed, (list, tuple)) or not listed:
        return {}
    counts = _Counts()
    last_question = next(
        (at for at in range(len(listed) - 1, -1, -1) if _get(listed[at], "role") == "user"), len(listed)
    )
    for at, message in enumerate(listed):
        part = "system" if _get(message, "role") in SYSTEM_ROLES else "history" if at < last_question else "question"
        _count(counts, part, message)
    if system:
        _count(counts, "system", {"content": system})
    if isinstance(tools, (list, tuple)) and tools:
        schemas = json.dumps(tools, default=_plain)
        counts.tools = _tokens(schemas)
        counts.json_bytes += len(schemas)
    return _attributes(counts, len(listed))


def _attributes(counts: _Counts, messages: int) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        PROMPT_TOKENS: counts.total,
        PROMPT_ESTIMATED: _counter is None,
        PROMPT_MESSAGES: messages,
        PROMPT_JSON_BYTES: counts.json_bytes,
    }
    if counts.images:
        attributes |= {PROMPT_IMAGES: counts.images, PROMPT_IMAGE_BYTES: counts.image_bytes}
    request = current_request()
    retrieved = request.retrieved_tokens if request else 0
    shares = {"system": counts.system, "history": counts.history, "tools": counts.tools, "retrieved": retrieved}
    for name, tokens in shares.items():
        attributes[PROMPT_SHARE_PREFIX + name] = min(1.0, tokens / counts.total) if counts.total else 0.0
    if request and request.prompt_version:
        attributes[PROMPT_VERSION] = request.prompt_version
    return attributes


def _count(counts: _Counts, part: str, message: Any) -> None:
    content = _get(message, "content")
    # The usual message is a role and a text: looking for all else in it costs four times as much.
    plain = isinstance(content, str) and isinstance(message, dict) and len(message) == 2
    for text in (content,) if plain else _texts(message, counts):
        setattr(counts, part, getattr(counts, part) + _tokens(text))
        if text[:1] + text[-1:] in ("{}", "[]"):  # looks like JSON: parsing it would cost too much
            counts.json_bytes += len(text)


def _texts(part: Any, counts: _Counts) -> Iterator[str]:
    """Yield the texts of a message or a part of one; images are counted on the way."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, (list, tuple)):
        for each in part:
            yield from _texts(each, counts)
    elif part is not None:
        for key in IMAGE_KEYS:
            if image := _get(part, key):
                counts.images += 1
                counts.image_bytes += _image_bytes(image)
        for call in _get(part, "tool_calls") or ():
            yield from _texts(_get(call, "function"), counts)
        for key in TEXT_KEYS:
            yield from _texts(_get(part, key), counts)


def _image_bytes(image: Any) -> int:
    """Return the size of an image that is sent along; 0 for one that is only named by its address."""
    data = image if isinstance(image, str) else (_get(image, "url") or _get(image, "data") or "")
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
