"""Events of an answer that flows are not read where a pattern sees a token, and nothing is told differently for it."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailbudget.instrument import dialects, wire
from tailbudget.instrument.calls import Asked, begin
from tailbudget.instrument.dialects import Dialect
from tailbudget.instrument.gaps import decode_gaps
from tailbudget.instrument.stream_record import USABLE_CHUNKS
from tests.instrument_support import recording

CHAT = {"id": "c1", "object": "chat.completion.chunk", "model": "m"}
CHOICE = {"index": 0, "finish_reason": None}


def chat(text: Any) -> Any:
    return {**CHAT, "choices": [{**CHOICE, "delta": {"content": text}}]}


def completion(text: Any) -> Any:
    return {**CHAT, "choices": [{**CHOICE, "text": text}]}


def response(text: Any) -> Any:
    return {"type": "response.output_text.delta", "item_id": "i", "delta": text, "logprobs": []}


def message(text: Any) -> Any:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}}


def gemini(text: Any) -> Any:
    parts = [{"text": text}] if text is not None else []
    usage = {"promptTokenCount": 8, "candidatesTokenCount": 3}
    return {"candidates": [{"content": {"parts": parts, "role": "model"}}], "usageMetadata": usage, "modelVersion": "g"}


def ollama(text: Any) -> Any:
    return {"model": "m", "message": {"role": "assistant", "content": text}, "done": False}


#: How an event says a text, by dialect, and other events of it: with tokens nobody reads, without any, counts and ends.
SAYS: dict[str, tuple[Dialect, Callable[[Any], Any], tuple[Any, ...]]] = {
    "chat": (
        dialects.CHAT,
        chat,
        (
            {**CHAT, "choices": [{**CHOICE, "delta": {"content": None, "reasoning_content": "hm"}}]},
            {
                **CHAT,
                "choices": [{**CHOICE, "delta": {"tool_calls": [{"id": '"content":"a"'}]}}],
            },
            {**CHAT, "choices": [{**CHOICE, "delta": {}, "finish_reason": "stop", "logprobs": {"content": []}}]},
            {**CHAT, "choices": [{**CHOICE, "message": {"content": "all"}, "delta": {"content": ""}}]},
            {**CHAT, "choices": [{**CHOICE, "delta": {"content": ""}, "message": {"content": "all"}}]},
            {**CHAT, "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}},
        ),
    ),
    "completion": (
        dialects.COMPLETION,
        completion,
        ({**CHAT, "choices": [{**CHOICE, "text": ""}], "usage": {"prompt_tokens": 5}, "prompt": {"text": "a"}},),
    ),
    "response": (
        dialects.RESPONSES,
        response,
        (
            {"type": "response.reasoning_text.delta", "delta": "hm"},
            {"type": "response.output_text.done", "text": "delta"},
            {"type": "response.completed", "response": {"object": "response", "id": "r", "status": "completed"}},
        ),
    ),
    "message": (
        dialects.MESSAGES,
        message,
        (
            {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
            {"type": "content_block_delta", "delta": {"type": "signature_delta", "signature": "text"}},
            {"type": "content_block_delta", "delta": {"type": "citations_delta", "citation": {"text": "a"}}},
            {"type": "content_block_start", "content_block": {"type": "text", "text": "none"}},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 9}},
        ),
    ),
    "gemini": (
        dialects.GEMINI,
        gemini,
        (
            {"candidates": [{"content": {"parts": [{"text": "hm", "thought": True}]}, "finishReason": "STOP"}]},
            {"candidates": [{"content": {"parts": [{"text": ""}]}, "groundingMetadata": {"segment": {"text": "a"}}}]},
            {"candidates": [{"content": {"parts": [{"functionCall": {"name": "text"}}]}}], "responseId": "r"},
        ),
    ),
    "ollama": (
        dialects.OLLAMA,
        ollama,
        (
            {"model": "m", "message": {"content": "", "thinking": "hm"}, "done": False},
            {"model": "m", "message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 4},
        ),
    ),
}
ERRORS = ({"error": {"code": "overloaded", "message": '"content":"a"'}}, {"error": "broken", **chat("a")})
HOSTILE = ("", '"', "\\", '"content":"a"', '"text": "a"', '","error":{"code":"a"},"b":"', "\n\ndata: {}", "\u2028")
TEXTS = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8), st.none())


def told(dialect: Dialect, parts: list[bytes]) -> dict[str, Any]:
    """Return what the span of a call says when these parts came, without its clocks."""
    with recording() as recorded:
        call = begin("httpx", Asked(dialect, model="m", provider="p", address="host", streamed=True))
        assert call is not None
        observer = wire.Observer(call)
        for part in parts:
            observer.ask()
            observer.see(part)
        observer.end("complete")
        (span,) = recorded.spans
    everything: dict[str, Any] = dict(span.attributes or {})
    assert everything["slo.stream.consumer_time"] >= 0
    said = {name: value for name, value in everything.items() if not isinstance(value, float)}
    gaps = said.pop("slo.stream.gaps", None)
    return {**said, "gaps": len(decode_gaps(gaps)[0]) if isinstance(gaps, bytes) else None, "status": span.status}


@pytest.mark.parametrize("name", SAYS)
@given(
    events=st.lists(st.one_of(TEXTS, TEXTS, TEXTS, st.integers(0, 9)), max_size=30),
    compact=st.booleans(),
    end=st.sampled_from([b"\n\n", b"\r\n\r\n", b"\n"]),
    cut=st.integers(1, 400),
)
def test_a_stream_tells_the_same_whether_its_events_are_read_or_not(
    name: str, events: list[Any], compact: bool, end: bytes, cut: int
) -> None:
    dialect, says, others = SAYS[name]
    others += ERRORS
    separators = (",", ":") if compact else None
    begins = b"" if name == "ollama" else b"data:" if compact else b"data: "
    flowing = [says("word ")] * USABLE_CHUNKS
    said = [others[event % len(others)] if isinstance(event, int) else says(event) for event in events]
    lines = [begins + json.dumps(event, separators=separators).encode() + end for event in flowing + said]
    body = b"".join(lines)
    parts = [body[at : at + cut] for at in range(0, len(body), cut)]
    assert told(dialect, parts) == told(replace(dialect, has_token=None), parts)


@pytest.mark.parametrize("name", SAYS)
def test_the_usual_event_of_an_answer_that_flows_is_not_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dialect, says, _ = SAYS[name]
    read: list[bytes] = []
    event = wire._event

    def reading(line: bytes) -> dict[str, Any]:
        read.append(line)
        return event(line)

    monkeypatch.setattr(wire, "_event", reading)
    lines = [b"data: " + json.dumps(says(f"word{n} ")).encode() + b"\n\n" for n in range(USABLE_CHUNKS + 50)]
    assert told(dialect, lines)["slo.stream.chunks"] == USABLE_CHUNKS + 50
    assert len(read) == USABLE_CHUNKS + 1  # of the last one, what it reports


class Searches:
    """A pattern that counts how often it is asked."""

    def __init__(self, pattern: Any) -> None:
        self._pattern = pattern
        self.count = 0

    def search(self, line: bytes) -> Any:
        self.count += 1
        return self._pattern.search(line)


@pytest.mark.parametrize(
    ("changes", "searches"),
    [(lambda _: "c1", 1), (lambda n: f"c{n // 4}", 13), (lambda n: f"c{n}", 50)],
    ids=["all alike", "four alike", "none alike"],
)
def test_a_pattern_looks_at_an_event_only_where_more_than_its_text_is_new(
    changes: Callable[[int], str], searches: int
) -> None:
    pattern = Searches(dialects.CHAT.has_token)
    dialect = replace(dialects.CHAT, has_token=pattern)  # type: ignore[arg-type]
    words = [{**chat("word "), "id": changes(0)}] * USABLE_CHUNKS
    words += [{**chat(f"word{n} "), "id": changes(n)} for n in range(50)]
    lines = [b"data: " + json.dumps(word).encode() + b"\n\n" for word in words]
    assert told(dialect, lines)["slo.stream.chunks"] == USABLE_CHUNKS + 50
    assert pattern.count == searches


def test_a_text_with_a_quote_in_it_is_left_to_the_pattern() -> None:
    pattern = Searches(dialects.CHAT.has_token)
    dialect = replace(dialects.CHAT, has_token=pattern)  # type: ignore[arg-type]
    texts = ["word "] * (USABLE_CHUNKS + 5) + ['say "a"', "word ", "C:\\", "word "]
    lines = [b"data: " + json.dumps(chat(text)).encode() + b"\n\n" for text in texts]
    assert told(dialect, lines)["slo.stream.chunks"] == len(texts)
    assert pattern.count == 1 + 2


@pytest.mark.parametrize("line", [b": {}\n", b"event: {}\n", b"data: [{}]\n", b"data: {\n", b'{}"\n', b"x{}\n"])
def test_only_a_whole_event_is_a_token(line: bytes) -> None:
    garbage = line.replace(b"{}", b'{"content":"a"}').replace(b"{\n", b'{"content":"a"\n')
    lines = [b"data: " + json.dumps(chat("word ")).encode() + b"\n"] * USABLE_CHUNKS
    assert told(dialects.CHAT, [*lines, garbage])["slo.stream.chunks"] == USABLE_CHUNKS
