"""Whether the client is still there when an answer is ready of which no part was sent: servers tell only who asks."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import FunctionType, MethodType
from typing import Any

from .guard import Guard

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
#: By these a request says that a body follows.
BODY_HEADERS = (b"content-length", b"transfer-encoding")
#: What may stand before a disconnect: the body of a request that has none.
MOST_LOOKS = 2


class Listening:
    """ASGI's `receive` of one request; what `gone` hears is handed on to whoever asks next."""

    __slots__ = ("_held", "_receive", "_whole")

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes]) -> None:
        self._receive = receive
        self._held: list[Message] = []
        #: No more of the body comes: to ask for it would make a server ask the client.
        self._whole = headers.keys().isdisjoint(BODY_HEADERS)

    async def __call__(self) -> Message:
        """Return the next message."""
        if self._held:
            return self._held[0] if self._held[0]["type"] == "http.disconnect" else self._held.pop(0)
        message = await self._receive()
        self._whole = self._whole or not message.get("more_body")
        return message

    @Guard("ASGIMiddleware")
    def gone(self) -> bool:
        """Say whether the client is known to have left; waits for nothing."""
        if not self._whole or not _is_coroutine_function(self._receive) or not _in_asyncio():
            return False
        while len(self._held) < MOST_LOOKS and (message := _at_once(self._receive)):
            self._held.append(message)
            if message["type"] == "http.disconnect":
                return True
        return False


def _is_coroutine_function(function: object) -> bool:
    """Say what `inspect.iscoroutinefunction` says, of coroutine functions and their methods at a glance."""
    code = getattr(function, "__code__", None) if isinstance(function, (FunctionType, MethodType)) else None
    return bool(code and code.co_flags & inspect.CO_COROUTINE) or inspect.iscoroutinefunction(function)


def _in_asyncio() -> bool:
    """Say whether asyncio runs this: a coroutine of another loop may not be left half-way."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _at_once(receive: Receive) -> Message | None:
    """Return what `receive` gives without waiting, else None."""
    asked: Any = receive()
    try:
        asked.send(None)
    except StopIteration as given:
        message: Message = given.value
        return message
    asked.close()
    return None
