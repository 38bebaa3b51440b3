"""The service, the model and the collector that `overhead.py` runs: one FastAPI app, instrumented by one of several."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import import_module
from typing import Any

import openai
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

CHUNKS = 200


def events(chunks: int) -> Iterator[str]:
    """Yield the server-sent events of an answer of so many chunks."""
    for n in range(chunks):
        choice = {"index": 0, "delta": {"content": "word "}, "finish_reason": None if n < chunks - 1 else "stop"}
        chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        yield f"data: {json.dumps(chunk)}\n\n"
    yield "data: [DONE]\n\n"


def model() -> Starlette:
    """Return a model that streams `CHUNKS` words, one every so many ms as its name says, and a collector."""

    async def answer(request: Request) -> Response:
        pace_s = float((await request.json())["model"]) / 1e3

        async def words() -> AsyncIterator[str]:
            for event in events(CHUNKS):
                yield event
                await asyncio.sleep(pace_s)

        return StreamingResponse(words(), media_type="text/event-stream")

    async def taken(request: Request) -> Response:
        await request.body()
        return Response()

    return Starlette(
        routes=[
            Route("/v1/chat/completions", answer, methods=["POST"]),
            Route("/v1/{signal}", taken, methods=["POST"]),
        ]
    )


def tailbudget(_: str) -> None:
    """Instrument with us."""
    import tailbudget as ours

    ours.init("bench")


def by_instrumentor(module: str) -> Callable[[str], None]:
    """Return what instruments openai with another package, its spans sent as ours are."""

    def instrument(collector: str) -> None:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        provider = TracerProvider()
        exporter = OTLPSpanExporter(f"{collector}/v1/traces")
        provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        trace.set_tracer_provider(provider)
        import_module(module).OpenAIInstrumentor().instrument(tracer_provider=provider, skip_dep_check=True)

    return instrument


def nothing(_: str) -> None:
    """Leave the service bare."""


#: name -> how it instruments, the module that it needs.
VARIANTS: dict[str, tuple[Callable[[str], None], str]] = {
    "bare": (nothing, "openai"),
    "tailbudget": (tailbudget, "tailbudget"),
    "opentelemetry-instrumentation-genai-openai": (
        by_instrumentor("opentelemetry.instrumentation.genai.openai"),
        "opentelemetry.instrumentation.genai.openai",
    ),
    "openinference-instrumentation-openai": (
        by_instrumentor("openinference.instrumentation.openai"),
        "openinference.instrumentation.openai",
    ),
}


def service(url: str, http_client: Any = None) -> FastAPI:
    """Return a service that hands a model's words on; `http_client` stands in for the SDK's own."""
    # Newer FastAPI has spans of its own where a provider is set; here the packages are compared, not those.
    known = "telemetry" in (FastAPI.__init__.__kwdefaults__ or {})
    options: Any = {"telemetry": {"tracing": False, "metrics": False, "logs": False}} if known else {}
    app = FastAPI(**options)
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", http_client=http_client)

    @app.get("/chat")
    async def chat(pace_ms: str) -> StreamingResponse:
        answer = await client.chat.completions.create(
            model=pace_ms, messages=[{"role": "user", "content": "hi"}], stream=True
        )

        async def words() -> AsyncIterator[str]:
            async for chunk in answer:
                yield chunk.choices[0].delta.content or ""

        return StreamingResponse(words())

    return app


def main() -> None:
    """Serve `model`, or a service by the name of its variant, on a port: `NAME PORT [URL of the model]`."""
    name, port = sys.argv[1], int(sys.argv[2])
    app: Any = None
    if name == "model":
        app = model()
    else:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = sys.argv[3]
        VARIANTS[name][0](sys.argv[3])
        app = service(sys.argv[3])
    uvicorn.run(app, port=port, log_level="critical")


if __name__ == "__main__":
    main()
