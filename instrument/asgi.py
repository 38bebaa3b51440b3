"""ASGI middleware: the SERVER span of each HTTP request, its budgets, and whether the client stayed for the answer."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from .budget import OverBudgetError
from .caps import Cap, async_cap_of
from .clocks import Parts
from .contexts import SPAN_KEY, current
from .guard import Guard
from .identity import request_attributes
from .lifecycle import delivering
from .listening import Listening
from .loop_lag import watch_loop
from .marked import Marks
from .request import BudgetsMs, RequestState, request_context
from .spans import Activation, error_type, put, start
from .vocabulary import (
    HTTP_METHODS,
    REMAINING_HEADER,
    REQUEST_ID,
    S_PER_NS,
    TENANT,
    TIME_TO_FIRST_BYTE,
    TIME_TO_LAST_BYTE,
    Outcome,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

#: How long the request's span waits, after the client left, for the model calls below to be closed: generators are
#: closed by the event loop a few turns later. Nobody waits for it but the span, which then ends where the app did.
LINGER_S = 2.0

#: Where a hook puts the route that a framework matched: in the scope of ASGI, in the environment of WSGI.
ROUTE = "tailbudget.route"
#: In the scope of a connection that a middleware of ours has seen.
SEEN = "tailbudget.seen"

TEXT = (b"content-type", b"text/plain; charset=utf-8")

guard = Guard("ASGIMiddleware")
_SERVER = SpanKind.SERVER  # which the enumeration looks up anew each time


class ASGIMiddleware:
    """Wraps an ASGI app; `budgets_ms` marks paths as requests, each with its budgets: milliseconds by name.

    An empty dict marks a path without budgets; a path may hold parameters, as in `/chats/{id}`. Other paths get a
    plain SERVER span. Where a total bites (`Budget(on_over=...)`) the app is cancelled when it is spent: the client
    gets 504, or OverBudgetError breaks off an answer that has begun. Raises UserError for a budget that does not exist
    or is no positive number.
    """

    def __init__(self, app: App, *, budgets_ms: Mapping[str, BudgetsMs] | None = None) -> None:
        self._app = app
        self._marks = Marks(budgets_ms or {})

    @property
    def app(self) -> App:
        """The app inside; middleware that looks for others of its kind asks for it."""
        return self._app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP passes through untouched."""
        exchange = self._begin(scope, receive, send) if scope["type"] == "http" else None
        if exchange is None:
            await self._app(scope, receive, delivering(send) if scope["type"] == "lifespan" else send)
            return
        answered = None
        try:
            if exchange.cap is None:
                await self._app(scope, exchange.receive, exchange.send)
            else:
                answered = await self._serve(scope, exchange, exchange.cap)
        except BaseException as error:
            exchange.finish(error)
            raise
        exchange.finish(answered)

    async def _serve(self, scope: Scope, exchange: "_AsgiExchange", cap: Cap) -> OverBudgetError | None:
        """Run the app within the budget; returns what ended it, if the client has been told."""
        try:
            async with cap.around():
                await self._app(scope, exchange.receive, exchange.send)
        except OverBudgetError as over:
            if exchange.begun:
                raise
            await exchange.send({"type": "http.response.start", "status": 504, "headers": [TEXT]})
            await exchange.send({"type": "http.response.body", "body": b"the budget of this request is spent\n"})
            return over
        return None

    def _begin(self, scope: Scope, receive: Receive, send: Send) -> "_AsgiExchange | None":
        try:
            watch_loop()
            route, budgets = self._marks.of(scope["path"])
            scope[SEEN] = True
            return _AsgiExchange(scope, receive, send, route, budgets)
        except Exception as error:
            if not guard.swallow(error):
                raise
            return None


class _Headers(Getter[Mapping[bytes, bytes]]):
    """Headers as they come, of which propagators ask for few: to decode all of them costs more than a span's start."""

    def get(self, carrier: Mapping[bytes, bytes], key: str) -> list[str] | None:
        """Return the value of a header."""
        value = carrier.get(key.encode())
        return None if value is None else [value.decode("latin-1")]

    def keys(self, carrier: Mapping[bytes, bytes]) -> list[str]:
        """Return the names of the headers."""
        return [name.decode("latin-1") for name in carrier]


_headers = _Headers()


@functools.lru_cache(maxsize=4)
def _heard(propagator: TextMapPropagator) -> frozenset[bytes]:
    """Return the headers without which this propagator extracts an empty context; none of one that is not known."""
    parts = getattr(propagator, "_propagators", ()) if type(propagator) is CompositePropagator else ()
    usual = [type(part) for part in parts] == [TraceContextTextMapPropagator, W3CBaggagePropagator]
    return frozenset((b"traceparent", b"baggage")) if usual else frozenset()


def _extracted(headers: Mapping[bytes, bytes]) -> Context:
    """Return what the caller says of its trace; mostly it is a browser, which says nothing, by nine functions."""
    heard = _heard(propagate.get_global_textmap())
    if heard and heard.isdisjoint(headers):
        return Context()
    return propagate.extract(headers, getter=_headers)


class Exchange:
    """One HTTP request and its answer; `scope` is ASGI's, or what of it a WSGI request has."""

    def __init__(self, scope: Scope, route: str | None, budgets: BudgetsMs) -> None:
        self._scope = scope
        #: The last one of each name.
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._route = route
        self._started_ns = time.perf_counter_ns()
        self._status = 0
        self._complete = False
        self._ended = False
        self._left_ns: int | None = None
        self._flows = False
        self._first_byte_ns: int | None = None
        self._last_byte_ns: int | None = None
        around = current()
        outer = trace.get_current_span(around) if SPAN_KEY in around else INVALID_SPAN
        self._own = outer is INVALID_SPAN or not _is_server(outer)
        method = scope["method"]
        #: As in the names of spans.
        self._method = method if method in HTTP_METHODS else "HTTP"
        parent, attributes = self._described(outer)
        name = route or str(attributes["http.request.method"])
        self._span = start(name, context=parent, kind=_SERVER, attributes=attributes) if self._own else outer
        if not self._own:
            put(outer, attributes)
        self._state = RequestState(
            self._span,
            started_ns=self._started_ns,
            route=route or "",
            tenant=str(attributes.get(TENANT, "")),
            request_id=str(attributes.get(REQUEST_ID, "")),
            marked=route is not None,
        )
        if not self._state.marked:
            self._state.work.on_first = self._discover
        if route is not None:
            self._state.set_budgets(budgets)
            self._state.hurry(self._header(REMAINING_HEADER))
        self.context = request_context(self._state, parent)

    @guard
    def _discover(self) -> None:
        self._state.discover(self._framework_route() or self._method)

    def _described(self, outer: Span) -> tuple[Context | None, dict[str, AttributeValue]]:
        # Within a server span that is not sampled this one is not either: it has no trace of its own.
        unsampled = outer is not INVALID_SPAN and outer.get_span_context().is_valid and not outer.is_recording()
        parent = _extracted(self._headers) if self._own and not unsampled else None
        method = self._scope["method"]
        attributes: dict[str, AttributeValue] = {
            "http.request.method": method if method in HTTP_METHODS else "_OTHER",
            "url.path": self._scope["path"],
            "url.scheme": self._scope.get("scheme", "http"),
        }
        if self._route is not None:
            attributes["http.route"] = self._route
        attributes |= request_attributes(
            self._route or "", tenant=None, request_id=self._header("x-request-id"), context=parent
        )
        return parent, attributes

    def _header(self, name: str) -> str | None:
        value = self._headers.get(name.encode())
        return None if value is None else value.decode("latin-1")

    def answered(self, status: int) -> None:
        """Take the status of the answer."""
        self._status = status

    def sent(self, body: bytes | None, *, more: bool) -> None:
        """Stamp a part of the answer that went to the client."""
        if self._left_ns is None:
            if body:
                self._last_byte_ns = time.perf_counter_ns()
                self._first_byte_ns = self._first_byte_ns or self._last_byte_ns
                self._flows = True
            self._complete = not more

    def leave(self) -> None:
        """Take note that the client is gone, unless it has the whole answer."""
        # Servers report a disconnect after a complete answer too: that is how they say that nothing more comes.
        if not self._complete and self._left_ns is None:
            self._left_ns = time.perf_counter_ns()
            self._flows = False

    def end(self, error: BaseException | None, end_time_ns: int | None = None) -> None:
        if self._ended:
            return
        self._ended = True
        self._state.work.on_first = None  # else a cycle
        try:
            self._tell(error)
            if self._own:
                self._span.end(end_time_ns)
        except Exception as failure:
            if not guard.swallow(failure):
                raise

    def _tell(self, error: BaseException | None) -> None:
        """Put on the span what became of the request."""
        attributes: dict[str, AttributeValue] = {}
        if self._first_byte_ns is not None:
            attributes[TIME_TO_FIRST_BYTE] = (self._first_byte_ns - self._started_ns) * S_PER_NS
        if self._last_byte_ns is not None:
            attributes[TIME_TO_LAST_BYTE] = (self._last_byte_ns - self._started_ns) * S_PER_NS
        if self._status:
            attributes["http.response.status_code"] = self._status
        state = self._state
        if self._own and (route := self._framework_route()) and state.route in ("", route, self._method):
            self._span.update_name(f"{self._method} {route}")
            attributes["http.route"] = route
        outcome = self._outcome(error)
        if outcome == "error":
            self._span.set_status(Status(StatusCode.ERROR))
            attributes["error.type"] = error_type(error) if error else str(self._status)
        if state.route or state.streamed:
            state.finish(outcome, attributes)
        else:
            put(self._span, attributes)

    def _outcome(self, error: BaseException | None) -> Outcome:
        if self._left_ns is not None:
            usable_ns = self._state.usable_ns
            return "left" if usable_ns is not None and usable_ns <= self._left_ns else "dropped"
        if isinstance(error, TimeoutError):
            return "timeout"
        if error is not None or self._status >= 500:
            return "error"
        return "rejected" if self._status >= 400 else "ok"

    def _framework_route(self) -> str | None:
        """Return the template that the framework matched, for paths that nobody marked."""
        if self._route is not None:
            return None
        named = self._scope.get(ROUTE) or self._scope.get("path_template")  # ours, Litestar's
        path = named or getattr(self._scope.get("route"), "path", None)  # Starlette's and FastAPI's
        return path if isinstance(path, str) else None


class _AsgiExchange(Parts, Exchange):
    """An exchange whose messages pass through here."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, route: str | None, budgets: BudgetsMs) -> None:
        super().__init__(scope, route, budgets)
        self._receive = Listening(receive, self._headers)
        self._send = send
        self._clock = time.perf_counter_ns
        self._activation = Activation(self.context)
        #: The server tells of a client that left through `receive` alone: from ASGI 2.4 on `send` raises OSError too.
        self._send_tells_nothing = _before_2_4(str((scope.get("asgi") or {}).get("spec_version", "2.0")))
        #: The total, if it bites.
        self.cap = None if self._state.on_over == "record" else async_cap_of(None, self._span)

    @property
    def begun(self) -> bool:
        """Whether an answer has begun."""
        return self._status > 0

    async def receive(self) -> Message:
        """Hand on what the client sends; a disconnect before the answer is complete means that it left."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.leave()
        return message

    async def _send_and_look(self, message: Message) -> None:
        part = message["type"] == "http.response.body"
        more = message.get("more_body", False)
        if part and not more and not self._own:
            # The span's owner, further out, may end it with the last message.
            self.sent(message.get("body"), more=False)
            self.end(None)
        elif not part and self._state.marked and self._receive.gone():
            self.leave()
        try:
            await self._send(message)
        except OSError:
            self.leave()
            raise
        if message["type"] == "http.response.start":
            self.answered(message["status"])
        elif part:
            self.sent(message.get("body"), more=more)

    def finish(self, error: BaseException | None) -> None:
        """End the request; after a client that left, once the streams that it wanted are closed."""
        try:
            self._activation.restore()
            if self._left_ns is None or not self._own:
                self.end(error)
            else:
                self._end_when_idle(error)
        except Exception as failure:
            if not guard.swallow(failure):
                raise

    def _end_when_idle(self, error: BaseException | None) -> None:
        returned_ns = time.time_ns()
        loop = asyncio.get_running_loop()
        ending = _Once(self.end)
        timer = loop.call_later(LINGER_S, ending, error, returned_ns)
        self._state.when_idle(lambda: _end_from_loop(loop, timer, lambda: ending(error)))


class _Once:
    """Calls a function the first time only."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function: Callable[..., None] | None = function

    def __call__(self, *args: Any) -> None:
        function, self._function = self._function, None
        if function:
            function(*args)


def _end_from_loop(loop: asyncio.AbstractEventLoop, timer: asyncio.TimerHandle, end: Callable[[], None]) -> None:
    """Call `end` in the loop: the garbage collector may finalise a stream in any thread and inside any lock."""

    def act() -> None:
        timer.cancel()
        end()

    if loop.is_closed():
        end()
    else:
        loop.call_soon_threadsafe(act)


@functools.cache
def _before_2_4(version: str) -> bool:
    """Say whether this is an older version of ASGI's HTTP; one that cannot be read is not."""
    parts = version.split(".")
    return all(part.isdecimal() for part in parts) and tuple(map(int, parts)) < (2, 4)


def _is_server(span: Span) -> bool:
    return span.is_recording() and getattr(span, "kind", None) is _SERVER
