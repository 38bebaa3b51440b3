"""Name resolution: what `getaddrinfo` takes of the HTTP request that asks for it."""

import asyncio.base_events
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..network import sending, timed
from .patching import replace


def install(module: ModuleType) -> None:  # noqa: ARG001 - called when an HTTP client is imported
    """Time resolutions of names, in threads and in asyncio's own loop; a loop written in C resolves by itself."""
    replace(socket, "getaddrinfo", _timed)
    replace(asyncio.base_events.BaseEventLoop, "getaddrinfo", _timed_async)


def _timed(original: Callable[..., Any]) -> Callable[..., Any]:
    def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        attempt = sending.get()
        if attempt is None:
            return original(*args, **kwargs)
        with timed(attempt, "dns"):
            return original(*args, **kwargs)

    return getaddrinfo


def _timed_async(original: Callable[..., Any]) -> Callable[..., Any]:
    async def getaddrinfo(*args: Any, **kwargs: Any) -> Any:
        attempt = sending.get()
        if attempt is None:
            return await original(*args, **kwargs)
        with timed(attempt, "dns"):
            return await original(*args, **kwargs)

    return getaddrinfo
