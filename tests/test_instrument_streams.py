"""A stream passes through its wrapper unchanged, and its record ends exactly once, however the stream ends."""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from opentelemetry import trace
from opentelemetry.trace import StatusCode

from tailbudget import request, stage, stream, usable
from tailbudget.instrument.gaps import MAX_GAPS, decode_gaps
from tailbudget.instrument.metering import decode_meter
from tests.instrument_support import Recorded, recording


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


class Words:
    """A sync stream with the extras of an SDK's."""

    def __init__(self, *words: str, error: BaseException | None = None) -> None:
        self._words = iter(words)
        self._error = error
        self.response = "raw response"
        self.closed = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            return next(self._words)
        except StopIteration:
            raise (self._error or StopIteration) from None

    def close(self) -> None:
        self.closed += 1


class AsyncWords:
    """The asynchronous twin."""

    def __init__(self, *words: str, error: BaseException | None = None, delay_s: float = 0.0) -> None:
        self._words = iter(words)
        self._error = error
        self._delay_s = delay_s
        self.closed = 0

    def __aiter__(self) -> "AsyncWords":
        return self

    async def __anext__(self) -> str:
        await asyncio.sleep(self._delay_s)
        try:
            return next(self._words)
        except StopIteration:
            raise (self._error or StopAsyncIteration) from None

    async def close(self) -> None:
        self.closed += 1


def chat(content: str | None = None, *, finish: str | None = None, usage: Any = None, **delta: Any) -> Any:
    choice = SimpleNamespace(delta=SimpleNamespace(content=content, **delta), finish_reason=finish)
    return SimpleNamespace(id="id-1", model="m-1", choices=[choice] if usage is None else [], usage=usage)


def end(recorded: Recorded) -> Any:
    return recorded.attributes("chat m")["slo.stream.end"]


def test_all_chunks_come_through_and_the_figures_are_recorded(recorded: Recorded) -> None:
    assert list(stream(iter(["Hel", "", "lo"]), model="m", provider="p", server_address="h")) == ["Hel", "", "lo"]
    attributes = recorded.attributes("chat m")
    assert attributes["slo.stream.end"] == "complete"
    assert attributes["slo.stream.chunks"] == 3
    assert attributes["gen_ai.request.model"] == "m"
    assert attributes["gen_ai.provider.name"] == "p"
    assert attributes["server.address"] == "h"
    assert 0 < attributes["gen_ai.response.time_to_first_chunk"] <= attributes["slo.time_to_first_token"]
    assert len(decode_gaps(attributes["slo.stream.gaps"])[0]) == 1
    assert "gen_ai.usage.output_tokens" not in attributes


def test_close_reaches_the_stream_and_ends_the_record_once(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    words = Words("a", "b")
    wrapped: Any = stream(words, model="m")
    next(wrapped)
    wrapped.close()
    wrapped.close()
    assert words.closed == 2
    assert end(recorded) == "closed"
    assert not caplog.records  # OpenTelemetry warns of a span that ends twice


def test_attributes_and_class_are_the_streams_own(recorded: Recorded) -> None:
    words: Any = Words("a")
    wrapped: Any = stream(words, model="m")
    assert wrapped.response == "raw response"
    assert isinstance(wrapped, Words)
    with pytest.raises(AttributeError):
        getattr(wrapped, "missing")  # noqa: B009 - mypy knows that it is missing
    list(wrapped)


def test_a_with_block_that_is_left_early_closes(recorded: Recorded) -> None:
    words = Words("a", "b")
    wrapped: Any = stream(words, model="m")
    with wrapped as entered:
        assert next(entered) == "a"
    assert words.closed == 1
    assert end(recorded) == "closed"


@pytest.mark.parametrize(
    ("error", "expected", "failed"),
    [
        (ValueError("secret"), "error", True),
        (asyncio.CancelledError(), "cancelled", False),
        (GeneratorExit(), "closed", False),
    ],
)
def test_an_error_from_the_stream_ends_it(
    recorded: Recorded, error: BaseException, expected: str, failed: bool
) -> None:
    wrapped = stream(Words("a", error=error), model="m")
    with pytest.raises(type(error)):
        list(wrapped)
    span = recorded.named("chat m")
    assert end(recorded) == expected
    assert (span.status.status_code == StatusCode.ERROR) is failed
    assert "secret" not in f"{span.attributes} {span.status.description} {span.events}"


def test_a_loop_that_is_left_may_be_taken_up_again(recorded: Recorded) -> None:
    wrapped: Any = stream(iter(["a", "b", "c"]), model="m")
    for _ in wrapped:
        break
    assert not recorded.spans
    assert (next(wrapped), list(wrapped)) == ("b", ["c"])
    assert end(recorded) == "complete"


def test_an_abandoned_stream_is_recorded_when_it_is_collected(recorded: Recorded) -> None:
    wrapped: Any = stream(Words("a", "b"), model="m")
    next(wrapped)
    del wrapped
    gc.collect()
    assert end(recorded) == "abandoned"


def test_a_stream_left_after_its_finish_reason_is_complete(recorded: Recorded) -> None:
    wrapped: Any = stream(iter([chat("a"), chat(finish="stop"), chat("never")]), model="m")
    next(wrapped)
    next(wrapped)
    wrapped.close()
    assert end(recorded) == "complete"


async def test_an_async_stream_is_measured_and_closed(recorded: Recorded) -> None:
    words = AsyncWords("a", "b", "c")
    wrapped: Any = stream(words, model="m")
    async with wrapped as entered:
        assert await anext(entered) == "a"
    assert words.closed == 1
    assert end(recorded) == "closed"


async def test_an_sdks_stream_that_only_hands_on_is_read_at_its_source_and_any_other_is_not(recorded: Recorded) -> None:
    class HandsOn:
        def __init__(self, words: AsyncWords) -> None:
            self._iterator = words

        async def __anext__(self) -> str:
            return await self._iterator.__anext__()

    class SaysMore(HandsOn):
        async def __anext__(self) -> str:
            return (await self._iterator.__anext__()).upper()

    for kind, said in ((HandsOn, ["a", "b"]), (SaysMore, ["A", "B"])):
        words: Any = kind(AsyncWords("a", "b"))
        assert [word async for word in stream(words, model="m")] == said
    assert [dict(span.attributes or {})["slo.stream.end"] for span in recorded.spans] == ["complete", "complete"]
    # openai's own does no more than that, which is what the shorter way is for.
    assert openai.AsyncStream.__anext__.__code__.co_names == HandsOn.__anext__.__code__.co_names


async def test_an_async_stream_that_is_cancelled_says_so(recorded: Recorded) -> None:
    wrapped: Any = stream(AsyncWords("a", delay_s=30), model="m")
    task = asyncio.create_task(anext(wrapped))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert end(recorded) == "cancelled"


async def test_an_async_loop_that_is_left_leaves_nothing_to_the_event_loop_and_another_goes_on(
    recorded: Recorded,
) -> None:
    told: list[Any] = []
    hooks = sys.get_asyncgen_hooks()
    words = AsyncWords("a", "b", "c")
    sys.set_asyncgen_hooks(told.append, told.append)
    try:
        wrapped: Any = stream(words, model="m")
        async for word in wrapped:
            assert word == "a"
            break
        gc.collect()
        assert told == []
        assert [word async for word in wrapped] == ["b", "c"]
    finally:
        sys.set_asyncgen_hooks(*hooks)
    assert end(recorded) == "complete"


def test_what_comes_after_the_end_is_handed_on_and_not_counted(recorded: Recorded) -> None:
    wrapped: Any = stream(iter([chat(f"w{n}") for n in range(60)]), model="m")
    read = 0
    for _ in wrapped:
        read += 1
        if read == 40:
            wrapped.close()
    assert read == 60
    assert recorded.attributes("chat m")["slo.stream.chunks"] == 40
    assert len(wrapped._record.arrivals) == 1
    assert wrapped._record.last_chunk is None


async def test_an_async_loop_whose_task_is_cancelled_says_so_and_one_that_raises_does_not(recorded: Recorded) -> None:
    async def read(delay_s: float) -> None:
        async for _ in stream(AsyncWords("a", delay_s=delay_s), model="m"):
            raise ValueError("the reader's own")

    task = asyncio.create_task(read(30))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ValueError, match="own"):
        await read(0)
    gc.collect()
    ends = [(span.attributes or {})["slo.stream.end"] for span in recorded.spans]
    assert ends == ["cancelled", "abandoned"]


async def test_an_async_generator_can_be_wrapped(recorded: Recorded) -> None:
    async def words() -> AsyncIterator[str]:
        yield "a"
        yield "b"

    assert [word async for word in stream(words(), model="m")] == ["a", "b"]
    assert end(recorded) == "complete"


def test_what_the_server_reports_is_taken_and_nothing_else(recorded: Recorded) -> None:
    usage = SimpleNamespace(
        prompt_tokens=7, completion_tokens=3, prompt_tokens_details=SimpleNamespace(cached_tokens=5)
    )
    chunks = [chat(role="assistant"), chat("a"), chat("b", finish="length"), chat(usage=usage)]
    list(stream(iter(chunks), model="m"))
    attributes = recorded.attributes("chat m")
    assert attributes["gen_ai.usage.input_tokens"] == 7
    assert attributes["gen_ai.usage.output_tokens"] == 3
    assert attributes["gen_ai.usage.cache_read.input_tokens"] == 5
    assert attributes["gen_ai.response.finish_reasons"] == ("length",)
    assert attributes["gen_ai.response.id"] == "id-1"
    assert attributes["gen_ai.response.model"] == "m-1"
    assert attributes["slo.stream.chunks"] == 4


@pytest.mark.parametrize(
    "first",
    [
        chat(reasoning_content="hm"),
        chat(reasoning="hm"),
        chat(tool_calls=[object()]),
        {"choices": [{"delta": {"content": "a"}}]},
    ],
)
def test_the_first_token_may_be_reasoning_or_a_tool_call(recorded: Recorded, first: Any) -> None:
    role = {"choices": [{"delta": {"role": "assistant"}}]} if isinstance(first, dict) else chat(role="assistant")
    wrapped: Any = stream(iter([role, first]), model="m")
    next(wrapped)
    time.sleep(0.002)
    next(wrapped)
    wrapped.close()
    attributes = recorded.attributes("chat m")
    assert attributes["slo.time_to_first_token"] - attributes["gen_ai.response.time_to_first_chunk"] >= 0.002


def test_the_time_a_caller_sits_on_a_chunk_is_the_callers(recorded: Recorded) -> None:
    for _ in stream(iter(["a", "b"]), model="m"):
        time.sleep(0.01)
    assert recorded.attributes("chat m")["slo.stream.consumer_time"] >= 0.02


@pytest.mark.parametrize(
    ("words", "source", "at"),
    [
        (["Yes", ".", " And", " more"], "sentence", 1),
        (["It", " is", " 3", ".", "14", " or", " so", ".\n", "x"], "sentence", 7),
        ([" word"] * 25, "tokens", 19),
        (["short", " answer"], "final", 1),
        (["\u597d", "\u3002", "x"], "sentence", 1),
    ],
)
def test_the_first_usable_answer_is_found(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, words: list[str], source: str, at: int
) -> None:
    clock = Clock(monkeypatch)
    with request("chat"):
        for _ in stream(clock.paced(words), model="m"):
            pass
    attributes = recorded.attributes("chat")
    assert attributes["slo.usable.source"] == source
    assert attributes["slo.time_to_usable"] == pytest.approx(at + 1, abs=0.01)
    assert attributes["slo.time_to_first_token"] == pytest.approx(1, abs=0.01)
    assert attributes["slo.time_to_final"] == pytest.approx(len(words), abs=0.01)


def test_a_stream_that_completes_says_when_its_last_token_came(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    for _ in stream(clock.paced(["a", "b", "c", ""]), model="m"):
        pass
    assert recorded.attributes("chat m")["slo.time_to_final"] == pytest.approx(3, abs=0.01)


def test_a_stream_that_was_left_ends_with_its_span(recorded: Recorded) -> None:
    wrapped: Any = stream(Words("a", "b"), model="m")
    next(wrapped)
    wrapped.close()
    assert "slo.time_to_final" not in recorded.attributes("chat m")


class Clock:
    """A clock that moves a second a word."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._now_ns = 10**15
        monkeypatch.setattr("time.perf_counter_ns", lambda: self._now_ns)
        monkeypatch.setattr("tailbudget.instrument.streams._now_ns", lambda: self._now_ns)

    def paced(self, words: list[str]) -> Iterator[str]:
        for word in words:
            self._now_ns += 10**9
            yield word


def test_reasoning_is_not_usable(recorded: Recorded) -> None:
    with request("chat"):
        list(stream(iter([chat(reasoning_content="I think. So.\n")] * 30), model="m"))
    assert "slo.time_to_usable" not in recorded.attributes("chat")


def test_what_the_app_calls_usable_goes_before_what_was_seen(recorded: Recorded) -> None:
    with request("chat"):
        for n, _ in enumerate(stream(iter(["A", ". ", "B", ". "]), model="m")):
            if n == 3:
                usable()
    assert recorded.attributes("chat")["slo.usable.source"] == "app"


def test_the_last_streamed_call_speaks_for_the_request(recorded: Recorded) -> None:
    with request("chat"):
        list(stream(iter(["Plan it. ", "Go."]), model="m"))
        time.sleep(0.02)
        list(stream(iter(["Answer. ", "Done."]), model="answer"))
    attributes = recorded.attributes("chat")
    assert attributes["slo.time_to_first_token"] >= 0.02
    assert attributes["slo.time_to_usable"] >= 0.02


def test_the_meter_counts_a_stream_while_it_runs_and_after(recorded: Recorded) -> None:
    meter = decode_meter(model="metered", provider="p", server_address="h", side="client")
    wrapped: Any = stream(iter("abcd"), model="metered", provider="p", server_address="h")
    for _ in range(3):
        next(wrapped)
    running = meter.totals()
    assert running[:2] == (0, 2)
    assert meter.peak() == 1
    list(wrapped)
    ended = meter.totals()
    assert ended[:2] == (0, 3)
    assert ended[2] >= running[2] > 0
    labels = {"model": "metered", "provider": "p", "server.address": "h", "side": "client"}
    assert (labels, 3) in recorded.points("slo.decode.chunks")
    assert [value > 0 for found, value in recorded.points("slo.decode.active_stream_time") if found == labels] == [True]


def test_a_hanging_stream_shows_while_it_hangs(recorded: Recorded) -> None:
    meter = decode_meter(model="hung", provider="p", server_address="h", side="client")
    seen: list[int] = []

    def words() -> Iterator[str]:
        yield "a"
        for _ in range(2):
            time.sleep(0.01)
            seen.append(meter.totals()[2])
        yield "b"

    list(stream(words(), model="hung", provider="p", server_address="h"))
    assert 0 < seen[0] < seen[1] <= meter.totals()[2]


def test_an_endless_stream_needs_bounded_memory(recorded: Recorded) -> None:
    wrapped: Any = stream((str(n) for n in range(3 * MAX_GAPS)), model="m")
    for _ in wrapped:
        assert len(wrapped._record.arrivals) <= MAX_GAPS
    attributes = recorded.attributes("chat m")
    assert attributes["slo.stream.chunks"] == 3 * MAX_GAPS
    kept, histogram = decode_gaps(attributes["slo.stream.gaps"])
    assert len(kept) + sum(histogram) == 3 * MAX_GAPS - 1


def test_a_reader_of_the_callers_own_understands_any_chunk(recorded: Recorded) -> None:
    def text_of(chunk: int) -> str | None:
        return "word " if chunk else None

    list(stream(iter([0, 1, 1]), model="m", text_of=text_of))
    attributes = recorded.attributes("chat m")
    assert attributes["slo.stream.chunks"] == 3
    assert len(decode_gaps(attributes["slo.stream.gaps"])[0]) == 1


def raising(chunk: Any) -> str | None:
    raise RuntimeError("a reader that fails")


@pytest.mark.parametrize("broken", [raising])
def test_a_failure_of_ours_never_reaches_the_reader(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Any], str | None]
) -> None:
    monkeypatch.setattr("tailbudget.instrument.guard.Guard.reraise", False)
    assert list(stream(iter("abc"), model="m", text_of=broken)) == ["a", "b", "c"]
    assert end(recorded) == "complete"


def current_span_id() -> int:
    return trace.get_current_span().get_span_context().span_id


def test_two_streams_that_interleave_in_one_task_leave_the_callers_span_current(recorded: Recorded) -> None:
    with request("chat"):
        mine = current_span_id()
        first, second = stream(Words("a", "b"), model="m"), stream(Words("c", "d"), model="other")
        for pull in (first, second, second, first):
            next(pull)
            assert current_span_id() == mine
        assert list(second) == list(first) == []
        assert current_span_id() == mine
    request_id = recorded.id_of("chat")
    parents = {span.name: span.parent.span_id for span in recorded.spans if span.parent}
    assert parents == {"chat other": request_id, "chat m": request_id}
    assert recorded.attributes("chat m")["slo.stream.chunks"] == 2
    assert recorded.attributes("chat other")["slo.stream.chunks"] == 2


async def test_one_stream_read_in_two_tasks_leaves_each_its_own_span(recorded: Recorded) -> None:
    with request("chat"):
        wrapped: Any = stream(AsyncWords("a", "b", "c"), model="m")
        assert await anext(wrapped) == "a"

        async def read_the_rest() -> int:
            with stage("post", "elsewhere"):
                mine = current_span_id()
                assert [word async for word in wrapped] == ["b", "c"]
                assert current_span_id() == mine
                return mine

        elsewhere = await asyncio.create_task(read_the_rest())
        assert current_span_id() not in (elsewhere, 0)
    assert end(recorded) == "complete"
    assert recorded.attributes("chat m")["slo.stream.chunks"] == 3
