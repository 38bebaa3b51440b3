"""Web frameworks, whose apps are wrapped in the middleware, inside of another instrumentor's; uvicorn, which ends."""

import sys
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any

from ..asgi import ROUTE, SEEN, ASGIMiddleware
from ..guard import Guard
from ..lifecycle import deliver
from ..wsgi import WSGIMiddleware
from .patching import replace

guard = Guard("server hook")


def starlette(module: ModuleType) -> None:
    """Wrap the middleware stack of every Starlette app; an app that has built its own already gets it wrapped late."""
    replace(module.Starlette, "build_middleware_stack", _wrapping_result)
    replace(module.Starlette, "__call__", _wrapping_late)


def fastapi(module: ModuleType) -> None:
    """FastAPI builds its middleware stack by itself, and opens its own server span outside of it where asked to."""
    replace(module.FastAPI, "build_middleware_stack", _wrapping_result)


_wrapped: "weakref.WeakSet[Any]" = weakref.WeakSet()


def _wrapping_result(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_middleware_stack(self: Any) -> Any:
        stack = original(self)
        with guard:
            _wrapped.add(self)
            if "build_middleware_stack" not in vars(self):
                return _Unseen(stack)
            # OpenTelemetry's instrumentor rebuilds what it gets: of another form it would take nothing.
            stack.app = _Unseen(stack.app)
        return stack

    return build_middleware_stack


def _wrapping_late(original: Callable[..., Any]) -> Callable[..., Any]:
    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        with guard:
            if self.middleware_stack is not None and self not in _wrapped:
                _wrapped.add(self)
                self.middleware_stack = _Unseen(self.middleware_stack)
        await original(self, scope, receive, send)

    return call


class _Unseen(ASGIMiddleware):
    """The middleware, where no other one of ours has seen the connection: apps are often mounted in others."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # some look whether it is a coroutine's
        if SEEN in scope:
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


def _asgi_app(original: Callable[..., Any]) -> Callable[..., Any]:
    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await _Unseen(lambda *given: original(self, *given))(scope, receive, send)

    return call


def _wsgi_app(original: Callable[..., Any]) -> Callable[..., Any]:
    def call(self: Any, environ: Any, start_response: Any) -> Any:
        if SEEN in environ:
            return original(self, environ, start_response)
        return WSGIMiddleware(lambda *given: original(self, *given))(environ, start_response)

    return call


def litestar(module: ModuleType) -> None:
    """Wrap every Litestar app."""
    replace(module.Litestar, "__call__", _asgi_app)


def django_asgi(module: ModuleType) -> None:
    """Wrap Django's ASGI handler."""
    replace(module.ASGIHandler, "__call__", _asgi_app)


def django_wsgi(module: ModuleType) -> None:
    """Wrap Django's WSGI handler."""
    replace(module.WSGIHandler, "__call__", _wsgi_app)


def django_routes(module: ModuleType) -> None:
    """Note the route that Django resolved."""

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def resolve_request(self: Any, request: Any) -> Any:
            match = original(self, request)
            with guard:
                place = getattr(request, "scope", None) or request.environ
                place[ROUTE] = "/" + match.route.lstrip("^/")
            return match

        return resolve_request

    replace(module.BaseHandler, "resolve_request", noting)


def uvicorn(module: ModuleType) -> None:
    """Deliver when a server has shut down: it ends by the signal that stopped it, past every exit handler."""

    def delivering(original: Callable[..., Any]) -> Callable[..., Any]:
        async def shutdown(self: Any, *args: Any, **kwargs: Any) -> None:
            try:
                await original(self, *args, **kwargs)
            finally:
                deliver()

        return shutdown

    replace(module.Server, "shutdown", delivering)


def flask(module: ModuleType) -> None:
    """Wrap every Flask app, and note the route that it matched."""
    replace(module.Flask, "__call__", _wsgi_app)
    replace(module.Flask, "dispatch_request", _noting_flask_route)


def _noting_flask_route(original: Callable[..., Any]) -> Callable[..., Any]:
    def dispatch_request(self: Any, *args: Any) -> Any:
        with guard:
            request = sys.modules["flask"].request
            if request.url_rule is not None:
                request.environ[ROUTE] = request.url_rule.rule
        return original(self, *args)

    return dispatch_request
