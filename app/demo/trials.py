"""For each guard a workload with the trouble that it is for: the same requests, without the guard and with it."""

import asyncio
import math
import random
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tailbudget import stage
from tailbudget.instrument.attempts import Attempt
from tailbudget.instrument.guards import (
    AdaptiveLimit,
    BoundedQueue,
    CircuitBreaker,
    EmbeddingCache,
    Hedge,
    LoadShedder,
    OutputCache,
    RefusedError,
    SemanticCache,
    fan_out,
)

from .corpus import Passage
from .service import Assistant
from .traffic import PACKAGES, QUESTIONS

MAX_TOKENS: Final = 6
DIMENSIONS: Final = 256
#: Passages that a rerank embeds anew for each question.
CANDIDATES: Final = 40
NOBODY: Final[dict[str, str]] = {}


@dataclass(frozen=True)
class Question:
    """One request of a trial; `luck` decides what trouble it meets, the same without and with the guard."""

    number: int
    text: str
    luck: random.Random
    important: bool


def questions(n: int) -> list[Question]:
    """Return `n` questions, some asked often and some once, each with luck of its own."""
    rng = random.Random(11)  # noqa: S311 - what is asked is no secret
    asked = [question.format(package) for question in QUESTIONS for package in PACKAGES]
    weights = [1 / (rank + 1) for rank in range(len(asked))]
    rng.shuffle(asked)
    texts = rng.choices(asked, weights, k=n)
    return [Question(at, text, random.Random(at), at % 4 == 0) for at, text in enumerate(texts)]  # noqa: S311


@dataclass
class Work:
    """The assistant that a trial asks, and what answering cost."""

    assistant: Assistant
    guarded: bool
    cost: Counter[str] = field(default_factory=Counter)

    async def generate(self, question: Question, passages: list[Passage], facts: Mapping[str, str] = NOBODY) -> str:
        """Return the model's answer; model calls and pieces of text are counted as its cost."""
        self.cost["model calls"] += 1
        said = ""
        messages = self.assistant.prompt(question.text, passages, dict(facts), [])
        async for text in self._pieces(messages):
            self.cost["model tokens"] += 1
            said += text
        return said

    def _pieces(self, messages: Any) -> AsyncIterator[str]:
        return self.assistant.generate(messages, max_tokens=MAX_TOKENS)


Ask = Callable[[Question], Awaitable[object]]


@dataclass(frozen=True)
class Trial:
    """`build` returns what answers one question, guarded or not; `clients` ask at once, each its next question then."""

    trouble: str
    clients: int
    build: Callable[[Work], Ask]
    #: Percentiles are those of the important questions alone.
    important_only: bool = False


def _hedge(work: Work) -> Ask:
    hedge = Hedge("trial index", delay_s=0.1, max_share=0.2)

    async def ask(question: Question) -> str:
        async def search(_: Attempt) -> list[Passage]:
            work.cost["searches"] += 1
            if question.luck.random() < 0.1:
                await asyncio.sleep(1.5)
            return await work.assistant.retrieve(question.text)

        found = await (hedge.run(search, idempotent=True) if work.guarded else search(Attempt(1)))
        return await work.generate(question, found)

    return ask


def _breaker(work: Work) -> Ask:
    breaker = CircuitBreaker("trial facts", failures=5, open_s=10)

    @stage("tools", "facts_service")
    async def facts(question: Question) -> dict[str, str]:
        work.cost["tool calls"] += 1
        if 50 <= question.number < 130:
            await asyncio.sleep(1)
            raise TimeoutError("the facts service is down")
        return await work.assistant.facts(work.assistant.package(question.text))

    async def ask(question: Question) -> str:
        found: dict[str, str] = {}
        try:
            if work.guarded:
                async with breaker:
                    found = await facts(question)
            else:
                found = await facts(question)
        except (TimeoutError, RefusedError):
            work.cost["answers without facts"] += 1
        return await work.generate(question, [], found)

    return ask


def _limit(work: Work) -> Ask:
    limit = AdaptiveLimit("trial model", target_s=2.0, initial=8, most=32)

    async def ask(question: Question) -> str:
        if not work.guarded:
            return await work.generate(question, [])
        async with limit:
            return await work.generate(question, [])

    return ask


def _queue(work: Work) -> Ask:
    queue = BoundedQueue("trial model", at_once=8, most_waiting=20, max_wait_s=1.0)

    async def ask(question: Question) -> str:
        if not work.guarded:
            return await work.generate(question, [])
        async with queue:
            return await work.generate(question, [])

    return ask


def _shed(work: Work) -> Ask:
    in_flight = Counter[str]()
    shedder = LoadShedder("trial door", {"in flight": lambda: in_flight["n"] / 4})

    async def ask(question: Question) -> str:
        if work.guarded:
            shedder.admit(tier="critical" if question.important else "low")
        in_flight["n"] += 1
        try:
            return await work.generate(question, [])
        finally:
            in_flight["n"] -= 1

    return ask


def _cache(work: Work) -> Ask:
    cache: OutputCache[str] = OutputCache("trial answers")

    async def ask(question: Question) -> str:
        async def call() -> str:
            return await work.generate(question, await work.assistant.retrieve(question.text))

        return await (cache.answer(call, question.text) if work.guarded else call())

    return ask


def embedded(text: str) -> list[float]:
    """Return a vector of the letters' trigrams, hashed: crude, but computed here, and near for near texts."""
    vector, letters = [0.0] * DIMENSIONS, f"  {text.lower()} "
    for at in range(len(letters) - 2):
        vector[zlib.crc32(letters[at : at + 3].encode()) % DIMENSIONS] += 1
    return vector


def _embeddings(work: Work) -> Ask:
    cache = EmbeddingCache("trial passages")

    async def embed(texts: list[str]) -> list[list[float]]:
        work.cost["texts embedded"] += len(texts)
        return await asyncio.to_thread(lambda: [embedded(text) for text in texts])

    @stage("retrieval", "rerank")
    async def ask(question: Question) -> str:
        found = await asyncio.to_thread(work.assistant.search, question.text, k=CANDIDATES)
        texts = [question.text, *(passage.text for passage in found)]
        vectors = await (cache.embed(texts, embed) if work.guarded else embed(texts))
        best = max(range(1, len(vectors)), key=lambda at: _cosine(vectors[0], vectors[at]), default=0)
        return texts[best]

    return ask


def _cosine(one: Any, other: Any) -> float:
    return sum(map(float.__mul__, one, other)) / math.sqrt(sum(v * v for v in one) * sum(v * v for v in other))


def _semantic(work: Work) -> Ask:
    cache: SemanticCache[tuple[str, str]] = SemanticCache("trial meaning")
    manners = ("{}", "{} ", "{} Thanks", "please, {}")

    async def ask(question: Question) -> str:
        spoken = question.luck.choice(manners).format(question.text)
        vector = embedded(spoken)
        hit = cache.get(vector) if work.guarded else None
        if hit:
            asked, answer = hit.value
            work.cost["wrong hits"] += asked != question.text
            return answer
        answer = await work.generate(question, await work.assistant.retrieve(question.text))
        if work.guarded:
            cache.put((question.text, answer), vector)
        return answer

    return ask


def _fan_out(work: Work) -> Ask:
    async def ask(question: Question) -> str:
        package = work.assistant.package(question.text)

        async def facts() -> dict[str, str]:
            if question.luck.random() < 0.1:
                await asyncio.sleep(2)
            return await work.assistant.facts(package)

        async def passages() -> list[Passage]:
            return await work.assistant.retrieve(question.text)

        if not work.guarded:
            both = await asyncio.gather(passages(), facts())
            return await work.generate(question, both[0], both[1])
        branches: dict[str, Callable[[], Awaitable[Any]]] = {"passages": passages, "facts": facts}
        timeouts_ms = {"passages": 5_000.0, "facts": 300.0}
        found = await fan_out(branches, timeouts_ms=timeouts_ms, on_late=lambda *_: work.cost.update(["patches"]))
        work.cost["answers without facts"] += "facts" in found.missing
        return await work.generate(question, found.values.get("passages", []), found.values.get("facts", NOBODY))

    return ask


#: By the name that `--guard` takes.
TRIALS: Final[dict[str, Trial]] = {
    "hedge": Trial("one search in ten meets a slow shard: 1.5 s more", 2, _hedge),
    "breaker": Trial("the facts service hangs for 1 s and fails, for 80 of 200 requests", 2, _breaker),
    "limit": Trial("24 clients ask at once, far more than the model serves", 24, _limit),
    "queue": Trial("24 clients ask at once, far more than the model serves", 24, _queue),
    "shed": Trial("24 clients, a quarter of the requests important: their percentiles", 24, _shed, important_only=True),
    "cache": Trial("the same questions come again and again", 2, _cache),
    "embeddings": Trial("every question embeds 40 passages to rank them", 2, _embeddings),
    "semantic": Trial("the same questions come again in other words", 2, _semantic),
    "fan-out": Trial("one facts look-up in ten takes 2 s more, and is not worth waiting for", 2, _fan_out),
}
