"""urllib3, and with it requests: each phase by the method that does it."""

import contextvars
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

from ..guard import Guard
from ..network import sending, timed
from ..wire import Collector, Observer, observer_of
from . import resolving
from .outgoing import Outgoing, outgoing
from .patching import replace

guard = Guard("urllib3")
#: The request that this thread is sending: urllib3 calls `urlopen` again for each retry and redirect.
_current: "contextvars.ContextVar[Outgoing | None]" = contextvars.ContextVar("tailbudget-urllib3", default=None)


def pools(module: ModuleType) -> None:
    """Hook `urllib3.connectionpool`."""
    resolving.install(module)
    replace(module.HTTPConnectionPool, "urlopen", _urlopen)
    replace(module.HTTPConnectionPool, "_make_request", _attempt)


def connections(module: ModuleType) -> None:
    """Hook `urllib3.connection`."""
    replace(module.HTTPConnection, "_new_conn", _phase("connect"))
    replace(module.HTTPConnection, "request", _sending)
    replace(module.HTTPConnection, "getresponse", _phase("wait_headers"), inherited=True)  # in urllib3 1.26
    newer = "_ssl_wrap_socket_and_match_hostname"
    replace(module, newer if hasattr(module, newer) else "ssl_wrap_socket", _tls)


def _urlopen(original: Callable[..., Any]) -> Callable[..., Any]:
    def urlopen(self: Any, method: str, url: str, body: Any = None, headers: Any = None, **kwargs: Any) -> Any:
        if sent := _current.get():
            with guard:
                sent.again()
            return original(self, method, url, body, headers, **kwargs)
        sent = _begin(self, method, url, body)
        if sent is None:
            return original(self, method, url, body, headers, **kwargs)
        with guard:
            headers = (self.headers if headers is None else headers).copy()  # of its own type: names may come twice
            names = {name.lower() for name in headers}
            sent.inject(has=names.__contains__, put=headers.__setitem__)
        token = _current.set(sent)
        try:
            response = original(self, method, url, body, headers, **kwargs)
        except BaseException as error:
            sent.failed(error)
            raise
        finally:
            _current.reset(token)
        _answered(sent, response)
        return response

    return urlopen


@guard
def _begin(pool: Any, method: str, url: str, body: Any) -> Outgoing | None:
    body = body.encode() if isinstance(body, str) else body
    return outgoing(
        "urllib3",
        method.upper(),
        pool.scheme,
        pool.host,
        pool.port,
        urlsplit(url).path,
        body if isinstance(body, bytes) else None,
    )


def _attempt(original: Callable[..., Any]) -> Callable[..., Any]:
    def make_request(*args: Any, **kwargs: Any) -> Any:
        sent = _current.get()
        if sent is None:
            return original(*args, **kwargs)
        token = sending.set(sent.attempt)
        try:
            return original(*args, **kwargs)
        finally:
            sending.reset(token)
            with guard:
                sent.attempt.stop()

    return make_request


def _phase(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def phase(*args: Any, **kwargs: Any) -> Any:
            attempt = sending.get()
            if attempt is None:
                return original(*args, **kwargs)
            attempt.connected = bool(attempt.connected or name == "connect")
            with timed(attempt, name):
                result = original(*args, **kwargs)
            if name == "wait_headers":
                attempt.http_version = {10: "1.0", 11: "1.1", 20: "2"}.get(getattr(result, "version", 0), "")
            return result

        return phase

    return wrapper


def _sending(original: Callable[..., Any]) -> Callable[..., Any]:
    def request(*args: Any, **kwargs: Any) -> Any:
        attempt = sending.get()
        if attempt is None:
            return original(*args, **kwargs)
        before = dict(attempt.phases)
        try:
            with timed(attempt, "send"):
                return original(*args, **kwargs)
        finally:  # a plain connection is opened inside of it
            with guard:
                opening_ns = [attempt.phases.get(phase, 0) - before.get(phase, 0) for phase in ("connect", "tls")]
                attempt.phases["send"] -= sum(opening_ns)

    return request


def _tls(original: Callable[..., Any]) -> Callable[..., Any]:
    def wrap(*args: Any, **kwargs: Any) -> Any:
        attempt = sending.get()
        if attempt is None:
            return original(*args, **kwargs)
        with timed(attempt, "tls"):
            result = original(*args, **kwargs)
        attempt.tls_resumed = getattr(getattr(result, "socket", result), "session_reused", None)
        return result

    return wrap


@guard
def _answered(sent: Outgoing, response: Any) -> None:
    sent.answered(response.status, response.headers)
    if sent.call is None:
        return
    headers = {name.lower(): value for name, value in response.headers.items()}
    whole = response.closed or getattr(response, "_body", None) is not None  # the caller asked for all of it at once
    observer = observer_of(sent.call, headers, decoded=whole)
    if whole:
        observer.see(response.data)
        observer.end("complete")
        return
    _observe(response, observer)


def _is_last(name: str, response: Any, part: Any, args: tuple[Any, ...]) -> bool:
    """Say whether this call of one of the functions that `_observe` watches gave the end of the body."""
    if name == "_update_chunk_length":
        return getattr(response, "chunk_left", None) == 0
    if name == "_handle_chunk":
        return False
    left_before = len(part or b"") if name == "_fp_read" else 0  # urllib3 1.26 counts afterwards
    return not part or args[:1] in ((), (None,)) or getattr(response, "length_remaining", None) == left_before


def _observe(response: Any, observer: Observer | Collector) -> None:
    """Watch the functions through which a body is read, in chunks or by its length.

    They are put onto the response itself, which they know by a weak reference: it must not live on for them.
    """
    alive = weakref.ref(response)
    kind = type(response)
    reading: list[bool] = []
    plain = "_raw_read" if hasattr(kind, "_raw_read") else "_fp_read"

    def read(name: str) -> Callable[..., Any]:
        original = getattr(kind, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            found = alive()
            reading.append(True)  # urllib3 closes a response itself before it says that it broke
            observer.ask()
            try:
                part = original(found, *args, **kwargs)
            except BaseException as error:
                observer.fail(error)
                raise
            finally:
                reading.pop()
            if part:
                observer.see(part)
            if _is_last(name, found, part, args):
                observer.end("complete")
            return part

        return watched

    def close() -> None:
        kind.close(alive())
        if not reading:
            observer.end("closed")

    for name in ("_handle_chunk", plain, "_update_chunk_length"):
        setattr(response, name, read(name))
    response.close = close
