"""The server speaks OpenAI's protocol with its own SDK, reports over OTLP, and starts and stops cleanly."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tailbudget.gpu_runtime import RuntimeSettings, serve
from tailbudget.gpu_runtime.host import Runtime
from tailbudget.gpu_runtime.server import application
from tailbudget.instrument.errors import UserError
from tailbudget.instrument.vocabulary import ENGINE_METRICS
from tests.forked import python
from tests.nvml_support import absent
from tests.runtime_support import IMPORTS, RUN, Receiver, receiver, server, tiny_path
from tests.support import free_port, wait_until

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "The river"}], "temperature": 0}


def _schema(schema: dict[str, Any]) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}


@pytest.fixture(scope="module")
def otlp() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def url(otlp: Receiver) -> Iterator[str]:
    with server(otlp.endpoint, max_context=256, max_running=2, max_waiting=2, control=True) as (base, _):
        yield base


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as sdk:
        yield sdk


def _span(otlp: Receiver, response_id: str) -> dict[str, Any]:
    """Return the attributes of the span of one answer, once it has arrived."""

    def found() -> dict[str, Any] | None:
        for span in otlp.spans:
            attributes = {each.key: each.value for each in span.attributes}
            if attributes["gen_ai.response.id"].string_value == response_id:
                return attributes
        return None

    return wait_until(found, what=f"the span of {response_id}")


def test_a_whole_answer_through_the_sdk(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(**ASK, max_tokens=7)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.model) == (7, "tiny")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7


def test_a_streamed_answer_is_the_whole_one_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, max_tokens=20)
    chunks = list(
        client.chat.completions.create(**ASK, max_tokens=20, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_take_text_and_token_ids(client: openai.OpenAI) -> None:
    text = client.completions.create(model="tiny", prompt="The river", temperature=0)
    assert text.usage is not None
    assert text.usage.completion_tokens == 16
    chunks = client.completions.create(model="tiny", prompt=[5, 6, 7], temperature=0, max_tokens=3, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks)


def test_a_prompt_that_was_seen_is_reported_as_cached(client: openai.OpenAI, otlp: Receiver) -> None:
    prompt = [11 + index for index in range(40)]
    answers = [client.completions.create(model="tiny", prompt=prompt, max_tokens=2) for _ in range(2)]
    assert [answer.usage.prompt_tokens_details.cached_tokens for answer in answers if answer.usage] == [0, 32]  # type: ignore[union-attr]
    attributes = _span(otlp, answers[1].id)
    assert attributes["gen_ai.usage.cache_read.input_tokens"].int_value == 32
    assert attributes["slo.preemptions"].int_value == 0


def test_log_probabilities_of_a_chat_belong_to_its_text(client: openai.OpenAI) -> None:
    asked = {**ASK, "max_tokens": 9, "logprobs": True, "top_logprobs": 3}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].logprobs is not None
    entries = whole.choices[0].logprobs.content
    assert entries is not None
    assert len(entries) == 9
    assert bytes(byte for entry in entries for byte in entry.bytes or []).decode() == whole.choices[0].message.content
    assert all(entry.logprob == entry.top_logprobs[0].logprob <= 0 for entry in entries)
    assert all(len(entry.top_logprobs) == 3 for entry in entries)
    parts = [chunk.choices[0].logprobs for chunk in client.chat.completions.create(**asked, stream=True)]
    assert [entry for part in parts if part for entry in part.content or []] == entries


def test_log_probabilities_of_a_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="The river", temperature=0, max_tokens=5, logprobs=2)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.tokens is not None
    assert "".join(found.tokens) == answer.choices[0].text
    assert found.text_offset == [len("".join(found.tokens[:index])) for index in range(5)]
    assert found.top_logprobs is not None
    assert all(len(each) == 2 for each in found.top_logprobs)


def test_sampling_settings_reach_the_sampler(client: openai.OpenAI) -> None:
    greedy = client.chat.completions.create(**ASK, max_tokens=8)
    narrow = client.chat.completions.create(**{**ASK, "temperature": 2}, max_tokens=8, extra_body={"top_k": 1})
    assert narrow.choices[0].message.content == greedy.choices[0].message.content
    forced = client.completions.create(model="tiny", prompt="The", max_tokens=3, logit_bias={"40": 100}, logprobs=0)
    assert forced.choices[0].logprobs is not None
    assert len(set(forced.choices[0].logprobs.tokens or [])) == 1
    varied = client.completions.create(
        model="tiny", prompt="The", max_tokens=3, temperature=0, logit_bias={"40": 60}, frequency_penalty=2,
        presence_penalty=2, logprobs=0, extra_body={"repetition_penalty": 10},
    )  # fmt: skip
    assert varied.choices[0].logprobs is not None
    assert len(set(varied.choices[0].logprobs.tokens or [])) > 1


TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}


def test_tools_and_their_results_go_through_the_models_template(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**ASK, max_tokens=2)
    named = client.chat.completions.create(**ASK, max_tokens=2, tools=[TOOL])
    unused = client.chat.completions.create(**ASK, max_tokens=2, tools=[TOOL], tool_choice="none")
    counts = [answer.usage.prompt_tokens for answer in (plain, named, unused) if answer.usage]
    assert counts[0] == counts[2] < counts[1]
    call: Any = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}}
    history: Any = [
        *ASK["messages"],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    answer = client.chat.completions.create(model="tiny", messages=history, max_tokens=2, tools=[TOOL])
    assert answer.choices[0].message.content is not None


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    card = client.models.retrieve("tiny")
    assert (card.id, card.model_dump()["max_model_len"]) == ("tiny", 256)
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'"):
        client.models.retrieve("org/other")


def _events(url: str, path: str, **asked: Any) -> list[dict[str, Any]]:
    """Return the bodies of a stream as they are on the wire."""
    text = httpx.post(f"{url}/v1/{path}", json={"model": "tiny", "stream": True, "temperature": 0, **asked}).text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
def test_load_tools_count_a_chunk_a_token_and_usage_in_each(url: str, path: str) -> None:
    chat = path != "completions"
    prompt: dict[str, Any] = {"messages": ASK["messages"]} if chat else {"prompt": ["The river"]}
    options = {"include_usage": True, "continuous_usage_stats": True}
    events = _events(url, path, max_tokens=6, ignore_eos=True, stream_options=options, **prompt)
    *chunks, closing = events[1:] if chat else events
    assert [each["usage"]["completion_tokens"] for each in chunks] == [1, 2, 3, 4, 5, 6]
    assert [each["choices"][0]["finish_reason"] for each in chunks] == [None] * 5 + ["length"]
    assert all(each["choices"][0]["delta"]["content"] if chat else each["choices"][0]["text"] for each in chunks)
    assert (closing["choices"], closing["usage"]["completion_tokens"]) == ([], 6)
    assert {each["usage"]["prompt_tokens"] for each in events} == {closing["usage"]["prompt_tokens"]}


def test_no_chunk_of_a_chat_comes_before_its_first_token(url: str) -> None:
    httpx.post(f"{url}/control", json={"step_delay_ms": 300})
    try:
        ask = {**ASK, "max_tokens": 2, "stream": True}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=ask) as answer:
            first = next(block for block in answer.iter_text() if block)
    finally:
        httpx.post(f"{url}/control", json={"step_delay_ms": 0})
    # In one block: the role, which many a client takes for the first token, and the token.
    role, token = [json.loads(line[6:])["choices"][0]["delta"] for line in first.splitlines() if line][:2]
    assert (role["role"], bool(token["content"])) == ("assistant", True)


def test_an_answer_has_at_least_min_tokens(client: openai.OpenAI) -> None:
    def ask(**more: Any) -> Any:
        return client.completions.create(
            model="tiny", prompt="The", max_tokens=9, temperature=0, logit_bias={"2": 100}, extra_body=more
        )

    assert [ask().usage.completion_tokens, ask(min_tokens=4).usage.completion_tokens] == [1, 5]
    free = ask(min_tokens=9).choices[0].text
    assert free
    stopped = ask(min_tokens=3, stop=[free[0]])  # a stop string in the first tokens does not count
    assert stopped.usage.completion_tokens > 3
    with pytest.raises(openai.BadRequestError, match="min_tokens is 10: the answer has 9 tokens at most"):
        ask(min_tokens=10)


def test_clients_that_say_vllms_defaults_are_served_and_what_is_not_built_is_named(client: openai.OpenAI) -> None:
    defaults: dict[str, Any] = {
        "best_of": 1, "use_beam_search": False, "length_penalty": 1.0, "skip_special_tokens": True, "min_p": 0.0,
        "prompt_logprobs": None,
        "stop_token_ids": [], "top_k": -1, "repetition_penalty": 1.0, "add_special_tokens": True,
    }  # fmt: skip
    assert client.completions.create(model="tiny", prompt="The", max_tokens=1, extra_body=defaults).choices
    for name, value in {"use_beam_search": True, "stop_token_ids": [5], "prompt_logprobs": 1}.items():
        with pytest.raises(openai.BadRequestError, match=f"this server has no {name}") as refused:
            client.completions.create(model="tiny", prompt="The", max_tokens=1, extra_body={name: value})
        assert refused.value.param == name


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"max_tokens": 10_000}, 400, "the maximum context is 256 tokens"),
        ({"messages": [{"role": "user", "content": "word " * 400}]}, 400, "shorten the prompt"),
        ({"model": "gpt-4"}, 404, "this server has 'tiny'"),
        ({"n": 17}, 400, "n is 17: expected an integer from 1 to 16"),
        ({"n": 5}, 400, "n is 5: this server has 4 places"),
        ({"temperature": 3}, 400, "temperature is 3: expected a number from 0 to 2"),
        ({"messages": []}, 400, "messages is .*expected a list of messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "reads text only"),
        ({"stop": ["a"] * 5}, 400, "up to four"),
        ({"max_tokens": 0}, 400, "an integer from 1 on"),
        ({"temperature": -1e-300}, 400, "temperature is -1e-300"),
        ({"extra_body": {"temprature": 1}}, 400, "'temprature' is no parameter of this path"),
        ({"extra_body": {"prompt": "x"}}, 400, "'prompt' is no parameter of this path"),
        ({"top_logprobs": 2}, 400, "it needs logprobs true"),
        ({"logprobs": True, "top_logprobs": 21}, 400, "an integer from 0 to 20"),
        ({"logit_bias": {"9999": 1}}, 400, "token ids from 0 to 511"),
        ({"presence_penalty": 2.5}, 400, "presence_penalty is 2.5"),
        ({"extra_body": {"min_p": -1}}, 400, "min_p is -1"),
        ({"stream_options": {"include_usage": True}}, 400, "it is for streams only"),
        ({"tools": [{"type": "function"}]}, 400, "tools is"),
        ({"tools": [], "tool_choice": "required"}, 400, "does not force a model"),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "c"}]}]}, 400, "tool_calls is not understood"),
        ({"response_format": {"type": "yaml"}}, 400, "response_format is .*expected {'type': 'text'}"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, 400, "response_format is"),
        ({"response_format": _schema({"not": {}})}, 400, 'hold answers to: Unimplemented keys: ."not".'),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    client: openai.OpenAI, change: dict[str, Any], status: int, words: str
) -> None:
    with pytest.raises(openai.APIStatusError, match=words) as caught:
        client.chat.completions.create(**{**ASK, **change})
    assert caught.value.status_code == status
    assert caught.value.type == "invalid_request_error"


BROKEN_TEXT = [
    rb'{"model": "tiny", "messages": [{"role": "user", "content": "\ud800"}]}',
    rb'{"model": "tiny", "messages": [{"role": "\udfff", "content": "x"}]}',
    rb'{"model": "\ud800", "prompt": "x"}',
    b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
]


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
@pytest.mark.parametrize("body", BROKEN_TEXT)
def test_half_a_surrogate_pair_is_no_text(url: str, path: str, body: bytes) -> None:
    answer = httpx.post(f"{url}/v1/{path}", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "surrogate" in answer.json()["error"]["message"]


def test_an_answer_is_held_to_a_schema_or_to_json(client: openai.OpenAI) -> None:
    properties = {"ok": {"type": "boolean"}, "n": {"enum": [1, 22]}}
    schema = {"type": "object", "properties": properties, "required": ["ok", "n"], "additionalProperties": False}
    ask: dict[str, Any] = ASK | {"temperature": 1.3, "seed": 1, "response_format": _schema(schema)}
    chunks = client.chat.completions.create(**ask, stream=True)
    found = json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks))
    assert (type(found["ok"]), found["n"] in (1, 22), len(found)) == (bool, True, 2)
    answer = client.completions.create(
        model="tiny",
        prompt="The river",
        max_tokens=3,
        temperature=0,
        extra_body={"response_format": {"type": "json_object"}},
    )
    assert answer.choices[0].text.lstrip().startswith("{")


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-7])
def test_a_temperature_next_to_zero_is_zero(client: openai.OpenAI, temperature: float) -> None:
    greedy = client.chat.completions.create(**ASK, max_tokens=9)
    near = client.chat.completions.create(**{**ASK, "temperature": temperature}, max_tokens=9)
    assert near.choices[0].message.content == greedy.choices[0].message.content


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_request_is_refused(url: str, body: bytes) -> None:
    answer = httpx.post(f"{url}/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_a_request_that_is_not_json_is_refused(url: str) -> None:
    assert httpx.post(f"{url}/v1/completions", content=b"{}").status_code == 415
    assert httpx.get(f"{url}/v1/completions").status_code == 405


def test_a_body_beyond_the_limit_is_refused(url: str) -> None:
    body = b" " * ((8 << 20) + 1)
    answer = httpx.post(f"{url}/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"]["message"] == f"the body is over {8 << 20} bytes"


def test_a_full_server_says_when_to_come_back(url: str, client: openai.OpenAI) -> None:
    httpx.post(f"{url}/control", json={"step_delay_ms": 50})
    try:
        streams = [client.chat.completions.create(**ASK, max_tokens=100, stream=True) for _ in range(4)]
        with pytest.raises(openai.InternalServerError, match="runs 2 requests and queues 2") as caught:
            client.chat.completions.create(**ASK)
        assert caught.value.status_code == 503
        assert int(caught.value.response.headers["retry-after"]) > 0
        for stream in streams:
            stream.close()
    finally:
        httpx.post(f"{url}/control", json={"step_delay_ms": 0})
    wait_until(lambda: 'num_requests_running{model_name="tiny"} 0.0' in httpx.get(f"{url}/metrics").text)


def test_a_client_that_leaves_is_cancelled_and_its_span_says_so(
    url: str, client: openai.OpenAI, otlp: Receiver
) -> None:
    httpx.post(f"{url}/control", json={"step_delay_ms": 20})
    try:
        stream = client.chat.completions.create(**ASK, max_tokens=200, stream=True)
        first = next(chunk for chunk in stream if chunk.choices[0].delta.content)
        stream.close()
        attributes = _span(otlp, first.id)
    finally:
        httpx.post(f"{url}/control", json={"step_delay_ms": 0})
    assert attributes["slo.stream.end"].string_value == "cancelled"
    assert attributes["gen_ai.usage.output_tokens"].int_value < 100


def test_a_client_that_leaves_a_whole_answer_is_cancelled_too(url: str, otlp: Receiver) -> None:
    httpx.post(f"{url}/control", json={"step_delay_ms": 20})
    try:
        before = len(otlp.spans)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/chat/completions", json={**ASK, "max_tokens": 200}, timeout=0.5)
        wait_until(lambda: len(otlp.spans) > before)
    finally:
        httpx.post(f"{url}/control", json={"step_delay_ms": 0})
    ends = [each.value.string_value for each in otlp.spans[-1].attributes if each.key == "slo.stream.end"]
    assert ends == ["cancelled"]


def test_spans_and_live_counters_reach_the_collector(client: openai.OpenAI, otlp: Receiver) -> None:
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01"}
    answer = client.chat.completions.create(**ASK, max_tokens=9, extra_headers=headers)
    _span(otlp, answer.id)
    span = next(span for span in otlp.spans if span.trace_id.hex() == trace)
    assert (span.parent_span_id.hex(), span.name) == (parent, "llm_request")
    wanted = {"slo.decode.tokens", "slo.decode.active_stream_time", "slo.decode.streams", "slo.engine.kv_used"}
    wait_until(lambda: wanted <= {name for name, _, _ in otlp.points})
    labels = next(labels for name, labels, _ in otlp.points if name == "slo.decode.tokens")
    assert labels.keys() == {"model", "provider", "server.address", "side"}
    assert (labels["model"], labels["side"]) == ("tiny", "server")


def test_the_engine_sends_what_the_table_engine_holds_once_a_second(client: openai.OpenAI, otlp: Receiver) -> None:
    before = len(otlp.points)

    def sent() -> dict[str, list[float]]:
        values: dict[str, list[float]] = {}
        for name, _, point in otlp.points[before:]:
            values.setdefault(name, []).append(point.as_double or point.as_int)
        return values

    wait_until(lambda: sent().get("slo.engine.generation_tokens", [1])[-1] == 0, what="what others asked being sent")
    before = len(otlp.points)
    client.completions.create(model="tiny", prompt=list(range(100, 150)), max_tokens=30)
    wait_until(lambda: sum(sent().get("slo.engine.generation_tokens", [])) == 30)
    values = sent()
    assert sum(values["slo.engine.prompt_tokens"]) == 50
    assert sum(values["slo.engine.prefix_queries"]) == 50
    assert max(values["slo.engine.step_time"]) > 0
    assert 1 <= max(values["slo.engine.batch_tokens"]) <= 50
    missing = set(ENGINE_METRICS) - values.keys() - {"slo.engine.up"}
    assert not missing
    # Points of one instant and one engine are one row.
    labels = {tuple(sorted(each.items())) for name, each, _ in otlp.points[before:] if name in ENGINE_METRICS}
    assert [dict(each)["model"] for each in labels] == ["tiny"]


@pytest.mark.parametrize("body", [{"step_delay_ms": -1}, {"step_delay_ms": "fast"}, {}, {"other": 1}])
def test_control_refuses_what_it_does_not_know(url: str, body: dict[str, Any]) -> None:
    assert httpx.post(f"{url}/control", json=body).status_code == 400


def test_without_control_there_is_no_control_and_sigterm_ends_all_streams(otlp: Receiver, tmp_path: Path) -> None:
    no_driver = {"LD_LIBRARY_PATH": str(absent(tmp_path))}
    with server(otlp.endpoint, environment=no_driver, step_delay_ms=50, drain_s=0.2) as (base, process):
        assert httpx.post(f"{base}/control", json={"step_delay_ms": 1}).status_code == 404
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        stream = client.chat.completions.create(**ASK, max_tokens=1000, stream=True)
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
        process.send_signal(signal.SIGTERM)
        with pytest.raises(openai.APIError, match="the server is shutting down"):
            list(stream)
        client.close()
        _, log = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in log
    assert log.count("no GPU is sampled") == 1


def test_a_signal_lets_running_requests_end_and_takes_no_more(otlp: Receiver) -> None:
    with server(otlp.endpoint, step_delay_ms=40, drain_s=60) as (base, process):
        client = openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        chunks = client.chat.completions.create(**ASK, max_tokens=40, stream=True)
        next(chunk for chunk in chunks if chunk.choices[0].delta.content)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{base}/health").json()["status"] == "draining", what="a draining server")
        assert httpx.get(f"{base}/health").status_code == 503
        with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
            client.chat.completions.create(**ASK)
        assert refused.value.code == "draining"
        assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
        client.close()
        _, log = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in log


def test_a_second_ctrl_c_leaves_no_traceback(otlp: Receiver) -> None:
    with server(otlp.endpoint) as (_, process):
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.01)
        _, log = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "Traceback" not in log


def _unloaded(client: tuple[str, int] = ("127.0.0.1", 5000)) -> httpx.AsyncClient:
    """Return a client of a runtime whose model is not loaded yet, calling from the address `client`."""
    runtime = Runtime(RuntimeSettings(control=True), tiny_path(), address="127.0.0.1:8000")
    return httpx.AsyncClient(transport=httpx.ASGITransport(application(runtime), client=client), base_url="http://test")


def test_how_long_loading_and_warm_up_took_is_told(url: str) -> None:
    cold_s = httpx.get(f"{url}/health").json()["cold_start_s"]
    assert cold_s > 0
    (line,) = (
        line for line in httpx.get(f"{url}/metrics").text.splitlines() if line.startswith("tailbudget:cold_start")
    )
    assert round(float(line.split()[-1]), 3) == cold_s


async def test_a_server_that_still_loads_says_so() -> None:
    async with _unloaded() as client:
        assert (await client.get("/health")).status_code == 503
        answer = await client.post("/v1/chat/completions", json=ASK)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "loading")
        assert int(answer.headers["retry-after"]) > 0


async def test_an_error_of_the_servers_own_has_openais_shape_and_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime(RuntimeSettings(), tiny_path(), address="127.0.0.1:8000")
    monkeypatch.setattr(runtime, "ready", lambda: 1 / 0)
    transport = httpx.ASGITransport(application(runtime), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/v1/chat/completions", json=ASK)
        told = (await client.get("/metrics")).text
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert 'http_requests_total{handler="/v1/chat/completions",method="POST",status="5xx"} 1.0' in told


async def test_control_is_for_this_machine_only() -> None:
    async with _unloaded(("192.0.2.7", 5000)) as client:
        assert (await client.post("/control", json={"step_delay_ms": 1})).status_code == 403


def test_a_taken_port_is_a_clear_error() -> None:
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1:{port}"):
            serve(RuntimeSettings(str(tiny_path()), port=port))


def test_a_broken_model_ends_the_start_with_one_error(otlp: Receiver, tmp_path: Any) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(tiny_path().read_bytes()[:2000])
    settings = {"model": str(path), "port": free_port()}
    done = python(RUN, repr(settings), imports=IMPORTS)
    last = done.communicate(timeout=120)[1].splitlines()[-1]
    assert done.returncode == 1
    assert "UserError" in last
    assert "no readable GGUF file" in last


#: 160 million tokens, in an address space of 8 GiB.
CRAMPED = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30)); {RUN}"


def test_a_cache_without_room_ends_the_start_with_the_settings_that_make_it_smaller() -> None:
    settings = {"model": str(tiny_path()), "port": free_port(), "device": "cpu", "kv_pages": 10_000_000}
    done = python(CRAMPED, repr(settings), imports=IMPORTS)
    _, log = done.communicate(timeout=120)
    assert done.returncode == 1
    assert "UserError: tiny and its KV cache do not fit into memory: lower --max-running" in log


#: A step a second: the warm-up takes minutes.
SLOW = (
    "import time; from tailbudget.gpu_runtime.runner import Runner; forward = Runner.forward; "
    f"Runner.forward = lambda *step: time.sleep(1) or forward(*step); {RUN}"
)


def test_a_signal_while_it_warms_up_ends_the_server_before_it_serves() -> None:
    port = free_port()
    settings = {"model": str(tiny_path()), "port": port, "device": "cpu", "max_running": 256}
    process = python(SLOW, repr(settings), imports=IMPORTS)

    def answers() -> bool:
        try:
            return bool(httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code)
        except httpx.TransportError:
            return False

    wait_until(answers, what="a server that loads")
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "serving" not in log
    assert "Traceback" not in log


@pytest.mark.parametrize("change", [{"port": 99999}, {"step_delay_ms": -1}, {"dtype": "int3"}, {"max_running": 0}])
def test_settings_are_checked_before_anything_is_loaded(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="expected"):
        RuntimeSettings(**change)
