"""A real service for the diagnoses: each of its routes has one trouble, and a twin without it.

`python -m tests.ailing NAME ENDPOINT PORT {"model": URL, ...}` serves it; the addresses are those of what it calls.
"""

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import AsyncOpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import tailbudget

TWINS = ("well", "sick")
CONTENT = {"role": "user", "content": "why?"}
Handler = Callable[["Service", Request, bool], Awaitable[Response]]


class Service:
    """What the handlers share: clients that were made once, and addresses for those that make their own."""

    def __init__(self, urls: dict[str, str]) -> None:
        self.urls = urls
        self.tls = ssl.create_default_context(cafile=urls.get("certificate"))
        self.web = httpx.AsyncClient(verify=self.tls)
        self.models = {
            # An engine that has yet to start is asked again until it has.
            name: AsyncOpenAI(base_url=url, api_key="none", max_retries=50 if name == "cold" else 2)
            for name, url in urls.items()
            if "/v1" in url
        }
        self.known: set[str] = set()

    async def say(self, *, model: str = "large", where: str = "model", prompt: str = "", **options: Any) -> str:
        """Return a whole answer."""
        create: Any = self.models[where].chat.completions.create
        messages = [{"role": "system", "content": prompt}, CONTENT] if prompt else [CONTENT]
        said = await create(model=model, messages=messages, **{"max_tokens": 64, **options})
        return str(said.choices[0].message.content)

    async def stream(
        self, *, model: str = "large", where: str = "model", words: int = 1, **options: Any
    ) -> AsyncIterator[str]:
        """Yield the pieces of an answer to so many words."""
        create: Any = self.models[where].chat.completions.create
        asked = {"max_tokens": 64, "stream_options": {"include_usage": True}, **options}
        messages = [{"role": "user", "content": "river " * words}]
        async for chunk in await create(model=model, messages=messages, stream=True, **asked):
            for choice in chunk.choices:
                yield choice.delta.content or ""


@tailbudget.stage("tools")
async def look_up(thing: str, *, takes_s: float = 0.02) -> str:
    """Take a while, as a tool does that asks somebody else."""
    await asyncio.sleep(takes_s)
    return f"all about {thing}"


async def agent_loop(service: Service, _: Request, sick: bool) -> Response:
    for turn in range(4 if sick else 2):
        await service.say()
        await look_up(f"thing {turn}")
    return PlainTextResponse(await service.say())


async def agent_loop_again(service: Service, _: Request, sick: bool) -> Response:
    for turn in range(2):
        await service.say()
        await look_up("the same" if sick else f"thing {turn}")
    return PlainTextResponse(await service.say())


async def buffered_stream(service: Service, _: Request, sick: bool) -> Response:
    return StreamingResponse(service.stream(where="slow"))  # the sick twin stands behind `Buffering`


async def cold_start_loading(service: Service, _: Request, sick: bool) -> Response:
    if sick:
        with tailbudget.stage("retrieval", "load index"):
            await asyncio.to_thread(lambda: json.loads(Path(service.urls["index"]).read_text()))
    return PlainTextResponse(await service.say())


async def cold_start_unknowing(service: Service, request: Request, sick: bool) -> Response:
    thing = request.query_params["thing"]
    if sick and thing not in service.known:  # nobody asked on purpose before the first client did
        await asyncio.sleep(3)
        service.known.add(thing)
    return PlainTextResponse(f"all about {thing}")


async def dropped(service: Service, request: Request, _: bool) -> Response:
    return StreamingResponse(service.stream(where="stuck" if "leave" in request.query_params else "model"))


async def far_endpoint(service: Service, _: Request, sick: bool) -> Response:
    await service.web.get(f"{service.urls['far' if sick else 'near']}/plain")
    return PlainTextResponse(await service.say())


async def no_pooling(service: Service, _: Request, sick: bool) -> Response:
    if sick:
        async with httpx.AsyncClient(verify=service.tls) as client:
            await client.get(f"{service.urls['unpooled']}/plain")
    else:
        await service.web.get(f"{service.urls['pooled']}/plain")
    return PlainTextResponse(await service.say())


async def output_uncapped(service: Service, _: Request, sick: bool) -> Response:
    return PlainTextResponse(await service.say(max_tokens=None if sick else 64))


async def output_uncapped_long(service: Service, _: Request, sick: bool) -> Response:
    return PlainTextResponse(await service.say(where="wordy" if sick else "model", max_tokens=4096))


async def oversized_model(service: Service, _: Request, sick: bool) -> Response:
    await service.say(where="router", model="large" if sick else "small")
    return PlainTextResponse(await service.say())


async def prompt_bloat(service: Service, _: Request, sick: bool) -> Response:
    return PlainTextResponse(await service.say(prompt="Never say more than you know. " * (400 if sick else 1)))


async def rate_limited(service: Service, _: Request, sick: bool) -> Response:
    return PlainTextResponse(
        await service.say(where="refusing" if sick else "generous", model="busy-9" if sick else "ok")
    )


async def tool_series(service: Service, _: Request, sick: bool) -> Response:
    tools = [look_up(f"thing {n}", takes_s=0.4) for n in range(2)]
    if sick:
        for tool in tools:
            await tool
    else:
        await asyncio.gather(*tools)
    return PlainTextResponse(await service.say())


async def streamed(service: Service, request: Request, _: bool) -> Response:
    asked = request.query_params
    tokens, words = int(asked["tokens"]), int(asked.get("words", 1))
    return StreamingResponse(service.stream(where=asked["at"], model=asked["model"], max_tokens=tokens, words=words))


class Buffering:
    """Middleware that holds an answer back until it is complete, as those do that compress or sign it."""

    def __init__(self, app: ASGIApp, *, below: str) -> None:
        self._app, self._below = app, below

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("path", "").startswith(self._below):
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def hold(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                for each in held:
                    await send(each)

        await self._app(scope, receive, hold)


#: Name of a route -> its handler; a route is of the rule that its name begins with.
HANDLERS: dict[str, Handler] = {
    handler.__name__: handler
    for handler in (
        agent_loop, agent_loop_again, buffered_stream, cold_start_loading, cold_start_unknowing, dropped,
        far_endpoint, no_pooling, output_uncapped, output_uncapped_long, oversized_model, prompt_bloat, rate_limited,
        tool_series,
    )
}  # fmt: skip
#: Their budgets in milliseconds, where they are not 30 s.
BUDGETS: dict[str, dict[str, float]] = {"cold_start_unknowing": {"total": 2_000}}
#: Routes that stream what is asked for, `?at=ENGINE&model=NAME&tokens=N&words=N`, and their budgets in milliseconds.
STREAMED: dict[str, dict[str, float]] = {
    "hasty": {"ttft": 2_900, "total": 3_000},
    "steady": {"total": 60_000},
    "varied": {"total": 60_000},
    "waiting": {"total": 60_000},
}


def application(service: Service) -> ASGIApp:
    """Return the app: /{name}/{well or sick}."""

    def route(name: str, twin: str) -> Route:
        async def answer(request: Request) -> Response:
            return await HANDLERS.get(name, streamed)(service, request, twin == "sick")

        return Route(f"/{name}/{twin}", answer)

    names = [*HANDLERS, *STREAMED]
    app = Starlette(routes=[route(name, twin) for name in names for twin in TWINS])
    app.add_middleware(Buffering, below="/buffered_stream/sick")
    budgets = {name: {"total": 30_000.0} for name in names} | BUDGETS | STREAMED
    marks = {f"/{name}/{twin}": budgets[name] for name in names for twin in TWINS}
    return tailbudget.ASGIMiddleware(app, budgets_ms=marks)


def main(name: str, endpoint: str, port: str, urls: str) -> None:
    """Serve until a signal comes."""
    tailbudget.init(name, endpoint=endpoint)
    uvicorn.run(application(Service(json.loads(urls))), port=int(port), log_level="warning")


if __name__ == "__main__":
    main(*sys.argv[1:])
