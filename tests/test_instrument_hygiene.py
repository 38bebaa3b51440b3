"""What a prompt is made of is counted from the messages of a call, and none of its words leaves the process."""

import base64
import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

import tailbudget
from tailbudget.instrument import hooks
from tailbudget.instrument.guard import Guard
from tailbudget.instrument.hygiene import hygiene
from tests.instrument_support import ModelServer, Recorded, recording, serve
from tests.scripted_server import ScriptedServer

SYSTEM = {"role": "system", "content": "s" * 400}
QUESTION = {"role": "user", "content": "q" * 100}
TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def test_shares_are_those_of_system_history_and_tools() -> None:
    earlier = [{"role": "user", "content": "u" * 80}, {"role": "assistant", "content": "a" * 120}]
    tools_tokens = -(-len(json.dumps([TOOL])) // 4)
    said = hygiene([SYSTEM, *earlier, QUESTION], tools=[TOOL])
    total = 100 + 50 + 25 + tools_tokens
    assert said == {
        "slo.prompt.tokens": total,
        "slo.prompt.estimated": True,
        "slo.prompt.messages": 4,
        "slo.prompt.json_bytes": len(json.dumps([TOOL])),
        "slo.prompt.share.system": 100 / total,
        "slo.prompt.share.history": 50 / total,
        "slo.prompt.share.tools": tools_tokens / total,
        "slo.prompt.share.retrieved": 0.0,
    }


def test_tool_results_after_the_question_are_no_history_and_their_json_is_counted() -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1}'}}]}
    said = hygiene([QUESTION, call, {"role": "tool", "content": '{"rows": []}'}])
    assert said["slo.prompt.share.history"] == 0
    assert said["slo.prompt.tokens"] == 25 + 2 + 3
    assert said["slo.prompt.json_bytes"] == len('{"a": 1}') + len('{"rows": []}')


PIXELS = bytes(range(200)) + b"xy"
ENCODED = base64.b64encode(PIXELS).decode()


@pytest.mark.parametrize(
    ("part", "image_bytes"),
    [
        ({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{ENCODED}"}}, len(PIXELS)),
        ({"type": "input_image", "image_url": f"data:image/png;base64,{ENCODED}"}, len(PIXELS)),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ENCODED}}, len(PIXELS)),
        ({"inline_data": {"mime_type": "image/png", "data": PIXELS}}, len(PIXELS)),
        ({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}, 0),
    ],
)
def test_images_are_counted_in_bytes_and_not_as_text(part: dict[str, Any], image_bytes: int) -> None:
    said = hygiene([{"role": "user", "content": [{"type": "text", "text": "what is it?"}, part]}])
    assert (said["slo.prompt.images"], said["slo.prompt.image_bytes"]) == (1, image_bytes)
    assert said["slo.prompt.tokens"] == 3


@pytest.mark.parametrize(
    ("messages", "system", "tokens"),
    [
        ("one text", None, 2),
        ([SimpleNamespace(role="user", content="an object")], None, 3),
        ([{"role": "user", "content": "x" * 8}], [{"type": "text", "text": "s" * 8}], 4),
        ([{"role": "user", "parts": [{"text": "x" * 8}]}], None, 2),
        ({"role": "user", "parts": [{"text": "x" * 8}]}, {"parts": [{"text": "s" * 8}]}, 4),
        (["a text", SimpleNamespace(text="a part")], "s" * 4, 5),
        ([{"type": "function_call_output", "call_id": "c", "output": "x" * 8}], None, 2),
        ([{"role": "assistant", "content": [{"type": "tool_use", "input": {"a": 1}}]}], None, 2),
        ([{"role": "model", "parts": [{"function_call": {"name": "f", "args": {"a": 1}}}]}], None, 2),
    ],
)
def test_every_form_that_sdks_take_is_counted(messages: Any, system: Any, tokens: int) -> None:
    assert hygiene(messages, system=system)["slo.prompt.tokens"] == tokens


@pytest.mark.parametrize("messages", [None, [], object(), 7, [17, 4]])
def test_what_is_no_prompt_says_nothing(messages: Any) -> None:
    assert hygiene(messages) == {}


def test_a_prompt_that_cannot_be_counted_does_not_break_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hostile:
        @property
        def role(self) -> str:
            raise RuntimeError("no")

    monkeypatch.setattr(Guard, "reraise", False)
    assert hygiene([Hostile()]) == {}


def test_a_given_tokenizer_counts() -> None:
    tailbudget.count_tokens_with(lambda text: len(text.split()))
    try:
        said = hygiene("three words only")
    finally:
        tailbudget.count_tokens_with(None)
    assert (said["slo.prompt.tokens"], said["slo.prompt.estimated"]) == (3, False)


def test_a_call_of_the_sdk_carries_the_counts_and_none_of_the_words(recorded: Recorded) -> None:
    hooks.install()
    passage = "secret-passage " * 8
    messages: Any = [{"role": "system", "content": "secret-system"}, {"role": "user", "content": passage + "why?"}]
    try:
        with (
            serve(ModelServer(["ok."]).app()) as url,
            OpenAI(base_url=f"{url}/v1", api_key="none") as client,
            tailbudget.request("chat"),
        ):
            tailbudget.describe_prompt(version="v12", retrieved=[passage])
            client.chat.completions.create(model="m", messages=messages, tools=[TOOL], max_tokens=9)  # type: ignore[list-item]
    finally:
        hooks.uninstall()
    attributes = recorded.attributes("chat m")
    assert attributes["slo.prompt.version"] == "v12"
    assert attributes["slo.prompt.share.retrieved"] == 30 / attributes["slo.prompt.tokens"]
    assert attributes["gen_ai.request.max_tokens"] == 9
    for span in recorded.spans:
        assert "secret" not in span.to_json()


def by_chat(url: str) -> None:
    messages: Any = [{"role": "system", "content": "s" * 400}, {"role": "user", "content": "q" * 400}]
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        client.chat.completions.create(model="ok", messages=messages)


def by_responses(url: str) -> None:
    with OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        client.responses.create(model="ok", input="q" * 400, instructions="s" * 400)


def by_messages(url: str) -> None:
    with Anthropic(base_url=url, api_key="none") as client:
        client.messages.create(
            model="ok", max_tokens=9, system="s" * 400, messages=[{"role": "user", "content": "q" * 400}]
        )


def by_gemini_on_the_wire(url: str) -> None:
    asked = {
        "contents": [{"role": "user", "parts": [{"text": "q" * 400}]}],
        "systemInstruction": {"parts": [{"text": "s" * 400}]},
        "generationConfig": {"maxOutputTokens": 9},
    }
    httpx.post(f"{url}/v1beta/models/ok:generateContent", json=asked, timeout=120)


@pytest.mark.parametrize("ask", [by_chat, by_responses, by_messages, by_gemini_on_the_wire])
def test_every_api_says_which_share_of_a_prompt_is_the_systems(recorded: Recorded, ask: Callable[[str], None]) -> None:
    with serve(ScriptedServer().app()) as url:
        hooks.install(only=("openai", "anthropic", "httpx"))
        try:
            ask(url)
        finally:
            hooks.uninstall()
    (said,) = (dict(span.attributes or {}) for span in recorded.spans)
    assert (said["slo.prompt.tokens"], said["slo.prompt.share.system"]) == (200, 0.5)
    assert said["slo.prompt.share.history"] == 0
    assert said.get("gen_ai.request.max_tokens", 9) == 9


def test_embeddings_have_no_prompt(recorded: Recorded) -> None:
    with serve(ScriptedServer().app()) as url, OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        hooks.install(only=("openai",))
        try:
            client.embeddings.create(model="ok", input="q" * 400)
        finally:
            hooks.uninstall()
    assert "slo.prompt.tokens" not in recorded.attributes("embeddings ok")
