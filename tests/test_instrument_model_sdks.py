"""Every model SDK against a server that follows a script: each call is exactly one span that says what happened."""

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import httpx
import httpx2
import openai
import pytest
import requests
from opentelemetry.trace import StatusCode

from tailbudget import calls, request
from tailbudget.instrument import hooks
from tests.instrument_support import Recorded, hooked, serve
from tests.scripted_server import BACKOFF_S, STALL_S, ScriptedServer
from tests.support import wait_until

if TYPE_CHECKING:
    import anthropic  # it takes 0.7 CPU-seconds, which every worker would spend

ASK: Any = [{"role": "user", "content": "secret-prompt"}]
CLIENTS = ("openai", "anthropic", "httpx", "aiohttp", "urllib3")  # the server is in this process too
USAGE = {
    "gen_ai.usage.input_tokens": 11, "gen_ai.usage.output_tokens": 4, "gen_ai.usage.cache_read.input_tokens": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def scripted() -> Iterator[tuple[ScriptedServer, str]]:
    server = ScriptedServer()
    with serve(server.app()) as url:
        yield server, url


@pytest.fixture
def url(scripted: tuple[ScriptedServer, str]) -> str:
    scripted[0].asked.clear()
    scripted[0].headers.clear()
    return scripted[1]


@contextmanager
def asked_by(*clients: str) -> Iterator[Recorded]:
    """Record what these clients do; those that the body leaves open are closed behind it."""
    try:
        with hooked(*clients) as recorded:
            yield recorded
    finally:
        while opened:
            opened.pop().close()


@pytest.fixture
def recorded(scripted: tuple[ScriptedServer, str]) -> Iterator[Recorded]:
    with asked_by(*CLIENTS) as recorded:
        yield recorded


def only(recorded: Recorded) -> dict[str, Any]:
    """Return the attributes of the one span that there is."""
    spans = wait_until(lambda: recorded.spans, what="a span")
    gc.collect()
    assert [span.name for span in recorded.spans] == [spans[0].name]
    assert "secret" not in f"{spans[0].attributes} {spans[0].status.description} {spans[0].events}"
    return dict(spans[0].attributes or {})


#: Clients that the test leaves open, to be closed behind it.
opened: list[Any] = []


def of_openai(url: str, **options: Any) -> openai.OpenAI:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", **options)
    opened.append(client)
    return client


def of_anthropic(url: str, **options: Any) -> "anthropic.Anthropic":
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", **options)
    opened.append(client)
    return client


def openai_chat(url: str, model: str) -> Any:
    return of_openai(url).chat.completions.create(model=model, messages=ASK, stream=True)


def openai_responses(url: str, model: str) -> Any:
    return of_openai(url).responses.create(model=model, input="hi", stream=True)


def anthropic_messages(url: str, model: str) -> Any:
    return of_anthropic(url).messages.create(model=model, messages=ASK, max_tokens=9, stream=True)


def by_httpx(url: str, model: str) -> Any:
    said = {"model": model, "messages": ASK, "stream": True}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=said, timeout=120) as answer:
        answer.raise_for_status()
        yield from answer.iter_lines()


def by_httpx2(url: str, model: str) -> Any:
    said = {"model": model, "messages": ASK, "stream": True}
    with httpx2.stream("POST", f"{url}/v1/chat/completions", json=said, timeout=120) as answer:
        answer.raise_for_status()
        yield from answer.iter_lines()


def by_requests(url: str, model: str) -> Any:
    said = {"model": model, "messages": ASK, "stream": True}
    with requests.post(f"{url}/v1/chat/completions", json=said, stream=True, timeout=120) as answer:
        answer.raise_for_status()
        yield from answer.iter_lines()


async def async_openai(url: str, model: str) -> Any:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        async for chunk in await client.chat.completions.create(model=model, messages=ASK, stream=True):
            yield chunk


async def async_anthropic(url: str, model: str) -> Any:
    import anthropic

    client = anthropic.AsyncAnthropic(base_url=url, api_key="none")
    async with client, client.messages.stream(model=model, messages=ASK, max_tokens=9) as stream:
        async for event in stream:
            yield event


async def by_aiohttp(url: str, model: str) -> Any:
    said = {"model": model, "messages": ASK, "stream": True}
    session = aiohttp.ClientSession(raise_for_status=True)
    async with session, session.post(f"{url}/v1/chat/completions", json=said) as answer:
        async for line in answer.content:
            yield line


async def by_async_httpx(url: str, model: str) -> Any:
    said = {"model": model, "messages": ASK, "stream": True}
    client = httpx.AsyncClient(timeout=120)
    async with client, client.stream("POST", f"{url}/v1/chat/completions", json=said) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            yield line


SYNC = [openai_chat, openai_responses, anthropic_messages, by_httpx, by_httpx2, by_requests]
ASYNC = [async_openai, async_anthropic, by_aiohttp, by_async_httpx]
SDKS = {openai_chat, openai_responses, anthropic_messages, async_openai, async_anthropic}


async def read(ask: Callable[[str, str], Any], url: str, model: str, *, chunks: int = 10**6) -> None:
    """Read a stream to its end, or so many chunks of it, whatever client makes it."""
    answer = ask(url, model)
    if ask in ASYNC:
        async for _ in answer:
            chunks -= 1
            if not chunks:
                break
        await answer.aclose()
        return

    def by_thread() -> None:
        for left, _ in enumerate(answer, 1):
            if left == chunks:
                break
        answer.close()

    by_thread()


def named(ask: object) -> str:
    return getattr(ask, "__name__", "")


every_client = pytest.mark.parametrize("ask", [*SYNC, *ASYNC], ids=named)


@every_client
async def test_a_stream_that_ends_is_complete(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    await read(ask, url, "ok")
    said = only(recorded)
    assert said["slo.stream.end"] == "complete"
    assert said["gen_ai.request.model"] == "ok"
    assert said["gen_ai.response.model"] == "ok-1"
    assert {name: said[name] for name in USAGE} == USAGE
    assert (
        0 < said["gen_ai.response.time_to_first_chunk"] <= said["slo.time_to_first_token"] <= said["slo.time_to_final"]
    )
    assert len(said["slo.stream.gaps"]) == 1 + 4 * 3  # four tokens
    assert said["gen_ai.response.finish_reasons"] in (("stop",), ("end_turn",), ("completed",))
    assert said["slo.ratelimit.remaining_requests"] == 7
    gauged = {(labels["kind"], value) for labels, value in recorded.points("slo.ratelimit.remaining")}
    assert {("requests", 7), ("tokens", 123)} <= gauged
    assert said["slo.ratelimit.remaining_tokens"] == 123
    assert said["slo.net.attempts"] == 1
    assert said["slo.net.http_version"] == "1.1"
    assert {"slo.net.connect", "slo.net.send", "slo.net.wait_headers", "slo.net.pool_wait"} <= set(said)


@pytest.mark.parametrize("ask", [openai_chat, async_anthropic, by_requests, by_aiohttp], ids=named)
async def test_a_stream_that_stalls_says_how_long(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    await read(ask, url, "stall")
    said = only(recorded)
    assert said["slo.stream.end"] == "complete"
    assert said["slo.stream.stalls"] == 1
    assert 0.9 * STALL_S <= said["slo.stream.max_gap"] < STALL_S + 1


@every_client
async def test_a_stream_that_breaks_is_an_error(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    with pytest.raises(Exception):  # noqa: B017 - each client has its own
        await read(ask, url, "breaks")
    said = only(recorded)
    assert said["slo.stream.end"] == "error"
    assert "error.type" in said
    assert "gen_ai.usage.output_tokens" not in said


@every_client
async def test_a_stream_that_is_left_is_closed(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    await read(ask, url, "slow", chunks=4)
    said = only(recorded)
    assert said["slo.stream.end"] in ("closed", "abandoned")
    assert said["slo.time_to_first_token"] > 0
    assert "gen_ai.usage.output_tokens" not in said  # Anthropic's placeholder of 1 is none


@pytest.mark.parametrize("ask", ASYNC, ids=named)
async def test_a_stream_that_is_cancelled_says_so(recorded: Recorded, url: str, ask: Callable[[str, str], Any]) -> None:
    task = asyncio.create_task(read(ask, url, "slow"))
    await asyncio.sleep(0.4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert only(recorded)["slo.stream.end"] in ("cancelled", "closed")


@pytest.mark.parametrize("ask", [ask for ask in (*SYNC, *ASYNC) if ask in SDKS], ids=named)
async def test_retries_are_attempts_of_one_call_with_their_back_off(
    recorded: Recorded, url: str, ask: Callable[[str, str], Any]
) -> None:
    await read(ask, url, "busy-2")
    said = only(recorded)
    assert said["slo.stream.end"] == "complete"
    assert said["slo.net.attempts"] == 3
    assert said["slo.net.backoff"] >= 2 * BACKOFF_S * 0.5
    assert (said["slo.ratelimit.retry_after"], said["slo.ratelimit.refused"]) == (0.05, 2)


@every_client
async def test_a_call_that_is_refused_has_its_status(
    recorded: Recorded, url: str, ask: Callable[[str, str], Any]
) -> None:
    with pytest.raises(Exception):  # noqa: B017 - each client has its own
        await read(ask, url, "limited")
    said = only(recorded)
    assert said["http.response.status_code"] == 429
    assert "error.type" in said
    assert said["slo.net.attempts"] == (3 if ask in SDKS else 1)


WHOLE = ["chat", "parse", "responses", "messages", "raw messages", "httpx", "requests"]


def answers(url: str) -> dict[str, Callable[[], Any]]:
    """Calls that are not streamed, by SDK."""
    client = of_openai(url)
    claude = of_anthropic(url)
    body = {"model": "ok", "messages": ASK}
    return {
        "chat": lambda: client.chat.completions.create(model="ok", messages=ASK, max_tokens=9),
        "parse": lambda: client.chat.completions.parse(model="ok", messages=ASK, max_tokens=9),
        "responses": lambda: client.responses.create(model="ok", input="hi", max_output_tokens=9),
        "messages": lambda: claude.messages.create(model="ok", messages=ASK, max_tokens=9),
        "raw messages": lambda: claude.messages.with_raw_response.create(model="ok", messages=ASK, max_tokens=9),
        "httpx": lambda: httpx.post(f"{url}/v1/chat/completions", json=body | {"max_tokens": 9}).json(),
        "requests": lambda: requests.post(
            f"{url}/v1/chat/completions", json=body | {"max_tokens": 9}, timeout=120
        ).json(),
    }


@pytest.mark.parametrize("name", WHOLE)
def test_an_answer_that_comes_whole_has_its_usage(recorded: Recorded, url: str, name: str) -> None:
    answers(url)[name]()
    said = only(recorded)
    assert {name: said[name] for name in USAGE} == USAGE
    assert said["gen_ai.request.stream"] is False
    assert said["gen_ai.request.max_tokens"] == 9
    assert said["gen_ai.response.model"] == "ok-1"
    assert "slo.time_to_first_token" not in said
    assert said["gen_ai.provider.name"] == ("anthropic" if "messages" in name else "openai")


async def helped_chat(url: str) -> None:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    async with client, client.chat.completions.stream(model="ok", messages=ASK) as events:
        assert (await events.get_final_completion()).choices[0].message.content == "Hello you. Bye"


async def helped_responses(url: str) -> None:
    client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    async with client, client.responses.stream(model="ok", input="hi") as events:
        words = [event.delta async for event in events if event.type == "response.output_text.delta"]
    assert "".join(words) == "Hello you. Bye"


async def helped_messages(url: str) -> None:
    with of_anthropic(url).messages.stream(model="ok", messages=ASK, max_tokens=9) as events:
        assert "".join(events.text_stream) == "Hello you. Bye"


async def raw_responses(url: str) -> None:
    raw = of_openai(url).responses.with_raw_response.create(model="ok", input="hi", stream=True)
    assert list(raw.parse())[-1].type == "response.completed"


async def raw_messages(url: str) -> None:
    raw = of_anthropic(url).messages.with_raw_response.create(model="ok", messages=ASK, max_tokens=9, stream=True)
    assert list(raw.parse())[-1].type == "message_stop"


HELPERS = [helped_chat, helped_responses, helped_messages, raw_responses, raw_messages]


@pytest.mark.parametrize("ask", HELPERS, ids=named)
async def test_a_stream_read_through_the_sdks_helpers_is_one_span(
    recorded: Recorded, url: str, ask: Callable[[str], Any]
) -> None:
    await ask(url)
    said = only(recorded)
    assert (said["slo.stream.end"], said["slo.net.attempts"]) == ("complete", 1)
    assert 0 < said["slo.time_to_first_token"] <= said["slo.time_to_final"]
    assert said.get("gen_ai.usage.output_tokens", 4) == 4


@pytest.mark.parametrize(
    ("model", "streamed", "error"),
    [("fails", False, "server_error"), ("fails", True, "server_error"), ("errs", True, "overloaded")],
)
def test_a_response_that_failed_with_status_200_is_an_error(
    recorded: Recorded, url: str, model: str, streamed: bool, error: str
) -> None:
    requests.post(f"{url}/v1/responses", json={"model": model, "input": "hi", "stream": streamed}, timeout=120)
    said = only(recorded)
    assert (said["error.type"], said.get("slo.stream.end")) == (error, "error" if streamed else None)
    assert recorded.spans[0].status.status_code == StatusCode.ERROR


async def test_an_answer_that_aiohttp_reads_whole_has_its_usage(recorded: Recorded, url: str) -> None:
    asked = {"model": "ok", "messages": ASK}
    async with aiohttp.ClientSession() as session, session.post(f"{url}/v1/chat/completions", json=asked) as answer:
        assert (await answer.json())["id"] == "c-1"
    assert only(recorded)["gen_ai.usage.output_tokens"] == 4


def test_a_request_to_another_host_within_a_call_is_no_attempt_at_it(recorded: Recorded, url: str) -> None:
    class Refreshing(httpx2.Auth):
        def auth_flow(self, request: httpx2.Request) -> Any:
            requests.get(f"{url}/plain".replace("127.0.0.1", "localhost"), timeout=120)
            yield request

    with httpx2.Client(auth=Refreshing()) as client:
        of_openai(url, http_client=client).chat.completions.create(model="ok", messages=ASK)
    names = [(span.name, (span.attributes or {})["slo.net.attempts"]) for span in recorded.spans]
    assert names == [("GET", 1), ("chat ok", 1)]


def test_embeddings_are_retrieval(recorded: Recorded, url: str) -> None:
    of_openai(url).embeddings.create(model="ok", input="secret-prompt")
    said = only(recorded)
    assert recorded.spans[0].name == "embeddings ok"
    assert said["slo.stage"] == "retrieval"
    assert said["gen_ai.usage.input_tokens"] == 5


def test_the_native_span_of_anthropic_gives_way(recorded: Recorded, url: str) -> None:
    options: Any = {"tracer_provider": recorded.tracer_provider}
    client = of_anthropic(url, open_telemetry=options)
    client.messages.create(model="ok", messages=ASK, max_tokens=9)
    assert only(recorded)["gen_ai.usage.output_tokens"] == 4
    hooks.uninstall()
    client.messages.create(model="ok", messages=ASK, max_tokens=9)
    assert len(recorded.spans) == 2  # without us it is there


def test_what_the_app_says_of_a_call_is_on_its_span(recorded: Recorded, url: str) -> None:
    with calls(role="plan", route_model="big"), calls(hedged=True):
        list(openai_chat(url, "ok"))
    said = only(recorded)
    assert (said["slo.role"], said["slo.route.model"], said["slo.hedged"]) == ("plan", "big", True)


def test_another_model_after_one_that_failed_is_a_fallback(recorded: Recorded, url: str) -> None:
    client = of_openai(url, max_retries=0)
    with request("chat"):
        with pytest.raises(openai.RateLimitError):
            client.chat.completions.create(model="limited", messages=ASK)
        client.chat.completions.create(model="ok", messages=ASK)
        client.chat.completions.create(model="ok", messages=ASK)
    found = [(span.attributes or {}).get("slo.fallback") for span in recorded.spans if span.name == "chat ok"]
    assert found == [True, None]


#: Where an error of ours may be, one at a time: the first would hide those behind it.
PLACES = (
    "calls.ModelCall.__init__", "calls.ModelCall.activate", "calls.ModelCall.record", "calls.ModelCall.report",
    "network.NetRecord.begin", "network.NetRecord.end", "network.Attempt.begin", "network.Attempt.end",
    "network.Attempt.stop", "propagation.inject", "wire._event", "wire.json_object", "hooks.http_httpx.observer_of",
    "hooks.http_urllib3.observer_of", "dialects.take_message", "chunks.Reported.take", "hygiene._hygiene",
    "stream_record.StreamRecord._see", "stream_record.StreamRecord._finish", "work.Work.call_began",
    "providers.tracer", "call_metrics.current_request",
)  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_failure_inside_a_hook_never_reaches_the_host(
    recorded: Recorded, url: str, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("tailbudget.instrument.guard.Guard.reraise", False)
    monkeypatch.setattr(f"tailbudget.instrument.{place}", broken)
    chat = f"{url}/v1/chat/completions"
    said: dict[str, Any] = {"model": "ok", "messages": ASK}
    # To read the certificates of authorities costs each client more than all else here.
    with httpx2.Client(verify=False) as inner, httpx.Client(verify=False) as client:
        model = of_openai(url, http_client=inner)
        assert len(list(model.chat.completions.create(model="ok", messages=ASK, stream=True))) == 6
        assert model.chat.completions.create(model="ok", messages=ASK).id == "c-1"
        with client.stream("POST", chat, json=said | {"stream": True}) as answer:
            assert len(list(answer.iter_lines())) > 6
        messages = of_anthropic(url, http_client=inner).messages
        events = messages.create(model="ok", messages=ASK, max_tokens=9, stream=True)
        assert [event.type for event in events][-1] == "message_stop"
    assert len(list(by_requests(url, "ok"))) > 6
    assert requests.post(chat, json=said, timeout=120).json()["id"] == "c-1"
