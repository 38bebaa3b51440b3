"""WSGI middleware: what the ASGI one does, for Flask, Django and other synchronous services."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from opentelemetry import context as otel_context

from .asgi import SEEN, Exchange
from .guard import Guard
from .marked import Marks
from .request import BudgetsMs
from .spans import Activation

Environment = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environment, StartResponse], Iterable[bytes]]

guard = Guard("WSGIMiddleware")


class WSGIMiddleware:
    """Wraps a WSGI app; `budgets_ms` is that of `ASGIMiddleware`.

    A client that leaves is seen when the server closes an answer that it has not read to its end.
    """

    def __init__(self, app: App, *, budgets_ms: Mapping[str, BudgetsMs] | None = None) -> None:
        self._app = app
        self._marks = Marks(budgets_ms or {})

    def __call__(self, environ: Environment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        exchange = self._begin(environ)
        if exchange is None:
            return self._app(environ, start_response)

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            with guard:
                exchange.answered(int(status.split(" ", 1)[0]))
            return start_response(status, headers, *error)

        activation = Activation(exchange.context)
        try:
            body = self._app(environ, start)
        except BaseException as error:
            exchange.end(error)
            raise
        finally:
            activation.restore()
        return _answer(body, exchange, environ)

    def _begin(self, environ: Environment) -> Exchange | None:
        with guard:
            environ[SEEN] = True
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            route, budgets = self._marks.of(path)
            return Exchange(_Scope(environ, path), route, budgets)
        return None


class _Scope(dict[str, Any]):
    """The environment of a WSGI request by the names of ASGI; what is put into the one later is seen in the other."""

    def __init__(self, environ: Environment, path: str) -> None:
        headers = [
            (name[5:].replace("_", "-").lower().encode("latin-1"), str(value).encode("latin-1", "replace"))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        ]
        scheme = environ.get("wsgi.url_scheme", "http")
        super().__init__(method=environ["REQUEST_METHOD"], path=path, scheme=scheme, headers=headers)
        self._environ = environ

    def get(self, key: str, default: Any = None) -> Any:
        return super().get(key, self._environ.get(key, default))


def _answer(body: Iterable[bytes], exchange: Exchange, environ: Environment) -> Iterable[bytes]:
    """Return the body with its parts stamped on their way, or as it is where the server treats its type specially."""
    wrapper = environ.get("wsgi.file_wrapper")
    if isinstance(body, (list, tuple)) or (isinstance(wrapper, type) and isinstance(body, wrapper)):
        with guard:
            exchange.sent(b"-", more=False)
        exchange.end(None)
        return body
    return _Body(body, exchange)


class _Body:
    """The parts of an answer. The request is current while the app makes one, the server's context between them."""

    def __init__(self, body: Iterable[bytes], exchange: Exchange) -> None:
        self._body = body
        self._parts: Iterator[bytes] | None = None
        self._exchange: Exchange | None = exchange
        self._inside = exchange.context

    def __iter__(self) -> "_Body":
        return self

    def __next__(self) -> bytes:
        exchange = self._exchange
        if exchange and self._parts is not None:
            exchange.sent(b"", more=True)
        outside = otel_context.get_current()
        otel_context.attach(self._inside)
        try:
            if self._parts is None:
                self._parts = iter(self._body)
            part = next(self._parts)
        except StopIteration:
            self._finish(complete=True)
            raise
        except BaseException as error:
            self._finish(error)
            raise
        finally:
            self._inside = otel_context.get_current()
            otel_context.attach(outside)
        if exchange:
            exchange.sent(part, more=True)
        return part

    def close(self) -> None:
        """End the request; a server that closes before the end has lost its client."""
        try:
            if close := getattr(self._body, "close", None):
                close()
        finally:
            self._finish()

    def _finish(self, error: BaseException | None = None, *, complete: bool = False) -> None:
        exchange, self._exchange = self._exchange, None
        with guard:
            if exchange is None:
                return
            if complete:
                exchange.sent(b"", more=False)
            elif error is None:
                exchange.leave()
            exchange.end(error)
