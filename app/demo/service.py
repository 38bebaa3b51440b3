"""The demo service: questions about the installed packages, answered from the runtime, with four stages timed."""

import argparse
import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator

import uvicorn
from openai import APIError, AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import tailbudget

from .corpus import Corpus, Passage

#: Loose where a 135M model on one busy core is slow by nature, tight where this service decides: the index and tools.
BUDGETS_MS = {"total": 20_000, "retrieval": 500, "prompt": 500, "prefill": 5_000, "decode": 15_000, "tools": 1_000}
PASSAGE_WORDS = 30
SYSTEM = "You answer questions about Python packages in three or four sentences, from the notes given."


class Assistant:
    """Retrieval, two tools side by side, a prompt, and an answer streamed from the model."""

    def __init__(self, model_url: str) -> None:
        self.slow_index_ms = 0.0
        self._model = ""
        self._corpus = Corpus()
        self._packages = {name.lower(): name for name in self._corpus.packages}
        self._client = AsyncOpenAI(base_url=model_url, api_key="none", max_retries=0, timeout=120)

    async def ready(self) -> bool:
        """Return whether the runtime answers; learns from it which model it serves."""
        if not self._model:
            try:
                self._model = (await self._client.models.list()).data[0].id
            except APIError:
                return False
        return True

    async def close(self) -> None:
        """Close the connections to the runtime."""
        await self._client.close()

    async def answer(self, question: str, *, max_tokens: int) -> AsyncIterator[str]:
        """Yield the pieces of the answer as they come."""
        passages = await self.retrieve(question)
        package = self.package(question)
        facts, dependents = await asyncio.gather(self.facts(package), self.dependents(package))
        async for text in self.generate(self.prompt(question, passages, facts, dependents), max_tokens=max_tokens):
            yield text

    async def generate(self, messages: list[ChatCompletionMessageParam], *, max_tokens: int) -> AsyncIterator[str]:
        """Yield the pieces of the model's answer as they come."""
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        async with stream:
            async for chunk in stream:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    yield text

    @tailbudget.stage("retrieval", "bm25")
    async def retrieve(self, question: str) -> list[Passage]:
        """Return the best passages; waits first when the index is told to be slow."""
        if self.slow_index_ms:
            await asyncio.sleep(self.slow_index_ms / 1e3)
        return self.search(question, k=2)

    def search(self, question: str, *, k: int) -> list[Passage]:
        """Return the `k` best passages."""
        return self._corpus.search(question, k=k)

    @tailbudget.stage("tools", "package_facts")
    async def facts(self, package: str) -> dict[str, str]:
        """Return version, licence and summary of `package`."""
        return await asyncio.to_thread(self._corpus.facts, package)

    @tailbudget.stage("tools", "dependents")
    async def dependents(self, package: str) -> list[str]:
        """Return the installed packages that require `package`."""
        return await asyncio.to_thread(self._corpus.dependents, package)

    @tailbudget.stage("prompt", "rag")
    def prompt(
        self, question: str, passages: list[Passage], facts: dict[str, str], dependents: list[str]
    ) -> list[ChatCompletionMessageParam]:
        """Return the chat messages."""
        notes = [f"{passage.package}: {' '.join(passage.text.split()[:PASSAGE_WORDS])}" for passage in passages]
        notes += [f"{name}: {value}" for name, value in facts.items()]
        notes.append(f"required by: {', '.join(dependents[:8]) or 'nothing installed'}")
        content = "Notes:\n" + "\n".join(notes) + f"\n\nQuestion: {question}"
        return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]

    def package(self, question: str) -> str:
        """Return the installed package that the question is about; empty when there is none."""
        words = re.findall(r"[A-Za-z0-9._-]+", question.lower())
        return next((self._packages[word] for word in words if word in self._packages), "")


async def _events(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    try:
        async for text in pieces:
            yield f"data: {json.dumps({'text': text})}\n\n"
    except APIError as error:
        tailbudget.annotate(outcome="error")
        yield f"data: {json.dumps({'error': str(error)})}\n\n"
    yield "data: [DONE]\n\n"


def build(model_url: str) -> tailbudget.ASGIMiddleware:
    """Return the instrumented application: POST /chat {question, max_tokens}, GET /healthz, POST /control, /alerts."""
    assistant = Assistant(model_url)
    told: deque[dict[str, str]] = deque(maxlen=50)

    async def chat(request: Request) -> Response:
        body = await request.json()
        question, max_tokens = str(body["question"]), int(body.get("max_tokens", 32))
        return StreamingResponse(
            _events(assistant.answer(question, max_tokens=max_tokens)), media_type="text/event-stream"
        )

    async def control(request: Request) -> Response:
        if request.client is None or request.client.host != "127.0.0.1":
            return PlainTextResponse("only from this machine\n", status_code=403)
        assistant.slow_index_ms = float((await request.json())["slow_index_ms"])
        return JSONResponse({"slow_index_ms": assistant.slow_index_ms})

    async def healthz(_: Request) -> Response:
        return (
            PlainTextResponse("ok\n") if await assistant.ready() else PlainTextResponse("no model\n", status_code=503)
        )

    async def alerts(request: Request) -> Response:
        """Take the collector's alerts, and show them."""
        if request.method == "POST":
            shown = ("told", "status", "kind", "severity", "summary")
            told.extend({name: alert[name] for name in shown} for alert in (await request.json())["alerts"])
        return JSONResponse(list(told))

    routes = [
        Route("/alerts", alerts, methods=["GET", "POST"]),
        Route("/chat", chat, methods=["POST"]),
        Route("/control", control, methods=["POST"]),
        Route("/healthz", healthz),
    ]
    return tailbudget.ASGIMiddleware(Starlette(routes=routes), budgets_ms={"/chat": BUDGETS_MS})


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--model-url", default="http://127.0.0.1:8000/v1")
    given = parser.parse_args()
    tailbudget.init("assistant")
    uvicorn.run(build(given.model_url), host="127.0.0.1", port=given.port, log_level="warning")


if __name__ == "__main__":
    main()
