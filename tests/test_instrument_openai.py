"""Calls through the real openai SDK to a real server become `chat {model}` spans, and nothing else changes."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, StatusCode

from tailbudget import request
from tailbudget.instrument import hooks
from tailbudget.instrument.calls import provider_of
from tailbudget.instrument.hooks.patching import CALL_SUPPRESSED, HTTP_SUPPRESSED
from tailbudget.instrument.hygiene import hygiene
from tests.instrument_support import ModelServer, Recorded, hooked, serve
from tests.support import wait_until

ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "secret-prompt"}], "max_tokens": 32}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with hooked("openai", "httpx") as recorded:
        yield recorded


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[ModelServer, str]]:
    model = ModelServer(words=["Hello", " you", ". ", "Bye"])
    with serve(model.app()) as url:
        yield model, f"{url}/v1"


@pytest.fixture
def client(server: tuple[ModelServer, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server[1], api_key="none", max_retries=0) as client:
        yield client


def traceparent_of(span: Any) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def test_a_plain_call_is_a_client_span(
    recorded: Recorded, client: openai.OpenAI, server: tuple[ModelServer, str]
) -> None:
    answer = client.chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "Hello you. Bye"
    span = recorded.named("chat tiny")
    attributes = recorded.attributes("chat tiny")
    phases = {name for name in attributes if name.startswith("slo.net.") and isinstance(attributes[name], float)}
    assert phases == {f"slo.net.{name}" for name in ("pool_wait", "dns", "connect", "send", "wait_headers")}
    assert all(0 <= attributes.pop(name) < 5 for name in phases)
    port = int(server[1].split(":")[2].split("/")[0])
    assert span.kind == SpanKind.CLIENT
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "tiny",
        "gen_ai.request.max_tokens": 32,
        "gen_ai.request.stream": False,
        "gen_ai.response.id": "answer-1",
        "gen_ai.response.model": "tiny-0613",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "server.address": "127.0.0.1",
        "server.port": port,
        **hygiene(ASK["messages"]),
        "slo.net.attempts": 1,
        "slo.net.http_version": "1.1",
        "slo.net.reused": False,
    }
    assert server[0].headers[-1]["traceparent"] == traceparent_of(span)


def test_a_streamed_call_has_its_clocks(recorded: Recorded, client: openai.OpenAI) -> None:
    with request("chat"):
        answer = client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
        assert isinstance(answer, openai.Stream)
        assert answer.response.status_code == 200
        words = [chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices]
    assert "".join(words) == "Hello you. Bye"
    attributes = recorded.attributes("chat tiny")
    assert attributes["gen_ai.request.stream"] is True
    assert attributes["slo.stream.end"] == "complete"
    assert attributes["slo.stream.chunks"] == 7
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert 0 < attributes["gen_ai.response.time_to_first_chunk"] <= attributes["slo.time_to_first_token"]
    assert recorded.attributes("chat")["slo.usable.source"] == "sentence"


def test_no_usage_means_no_tokens(recorded: Recorded, client: openai.OpenAI, server: tuple[ModelServer, str]) -> None:
    server[0].usage = False
    try:
        list(client.chat.completions.create(**ASK, stream=True))
    finally:
        server[0].usage = True
    assert not [name for name in recorded.attributes("chat tiny") if name.startswith("gen_ai.usage")]


async def test_async_calls_are_measured_too(recorded: Recorded, server: tuple[ModelServer, str]) -> None:
    async with openai.AsyncOpenAI(base_url=server[1], api_key="none") as client:
        answer = await client.chat.completions.create(**ASK)
        assert answer.id == "answer-1"
        streamed = await client.chat.completions.create(**ASK, stream=True)
        assert isinstance(streamed, openai.AsyncStream)
        assert len([chunk async for chunk in streamed]) == 7
    assert [span.name for span in recorded.spans] == ["chat tiny", "chat tiny"]
    assert (recorded.spans[1].attributes or {})["slo.stream.end"] == "complete"


async def test_closing_the_wrapper_closes_the_connection(recorded: Recorded) -> None:
    model = ModelServer(words=["word "] * 1000, delay_s=0.01)
    with serve(model.app()) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
            answer = await client.chat.completions.create(**ASK, stream=True)
            async for chunk in answer:
                if chunk.choices[0].delta.content:
                    break
            await answer.close()
            await asyncio.to_thread(wait_until, lambda: model.clients_gone == 1, what="the server to see it")
    assert recorded.attributes("chat tiny")["slo.stream.end"] == "closed"


async def test_streams_that_are_left_and_dropped_one_beside_the_other_trouble_nobody(recorded: Recorded) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    model = ModelServer(words=["word "] * 1000, delay_s=0.001)
    with serve(model.app()) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

            async def read_a_little(wanted: int) -> None:
                seen = 0
                async for _ in await client.chat.completions.create(**ASK, stream=True):
                    seen += 1
                    if seen == wanted:
                        return

            await asyncio.gather(*(read_a_little(wanted) for wanted in (1, 5, 30)))
            gc.collect()
            await asyncio.to_thread(wait_until, lambda: model.clients_gone == 3, what="the server to see them leave")
    assert told == []
    assert [(span.attributes or {})["slo.stream.end"] for span in recorded.spans] == ["abandoned"] * 3
    assert {(span.attributes or {})["slo.stream.chunks"] for span in recorded.spans} == {1, 5, 30}


def test_an_http_error_leaves_its_status_but_not_its_words(recorded: Recorded, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**(ASK | {"model": "missing"}))
    span = recorded.named("chat missing")
    attributes = recorded.attributes("chat missing")
    assert attributes["error.type"] == "openai.NotFoundError"
    assert attributes["http.response.status_code"] == 404
    assert span.status.status_code == StatusCode.ERROR
    assert "secret-prompt" not in f"{span.attributes} {span.status.description} {span.events}"


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_call_that_is_cancelled_is_no_error(recorded: Recorded, streamed: bool) -> None:
    model = ModelServer(words=["word"], delay_s=1)
    with serve(model.app()) as url:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:

            async def call() -> None:
                answer: Any = await client.chat.completions.create(**ASK, stream=streamed)
                async for _ in answer:
                    pass

            task = asyncio.create_task(call())
            await asyncio.to_thread(wait_until, lambda: model.headers, what="the call to arrive")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
    assert recorded.attributes("chat tiny")["slo.stream.end"] == "cancelled"
    assert recorded.named("chat tiny").status.status_code == StatusCode.UNSET


def test_raw_and_streaming_responses_work_as_ever_and_are_measured(recorded: Recorded, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**ASK)
    assert (raw.http_response.status_code, raw.parse().id) == (200, "answer-1")
    streamed = client.chat.completions.with_raw_response.create(**ASK, stream=True).parse()
    assert len(list(streamed)) == 7
    with client.chat.completions.with_streaming_response.create(**ASK) as response:
        assert response.parse().id == "answer-1"
    with client.chat.completions.with_streaming_response.create(**ASK, stream=True) as response:
        assert b"Hello" in b"".join(response.iter_bytes())
    with client.chat.completions.stream(**ASK) as events:
        assert events.get_final_completion().choices[0].message.content == "Hello you. Bye"
    gc.collect()
    assert [span.name for span in recorded.spans] == ["chat tiny"] * 5
    said = [dict(span.attributes or {}) for span in recorded.spans]
    assert [found.get("gen_ai.response.id") for found in said] == ["answer-1"] * 5
    assert [found.get("slo.stream.end") for found in said] == [None, "complete", None, "complete", "complete"]


async def test_raw_and_streaming_responses_are_measured_asynchronously(
    recorded: Recorded, server: tuple[ModelServer, str]
) -> None:
    async with openai.AsyncOpenAI(base_url=server[1], api_key="none") as client:
        assert (await client.chat.completions.with_raw_response.create(**ASK)).parse().id == "answer-1"
        async with client.chat.completions.with_streaming_response.create(**ASK) as response:
            assert (await response.parse()).id == "answer-1"
        async with client.chat.completions.with_streaming_response.create(**ASK) as response:
            pass
    assert [span.name for span in recorded.spans] == ["chat tiny"] * 3


@pytest.mark.parametrize("key", CALL_SUPPRESSED, ids=lambda key: key[:-37])  # their ids end in a random UUID
def test_who_wants_no_span_gets_none(recorded: Recorded, client: openai.OpenAI, key: str) -> None:
    token = otel_context.attach(otel_context.set_value(key, value=True))
    client.chat.completions.create(**ASK)
    otel_context.detach(token)
    assert [span.name for span in recorded.spans] == ([] if key in HTTP_SUPPRESSED else ["POST"])


def test_a_header_of_the_callers_own_stays(
    recorded: Recorded, client: openai.OpenAI, server: tuple[ModelServer, str]
) -> None:
    client.chat.completions.create(**ASK, extra_headers={"x-mine": "1", "traceparent": f"00-{1:032x}-{2:016x}-01"})
    assert server[0].headers[-1]["x-mine"] == "1"
    assert server[0].headers[-1]["traceparent"] == f"00-{1:032x}-{2:016x}-01"


def test_uninstalling_puts_the_sdk_back() -> None:
    from openai._base_client import AsyncAPIClient, SyncAPIClient

    before = (SyncAPIClient.request, AsyncAPIClient.request)
    hooks.install(only=("openai",))
    hooks.install(only=("openai",))
    assert before != (SyncAPIClient.request, AsyncAPIClient.request)
    hooks.uninstall()
    assert (SyncAPIClient.request, AsyncAPIClient.request) == before


@pytest.mark.parametrize(
    ("host", "provider"),
    [
        ("api.openai.com", "openai"),
        ("x.openai.azure.com", "azure.ai.openai"),
        ("bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("vllm-1.us-east-1.elb.amazonaws.com", "openai"),
        ("us-central1-aiplatform.googleapis.com", "gcp.vertex_ai"),
        ("127.0.0.1", "openai"),
    ],
)
def test_the_provider_is_known_by_its_host(host: str, provider: str) -> None:
    assert provider_of(host) == provider


def test_an_sdk_imported_after_init_is_wrapped() -> None:
    code = (
        "import sys, tailbudget; tailbudget.init('late'); before = list(sys.meta_path)\n"
        "assert 'openai' not in sys.modules\n"
        "import openai; from openai._base_client import SyncAPIClient, AsyncAPIClient\n"
        "assert 'stainless' in SyncAPIClient.request.__code__.co_filename\n"
        "assert 'stainless' in AsyncAPIClient.request.__code__.co_filename\n"
        "import openai._base_client as m; assert type(m.__loader__).__name__ == 'SourceFileLoader'\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True,
        env={**os.environ, "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
