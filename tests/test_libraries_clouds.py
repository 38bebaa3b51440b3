"""Models behind cloud platforms: Bedrock by boto3, and the platform clients of openai, anthropic and google-genai."""

import asyncio
import gc
import json
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import anthropic
import openai
import pytest

from tests.instrument_support import Recorded, hooked, serve
from tests.scripted_clouds import Clouds
from tests.support import wait_until

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
LIBRARIES = ("botocore", "openai", "anthropic", "google-genai", "aiohttp", "httpx", "urllib3")
ASK: Any = [{"role": "user", "content": "secret-prompt"}]
CONVERSE: Any = [{"role": "user", "content": [{"text": "secret-prompt"}]}]
#: A family of models that Bedrock invokes, what it is asked, and why it stops.
FAMILIES = {
    "anthropic.claude": ({"messages": ASK, "max_tokens": 9, "anthropic_version": "bedrock-2023-05-31"}, "end_turn"),
    "amazon.nova": ({"messages": CONVERSE, "inferenceConfig": {"maxTokens": 9}}, "end_turn"),
    "amazon.titan": ({"inputText": "secret", "textGenerationConfig": {"maxTokenCount": 9}}, "finish"),
    "meta.llama": ({"prompt": "secret", "max_gen_len": 9}, "stop"),
    "mistral.mixtral": ({"prompt": "secret", "max_tokens": 9}, "stop"),
    "openai.gpt-oss": ({"messages": ASK, "max_tokens": 9}, "stop"),
}


@pytest.fixture(scope="module")
def clouds() -> Clouds:
    return Clouds()


@pytest.fixture(scope="module")
def url(clouds: Clouds) -> Iterator[str]:
    with serve(clouds.app()) as url:
        yield url


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with hooked(*LIBRARIES) as recorded:
        yield recorded


@pytest.fixture
def bedrock(url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    print(f"\nboto3 {version('boto3')}, botocore {version('botocore')}, urllib3 {version('urllib3')}")
    for name, value in {"ACCESS_KEY_ID": "none", "SECRET_ACCESS_KEY": "none", "MAX_ATTEMPTS": "2"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_RETRY_MODE", "standard")
    return boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=url)


def only(recorded: Recorded) -> dict[str, Any]:
    gc.collect()
    wait_until(lambda: recorded.spans, what="a span")
    assert len(recorded.spans) == 1, [span.name for span in recorded.spans]
    assert "secret" not in str(recorded.spans[0].attributes)
    return dict(recorded.spans[0].attributes or {})


def answered(said: dict[str, Any], *, model: str, provider: str, reason: str, streamed: bool) -> None:
    """Check what every call says, whatever the platform."""
    assert (said["gen_ai.operation.name"], said["gen_ai.request.model"]) == ("chat", model)
    assert said["gen_ai.provider.name"] == provider
    assert said["gen_ai.request.stream"] is streamed
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (11, 4)
    assert said["gen_ai.response.finish_reasons"] == (reason,)
    assert said["server.address"] == "127.0.0.1"
    assert said["slo.net.attempts"] == 1
    if streamed:
        assert said["slo.stream.end"] == "complete"
        assert 0 < said["slo.time_to_first_token"] <= said["slo.time_to_final"]


def test_converse_is_a_model_call(recorded: Recorded, bedrock: Any, clouds: Clouds) -> None:
    system = [{"text": "s" * 4 * 4}]
    config = {"maxTokens": 9, "temperature": 0.5}
    bedrock.converse(modelId="amazon.nova", messages=CONVERSE, system=system, inferenceConfig=config)
    said = only(recorded)
    answered(said, model="amazon.nova", provider="aws.bedrock", reason="end_turn", streamed=False)
    assert (said["gen_ai.request.max_tokens"], said["gen_ai.request.temperature"]) == (9, 0.5)
    assert said["gen_ai.usage.cache_read.input_tokens"] == 3
    assert said["slo.prompt.share.system"] == 0.5
    assert recorded.spans[0].name == "chat amazon.nova"
    context = recorded.spans[0].get_span_context()
    assert context is not None
    assert clouds.headers[-1]["traceparent"].split("-")[1:3] == [f"{context.trace_id:032x}", f"{context.span_id:016x}"]


def test_a_converse_stream_is_timed(recorded: Recorded, bedrock: Any) -> None:
    answer = bedrock.converse_stream(modelId="amazon.nova", messages=CONVERSE)
    assert type(answer["stream"]).__name__ != "EventStream"
    assert isinstance(answer["stream"], sys.modules["botocore.eventstream"].EventStream)
    texts = [each["contentBlockDelta"]["delta"]["text"] for each in answer["stream"] if "contentBlockDelta" in each]
    assert "".join(texts) == "Hello you. Bye"
    said = only(recorded)
    answered(said, model="amazon.nova", provider="aws.bedrock", reason="end_turn", streamed=True)
    assert said["gen_ai.usage.cache_read.input_tokens"] == 3
    assert said["slo.stream.chunks"] == 8


@pytest.mark.parametrize("model", FAMILIES)
def test_a_stream_of_an_invoked_model_is_timed_in_its_own_words(recorded: Recorded, bedrock: Any, model: str) -> None:
    body, reason = FAMILIES[model]
    answer = bedrock.invoke_model_with_response_stream(modelId=model, body=json.dumps(body))
    assert b"Hello" in b"".join(each["chunk"]["bytes"] for each in answer["body"])
    said = only(recorded)
    answered(said, model=model, provider="aws.bedrock", reason=reason, streamed=True)
    assert said["gen_ai.request.max_tokens"] == 9


@pytest.mark.parametrize("model", [each for each in FAMILIES if each not in ("amazon.nova", "openai.gpt-oss")])
@pytest.mark.parametrize(
    "read",
    [
        lambda body: body.read(),
        lambda body: b"".join(body.iter_chunks(7)),
        lambda body: b"".join(iter(lambda: body.read(5), b"")),
        json.load,
    ],
    ids=["read", "iter_chunks", "in parts", "json.load"],
)
def test_a_whole_answer_of_an_invoked_model_has_its_usage(
    recorded: Recorded, bedrock: Any, model: str, read: Callable[[Any], Any]
) -> None:
    body, reason = FAMILIES[model]
    assert "Hello" in str(read(bedrock.invoke_model(modelId=model, body=json.dumps(body))["body"]))
    answered(only(recorded), model=model, provider="aws.bedrock", reason=reason, streamed=False)


async def converse_async(client: Any) -> None:
    await client.converse(modelId="amazon.titan", messages=CONVERSE)


async def converse_stream_async(client: Any) -> None:
    answer = await client.converse_stream(modelId="amazon.titan", messages=CONVERSE)
    assert len([event async for event in answer["stream"]]) == 8


async def invoke_async(client: Any) -> None:
    answer = await client.invoke_model(modelId="amazon.titan", body=json.dumps(FAMILIES["amazon.titan"][0]))
    async with answer["body"] as body:
        assert b"Hello" in await body.read()


async def invoke_stream_async(client: Any) -> None:
    body = json.dumps(FAMILIES["amazon.titan"][0])
    answer = await client.invoke_model_with_response_stream(modelId="amazon.titan", body=body)
    assert len([event async for event in answer["body"]]) == 4


@pytest.mark.parametrize("ask", [converse_async, converse_stream_async, invoke_async, invoke_stream_async],
                         ids=lambda ask: ask.__name__)  # fmt: skip
async def test_an_asynchronous_client_is_measured_alike(
    recorded: Recorded, bedrock: Any, url: str, ask: Callable[[Any], Any]
) -> None:
    session = pytest.importorskip("aiobotocore.session", reason="aiobotocore is not installed").get_session()
    print(f"aiobotocore {version('aiobotocore')}")
    async with session.create_client("bedrock-runtime", region_name="us-east-1", endpoint_url=url) as client:
        await ask(client)
    reason = "end_turn" if "converse" in ask.__name__ else "finish"
    said = only(recorded)
    answered(said, model="amazon.titan", provider="aws.bedrock", reason=reason, streamed="stream" in ask.__name__)


def test_an_answer_that_nobody_reads_has_the_tokens_that_its_headers_say(recorded: Recorded, bedrock: Any) -> None:
    bedrock.invoke_model(modelId="meta.llama", body=json.dumps({"prompt": "secret"}))
    said = only(recorded)
    assert (said["gen_ai.usage.input_tokens"], said["gen_ai.usage.output_tokens"]) == (11, 4)


def test_an_embedding_is_retrieval(recorded: Recorded, bedrock: Any) -> None:
    answer = bedrock.invoke_model(modelId="amazon.titan-embed", body=json.dumps({"inputText": "secret"}))
    assert json.load(answer["body"])["embedding"] == [0.5, 0.5]
    said = only(recorded)
    assert (said["gen_ai.operation.name"], said["slo.stage"]) == ("embeddings", "retrieval")
    assert said["gen_ai.usage.input_tokens"] == 11


def test_a_stream_that_breaks_is_an_error(recorded: Recorded, bedrock: Any) -> None:
    answer = bedrock.converse_stream(modelId="amazon.nova-breaks", messages=CONVERSE)
    with pytest.raises(Exception, match="secret"):
        list(answer["stream"])
    said = only(recorded)
    assert (said["slo.stream.end"], said["error.type"]) == ("error", "botocore.exceptions.EventStreamError")


def test_a_stream_that_is_left_is_closed(recorded: Recorded, bedrock: Any) -> None:
    stream = bedrock.converse_stream(modelId="amazon.nova", messages=CONVERSE)["stream"]
    assert next(iter(stream))
    stream.close()
    assert only(recorded)["slo.stream.end"] == "closed"


def test_attempts_that_are_refused_are_one_call(recorded: Recorded, bedrock: Any) -> None:
    with pytest.raises(bedrock.exceptions.ThrottlingException):
        bedrock.converse(modelId="amazon.nova-limited", messages=CONVERSE)
    said = only(recorded)
    assert (said["slo.net.attempts"], said["slo.ratelimit.refused"]) == (2, 2)
    assert said["slo.net.backoff"] > 0


def test_other_operations_are_none_of_ours(recorded: Recorded, bedrock: Any, url: str) -> None:
    with pytest.raises(Exception, match="404"):
        bedrock.apply_guardrail(guardrailIdentifier="g", guardrailVersion="1", source="INPUT", content=[])
    assert [span.name for span in recorded.spans] == ["POST"]


def test_a_call_that_opentelemetrys_instrumentor_covers_has_its_span_alone(
    recorded: Recorded, bedrock: Any, url: str
) -> None:
    name = "opentelemetry.instrumentation.botocore"
    library = pytest.importorskip(name, reason=f"{name} is not installed")
    other = library.BotocoreInstrumentor()
    other.instrument(tracer_provider=recorded.tracer_provider, skip_dep_check=True)
    try:
        list(bedrock.converse_stream(modelId="amazon.nova", messages=CONVERSE)["stream"])
    finally:
        other.uninstrument()
    calls = [span for span in recorded.spans if "gen_ai.request.model" in (span.attributes or {})]
    assert [span.instrumentation_scope.name for span in calls if span.instrumentation_scope] != ["tailbudget"]
    assert len(calls) == 1


def stream_anthropic(client: Any) -> None:
    with client.messages.stream(model="anthropic.ok", messages=ASK, max_tokens=9) as stream:
        assert stream.get_final_text() == "Hello you. Bye"


async def stream_anthropic_async(client: Any) -> None:
    async with client, client.messages.stream(model="anthropic.ok", messages=ASK, max_tokens=9) as stream:
        assert await stream.get_final_text() == "Hello you. Bye"


PLATFORMS: dict[str, tuple[dict[str, Any], str]] = {
    "AnthropicBedrock": ({"aws_access_key": "none", "aws_secret_key": "none", "aws_region": "r"}, "aws.bedrock"),
    "AnthropicVertex": ({"region": "r", "project_id": "p", "access_token": "none"}, "gcp.vertex_ai"),
}


@pytest.mark.parametrize("name", PLATFORMS)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_anthropics_platform_clients_are_measured(recorded: Recorded, url: str, name: str, asynchronous: bool) -> None:
    settings, provider = PLATFORMS[name]
    if name == "AnthropicBedrock":
        pytest.importorskip("boto3", reason="boto3 is not installed")
    client = getattr(anthropic, f"Async{name}" if asynchronous else name)(base_url=url, **settings)
    if asynchronous:
        asyncio.run(stream_anthropic_async(client))
    else:
        with client:
            stream_anthropic(client)
    said = only(recorded)
    answered(said, model="anthropic.ok", provider=provider, reason="end_turn", streamed=True)
    assert said["gen_ai.usage.cache_read.input_tokens"] == 3


@pytest.mark.parametrize("name", PLATFORMS)
def test_a_whole_answer_of_anthropics_platform_clients_has_its_usage(recorded: Recorded, url: str, name: str) -> None:
    settings, provider = PLATFORMS[name]
    if name == "AnthropicBedrock":
        pytest.importorskip("boto3", reason="boto3 is not installed")
    with getattr(anthropic, name)(base_url=url, **settings) as client:
        client.messages.create(model="anthropic.ok", messages=ASK, max_tokens=9)
    answered(only(recorded), model="anthropic.ok", provider=provider, reason="end_turn", streamed=False)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_azures_client_is_measured(recorded: Recorded, url: str, asynchronous: bool) -> None:
    settings: dict[str, Any] = {"azure_endpoint": url, "api_version": "2024-10-21", "api_key": "none"}

    async def read() -> None:
        async with openai.AsyncAzureOpenAI(**settings) as client:
            async for _ in await client.chat.completions.create(model="ok", messages=ASK, stream=True):
                pass

    if asynchronous:
        asyncio.run(read())
    else:
        with openai.AzureOpenAI(**settings) as client:
            list(client.chat.completions.create(model="ok", messages=ASK, stream=True))
    answered(only(recorded), model="ok", provider="azure.ai.openai", reason="stop", streamed=True)


@pytest.mark.parametrize("streamed", [False, True])
def test_gemini_on_vertex_is_measured(recorded: Recorded, url: str, streamed: bool) -> None:
    genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
    credentials = pytest.importorskip("google.auth.credentials").AnonymousCredentials()
    credentials.token = "none"
    client = genai.Client(
        vertexai=True, project="p", location="us-central1", credentials=credentials, http_options={"base_url": url}
    )
    if streamed:
        list(client.models.generate_content_stream(model="ok", contents="secret"))
    else:
        client.models.generate_content(model="ok", contents="secret")
    said = only(recorded)
    assert said["gen_ai.operation.name"] == "generate_content"
    answered(said | {"gen_ai.operation.name": "chat"}, model="ok", provider="gcp.vertex_ai", reason="stop",
             streamed=streamed)  # fmt: skip
