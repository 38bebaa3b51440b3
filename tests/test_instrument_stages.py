"""A stage is a span that owns the time of a block, a function or a generator, and leaves no trace in the context."""

import asyncio
import time
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from tailbudget import UserError, request, stage
from tailbudget.instrument.guard import Guard
from tests.instrument_support import Recorded, recording


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.mark.parametrize(
    ("name", "kind", "open_it"),
    [
        ("retrieval bm25", SpanKind.CLIENT, lambda: stage("retrieval", "bm25")),
        ("prompt rag", SpanKind.INTERNAL, lambda: stage("prompt", "rag")),
        ("execute_tool weather", SpanKind.INTERNAL, lambda: stage("tools", "weather")),
        ("post filter", SpanKind.INTERNAL, lambda: stage("post", "filter")),
        ("queue", SpanKind.INTERNAL, lambda: stage("queue")),
    ],
)
def test_each_stage_has_its_name_and_kind(recorded: Recorded, name: str, kind: SpanKind, open_it: object) -> None:
    with open_it():  # type: ignore[operator]
        pass
    assert recorded.named(name).kind == kind


def test_a_tool_follows_the_genai_conventions(recorded: Recorded) -> None:
    with stage("tools", "weather"):
        pass
    attributes = recorded.attributes("execute_tool weather")
    assert attributes == {
        "slo.stage": "tools",
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "weather",
    }


def test_attributes_are_put_on_the_span(recorded: Recorded) -> None:
    with stage("retrieval", "bm25", **{"slo.retrieval.documents": 3}) as span:
        span.set_attribute("slo.cache.hit", value=True)
    attributes = recorded.attributes("retrieval bm25")
    assert (attributes["slo.retrieval.documents"], attributes["slo.cache.hit"]) == (3, True)


def test_a_stage_hangs_under_its_request(recorded: Recorded) -> None:
    with request("chat"), stage("prompt", "rag"):
        pass
    parent = recorded.named("prompt rag").parent
    assert parent is not None
    assert parent.span_id == recorded.id_of("chat")


def test_an_error_passes_and_leaves_its_class_but_not_its_words(recorded: Recorded) -> None:
    with pytest.raises(ValueError, match="secret"), stage("post", "filter"):
        raise ValueError("secret")
    span = recorded.named("post filter")
    assert (span.attributes or {})["error.type"] == "ValueError"
    assert span.status.status_code == StatusCode.ERROR
    assert "secret" not in span.to_json()


def test_a_decorated_function_is_a_stage_a_call(recorded: Recorded) -> None:
    @stage("prompt")
    def assemble(n: int) -> int:
        return n + 1

    assert [assemble(1), assemble(2)] == [2, 3]
    assert [span.name for span in recorded.spans] == ["prompt assemble"] * 2


async def test_a_decorated_coroutine_covers_its_awaits(recorded: Recorded) -> None:
    inside: list[str] = []

    @stage("retrieval", "index")
    async def search() -> str:
        await asyncio.sleep(0)
        inside.append(trace.format_span_id(trace.get_current_span().get_span_context().span_id))
        return "found"

    assert asyncio.iscoroutinefunction(search)
    assert await search() == "found"
    assert inside == [trace.format_span_id(recorded.id_of("retrieval index"))]


def test_a_generator_is_current_inside_and_not_between_values(recorded: Recorded) -> None:
    inside: list[trace.Span] = []

    @stage("post", "chunks")
    def chunks() -> Generator[int, str, str]:
        inside.append(trace.get_current_span())
        got = yield 1
        inside.append(trace.get_current_span())
        yield len(got)
        return "end"

    before = otel_context.get_current()
    generator = chunks()
    assert next(generator) == 1
    assert otel_context.get_current() is before
    assert generator.send("four") == 4
    assert otel_context.get_current() is before
    assert not recorded.spans
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == "end"
    span_id = recorded.id_of("post chunks")
    assert {span.get_span_context().span_id for span in inside} == {span_id}


def test_a_generator_that_is_closed_ends_its_stage_without_an_error(recorded: Recorded) -> None:
    closed_in: list[trace.Span] = []

    @stage("post", "chunks")
    def chunks() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed_in.append(trace.get_current_span())

    generator = chunks()
    next(generator)
    generator.close()  # type: ignore[attr-defined]
    context = closed_in[0].get_span_context()
    assert context.span_id == recorded.id_of("post chunks")
    assert recorded.named("post chunks").status.status_code == StatusCode.UNSET


def test_an_error_thrown_into_a_generator_reaches_it(recorded: Recorded) -> None:
    @stage("post", "chunks")
    def chunks() -> Generator[str, None, None]:
        try:
            yield "first"
        except KeyError:
            yield "caught"

    generator = chunks()
    next(generator)
    assert generator.throw(KeyError()) == "caught"
    assert list(generator) == []
    assert recorded.named("post chunks").status.status_code == StatusCode.UNSET


async def test_an_async_generator_closed_in_another_task_breaks_nothing(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    @stage("post", "chunks")
    async def chunks() -> AsyncIterator[int]:
        with stage("prompt", "inner"):
            yield 1
            yield 2

    before = otel_context.get_current()
    generator = chunks()
    assert await anext(generator) == 1
    await asyncio.create_task(generator.aclose())  # type: ignore[attr-defined]
    assert [span.name for span in recorded.spans] == ["prompt inner", "post chunks"]
    assert not caplog.records
    assert otel_context.get_current() is before


async def test_an_async_generator_yields_all_and_restores_the_context(recorded: Recorded) -> None:
    @stage("post", "chunks")
    async def chunks() -> AsyncIterator[int]:
        for n in range(3):
            await asyncio.sleep(0)
            yield n

    before = otel_context.get_current()
    seen = []
    async for n in chunks():
        assert otel_context.get_current() is before
        seen.append(n)
    assert seen == [0, 1, 2]
    assert recorded.named("post chunks").status.status_code == StatusCode.UNSET


async def test_one_scope_serves_tasks_threads_and_itself_at_once(recorded: Recorded) -> None:
    shared = stage("tools", "shared")
    depths: list[int] = []

    async def task(name: str) -> None:
        with request(name):
            async with shared:
                await asyncio.sleep(0.01)
                with shared, stage("post", name):
                    await asyncio.sleep(0.01)

    def thread(name: str) -> None:
        with request(name), shared, stage("post", name):
            time.sleep(0.01)

    threads = (asyncio.to_thread(thread, f"thread-{n}") for n in range(5))
    await asyncio.gather(*(task(f"task-{n}") for n in range(5)), *threads)
    assert not trace.get_current_span().get_span_context().is_valid
    spans = {span.context.span_id: span for span in recorded.spans if span.context}
    for span in recorded.spans:
        if span.name.startswith("post "):
            above, depth = span, 0
            while above.parent:
                above, depth = spans[above.parent.span_id], depth + 1
            depths.append(depth)
            assert span.name == f"post {above.name}"
    assert sorted(depths) == [2] * 5 + [3] * 5
    assert len([span for span in recorded.spans if span.name == "execute_tool shared"]) == 15


async def test_a_decorated_tool_tells_the_same_call_made_twice_by_a_hash_of_its_arguments(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    @stage("tools")
    async def search(name: str, *, limit: int = 3) -> str:
        return name[:limit]

    @stage("tools")
    def pages(name: object) -> Iterator[object]:
        yield name

    for name in ("a secret", "a secret", "another"):
        await search(name, limit=4)
        assert list(pages(name=name)) == [name]
    endless: list[object] = []
    endless.append(endless)
    monkeypatch.setattr(Guard, "reraise", False)
    assert list(pages(endless)) == [endless]
    hashes = [(span.attributes or {}).get("slo.tool.call_hash") for span in recorded.spans]
    searched, paged = hashes[0:6:2], hashes[1:6:2]
    assert len(set(searched)) == len(set(paged)) == 2
    assert searched[0] == searched[1]
    assert paged[0] == paged[1]
    assert hashes[6] is None


def test_what_is_no_function_is_refused_in_words() -> None:
    with pytest.raises(UserError, match=r"stage\('tools'\) was given 5 to decorate: expected a function"):
        stage("tools")(5)  # type: ignore[type-var]
