"""Streams drawn by their seed, read as a program may, and all that is seen of each: `drawn_streams.py FIRST LAST`.

One line of JSON a stream: what the reader got and the attributes of its spans. Which implementation measured it must
not show: TAILBUDGET_STREAMS chooses. With `--collecting` garbage is collected at every other allocation, which finds
the streams that were left in the middle of anything.
"""

import asyncio
import gc
import json
import random
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from types import SimpleNamespace
from typing import Any

from tailbudget import request, stream
from tailbudget.testing import Clock, recording

Chunk = Any
ENDS = ("ends", "raises", "cancelled", "left", "closed", "ends", "ends")
WAYS = ("loop", "steps", "loop", "mixed")
SOURCES = ("generator", "coroutine", "awaitable", "own class", "proxy")


class Odd:
    """A chunk that is none of a model's."""

    @property
    def choices(self) -> Any:
        raise RuntimeError("this chunk has no choices")


def chunk(draw: random.Random, kind: str) -> Chunk:
    text = draw.choice(["word ", "end. ", "", "longer text without an end", "Ja!\n"])
    if kind == "text":
        return text
    if kind == "json":
        return {"choices": [{"delta": {"content": text}, "finish_reason": None}]}
    if draw.random() < 0.9:
        choice = SimpleNamespace(delta=SimpleNamespace(content=text, tool_calls=None), finish_reason=None)
        return SimpleNamespace(id="c", model="m", usage=None, choices=[choice])
    tool = SimpleNamespace(delta=SimpleNamespace(content=None, tool_calls=["call"]), finish_reason=None)
    last = SimpleNamespace(delta=SimpleNamespace(content="so"), finish_reason="stop")
    usage = SimpleNamespace(prompt_tokens=3, completion_tokens=draw.randrange(9), prompt_tokens_details=None)
    return draw.choice([
        SimpleNamespace(id="c", model="m", usage=None, choices=[tool]),
        SimpleNamespace(id="c", model="m", usage=None, choices=[last]),
        SimpleNamespace(id="c", model="m", usage=usage, choices=[]),
        SimpleNamespace(id="c", model="m", usage=None, choices=None),
        SimpleNamespace(choices=({"delta": 1},)),
        Odd(),
        None,
    ])  # fmt: skip


class Drawn:
    """One stream and its reader."""

    def __init__(self, seed: int, clock: Clock) -> None:
        draw = self.draw = random.Random(seed)
        self.clock = clock
        self.kind = draw.choice(["chat", "chat", "text", "json"])
        self.count = draw.choice([0, 1, 2, 25, 60, 200, 200, 5000 if seed % 25 == 0 else 90])
        self.end, self.way, self.source = draw.choice(ENDS), draw.choice(WAYS), draw.choice(SOURCES)
        self.leave_after = draw.randrange(self.count + 1)
        self.got: list[str] = []
        self.said = ""
        self.wrapped: Any = None

    def parts(self) -> Iterator[Chunk]:
        """Yield the chunks, each after its time."""
        for _ in range(self.count):
            self.pass_time()
            yield chunk(self.draw, self.kind)
        self.pass_time()
        if self.end == "raises":
            raise self.draw.choice([ConnectionError, ValueError, TimeoutError, KeyboardInterrupt])("broken")

    def pass_time(self) -> None:
        self.clock.advance_ms(self.draw.choice([0.0, 0.7, 5.0, 20.0, 20.0, 31.0, 240.0, 1700.0]))

    def take(self, part: Chunk) -> bool:
        """Note a chunk and let the reader's time pass; False when the reader leaves."""
        self.got.append(part if isinstance(part, str) else type(part).__name__)
        if self.draw.random() < 0.2:
            self.clock.advance_ms(self.draw.choice([1.0, 90.0]))
        return self.end not in ("left", "closed", "cancelled") or len(self.got) <= self.leave_after

    def read(self) -> None:
        """Read it synchronously."""
        source: Any = self.parts()
        if self.source in ("own class", "proxy"):
            source = (Own if self.source == "own class" else Proxy)(source)
        wrapped = self.wrapped = stream(source, model="m")
        iterator = iter(wrapped) if self.way != "steps" or self.source == "proxy" else wrapped
        while self.take(next(iterator)):
            if self.way == "mixed" and len(self.got) % 3 == 0:
                iterator = iter(wrapped)
        if self.end == "closed":
            wrapped.close()

    async def read_async(self) -> None:
        """Read it asynchronously."""
        parts = self.parts()
        source: Any = as_generator(parts) if self.source == "generator" else AsCoroutine(parts)
        if self.source == "awaitable":
            source = AsAwaitable(parts)
        elif self.source == "proxy":
            source = AsyncProxy(source)
        wrapped = self.wrapped = stream(source, model="m")
        iterator = aiter(wrapped) if self.way != "steps" or self.source == "proxy" else wrapped
        while self.take(await anext(iterator)):
            if self.way == "mixed" and len(self.got) % 3 == 0 and self.source not in ("generator", "proxy"):
                iterator = aiter(wrapped)
        if self.end == "closed":
            await wrapped.aclose()
        if self.end == "cancelled":
            waiting = asyncio.ensure_future(forever(wrapped))
            await asyncio.sleep(0)
            waiting.cancel()
            await waiting


async def forever(wrapped: Any) -> None:
    async for _ in wrapped:
        await asyncio.Event().wait()


class Own:
    def __init__(self, parts: Iterator[Chunk]) -> None:
        self._parts = parts

    def __iter__(self) -> "Own":
        return self

    def __next__(self) -> Chunk:
        return next(self._parts)


class Proxy:
    """Hands all on to what is inside, `__next__` too, which its type lacks; a loop over it sees texts twice as long."""

    def __init__(self, inside: Any) -> None:
        self._inside = inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    def __iter__(self) -> Iterator[Chunk]:
        for part in self._inside:
            yield part * 2 if isinstance(part, str) else part


class AsyncProxy:
    """The asynchronous twin."""

    def __init__(self, inside: Any) -> None:
        self._inside = inside

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inside, name)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        async for part in self._inside:
            yield part * 2 if isinstance(part, str) else part


async def as_generator(parts: Iterator[Chunk]) -> AsyncIterator[Chunk]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


class AsCoroutine:
    def __init__(self, parts: Iterator[Chunk]) -> None:
        self._parts = parts

    def __aiter__(self) -> "AsCoroutine":
        return self

    async def __anext__(self) -> Chunk:
        await asyncio.sleep(0)
        for part in self._parts:
            return part
        raise StopAsyncIteration


class AsAwaitable(AsCoroutine):
    def __anext__(self) -> Any:
        return Later(super().__anext__)


class Later:
    """An awaitable whose iterator has neither `send` nor `throw`."""

    def __init__(self, make: Callable[[], Awaitable[Chunk]]) -> None:
        self._make = make

    def __await__(self) -> Iterator[Any]:
        return Bare(self._make().__await__())


class Bare:
    def __init__(self, inside: Generator[Any, None, Chunk]) -> None:
        self._inside = inside

    def __iter__(self) -> "Bare":
        return self

    def __next__(self) -> Any:
        return next(self._inside)


def seen(seed: int) -> dict[str, Any]:
    """Return what a stream's reader got, how it ended for it, and the attributes of the spans."""
    clock = Clock()
    drawn = Drawn(seed, clock)
    with recording(clock=clock) as recorded:
        try:
            with request("chat"):
                if seed % 2:
                    drawn.read()
                else:
                    asyncio.run(drawn.read_async())
        except BaseException as error:  # an interrupt too is what the reader sees
            drawn.said = repr(error)
        spans = [{"name": span.name, **(span.attributes or {})} for span in recorded.spans]
    return {"seed": seed, "got": drawn.got, "said": drawn.said, "spans": spans}


def main() -> None:
    """Print what is seen of the streams of these seeds."""
    if "--collecting" in sys.argv:
        gc.freeze()  # else each collection goes through all modules
        gc.set_threshold(1, 2, 2)
    for seed in range(int(sys.argv[1]), int(sys.argv[2])):
        print(json.dumps(seen(seed), default=lambda value: value.hex() if isinstance(value, bytes) else repr(value)))


if __name__ == "__main__":
    main()
