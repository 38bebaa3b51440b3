"""What the load tests share: a scripted server in a process of its own, and a session against it."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tailbudget.analytics.objectives import Objective
from tailbudget.analytics.reader import Reader
from tailbudget.app.load.plan import Traffic
from tailbudget.app.load.prompts import Prompts
from tailbudget.app.load.runner import Step
from tailbudget.app.load.session import Session, Stepped
from tailbudget.app.load.shapes import Lengths, lengths
from tailbudget.app.load.target import Target, address_of

from .collector_support import Collector
from .support import free_port, wait_until

#: Answers as the body says: `delay_ms` before the first part, `parts`, `gap_ms` between them, `refuse` times 429 first,
#: `stall_ms` in which the whole server stands still, `status`.
SERVER = """
import asyncio, collections, json, sys, time
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

seen, refused, gone = [], collections.Counter(), []

def asked(body):
    text = body["messages"][0]["content"] if "messages" in body else body.get("prompt", "{}")
    try:
        return json.loads(text)
    except ValueError:
        return {}

async def answer(request):
    raw = await request.body()
    body = json.loads(raw or b"{}")
    said = {**asked(body), **{k: v for k, v in body.items() if k in SETTINGS}}
    seen.append({"at_s": time.time(), "headers": dict(request.headers), "body": body, "path": request.url.path})
    if "spread" in said:  # requests numbered one after the other take 200 to 580 ms
        said["delay_ms"] = 200 + said["spread"] % 20 * 20
    key = request.headers.get("x-request-id", "")
    if refused[key] < said.get("refuse", 0):
        refused[key] += 1
        return JSONResponse({"error": "later"}, 429, {"retry-after": "0.05"})
    if said.get("status", 200) != 200:
        return JSONResponse({"error": "as asked"}, said["status"])
    if said.get("stall_ms"):
        time.sleep(said["stall_ms"] / 1e3)
    parts = said.get("parts") or body.get("max_tokens", 3)

    async def events():
        try:
            await asyncio.sleep(said.get("delay_ms", 0) / 1e3)
            for n in range(parts):
                choice = {"index": 0, "delta": {"role": "assistant"} if n == 0 else {"content": "word "}}
                yield "data: " + json.dumps({"choices": [choice]}) + "\\n\\n"
                await asyncio.sleep(said.get("gap_ms", 0) / 1e3)
            yield 'data: {"choices": [{"index": 0, "delta": {"content": "end"}}]}\\n\\n'
            usage = {"prompt_tokens": 2 * len(json.dumps(body).split()), "completion_tokens": parts}
            yield "data: " + json.dumps({"choices": [], "usage": usage}) + "\\n\\ndata: [DONE]\\n\\n"
        except (asyncio.CancelledError, GeneratorExit):
            gone.append(key)
            raise
    if body.get("stream") or said.get("sse"):
        return StreamingResponse(events(), media_type="text/event-stream")
    await asyncio.sleep(said.get("delay_ms", 0) / 1e3)
    usage = {"prompt_tokens": 7, "completion_tokens": parts}
    return JSONResponse({"choices": [{"message": {"content": "x"}}], "usage": usage})

async def told(request):
    return JSONResponse({"seen": seen, "gone": gone})

async def models(request):
    return JSONResponse({"data": [{"id": "scripted"}]})

SETTINGS = ("delay_ms", "parts", "gap_ms", "refuse", "stall_ms", "status", "sse", "spread")
paths = [Route(path, answer, methods=["GET", "POST"]) for path in ("/v1/chat/completions", "/v1/completions", "/route")]
app = Starlette(routes=[*paths, Route("/told", told), Route("/v1/models", models)])
uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
"""


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v1/models", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def scripted() -> Iterator[str]:
    """Run the server; gives its base URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen([sys.executable, "-c", SERVER, str(port)]) as process:
        try:
            wait_until(lambda: process.poll() is not None or _answers(url), what="the scripted server")
            yield url
        finally:
            process.terminate()


def told(url: str) -> dict[str, Any]:
    """Return what the server saw: `seen`, its requests, and `gone`, the ids of clients that left."""
    found: dict[str, Any] = httpx.get(f"{url}/told", timeout=120).json()
    return found


def route(url: str, **body: Any) -> Target:
    """Return a target with this body; `{n}` may stand in it."""
    address, api = address_of(f"{url}/route")
    return Target(address, api, Prompts(512), template=json.dumps(body).replace('"{n}"', "{n}"))


def model(url: str, **prompts: Any) -> Target:
    """Return the server's model as a target."""
    address, api = address_of(f"{url}/v1")
    return Target(address, api, Prompts(prompts.pop("block_tokens", 512), **prompts), "scripted")


def traffic(tokens_in: str = "20", tokens_out: str = "3", **settings: Any) -> Traffic:
    """Return traffic of these lengths."""
    chosen = {name: settings.pop(name) for name in ("scale",) if name in settings}
    trace = settings.get("trace", ())
    return Traffic(Lengths(lengths(tokens_in), lengths(tokens_out), trace, **chosen), **settings)


def send(
    target: Target,
    asked: Traffic,
    *,
    rate: float | None = None,
    clients: int | None = None,
    requests: int | None = None,
    lasts_s: float = 3600.0,
    objectives: Sequence[Objective] = (),
    reader: Reader | None = None,
    **settings: Any,
) -> tuple[Session, Stepped]:
    """Send one step and return the session with it."""
    session = Session(target, asked, objectives, reader, **settings)
    step = Step(1, "clients" if clients else "requests/s", clients or rate, lasts_s, requests)
    return session, asyncio.run(session.run(step))


def independent(url: str, body: dict[str, Any], requests: int) -> list[float]:
    """Return what so many requests took, one after the other, by httpx and its own clock, in milliseconds."""
    took_ms = []
    with httpx.Client(timeout=120) as client:
        for number in range(1, requests + 1):
            began_s = time.monotonic()
            answer = client.post(f"{url}/route", json={**body, "spread": number})
            took_ms.append((time.monotonic() - began_s) * 1e3)
            if answer.status_code != 200:
                raise RuntimeError(f"the server answered {answer.status_code}")
    return took_ms


#: A service with retrieval of some ms, of which `slots` run at once, a tool, and words that are streamed every 30 ms.
SERVICE = """
import asyncio, json, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

port, kind, slots = int(sys.argv[1]), sys.argv[2], asyncio.Semaphore(int(sys.argv[3]))
if kind == "ours":
    import tailbudget
    tailbudget.init("service")
    retrieval, tool = tailbudget.stage("retrieval", "docs"), tailbudget.stage("tools", "clock")
    streamed, budgets = tailbudget.stream, {"total": 2500, "retrieval": 500, "tools": 500}
    wrap = lambda app: tailbudget.ASGIMiddleware(app, budgets_ms={"/ask": budgets})
else:
    import contextlib
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.propagate import extract
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    trace.set_tracer_provider(TracerProvider(resource=Resource.create({"service.name": kind})))
    trace.get_tracer_provider().add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), schedule_delay_millis=200))
    tracer = trace.get_tracer(kind)
    retrieval = lambda f: tracer.start_as_current_span("find", attributes={"openinference.span.kind": "RETRIEVER"})(f)
    tool, streamed = lambda f: f, lambda chunks, model: chunks
    def wrap(app):
        async def traced(scope, receive, send):
            headers = {k.decode(): v.decode() for k, v in scope.get("headers", ())}
            parent = extract({"traceparent": headers.get("traceparent", "")})
            said = {"kind": trace.SpanKind.SERVER, "attributes": {"http.route": "/ask"}}
            with tracer.start_as_current_span("ask", parent, **said):
                await app(scope, receive, send)
        return traced

@retrieval
async def find():
    async with slots:
        await asyncio.sleep(float(sys.argv[4]))

@tool
async def ring():
    pass

async def say():
    for word in "many a word goes by here before it ends.".split():
        yield word + " "
        await asyncio.sleep(0.03)

async def ask(request):
    await request.body()
    await find()
    await ring()
    async def events():
        async for word in streamed(say(), model="m"):
            yield "data: " + json.dumps({"text": word}) + "\\n\\n"
    return StreamingResponse(events(), media_type="text/event-stream")

app = wrap(Starlette(routes=[Route("/ask", ask, methods=["POST"])]))
uvicorn.run(app, port=port, log_level="critical", lifespan="off")
"""


@contextmanager
def service(sends_to: Collector | None, *, init: str = "ours", slots: int = 100, find_s: float = 0.01) -> Iterator[str]:
    """Run the service; it sends to a collector, and reads baggage where `init` is `ours`. Gives its base URL."""
    port = free_port()
    environment = {**os.environ, "OTEL_SDK_DISABLED": "true"}
    if sends_to:
        endpoint = f"http://127.0.0.1:{sends_to.http_port}"
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SDK_DISABLED": "false"}
    line = [sys.executable, "-c", SERVICE, str(port), init, str(slots), str(find_s)]
    with subprocess.Popen(line, env=environment) as process:
        try:
            wait_until(lambda: _listens(port), what="the service")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def command(
    folder: Path, running: Collector, *arguments: str, name: str = "run"
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """Run `tailbudget load` in a folder; return the report that it wrote, and how it ended."""
    addresses = ["--api", f"http://127.0.0.1:{running.api_port}", "--http", f"http://127.0.0.1:{running.http_port}"]
    line = [sys.executable, "-m", "tailbudget.app.main", "load", *arguments, *addresses, "--out", name]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    file = folder / f"{name}.json"
    assert file.exists(), done.stderr
    report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return report, done
