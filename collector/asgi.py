"""The few words of ASGI that the two servers need."""

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TEXT: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"


class BodyTooLargeError(Exception):
    """The request has more bytes than it may."""


class ClientGoneError(Exception):
    """The client left before its request was complete: there is nobody to answer."""


def headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the request's headers by lower-case name; of equal names the last."""
    return dict(scope["headers"])


async def read_body(
    receive: Receive, *, declared: bytes | None, limit: int, took: Callable[[int], None] = lambda _: None
) -> bytes:
    """Return the request's body; `took` is told how many bytes each part has, and may raise.

    Raises BodyTooLargeError before more than `limit` bytes are held, ClientGoneError.
    """
    too_large = f"more than {limit} bytes in one body: send less at once"
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise BodyTooLargeError(too_large)
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise BodyTooLargeError(too_large)
        took(len(part))
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


async def respond(
    send: Send, status: int, body: bytes, *, content_type: str, extra: Mapping[str, str] | None = None
) -> None:
    """Send a whole answer."""
    fields = {"content-type": content_type, "content-length": str(len(body)), **(extra or {})}
    encoded = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send: Send, status: int, answer: object, *, extra: Mapping[str, str] | None = None) -> None:
    """Send `answer` as JSON."""
    await respond(send, status, json.dumps(answer).encode(), content_type=JSON, extra=extra)
