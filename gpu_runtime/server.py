"""The HTTP server: OpenAI's paths, health, metrics, control; its start and its end."""

import asyncio
import ipaddress
import json
import logging
import signal
import socket
import time
import uuid
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import uvicorn
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import tailbudget
from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import REMAINING_HEADER

from . import models
from .figures import as_vllm
from .host import Runtime
from .messages import RequestError
from .nvml import GpuSampler
from .points import PointSender, otlp_exporter
from .protocol import parse
from .scheduler import Generation
from .settings import LIMITS, RuntimeSettings, check
from .watch import GpuWatch

logger = logging.getLogger("tailbudget.gpu_runtime")
SERVICE = "tailbudget-runtime"
MAX_BODY_BYTES = 8 << 20
#: Of milliseconds in a deadline that is one: beyond 11 days nobody waits, and floats overflow at the end.
MOST_DIGITS = 10
#: What streams have to end after a signal, before their connections are closed.
GRACE_S = 5
#: Longer than clients keep an idle connection (httpx: 5 s): who closes first as the other sends loses a request.
KEEP_ALIVE_S = 65


class Endpoints:
    """The paths of one runtime."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._complete(request, chat=True)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._complete(request, chat=False)

    async def _complete(self, request: Request, *, chat: bool) -> Response:
        arrived_ns = time.perf_counter_ns()
        engine = self._runtime.ready()
        tenant = self._runtime.caller(request.headers.get("authorization", ""))
        asked = parse(await _json(request), chat=chat, vocabulary=self._runtime.tokenizer().size)
        self._known(asked.model)
        prompt = await self._runtime.encode(asked)
        grammar = await self._runtime.grammar(asked)
        params = asked.params(prompt_tokens=len(prompt), context=engine.context, grammar=grammar)
        name = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        answers = [
            Generation(
                name,
                prompt,
                # The same seed would give the same answer again.
                params if params.seed is None else replace(params, seed=params.seed + index),
                arrived_ns,
                trace_context=extract(request.headers),
                deadline_ns=_deadline_ns(request.headers.get(REMAINING_HEADER, "").strip(), arrived_ns),
                tenant=tenant,
                # Nobody gets ahead of its tenant's place by asking.
                priority=max(tenant.priority, asked.priority),
            )
            for index in range(asked.choices)
        ]
        if len(answers) > 1:
            for each in answers:
                each.siblings = answers
        return self._runtime.submit(answers[0], asked)

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        self._runtime.caller(request.headers.get("authorization", ""))
        return JSONResponse({"object": "list", "data": [self._runtime.card()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        self._runtime.caller(request.headers.get("authorization", ""))
        self._known(request.path_params["name"])
        return JSONResponse(self._runtime.card())

    def _known(self, model: str) -> None:
        if model != self._runtime.name:
            message = f"the model {model!r} does not exist: this server has {self._runtime.name!r}"
            raise RequestError(message, status=404, param="model", code="model_not_found")

    async def health(self, _: Request) -> Response:
        """GET /health: 503 until the model is loaded and warm, and again from a signal on."""
        runtime = self._runtime
        status = "draining" if runtime.draining else "ok" if runtime.engine else "loading"
        cold = {"cold_start_s": round(runtime.cold_start_s, 3)} if runtime.engine else {}
        return JSONResponse({"status": status, **cold}, 200 if status == "ok" else 503)

    async def metrics(self, request: Request) -> Response:
        """GET /metrics in Prometheus' text format; `?as=vllm` names everything as vLLM does, for its dashboards."""
        text = generate_latest(self._runtime.registry)
        if request.query_params.get("as") == "vllm":
            text = as_vllm(text)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    async def control(self, request: Request) -> Response:
        """POST /control {"step_delay_ms": N}, from loopback only."""
        if request.client is None or not ipaddress.ip_address(request.client.host).is_loopback:
            raise RequestError("control is for loopback clients only", status=403)
        body = await _json(request)
        if not isinstance(body, dict) or body.keys() != {"step_delay_ms"}:
            raise RequestError('the body is not understood: expected {"step_delay_ms": N}')
        low, high, unit = LIMITS["step_delay_ms"]
        try:
            delay_ms = check("step_delay_ms", body["step_delay_ms"], low=low, high=high, unit=unit)
        except UserError as error:
            raise RequestError(str(error), param="step_delay_ms") from error
        self._runtime.ready().step_delay_ms = delay_ms
        return JSONResponse({"step_delay_ms": delay_ms})


def application(runtime: Runtime) -> Starlette:
    """Return the ASGI application; /control exists only where the settings say so."""
    endpoints = Endpoints(runtime)
    routes = [
        Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
        Route("/v1/completions", endpoints.completions, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{name:path}", endpoints.model),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.metrics),
    ]
    if runtime.settings.control:
        routes.append(Route("/control", endpoints.control, methods=["POST"]))
    handlers = {RequestError: _refused, HTTPException: _http_error, ClientDisconnect: _gone, Exception: _failed}
    counted = Middleware(AnswerCounter, registry=runtime.registry, paths={route.path for route in routes})
    return Starlette(routes=routes, exception_handlers=handlers, middleware=[counted])


class AnswerCounter:
    """Counts answers by path and class of status (`5xx`), as vLLM's server does; probes and scrapes are not counted."""

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry, paths: Collection[str]) -> None:
        self._app = app
        self._paths = set(paths) - {"/health", "/metrics"}
        labels = ("handler", "method", "status")
        self._answers = Counter("http_requests", "Answers by path and class of status.", labels, registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in self._paths:
            return await self._app(scope, receive, send)

        answered = False

        def count(status: int) -> None:
            self._answers.labels(scope["path"], scope["method"], f"{status // 100}xx").inc()

        async def counted(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                count(message["status"])
            await send(message)

        try:
            return await self._app(scope, receive, counted)
        except Exception:
            if not answered:  # `_failed` answers it, behind this
                count(500)
            raise


def _deadline_ns(remaining_ms: str, arrived_ns: int) -> int | None:
    """Return when the caller gives up; None where the header is no number, or one of weeks and more."""
    known = remaining_ms.isdecimal() and len(remaining_ms) < MOST_DIGITS
    return arrived_ns + int(remaining_ms) * 1_000_000 if known else None


async def _json(request: Request) -> object:
    if not request.headers.get("content-type", "").startswith("application/json"):
        # Also what keeps a web page from posting here: JSON needs a preflight, which is refused.
        raise RequestError("the content type is not application/json", status=415)
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(f"the body is over {MAX_BODY_BYTES} bytes", status=413)
    try:
        found: object = json.loads(body)
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RequestError("the body has a half of a surrogate pair, such as \\ud800: no text has that") from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"the body is no JSON: {error}") from error
    return found


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, RequestError):
        raise error
    headers = {"retry-after": str(error.retry_s)} if error.retry_s else None
    return JSONResponse(error.body, error.status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = f"{request.method} {request.url.path}: {error.detail if isinstance(error, HTTPException) else error}"
    return JSONResponse(RequestError(message, status=status).body, status)


async def _failed(request: Request, _error: Exception) -> Response:
    """Answer an error of this server's own; uvicorn logs it."""
    message = f"{request.method} {request.url.path} failed in this server: its log says why"
    return JSONResponse(RequestError(message, status=500).body, 500)


async def _gone(_request: Request, _error: Exception) -> Response:
    """Nobody reads this: the client left while it was sending."""
    return Response(status_code=499)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: they end the process with the signal, before anything is closed."""

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class _Stop:
    """SIGTERM and SIGINT, from before the model is loaded until the process has ended.

    asyncio's handlers go with its loop, and a second Ctrl-C would then interrupt the closing with a traceback.
    """

    def __init__(self) -> None:
        self._asked = 0
        self._wake: Callable[[], object] | None = None
        self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}

    def _ask(self, *_: object) -> None:
        self._asked += 1
        if self._wake:
            self._wake()

    async def wait(self) -> None:
        """Return once a signal has come."""
        event = asyncio.Event()
        self._wake = partial(asyncio.get_running_loop().call_soon_threadsafe, event.set)
        if not self._asked:
            await event.wait()
        self._wake = None

    def again(self) -> bool:
        """Return whether a further signal has come."""
        return self._asked > 1

    def restore(self) -> None:
        """Put the former handlers back; after a signal ignore further ones, since the process is ending.

        Python's own end puts every handler but this one back to the default, which would end it with the signal.
        """
        for number, handler in self._previous.items():
            signal.signal(number, signal.SIG_IGN if self._asked else handler)


def serve(settings: RuntimeSettings) -> None:
    """Serve the model until SIGTERM or SIGINT, then end streams, engine and telemetry in that order.

    UserError when the model is missing or unreadable, or the port is taken. After a signal further ones have no
    effect: the caller is expected to exit.
    """
    path = models.resolve(settings.model)
    listener = _listen(settings)
    stop = _Stop()
    tailbudget.init(SERVICE, instrument_libraries=False)  # its spans are the engine's own
    points = PointSender(otlp_exporter(), resource=Resource.create({"service.name": SERVICE}))
    sampler = GpuSampler(points.add)
    watch = GpuWatch(read=sampler.energy_j)
    sampler.sinks.append(watch.add)
    try:
        if not sampler.start():
            logger.info("no GPU is sampled: %s", sampler.problem)
        points.start()
        host, port = listener.getsockname()[:2]
        asyncio.run(_serve(Runtime(settings, path, address=f"{host}:{port}", watch=watch), listener, points, stop))
    finally:
        sampler.stop()
        points.stop()
        tailbudget.shutdown()
        listener.close()
        stop.restore()


async def _serve(runtime: Runtime, listener: socket.socket, points: PointSender, stop: _Stop) -> None:
    config = uvicorn.Config(
        application(runtime),
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    try:
        stopped, loading = asyncio.create_task(stop.wait()), asyncio.create_task(runtime.load())
        await asyncio.wait((stopped, loading), return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            runtime.give_up()
        await loading
        points.sources.append(runtime.points)
        if not stopped.done():
            logger.info("serving %s on http://%s after %.1f s", runtime.name, runtime.address, runtime.cold_start_s)
        await stopped
        await runtime.drain(stop.again)
    finally:
        await runtime.close()
        server.should_exit = True
        await serving


def _listen(settings: RuntimeSettings) -> socket.socket:
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        raise UserError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. Stop what uses the port, "
            "or choose another with --port or TAILBUDGET_RUNTIME_PORT"
        ) from error
