"""Caches of answers and of embeddings, by what was asked and not by how it was spaced."""

import asyncio
import json
import math
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from opentelemetry.trace import get_current_span

from ..errors import UserError
from ..vocabulary import CACHE_AGE, CACHE_HIT, CACHE_HITS, CACHE_MISSES
from .figures import Figure, Reporting
from .flights import Flights, UnansweredError

T = TypeVar("T")
Vector = Sequence[float]
#: Cosine from which two questions are taken for one.
SAME: Final = 0.92


@dataclass(frozen=True)
class Hit(Generic[T]):
    """What a cache held, and for how many seconds."""

    value: T
    age_s: float


def normalised(prompt: Any, **parameters: Any) -> str:
    """Return a key that is equal for prompts that differ in white space and in the order of JSON keys alone.

    `prompt` is text or messages; `parameters` are what else the answer depends on: the model, the temperature.
    """
    return json.dumps([_squeezed(prompt), _squeezed(parameters)], sort_keys=True, default=str, ensure_ascii=False)


def _squeezed(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, Mapping):
        return {str(key): _squeezed(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_squeezed(each) for each in value]
    return value


class _Cache(Reporting, Generic[T]):
    """Entries by key, the longest unused going first, none older than `ttl_s`."""

    def __init__(self, name: str, *, ttl_s: float, most_entries: int, clock: Callable[[], float]) -> None:
        super().__init__(name)
        if ttl_s <= 0 or most_entries < 1:
            raise UserError(
                f"{type(self).__name__} {name!r}: ttl_s is {ttl_s!r}, most_entries {most_entries!r}: expected seconds "
                "above 0, and 1 or more"
            )
        self._ttl_s = ttl_s
        self._most = most_entries
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[T, float]] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def figures(self) -> Iterable[Figure]:
        """Return hits and misses."""
        yield CACHE_HITS, self.hits, ()
        yield CACHE_MISSES, self.misses, ()

    def _found(self, key: Hashable) -> Hit[T] | None:
        with self._lock:
            held = self._entries.get(key)
            if held is None:
                return None
            value, since_s = held
            age_s = self._clock() - since_s
            if age_s > self._ttl_s:
                del self._entries[key]
                return None
            self._entries.move_to_end(key)
            return Hit(value, age_s)

    def _keep(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._entries[key] = (value, self._clock())
            self._entries.move_to_end(key)
            while len(self._entries) > self._most:
                self._entries.popitem(last=False)

    def _count(self, *, hits: int = 0, misses: int = 0) -> None:
        self.report()
        with self._lock:
            self.hits += hits
            self.misses += misses

    def _tell(self, hit: Hit[T] | None) -> Hit[T] | None:
        """Count a look-up and put it on the current span."""
        self._count(hits=hit is not None, misses=hit is None)
        span = get_current_span()
        span.set_attribute(CACHE_HIT, hit is not None)
        if hit is not None:
            span.set_attribute(CACHE_AGE, hit.age_s)
        return hit


class OutputCache(_Cache[T]):
    """Answers by prompt. Only for what may be answered alike: keep tenants apart with a parameter of the key.

    Of those who ask the same at once the first calls, and the others wait: a miss that comes in a burst costs one call.
    """

    def __init__(
        self,
        name: str,
        *,
        ttl_s: float = 300.0,
        most_entries: int = 1_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, ttl_s=ttl_s, most_entries=most_entries, clock=clock)
        # Apart: a thread that waited for a task of its own event loop would wait for ever.
        self._flights: Flights[T] = Flights()
        self._blocking: Flights[T] = Flights()

    def get(self, prompt: Any, **parameters: Any) -> Hit[T] | None:
        """Return the answer to this prompt with its age, or None; hit and age go on the current span."""
        return self._tell(self._found(normalised(prompt, **parameters)))

    def put(self, answer: T, prompt: Any, **parameters: Any) -> None:
        """Keep an answer."""
        self._keep(normalised(prompt, **parameters), answer)

    async def answer(self, call: Callable[[], Awaitable[T]], prompt: Any, **parameters: Any) -> T:
        """Return the answer that is held or on its way, else what `call` returns, kept; an error is kept by nobody."""
        key = normalised(prompt, **parameters)
        while (held := self._found(key)) is None:
            flight, mine = self._flights.board(key)
            if mine:
                self._tell(None)
                with self._flights.led(key, flight):
                    answer = await call()
                    self._keep(key, answer)
                    flight.set_result(answer)
                return answer
            with suppress(UnansweredError):
                held = Hit(await asyncio.wrap_future(flight), 0.0)
                break
        self._tell(held)
        return held.value

    def answer_sync(self, call: Callable[[], T], prompt: Any, **parameters: Any) -> T:
        """Return what `answer` does, from a blocking `call`; those who wait are threads."""
        key = normalised(prompt, **parameters)
        while (held := self._found(key)) is None:
            flight, mine = self._blocking.board(key)
            if mine:
                self._tell(None)
                with self._blocking.led(key, flight):
                    answer = call()
                    self._keep(key, answer)
                    flight.set_result(answer)
                return answer
            with suppress(UnansweredError):
                held = Hit(flight.result(), 0.0)
                break
        self._tell(held)
        return held.value


class EmbeddingCache(_Cache[Vector]):
    """Vectors by text, so that a batch asks for new texts only: once each, whatever their white space."""

    def __init__(
        self,
        name: str,
        *,
        ttl_s: float = 86_400.0,
        most_entries: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, ttl_s=ttl_s, most_entries=most_entries, clock=clock)

    async def embed(
        self, texts: Sequence[str], call: Callable[[list[str]], Awaitable[Sequence[Vector]]], *, model: str = ""
    ) -> list[Vector]:
        """Return a vector for each text, in order; `call` gets the texts that are not held, squeezed."""
        known, missing = self._split(texts, model)
        return self._joined(texts, model, known, missing, await call(missing) if missing else ())

    def embed_sync(
        self, texts: Sequence[str], call: Callable[[list[str]], Sequence[Vector]], *, model: str = ""
    ) -> list[Vector]:
        """Return what `embed` does, from a blocking `call`."""
        known, missing = self._split(texts, model)
        return self._joined(texts, model, known, missing, call(missing) if missing else ())

    def _split(self, texts: Sequence[str], model: str) -> tuple[dict[str, Vector], list[str]]:
        known: dict[str, Vector] = {}
        missing: dict[str, None] = {}
        for text in texts:
            squeezed = _squeezed(text)
            if squeezed in known or squeezed in missing:
                continue
            if hit := self._found((model, squeezed)):
                known[squeezed] = hit.value
            else:
                missing[squeezed] = None
        self._count(hits=len(texts) - len(missing), misses=len(missing))
        get_current_span().set_attribute(CACHE_HIT, not missing)
        return known, list(missing)

    def _joined(
        self, texts: Sequence[str], model: str, known: dict[str, Vector], missing: list[str], new: Sequence[Vector]
    ) -> list[Vector]:
        if len(new) != len(missing):
            raise ValueError(f"{self.name}: {len(missing)} texts were embedded into {len(new)} vectors")
        for text, vector in zip(missing, new, strict=True):
            self._keep((model, text), vector)
            known[text] = vector
        return [known[_squeezed(text)] for text in texts]


class SemanticCache(_Cache[tuple["array[float]", T]]):
    """Answers by meaning: the nearest question within `threshold` (cosine) answers. Every entry is compared.

    A wrong hit is a wrong answer: try the threshold on your own questions first.
    """

    def __init__(
        self,
        name: str,
        *,
        threshold: float = SAME,
        ttl_s: float = 300.0,
        most_entries: int = 500,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, ttl_s=ttl_s, most_entries=most_entries, clock=clock)
        if not 0 < threshold <= 1:
            raise UserError(f"SemanticCache {name!r}: threshold is {threshold!r}: expected a cosine above 0, up to 1")
        self._threshold = threshold
        self._number = 0

    def get(self, vector: Vector, *, scope: str = "") -> Hit[T] | None:
        """Return the answer to the nearest question of this scope (a tenant, a model), or None."""
        wanted = _unit(vector)
        with self._lock:
            entries = list(self._entries.items())
        near = [(_dot(wanted, entry[0][0]), key) for key, entry in entries if key[0] == scope]  # type: ignore[index]
        cosine, nearest = max(near, default=(-1.0, None))
        held = self._found(nearest) if cosine >= self._threshold else None
        hit = Hit(held.value[1], held.age_s) if held else None
        self._tell(hit)  # type: ignore[arg-type]
        return hit

    def put(self, answer: T, vector: Vector, *, scope: str = "") -> None:
        """Keep an answer under its question's embedding."""
        with self._lock:
            self._number += 1
            key = (scope, self._number)
        self._keep(key, (_unit(vector), answer))


def _unit(vector: Vector) -> "array[float]":
    length = math.sqrt(sum(each * each for each in vector))
    if not length or not math.isfinite(length):
        raise ValueError("a vector of length 0 or with a value that is not finite has no direction")
    return array("d", (each / length for each in vector))


def _dot(one: "array[float]", other: "array[float]") -> float:
    return sum(map(float.__mul__, one, other)) if len(one) == len(other) else -1.0
