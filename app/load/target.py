"""What is asked: an OpenAI-compatible endpoint, or any HTTP route with a body of one's own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from tailbudget.instrument.errors import UserError

from .prompts import Prompts
from .traces import Shape

Api = Literal["chat", "completions", "http"]
#: End of an address -> the API that it speaks.
ENDINGS: Final[dict[str, Api]] = {"/chat/completions": "chat", "/completions": "completions"}
DEFAULT_BODY: Final = '{"question": "{prompt}", "max_tokens": {max_tokens}}'


@dataclass(frozen=True)
class Target:
    """Where requests go and what is in them; `bodies` is a template with {prompt}, {max_tokens} and {n}."""

    url: str
    api: Api
    prompts: Prompts
    model: str = ""
    template: str = DEFAULT_BODY
    headers: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    stream: bool = True

    @property
    def route(self) -> str:
        """Return the path, by which requests are told apart."""
        return urlsplit(self.url).path or "/"

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    def body(self, shape: Shape, number: int) -> bytes:
        """Return the body of a request; none for GET."""
        if self.method == "GET":
            return b""
        text = self.prompts.text(shape, number)
        if self.api == "http":
            filled = self.template.replace("{prompt}", json.dumps(text)[1:-1])
            return filled.replace("{max_tokens}", str(shape.output_tokens)).replace("{n}", str(number)).encode()
        said: dict[str, Any] = {"model": self.model, "max_tokens": shape.output_tokens, "temperature": 0}
        said |= {"prompt": text} if self.api == "completions" else {"messages": [{"role": "user", "content": text}]}
        if self.stream:
            said |= {"stream": True, "stream_options": {"include_usage": True}}
        return json.dumps(said).encode()


def address_of(url: str) -> tuple[str, Api]:
    """Return the full address and the API it speaks: below `/v1` OpenAI's, else a route of a service."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url!r} is no address: expected as in http://127.0.0.1:8000/v1 or http://127.0.0.1:8080/chat")
    api = next((api for ending, api in ENDINGS.items() if parts.path.endswith(ending)), None)
    if api:
        return url, api
    return (f"{url.rstrip('/')}/chat/completions", "chat") if parts.path.rstrip("/").endswith("/v1") else (url, "http")


def headers_of(given: Sequence[str]) -> dict[str, str]:
    """Return headers written as `Name: value`; raises UserError for a text without a colon."""
    found = {}
    for text in given:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise UserError(f"{text!r} is no header: expected as in 'Authorization: Bearer KEY'")
        found[name.strip()] = value.strip()
    return found
