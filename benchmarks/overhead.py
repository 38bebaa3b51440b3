"""What instrumenting costs: microseconds a span, nanoseconds a streamed chunk, each beside its bare counterpart.

Run with `python benchmarks/overhead.py`. The best of several rounds counts: other work on the machine only adds.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from machine import describe
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.trace import INVALID_SPAN

from tailbudget import stage, stream
from tailbudget.instrument import providers

SPANS = 5_000
CHUNKS = 1_000
STREAMS = 30
ROUNDS = 7
ATTRIBUTES: dict[str, Any] = {f"slo.bench.attribute_{i}": value for i, value in enumerate(("a", 1, 2.5, True) * 2)}


def best_ns(work: Callable[[], int], rounds: int = ROUNDS) -> float:
    """Return the fewest nanoseconds a unit over the rounds; `work` returns how many units it did."""
    times = []
    for _ in range(rounds):
        started_ns = time.perf_counter_ns()
        units = work()
        times.append((time.perf_counter_ns() - started_ns) / units)
    return min(times)


def our_spans() -> int:
    """Open and close stages with 8 attributes, `slo.stage` being one."""
    attributes = dict(list(ATTRIBUTES.items())[1:])
    for _ in range(SPANS):
        with stage("retrieval", "bench", **attributes):
            pass
    return SPANS


def bare_spans(provider: TracerProvider) -> Callable[[], int]:
    """Return the same work with OpenTelemetry alone."""
    tracer = provider.get_tracer("bench")

    def work() -> int:
        for _ in range(SPANS):
            with tracer.start_as_current_span("retrieval bench", attributes=ATTRIBUTES):
                pass
        return SPANS

    return work


def chat_chunk(text: str) -> Any:
    """Return a chunk of the shape of a chat completion's."""
    delta = SimpleNamespace(content=text, tool_calls=None)
    return SimpleNamespace(id="c", model="m", usage=None, choices=[SimpleNamespace(delta=delta, finish_reason=None)])


def read_streams(chunks: list[Any], wrapped: Callable[[Iterator[Any]], Iterator[Any]]) -> Callable[[], int]:
    """Return work that reads streams of these chunks to their end."""

    def work() -> int:
        for _ in range(STREAMS):
            for _chunk in wrapped(iter(chunks)):
                pass
        return STREAMS * len(chunks)

    return work


async def _produce(chunks: list[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


def read_async_streams(
    chunks: list[Any], wrapped: Callable[[AsyncIterator[Any]], AsyncIterator[Any]]
) -> Callable[[], int]:
    """Return work that reads asynchronous streams of these chunks to their end."""

    async def read() -> None:
        for _ in range(STREAMS):
            async for _chunk in wrapped(_produce(chunks)):
                pass

    def work() -> int:
        asyncio.run(read())
        return STREAMS * len(chunks)

    return work


@contextmanager
def private_providers() -> Iterator[TracerProvider]:
    """Record spans for real and throw them away: export is another thread's work."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SpanProcessor())
    providers.use(provider)
    try:
        yield provider
    finally:
        providers.use(None)
        provider.shutdown()


def main() -> None:
    """Print the figures."""
    print(describe())
    kinds = {"text": ["word "] * CHUNKS, "chat completion": [chat_chunk("word ")] * CHUNKS}
    with private_providers() as provider:
        ours_us, bare_us = best_ns(our_spans) / 1e3, best_ns(bare_spans(provider)) / 1e3
        print(f"span with 8 attributes: {ours_us:.1f} us, bare OpenTelemetry {bare_us:.1f} us")
        for kind, chunks in kinds.items():
            bare = best_ns(read_streams(chunks, lambda it: it))
            ours = best_ns(read_streams(chunks, lambda it: stream(it, model="bench", span=INVALID_SPAN)))
            print(f"{kind} chunk: {ours - bare:.0f} ns added ({ours:.0f} ns against {bare:.0f} ns)")
            bare = best_ns(read_async_streams(chunks, lambda it: it))
            ours = best_ns(read_async_streams(chunks, lambda it: stream(it, model="bench", span=INVALID_SPAN)))
            print(f"{kind} chunk, async: {ours - bare:.0f} ns added ({ours:.0f} ns against {bare:.0f} ns)")


if __name__ == "__main__":
    main()
