"""httpx and httpx2: phases through the `trace` extension, which may be the user's own too."""

import functools
import sys
from collections.abc import Callable
from operator import itemgetter
from types import ModuleType
from typing import Any

from ..calls import ModelCall
from ..guard import Guard
from ..network import RATE_LIMITS, Attempt, sending
from ..wire import Collector, Observer, observed, observed_async, observer_of, report
from . import resolving
from .outgoing import Outgoing, outgoing
from .patching import replace

#: What httpcore does -> phase.
PHASES = {
    "connect_tcp": "connect",
    "connect_unix_socket": "connect",
    "start_tls": "tls",
    "send_request_headers": "send",
    "send_request_body": "send",
    "receive_response_headers": "wait_headers",
}
#: Parts of httpcore that tell of it.
TELLERS = ("connection", "http11", "http2", "proxy", "socks")
#: Events in which a phase begins, and in which it ends; a dozen more of a request's say nothing.
BEGINS, ENDS = (
    {f"{teller}.{name}.{moment}": phase for teller in TELLERS for name, phase in PHASES.items() for moment in moments}
    for moments in (("started",), ("complete", "failed"))
)

LIMITING = frozenset(name.encode() for name in RATE_LIMITS)

guard = Guard("httpx")
_name, _lowered = itemgetter(0), itemgetter(1)


def install(module: ModuleType) -> None:
    """Hook the clients of httpx, or of httpx2, which are the same by another name."""
    resolving.install(module)
    replace(module.Client, "send", _sync)
    replace(module.AsyncClient, "send", _async)


def _sync(original: Callable[..., Any]) -> Callable[..., Any]:
    def send(self: Any, request: Any, **kwargs: Any) -> Any:
        sent = _begin(request, asynchronous=False)
        if sent is None:
            return original(self, request, **kwargs)
        token = sending.set(sent.attempt)
        try:
            response = original(self, request, **kwargs)
        except BaseException as error:
            sent.failed(error)
            raise
        finally:
            sending.reset(token)
        _answered(sent, response, asynchronous=False)
        return response

    return send


def _async(original: Callable[..., Any]) -> Callable[..., Any]:
    async def send(self: Any, request: Any, **kwargs: Any) -> Any:
        sent = _begin(request, asynchronous=True)
        if sent is None:
            return await original(self, request, **kwargs)
        token = sending.set(sent.attempt)
        try:
            response = await original(self, request, **kwargs)
        except BaseException as error:
            sent.failed(error)
            raise
        finally:
            sending.reset(token)
        _answered(sent, response, asynchronous=True)
        return response

    return send


@guard
def _begin(request: Any, *, asynchronous: bool) -> Outgoing | None:
    url = request.url
    sent = outgoing(
        "httpx",
        request.method,
        url.scheme,
        url.host,
        url.port,
        url.path,
        getattr(request, "_content", None),  # absent where the body is a stream
    )
    if sent is None:
        return None
    headers = request.headers
    known, listed = _names(headers), _listed(headers)

    def put(name: str, value: str) -> None:
        if listed is None:
            headers[name] = value
        else:  # of which there is none
            listed.append((name.encode(), name.encode(), value.encode()))

    sent.inject(has=lambda name: b"\n%b\n" % name.encode() in known, put=put)
    users = request.extensions.get("trace")
    trace = _trace_async(sent.attempt, users) if asynchronous else _trace(sent.attempt, users)
    request.extensions = {**request.extensions, "trace": trace}
    return sent


def _trace(attempt: Attempt, users: Callable[[str, Any], Any] | None) -> Callable[[str, Any], Any]:
    def trace(event: str, info: Any) -> None:
        if event in BEGINS or event in ENDS:
            _note(attempt, event, info)
        if users:
            users(event, info)

    return trace


def _trace_async(attempt: Attempt, users: Callable[[str, Any], Any] | None) -> Callable[[str, Any], Any]:
    async def trace(event: str, info: Any) -> None:
        if event in BEGINS or event in ENDS:
            _note(attempt, event, info)
        if users:
            await users(event, info)

    return trace


@guard
def _note(attempt: Attempt, event: str, info: Any) -> None:
    if phase := BEGINS.get(event):
        attempt.begin(phase)
        attempt.connected = bool(attempt.connected or phase == "connect")
        return
    phase = ENDS[event]
    attempt.end(phase)
    result = info.get("return_value")
    if phase == "tls" and result is not None:
        attempt.tls_resumed = getattr(result.get_extra_info("ssl_object"), "session_reused", None)
    elif phase == "wait_headers":
        attempt.http_version = "2" if event.startswith("http2") else _version(result)


def _names(headers: Any) -> bytes:
    """Return the names of the headers, each between line ends: asking httpx for one decodes them all."""
    listed = _listed(headers)
    if listed is None:
        return b"\n%b\n" % b"\n".join(map(_name, headers.raw)).lower()
    return b"\n%b\n" % b"\n".join(map(_lowered, listed))


def _listed(headers: Any) -> list[tuple[bytes, bytes, bytes]] | None:
    """Return what httpx keeps headers in: name, name in lower case, value; None where that is not known.

    Its methods go through all of them in Python, five times a request: a twentieth of all that telemetry costs one.
    """
    kind: Any = type(headers)
    return headers._list if _are_listed(kind) else None  # noqa: SLF001


@functools.lru_cache(maxsize=8)
def _are_listed(kind: Any) -> bool:
    return getattr(kind({"A-b": "c"}), "_list", None) == [(b"A-b", b"a-b", b"c")]


def _limits(headers: Any) -> dict[str, str]:
    """Return the headers that tell of rate limits: to look through them as text takes httpx ten times as long."""
    names = _names(headers)
    if b"ratelimit-" not in names and b"\nretry-after\n" not in names:
        return {}
    named = ((name.lower(), value) for name, value in headers.raw)
    return {name.decode(): value.decode("latin-1") for name, value in named if name in LIMITING}


def _version(result: Any) -> str:
    """Return `1.1` of the answer of h11, whose first field is `b"HTTP/1.1"`."""
    said = result[0] if isinstance(result, tuple) and result else b""
    return said.decode("ascii").removeprefix("HTTP/") if isinstance(said, bytes) else ""


@guard
def _answered(sent: Outgoing, response: Any, *, asynchronous: bool) -> None:
    sent.answered(response.status_code, _limits(response.headers))
    if sent.call is None:
        return
    if response.is_closed:
        report(sent.call, response.content)
    else:
        observe(response, sent.call, asynchronous=asynchronous)


def observe(response: Any, call: ModelCall, *, asynchronous: bool) -> None:
    """Read what the answer to a model call says while somebody else reads it."""
    kind = _kind(type(response).__module__.partition(".")[0], asynchronous=asynchronous)
    response.stream = kind(response.stream, observer_of(call, response.headers))


@functools.cache
def _kind(module: str, *, asynchronous: bool) -> Any:
    """Return the class of measured streams that httpx, or httpx2, takes for one of its own."""
    library = sys.modules[module]
    if asynchronous:
        return type("MeasuredAsyncStream", (_AsyncStream, library.AsyncByteStream), {})
    return type("MeasuredStream", (_Stream, library.SyncByteStream), {})


class _Stream:
    """The bytes of an answer, observed on their way to whoever reads them."""

    def __init__(self, stream: Any, observer: Observer | Collector) -> None:
        self._stream = stream
        self._observer = observer

    def __iter__(self) -> Any:
        return observed(iter(self._stream), self._observer)

    def close(self) -> None:
        self._observer.end("closed")
        self._stream.close()


class _AsyncStream:
    """The same for an asynchronous client."""

    def __init__(self, stream: Any, observer: Observer | Collector) -> None:
        self._stream = stream
        self._observer = observer

    def __aiter__(self) -> Any:
        return observed_async(aiter(self._stream), self._observer)

    async def aclose(self) -> None:
        self._observer.end("closed")
        await self._stream.aclose()
