"""google-genai, ollama and litellm against a scripted server, other instrumentors beside us, Django and Litestar."""

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import openai
import pytest

from tailbudget.instrument import hooks
from tailbudget.instrument.wire import unpacking
from tests.instrument_support import Recorded, hooked, serve
from tests.scripted_server import ScriptedServer
from tests.support import wait_until

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
CLIENTS = ("google-genai", "litellm", "ollama", "openai", "httpx", "aiohttp", "urllib3")
ASK = "secret-prompt"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(ScriptedServer().app()) as url:
        yield url


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with hooked(*CLIENTS) as recorded:
        yield recorded


def only(recorded: Recorded) -> dict[str, Any]:
    gc.collect()
    wait_until(lambda: recorded.spans, what="a span")
    assert len(recorded.spans) == 1, [span.name for span in recorded.spans]
    assert "secret" not in str(recorded.spans[0].attributes)
    return dict(recorded.spans[0].attributes or {})


#: Clients end their connections when they are collected.
made: list[Any] = []


def gemini(url: str) -> Any:
    genai = pytest.importorskip("google.genai", reason="google-genai is not installed")
    made.append(genai.Client(api_key="none", http_options={"base_url": url}))
    return made[-1]


def ollama(url: str, kind: str = "Client") -> Any:
    return getattr(pytest.importorskip("ollama", reason="ollama is not installed"), kind)(host=url)


def litellm(url: str) -> tuple[Any, dict[str, Any]]:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet when it is imported
    library = pytest.importorskip("litellm", reason="litellm is not installed")
    ask = {"role": "user", "content": ASK}
    return library, {"model": "openai/ok", "messages": [ask], "api_base": f"{url}/v1", "api_key": "none"}


def stream_gemini(url: str) -> None:
    list(gemini(url).models.generate_content_stream(model="ok", contents=ASK))


def stream_gemini_async(url: str) -> None:
    async def read() -> None:
        async for _ in await gemini(url).aio.models.generate_content_stream(model="ok", contents=ASK):
            pass

    asyncio.run(read())


def stream_ollama(url: str) -> None:
    list(ollama(url).chat(model="ok", messages=[{"role": "user", "content": ASK}], stream=True))


def stream_ollama_async(url: str) -> None:
    async def read() -> None:
        messages = [{"role": "user", "content": ASK}]
        async for _ in await ollama(url, "AsyncClient").chat(model="ok", messages=messages, stream=True):
            pass

    asyncio.run(read())


def stream_litellm(url: str) -> None:
    library, arguments = litellm(url)
    list(library.completion(**arguments, stream=True, stream_options={"include_usage": True}))


def stream_litellm_async(url: str) -> None:
    library, arguments = litellm(url)

    async def read() -> None:
        async for _ in await library.acompletion(**arguments, stream=True, stream_options={"include_usage": True}):
            pass

    asyncio.run(read())


@pytest.mark.parametrize(
    "ask",
    [stream_gemini, stream_gemini_async, stream_ollama, stream_ollama_async, stream_litellm, stream_litellm_async],
    ids=lambda ask: ask.__name__,
)
def test_a_stream_is_one_span(recorded: Recorded, url: str, ask: Callable[[str], None]) -> None:
    ask(url)
    said = only(recorded)
    assert said["slo.stream.end"] == "complete"
    assert said["gen_ai.usage.output_tokens"] == 4
    assert said["gen_ai.usage.input_tokens"] == 11
    assert 0 < said["slo.time_to_first_token"] <= said["slo.time_to_final"]
    assert said["gen_ai.response.finish_reasons"] == ("stop",)
    assert said["gen_ai.request.model"] in ("ok", "openai/ok")
    assert said["slo.net.attempts"] == 1


def test_answers_that_come_whole(recorded: Recorded, url: str) -> None:
    said_before = {"max_output_tokens": 9, "system_instruction": "s" * 4 * 4}
    gemini(url).models.generate_content(model="ok", contents=ASK, config=said_before)
    ollama(url).chat(model="ok", messages=[{"role": "user", "content": ASK}], options={"num_predict": 9})
    library, arguments = litellm(url)
    library.completion(**arguments, max_tokens=9)
    found = [dict(span.attributes or {}) for span in recorded.spans]
    assert [said["gen_ai.usage.output_tokens"] for said in found] == [4, 4, 4]
    assert [said["gen_ai.request.max_tokens"] for said in found] == [9, 9, 9]
    assert [said["gen_ai.provider.name"] for said in found] == ["gcp.gemini", "ollama", "openai"]
    assert [said["slo.prompt.share.system"] for said in found] == [0.5, 0, 0]


def test_litellm_that_was_imported_before_is_measured_by_its_own_names(recorded: Recorded, url: str) -> None:
    library, arguments = litellm(url)
    hooks.uninstall()
    before = library.completion
    hooks.install(only=CLIENTS)
    assert library.completion is not before
    library.completion(**arguments)
    assert [span.name for span in recorded.spans] == ["chat openai/ok"]
    hooks.uninstall()
    assert library.completion is before


def test_embeddings(recorded: Recorded, url: str) -> None:
    ollama(url).embed(model="ok", input=ASK)
    litellm(url)[0].embedding(model="openai/ok", input=ASK, api_base=f"{url}/v1", api_key="none")
    assert [span.name for span in recorded.spans] == ["embeddings ok", "embeddings openai/ok"]
    assert [(span.attributes or {})["gen_ai.usage.input_tokens"] for span in recorded.spans] == [5, 5]


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        ("openinference.instrumentation.openai", "OpenAIInstrumentor"),
        ("opentelemetry.instrumentation.genai.openai", "OpenAIInstrumentor"),
    ],
)
def test_a_call_that_another_instrumentor_covers_has_its_span_alone(
    recorded: Recorded, url: str, module: str, kind: str
) -> None:
    library = pytest.importorskip(module, reason=f"{module} is not installed")
    other = getattr(library, kind)()
    other.instrument(tracer_provider=recorded.tracer_provider, skip_dep_check=True)
    try:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
            ask: Any = [{"role": "user", "content": "hi"}]
            list(client.chat.completions.create(model="ok", messages=ask, stream=True))
    finally:
        other.uninstrument()
    scopes = [span.instrumentation_scope.name for span in recorded.spans if span.instrumentation_scope]
    assert [scope for scope in scopes if scope != "tailbudget"]
    assert [span.name for span in recorded.spans if span.instrumentation_scope.name == "tailbudget"] == ["POST"]  # type: ignore[union-attr]


def brotli_parts(library: Any, parts: list[bytes]) -> list[bytes]:
    packer = library.Compressor()
    return [packer.process(part) + packer.flush() for part in parts] + [packer.finish()]


def zstandard_parts(library: Any, parts: list[bytes]) -> list[bytes]:
    packer = library.ZstdCompressor().compressobj()
    flushed = library.COMPRESSOBJ_FLUSH_BLOCK
    return [packer.compress(part) + packer.flush(flushed) for part in parts] + [packer.flush()]


@pytest.mark.parametrize(
    ("coding", "module", "pack"), [("br", "brotli", brotli_parts), ("zstd", "zstandard", zstandard_parts)]
)
def test_codings_that_clients_have_libraries_for_are_unpacked_part_by_part(coding: str, module: str, pack: Any) -> None:
    library = pytest.importorskip(module, reason=f"{module} is not installed")
    unpack = unpacking(coding)
    assert [unpack(part) for part in pack(library, [b"data: 1\n", b"data: 2\n"])] == [b"data: 1\n", b"data: 2\n", b""]


def without_lifespan(app: Any) -> Any:
    """Return `app` with a lifespan, which Django refuses and our server wants."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await app(scope, receive, send)
            return
        for word in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{word}.complete"})

    return answer


def served(recorded: Recorded, app: Any, library: str, route: str) -> None:
    hooks.uninstall()
    hooks.install(only=(library,))
    with serve(app) as url:
        assert httpx.get(f"{url}/chat/why", headers={"x-request-id": "r-1"}).text == "hi"
    said = recorded.attributes(f"GET {route}")
    assert (said["http.route"], said["slo.request.id"], said["http.response.status_code"]) == (route, "r-1", 200)


def test_litestar_is_observed(recorded: Recorded) -> None:
    library = pytest.importorskip("litestar", reason="litestar is not installed")

    def chat(name: str) -> str:
        return "hi"

    handler = library.get("/chat/{name:str}", media_type="text/plain", sync_to_thread=False)(chat)
    served(recorded, library.Litestar(route_handlers=[handler]), "litestar", "/chat/{name}")


def test_django_is_observed_by_asgi_and_wsgi(recorded: Recorded) -> None:
    django = pytest.importorskip("django", reason="django is not installed")
    from django.conf import settings
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path

    urls: Any = type(sys)("urls_of_a_test")
    urls.urlpatterns = [path("chat/<str:name>", lambda _, name: HttpResponse("hi"))]
    settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="none", USE_TZ=True)
    django.setup()
    served(recorded, without_lifespan(get_asgi_application()), "django", "/chat/<str:name>")

    started: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/chat/why", "SERVER_NAME": "h", "SERVER_PORT": "80"}
    import io

    answer = get_wsgi_application()(
        environ | {"wsgi.input": io.BytesIO(), "wsgi.url_scheme": "http"}, lambda status, _: started.append(status)
    )
    assert b"".join(answer) == b"hi"
    answer.close()
    assert started == ["200 OK"]
    assert [span.name for span in recorded.spans] == ["GET /chat/<str:name>"] * 2
