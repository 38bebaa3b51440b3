"""aiohttp: phases through a TraceConfig of ours beside the user's own."""

import contextvars
import json
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from ..collected import when_collected
from ..guard import Guard
from ..vocabulary import StreamEnd
from ..wire import Collector, Observer, observer_of
from .outgoing import Outgoing, outgoing
from .patching import replace

guard = Guard("aiohttp")
_current: "contextvars.ContextVar[Outgoing | None]" = contextvars.ContextVar("tailbudget-aiohttp", default=None)
#: Observers by the id of the reader whose bytes they see: readers have slots, and tell when they end.
_observers: dict[int, Observer | Collector] = {}


def install(module: ModuleType) -> None:
    """Hook `aiohttp.client`."""
    config = _trace_config(import_module("aiohttp.tracing").TraceConfig())

    def tracing(original: Callable[..., Any]) -> Callable[..., Any]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            with guard:
                kwargs["trace_configs"] = [*(kwargs.get("trace_configs") or ()), config]
            original(self, *args, **kwargs)

        return init

    replace(module.ClientSession, "__init__", tracing)
    replace(module.ClientSession, "_request", _requesting)


def readers(module: ModuleType) -> None:
    """Hook `aiohttp.streams`: whatever is read of an answer leaves its buffer in one place."""
    replace(module.StreamReader, "_read_nowait_chunk", _reading)
    replace(module.StreamReader, "feed_eof", _eof)
    replace(module.StreamReader, "set_exception", _exception)


def _requesting(original: Callable[..., Any]) -> Callable[..., Any]:
    async def request(self: Any, method: str, str_or_url: Any, **kwargs: Any) -> Any:
        sent = _begin(self, method, str_or_url, kwargs)
        if sent is None:
            return await original(self, method, str_or_url, **kwargs)
        token = _current.set(sent)
        try:
            response = await original(self, method, str_or_url, **kwargs)
        except BaseException as error:
            sent.failed(error)
            raise
        finally:
            _current.reset(token)
        _answered(sent, response, decoded=getattr(self, "_auto_decompress", True))
        return response

    return request


@guard
def _begin(session: Any, method: str, str_or_url: Any, kwargs: dict[str, Any]) -> Outgoing | None:
    url = session._build_url(str_or_url)  # noqa: SLF001 - the base URL of a session is its own affair
    body = json.dumps(kwargs["json"]).encode() if kwargs.get("json") is not None else kwargs.get("data")
    return outgoing(
        "aiohttp",
        method.upper(),
        url.scheme,
        url.host or "",
        url.port,
        url.path,
        body if isinstance(body, bytes) else None,
    )


@guard
def _answered(sent: Outgoing, response: Any, *, decoded: bool) -> None:
    sent.answered(response.status, response.headers)
    if sent.call is None:
        return
    headers = {name.lower(): value for name, value in response.headers.items()}
    observer = observer_of(sent.call, headers, decoded=decoded)
    content = response.content
    _observers[id(content)] = observer
    when_collected(response, _abandoned, id(content))
    if content.at_eof():
        _end(content, "complete")


def _reading(original: Callable[..., Any]) -> Callable[..., Any]:
    def read(self: Any, *args: Any) -> Any:
        part = original(self, *args)
        if _observers and (observer := _observers.get(id(self))):
            with guard:
                observer.see(part)
                observer.ask()
                if self.at_eof():
                    _end(self, "complete")
        return part

    return read


def _eof(original: Callable[..., Any]) -> Callable[..., Any]:
    def feed_eof(self: Any) -> None:
        original(self)
        if _observers and id(self) in _observers and self.at_eof():
            with guard:
                _end(self, "complete")

    return feed_eof


def _exception(original: Callable[..., Any]) -> Callable[..., Any]:
    def set_exception(self: Any, error: Any, *args: Any, **kwargs: Any) -> None:
        original(self, error, *args, **kwargs)
        if _observers and id(self) in _observers:
            with guard:
                # aiohttp tells a reader by this class, and no subclass of it, that the response was closed.
                closed = type(error).__name__ == "ClientConnectionError"
                _end(self, "closed" if closed else "error", None if closed else error)

    return set_exception


def _end(reader: Any, end: StreamEnd, error: BaseException | None = None) -> None:
    observer = _observers.pop(id(reader), None)
    if observer:
        observer.end(end, error)


def _abandoned(reader_id: int) -> None:
    observer = _observers.pop(reader_id, None)
    if observer:
        observer.end("abandoned")


def _trace_config(config: Any) -> Any:
    def on(*actions: Callable[[Outgoing, Any], object]) -> Callable[..., Any]:
        async def handle(session: Any, context: Any, params: Any) -> None:  # noqa: ARG001
            sent = _current.get()
            if sent is not None:
                with guard:
                    for action in actions:
                        action(sent, params)

        return handle

    def begin(phase: str) -> Callable[[Outgoing, Any], None]:
        return lambda sent, _: sent.attempt.begin(phase)

    def end(phase: str) -> Callable[[Outgoing, Any], None]:
        return lambda sent, _: sent.attempt.end(phase)

    def connected(yes: bool) -> Callable[[Outgoing, Any], None]:  # noqa: FBT001
        return lambda sent, _: setattr(sent.attempt, "connected", yes)

    config.on_request_start.append(on(_inject))
    config.on_dns_resolvehost_start.append(on(begin("dns")))
    config.on_dns_resolvehost_end.append(on(end("dns")))
    config.on_connection_create_start.append(on(connected(yes=True), begin("connect")))
    config.on_connection_create_end.append(on(end("connect"), begin("send")))
    config.on_connection_reuseconn.append(on(connected(yes=False), begin("send")))
    config.on_request_headers_sent.append(on(end("send"), begin("wait_headers")))
    config.on_request_redirect.append(on(end("wait_headers")))
    config.on_request_end.append(on(end("wait_headers"), _described))
    return config


def _inject(sent: Outgoing, params: Any) -> None:
    sent.inject(has=params.headers.__contains__, put=params.headers.__setitem__)


def _described(sent: Outgoing, params: Any) -> None:
    response = params.response
    if response.version is not None:
        sent.attempt.http_version = f"{response.version.major}.{response.version.minor}"
    transport = response.connection.transport if response.connection else None
    ssl_object = transport.get_extra_info("ssl_object") if transport else None
    sent.attempt.tls_resumed = getattr(ssl_object, "session_reused", None)
