"""The middleware on real uvicorn and Starlette: spans, budgets, and clients that leave before the answer is done."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from tailbudget import ASGIMiddleware, UserError, annotate, usable
from tailbudget.instrument import hooks
from tailbudget.instrument.listening import Listening
from tests.instrument_support import ModelServer, Recorded, recording, serve
from tests.support import free_port, wait_until

BUDGETS = {
    "/chat": {"total": 4000, "retrieval": 300},
    "/fails": {},
    "/too-late": {},
    "/users/{id}/chat": {"total": 1000},
}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


async def chat(request: Request) -> Response:
    annotate(tenant="acme")
    body = await request.body()
    return StreamingResponse(_echo(body), media_type="text/plain")


async def _echo(body: bytes) -> AsyncIterator[bytes]:
    yield b"you said "
    await asyncio.sleep(0.01)
    yield body


async def too_late(_: Request) -> Response:
    raise TimeoutError


async def fails(_: Request) -> Response:
    raise RuntimeError("secret")


async def rejects(_: Request) -> Response:
    return PlainTextResponse("no", status_code=429)


async def user(_: Request) -> Response:
    return PlainTextResponse("hi")


async def echo_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


def app(started: list[str] | None = None) -> ASGIMiddleware:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if started is not None:
            started.append("started")
        yield
        if started is not None:
            started.append("stopped")

    routes = [
        Route("/chat", chat, methods=["GET", "POST"]),
        Route("/fails", fails),
        Route("/too-late", too_late),
        Route("/users/{id}", user),
        Route("/users/{id}/chat", rejects),
        WebSocketRoute("/ws", echo_socket),
    ]
    return ASGIMiddleware(Starlette(routes=routes, lifespan=lifespan), budgets_ms=BUDGETS)


def test_a_marked_path_is_a_request_with_its_budgets(recorded: Recorded) -> None:
    headers = {"traceparent": f"00-{7:032x}-{9:016x}-01", "x-request-id": "r-1"}
    with serve(app()) as url:
        answer = httpx.post(f"{url}/chat", content=b"hello", headers=headers)
    assert answer.text == "you said hello"
    span = recorded.named("/chat")
    attributes = recorded.attributes("/chat")
    first, last = attributes.pop("slo.http.time_to_first_byte"), attributes.pop("slo.http.time_to_last_byte")
    assert 0 < first <= last - 0.01
    assert span.kind == SpanKind.SERVER
    assert span.parent is not None
    assert (span.parent.trace_id, span.parent.span_id) == (7, 9)
    assert attributes.pop("slo.deadline") == pytest.approx(time.time() + 4, abs=10)
    assert attributes == {
        "slo.request": "/chat",
        "slo.request.id": "r-1",
        "slo.tenant": "acme",
        "slo.budget.total": 4.0,
        "slo.budget.retrieval": 0.3,
        "slo.outcome": "ok",
        "http.request.method": "POST",
        "http.route": "/chat",
        "http.response.status_code": 200,
        "url.path": "/chat",
        "url.scheme": "http",
    }
    labels = {"route": "/chat", "tenant": "acme", "outcome": "ok"}
    assert [value >= 1 for found, value in recorded.points("slo.requests.ended") if found == labels] == [True]


def test_other_paths_get_a_plain_server_span(recorded: Recorded) -> None:
    with serve(app()) as url:
        assert httpx.get(f"{url}/users/17").text == "hi"
        assert httpx.get(f"{url}/nothing").status_code == 404
    attributes = recorded.attributes("GET /users/{id}")
    assert attributes["http.route"] == "/users/{id}"
    assert not [name for name in attributes if name.startswith("slo.request")]
    assert "slo.outcome" not in attributes
    assert recorded.attributes("GET")["http.response.status_code"] == 404


def test_a_path_with_parameters_can_be_marked_and_rejections_are_told(recorded: Recorded) -> None:
    with serve(app()) as url:
        assert httpx.get(f"{url}/users/17/chat").status_code == 429
    attributes = recorded.attributes("/users/{id}/chat")
    assert attributes["slo.budget.total"] == 1.0
    assert attributes["slo.outcome"] == "rejected"


def test_an_exception_is_an_error_without_its_words(recorded: Recorded) -> None:
    with serve(app()) as url:
        assert httpx.get(f"{url}/fails").status_code == 500
    span = recorded.named("/fails")
    attributes = recorded.attributes("/fails")
    assert attributes["slo.outcome"] == "error"
    assert attributes["error.type"] == "RuntimeError"
    assert span.status.status_code == StatusCode.ERROR
    assert "secret" not in f"{span.attributes} {span.status.description} {span.events}"


def test_a_timeout_that_escapes_the_app_is_a_timeout(recorded: Recorded) -> None:
    with serve(app()) as url:
        assert httpx.get(f"{url}/too-late").status_code == 500
    assert recorded.attributes("/too-late")["slo.outcome"] == "timeout"


def test_lifespan_passes_through(recorded: Recorded) -> None:
    started: list[str] = []
    with serve(app(started)):
        assert started == ["started"]
    assert started == ["started", "stopped"]
    assert not recorded.spans


async def test_a_websocket_passes_through(recorded: Recorded) -> None:
    inbox = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(inbox)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    scope = {"type": "websocket", "path": "/ws", "headers": [], "query_string": b"", "subprotocols": []}
    await app()(scope, receive, send)
    assert sent == ["websocket.accept", "websocket.close"]
    assert not recorded.spans


async def test_a_server_span_that_is_already_there_is_used(recorded: Recorded) -> None:
    tracer = recorded.tracer_provider.get_tracer("other")
    with tracer.start_as_current_span("POST /chat", kind=SpanKind.SERVER):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app()), base_url="http://t") as client:
            await client.post("/chat", content=b"hello")
    span = recorded.named("POST /chat")
    assert (span.attributes or {})["slo.request"] == "/chat"
    assert (span.attributes or {})["slo.outcome"] == "ok"
    assert len(recorded.spans) == 1


async def test_within_a_server_span_that_is_not_sampled_nothing_is_sampled_and_the_trace_goes_on(
    recorded: Recorded,
) -> None:
    seen: list[trace.SpanContext] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        seen.append(trace.get_current_span().get_span_context())
        await PlainTextResponse("hi")(scope, receive, send)

    theirs = trace.NonRecordingSpan(trace.SpanContext(trace_id=7, span_id=9, is_remote=False))
    served = ASGIMiddleware(look, budgets_ms={"/chat": {}})
    with trace.use_span(theirs):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://t") as client:
            for path in ("/chat", "/other"):
                await client.get(path, headers={"traceparent": f"00-{3:032x}-{4:016x}-01"})
    assert not recorded.spans
    assert [(context.trace_id, context.trace_flags.sampled) for context in seen] == [(7, False)] * 2


@pytest.mark.parametrize("budgets", [{"retreival": 300}, {"total": 0}, {"total": "4s"}, {"total": True}])
def test_a_budget_that_cannot_be_is_refused_at_start(budgets: Any) -> None:
    with pytest.raises(UserError, match=r"budgets_ms\['/chat'\].*expected"):
        ASGIMiddleware(Starlette(), budgets_ms={"/chat": budgets})


@pytest.mark.parametrize("budgets", [5, {"/chat": 300}, {7: {"total": 300}}])
def test_what_is_no_map_of_paths_is_refused_at_start(budgets: Any) -> None:
    with pytest.raises(UserError, match=r"budgets_ms .*such as \{'/chat': \{'total': 2500\}\}"):
        ASGIMiddleware(Starlette(), budgets_ms=budgets)


# A client that leaves half-way.


@contextmanager
def chat_service(model_url: str, answer: Callable[[openai.AsyncOpenAI], AsyncIterator[str]]) -> Iterator[str]:
    hooks.install(only=("openai", "httpx"))
    client = openai.AsyncOpenAI(base_url=f"{model_url}/v1", api_key="none", max_retries=0)

    async def endpoint(_: Request) -> Response:
        return StreamingResponse(answer(client), media_type="text/plain")

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await client.close()

    service = Starlette(routes=[Route("/chat", endpoint, methods=["POST"])], lifespan=lifespan)
    try:
        with serve(ASGIMiddleware(service, budgets_ms={"/chat": {"total": 4000}})) as url:
            yield url
    finally:
        hooks.uninstall()


async def ask(client: openai.AsyncOpenAI) -> AsyncIterator[str]:
    answer = await client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "hi"}], stream=True
    )
    async for chunk in answer:
        if chunk.choices and chunk.choices[0].delta.content:
            yield chunk.choices[0].delta.content


async def ask_and_mark(client: openai.AsyncOpenAI) -> AsyncIterator[str]:
    async for word in ask(client):
        usable()
        yield word


def leave_after(url: str, words: int) -> None:
    """Ask, read until so many words came, and close the connection."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"POST /chat HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n".encode())
        got = b""
        while got.count(b"word") < words or b"\r\n\r\n" not in got:
            got += connection.recv(4096)


@pytest.mark.parametrize(
    ("version", "failing", "outcome"), [("2.4", True, "dropped"), ("2.4", False, "ok"), ("2.3", False, "ok")]
)
async def test_a_part_that_cannot_be_sent_means_that_the_client_left(
    recorded: Recorded, version: str, failing: bool, outcome: str
) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)
        if failing and len(sent) > 3:
            raise OSError("gone")

    async def app(_: Any, __: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with suppress(OSError):  # as a framework that goes on with its background tasks
            for more in (True, True, True, True, False):
                await send({"type": "http.response.body", "body": b"word", "more_body": more})

    scope = {"type": "http", "method": "GET", "path": "/chat", "headers": [], "asgi": {"spec_version": version}}
    await ASGIMiddleware(app, budgets_ms={"/chat": {}})(scope, receive, send)
    for _ in range(100):
        await asyncio.sleep(0)
    attributes = recorded.attributes("/chat")
    assert attributes["slo.outcome"] == outcome
    assert attributes["slo.http.time_to_last_byte"] > attributes["slo.http.time_to_first_byte"]
    assert len(sent) == (4 if failing else 6)


@pytest.mark.parametrize(
    ("words", "answer", "outcome"), [(2, ask, "dropped"), (22, ask, "left"), (1, ask_and_mark, "left")]
)
def test_a_client_that_leaves_is_dropped_before_it_has_something_usable_and_left_after(
    recorded: Recorded, words: int, answer: Callable[[openai.AsyncOpenAI], AsyncIterator[str]], outcome: str
) -> None:
    model = ModelServer(words=["word "] * 1000, delay_s=0.01)
    with serve(model.app()) as model_url, chat_service(model_url, answer) as url:
        leave_after(url, words)
        wait_until(lambda: model.clients_gone == 1, what="the model server to see its client leave")
        request = recorded.named("/chat")
    call = recorded.named("chat tiny")
    assert (request.attributes or {})["slo.outcome"] == outcome
    assert (call.attributes or {})["slo.stream.end"] in ("cancelled", "closed")
    assert call.parent is not None
    assert call.parent.span_id == recorded.id_of("/chat")
    assert (request.end_time or 0) >= (call.end_time or 0) > 0
    assert model.said < 1000


REQUESTS = {
    "no body": b"GET /chat HTTP/1.1\r\nHost: x\r\n\r\n",
    "a body": b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi",
}


@pytest.mark.parametrize("sent", REQUESTS.values(), ids=REQUESTS)
def test_a_client_that_leaves_while_an_answer_is_made_is_dropped(recorded: Recorded, sent: bytes) -> None:
    begun = threading.Event()

    async def make(request: Request) -> Response:
        await request.body()
        begun.set()
        while server.server_state.connections:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
        assert await request.body() == sent.partition(b"\r\n\r\n")[2]
        return PlainTextResponse("nobody hears it")

    service = Starlette(routes=[Route("/chat", make, methods=["GET", "POST"])])
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(ASGIMiddleware(service, budgets_ms={"/chat": {}}), port=port, log_level="critical")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: server.started, what="uvicorn")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
            assert begun.wait(120)
        assert recorded.attributes("/chat")["slo.outcome"] == "dropped"
    finally:
        server.should_exit = True
        thread.join(60)


async def test_what_was_heard_of_a_client_is_handed_on_and_a_body_is_not_asked_for() -> None:
    heard: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}, {"type": "http.disconnect"}]
    asked = 0

    async def receive() -> Any:
        nonlocal asked
        asked += 1
        if not heard:
            await asyncio.Event().wait()
        return heard.pop(0)

    early = Listening(receive, {b"content-length": b"2"})
    assert not early.gone()
    assert asked == 0
    listening = Listening(receive, {})
    assert listening.gone()
    assert [(await listening())["type"] for _ in range(3)] == ["http.request", "http.disconnect", "http.disconnect"]
    there = Listening(receive, {})
    assert not there.gone()
    heard.append({"type": "http.request", "body": b"late", "more_body": False})
    assert (await there())["body"] == b"late"


def test_a_client_that_stays_sees_the_whole_answer(recorded: Recorded) -> None:
    model = ModelServer(words=["word "] * 30)
    with serve(model.app()) as model_url, chat_service(model_url, ask) as url:
        assert httpx.post(f"{url}/chat").text == "word " * 30
        attributes = recorded.attributes("/chat")
    assert attributes["slo.outcome"] == "ok"
    assert attributes["slo.usable.source"] == "tokens"
    assert 0 < attributes["slo.time_to_first_token"] <= attributes["slo.time_to_usable"]
    assert attributes["slo.time_to_usable"] <= attributes["slo.time_to_final"]


async def test_a_stream_suspended_at_a_yield_still_ends_before_its_request(recorded: Recorded) -> None:
    gone = asyncio.Event()

    async def service(scope: Any, receive: Any, send: Any) -> None:
        from tailbudget import stream

        async def words() -> AsyncIterator[str]:
            for _ in range(100):
                yield "word"

        answer: Any = stream(words(), model="kept")
        await anext(answer)
        await receive()
        asyncio.get_running_loop().call_later(0.05, lambda: asyncio.ensure_future(answer.aclose()))

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        gone.set()

    scope = {"type": "http", "path": "/chat", "method": "POST", "headers": []}
    await ASGIMiddleware(service, budgets_ms=BUDGETS)(scope, receive, send)
    assert not recorded.spans
    await asyncio.to_thread(recorded.named, "/chat")
    assert [span.name for span in recorded.spans] == ["chat kept", "/chat"]
    assert trace.get_current_span() is trace.INVALID_SPAN
