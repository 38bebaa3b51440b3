"""Streams: wrappers around the chunks of a model call that measure them and pass everything else through."""

import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from opentelemetry.trace import Span, SpanKind

from . import call_metrics
from .chunks import ChunkReader
from .clocks import NATIVE
from .collected import end_rest, when_collected
from .gaps import MAX_GAPS
from .guard import Guard
from .metering import decode_meter
from .request import current_request
from .spans import start
from .stream_record import UNFINISHED, StreamRecord, end_of
from .vocabulary import StreamEnd

T = TypeVar("T")

_now_ns = time.perf_counter_ns


class _Wrapped:
    """What both wrappers share: the record ends exactly once, and every other attribute is the stream's own."""

    __slots__ = ("__weakref__", "_chunks", "_finalizer", "_pull", "_record")

    _chunks: Any
    _record: StreamRecord

    def _wrap(self, chunks: Any, record: StreamRecord) -> None:
        end_rest()
        self._chunks = chunks
        self._record = record
        # Abandoned without a word: the record is ended when the wrapper is collected, or at exit.
        self._finalizer = when_collected(self, record.finish, "abandoned")

    def _end(self, end: StreamEnd, error: BaseException | None = None) -> None:
        if self._finalizer.detach():
            self._record.finish(end, error)

    def _fail(self, error: BaseException) -> None:
        end = end_of(error)
        self._end(end, None if end in ("complete", *UNFINISHED) else error)

    def close(self) -> Any:
        """End the record as closed and close the stream; answers what the stream's `close` answers."""
        self._end("closed")
        close = getattr(self._chunks, "close", None)
        return close() if close else None

    def __getattr__(self, name: str) -> Any:
        if name == "_chunks":  # a copy that was never initialised
            raise AttributeError(name)
        return getattr(self._chunks, name)

    def __repr__(self) -> str:
        return repr(self._chunks)

    @property
    def __class__(self) -> Any:
        # Callers test `isinstance(answer, openai.Stream)`; the wrapper must not fail them.
        return type(self._chunks)

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError("the class of a wrapped stream cannot be changed")


class Stream(_Wrapped, Generic[T]):
    """Iterator over the same chunks, measured.

    A loop runs over an object of its own, in C or a generator, which costs less than as many calls of `__next__`; it
    holds the wrapper, and a loop that is left half-way ends nothing.
    """

    __slots__ = ("_source",)

    def __init__(self, chunks: Any, record: StreamRecord) -> None:
        self._wrap(chunks, record)
        self._source = chunks if hasattr(chunks, "__next__") else iter(chunks)
        self._pull = self._source.__next__

    def __iter__(self) -> Iterator[T]:
        return NATIVE.Loop(self._source, self, self._record, _now_ns) if NATIVE else self._loop()

    def _loop(self) -> Iterator[T]:
        record = self._record
        arrivals, keep, keep_ask = record.arrivals, record.arrivals.append, record.asks.append
        theirs = False  # what is thrown in while the caller has a chunk is the caller's
        try:
            record.asked_ns = asked_ns = _now_ns()
            for chunk in self._source:
                arrived_ns = _now_ns()
                try:
                    usual = record.plain and chunk.choices[0].delta.content and len(arrivals) < MAX_GAPS
                except Exception:  # noqa: BLE001 - `see` reads it with more care
                    usual = False
                if usual:
                    record.last_chunk = chunk
                    keep(arrived_ns)
                    keep_ask(asked_ns)
                else:
                    record.see(chunk, arrived_ns)
                theirs = True
                yield chunk
                theirs = False
                record.asked_ns = asked_ns = _now_ns()
        except BaseException as error:
            if not theirs:
                self._fail(error)
            raise
        self._end("complete")

    def __next__(self) -> T:
        record = self._record
        record.asked_ns = _now_ns()
        try:
            chunk: T = self._pull()
        except BaseException as error:
            self._fail(error)
            raise
        record.see(chunk, _now_ns())
        return chunk

    def __enter__(self) -> Self:
        if enter := getattr(self._chunks, "__enter__", None):
            enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        self._end("closed" if error is None or end_of(error) == "error" else end_of(error))
        leave = getattr(self._chunks, "__exit__", None)
        return leave(kind, error, trace) if leave else self.close()


class AsyncStream(_Wrapped, Generic[T]):
    """Asynchronous iterator over the same chunks, measured; a loop runs over an object of its own here too."""

    __slots__ = ("_source",)

    def __init__(self, chunks: Any, record: StreamRecord) -> None:
        self._wrap(chunks, record)
        self._source = _source_of(chunks)

    def __aiter__(self) -> AsyncIterator[T]:
        return _NativeLoop(self._source, self, self._record, _now_ns) if NATIVE else _unhooked(self._loop())

    async def _loop(self) -> AsyncGenerator[T | None, None]:
        record = self._record
        arrivals, keep, keep_ask = record.arrivals, record.arrivals.append, record.asks.append
        theirs = True
        try:
            yield None  # for `_unhooked`
            theirs = False
            record.asked_ns = asked_ns = _now_ns()
            async for chunk in self._source:
                arrived_ns = _now_ns()
                try:
                    usual = record.plain and chunk.choices[0].delta.content and len(arrivals) < MAX_GAPS
                except Exception:  # noqa: BLE001 - `see` reads it with more care
                    usual = False
                if usual:
                    record.last_chunk = chunk
                    keep(arrived_ns)
                    keep_ask(asked_ns)
                else:
                    record.see(chunk, arrived_ns)
                theirs = True
                yield chunk
                theirs = False
                record.asked_ns = asked_ns = _now_ns()
        except BaseException as error:
            if not theirs:
                self._fail(error)
            raise
        self._end("complete")

    async def __anext__(self) -> T:
        record = self._record
        record.asked_ns = _now_ns()
        try:
            chunk: T = await self._source.__anext__()
        except BaseException as error:
            self._fail(error)
            raise
        record.see(chunk, _now_ns())
        return chunk

    async def aclose(self) -> None:
        """End the record as closed and close the stream."""
        self._end("closed")
        close = getattr(self._chunks, "aclose", None) or getattr(self._chunks, "close", None)
        if close:
            await close()

    async def __aenter__(self) -> Self:
        if enter := getattr(self._chunks, "__aenter__", None):
            await enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Any:
        self._end("closed" if error is None or end_of(error) == "error" else end_of(error))
        leave = getattr(self._chunks, "__aexit__", None)
        return await leave(kind, error, trace) if leave else await self.aclose()


class _NativeLoop(NATIVE.AsyncLoop if NATIVE else object):  # type: ignore[misc]
    """The loop in C, with what a generator has for who leaves it early."""

    __slots__ = ()

    async def aclose(self) -> None:
        """Give no further chunk; the stream is not closed."""
        self.close()


def _unhooked(primed: AsyncGenerator[Any, None]) -> AsyncIterator[Any]:
    """Return the generator at its first `yield`, unknown to the event loop.

    Of one that is left half-way the loop would be told, and close it in a task of its own, beside the generators of the
    SDK below. This one awaits nothing when it is closed, and so ends where it is dropped, as a synchronous one does.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        primed.__anext__().send(None)
    except StopIteration:  # which brings what was yielded
        pass
    finally:
        sys.set_asyncgen_hooks(*hooks)
    return primed


class _Iterable:
    """An asynchronous iterator that lacks what a loop asks it for first."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Any:
        return self._chunks.__anext__()


def _source_of(chunks: Any) -> Any:
    """Return the asynchronous iterator whose chunks these are.

    openai's streams only hand on what their `_iterator` gives, by a coroutine a chunk: a fifth of what measuring it
    costs. A stream that does more than that is asked itself.
    """
    if not hasattr(chunks, "__anext__"):
        return aiter(chunks)
    if not hasattr(chunks, "__aiter__"):
        return _Iterable(chunks)
    code = getattr(getattr(type(chunks), "__anext__", None), "__code__", None)  # a proxy's type has none
    held = getattr(chunks, "__dict__", {}).get("_iterator")
    return chunks if held is None or code is None or code.co_names != ("_iterator", "__anext__") else held


def wrap(chunks: Any, record: StreamRecord, *, asynchronous: bool | None = None) -> Any:
    """Return the wrapper that fits `chunks`, which is an iterator, an asynchronous one, or iterable as one.

    Of a stream that is both, `asynchronous` says how it will be read.
    """
    if asynchronous is None:
        asynchronous = hasattr(chunks, "__anext__") or hasattr(chunks, "__aiter__")
    return (AsyncStream if asynchronous else Stream)(chunks, record)


@overload
def stream(
    chunks: AsyncIterator[T],
    *,
    model: str = ...,
    provider: str = ...,
    server_address: str = ...,
    span: Span | None = ...,
    text_of: ChunkReader | None = ...,
) -> AsyncStream[T]: ...
@overload
def stream(
    chunks: Iterator[T],
    *,
    model: str = ...,
    provider: str = ...,
    server_address: str = ...,
    span: Span | None = ...,
    text_of: ChunkReader | None = ...,
) -> Stream[T]: ...
def stream(
    chunks: Any,
    *,
    model: str = "",
    provider: str = "",
    server_address: str = "",
    span: Span | None = None,
    text_of: ChunkReader | None = None,
) -> Any:
    """Return `chunks` as a wrapper that measures them, for model clients that are not instrumented by themselves.

    Chunks are text, chat completion chunks or their JSON; `text_of` reads any other kind: it returns the visible text,
    "" for a token without any, None for no token. The figures go to `span`, which ends with the stream; without one a
    `chat {model}` span starts now. Answers `chunks` itself when it cannot be measured.
    """
    with Guard("stream"):
        return _stream(chunks, model, provider, server_address, span, text_of)
    return chunks


def _stream(
    chunks: Any, model: str, provider: str, server_address: str, span: Span | None, text_of: ChunkReader | None
) -> Any:
    started_ns = _now_ns()
    if span is None:
        span = start_call(model=model, provider=provider, server_address=server_address, streamed=True)
    meter = None
    if model:
        meter = decode_meter(model=model, provider=provider, server_address=server_address, side="client")
    record = StreamRecord(span, started_ns=started_ns, request=current_request(), meter=meter, text_of=text_of)
    return wrap(chunks, record)


def start_call(*, model: str, provider: str, server_address: str, streamed: bool) -> Span:
    """Start the span of a model call, seen from its client."""
    said = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.provider.name": provider,
        "server.address": server_address,
    }
    attributes = {name: value for name, value in said.items() if value}
    span = start(
        f"chat {model}".strip(), kind=SpanKind.CLIENT, attributes={**attributes, "gen_ai.request.stream": streamed}
    )
    call_metrics.began(span, said, streamed=streamed)
    return span
