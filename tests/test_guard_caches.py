"""Caches answer what was asked before, say how old the answer is, and white space does not bust them."""

import asyncio
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from tailbudget import UserError, stage
from tailbudget.guards import EmbeddingCache, OutputCache, SemanticCache, normalised
from tests.instrument_support import Recorded, recording
from tests.test_guards import Clock, figure

names = map(str, count())


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture
def name() -> str:
    return f"cache-{next(names)}"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("why  is\nit?", " why is it? ", True),
        ([{"role": "user", "content": "a  b"}], [{"content": "a b ", "role": "user"}], True),
        ("why is it?", "Why is it?", False),
        ([{"role": "user", "content": "a"}], [{"role": "system", "content": "a"}], False),
        ("ab", "a b", False),
    ],
)
def test_prompts_that_differ_in_spacing_and_key_order_alone_are_one(one: Any, other: Any, same: bool) -> None:
    assert (normalised(one) == normalised(other)) is same
    assert normalised(one, model="m") != normalised(one, model="n")


async def test_an_answer_is_held_for_its_time_and_says_its_age(recorded: Recorded, name: str) -> None:
    clock, calls = Clock(), []

    async def call() -> str:
        calls.append(1)
        return f"answer {len(calls)}"

    cache: OutputCache[str] = OutputCache(name, ttl_s=60, clock=clock)
    assert await cache.answer(call, "why?", tenant="acme") == "answer 1"
    clock.now_s += 60
    with stage("retrieval", "looked-up"):
        hit = cache.get(" why? ", tenant="acme")
    assert hit is not None
    assert (hit.value, hit.age_s) == ("answer 1", 60)
    assert await cache.answer(call, "why?", tenant="other") == "answer 2"
    clock.now_s += 1
    assert await cache.answer(call, "why?", tenant="acme") == "answer 3"
    attributes = recorded.attributes("retrieval looked-up")
    assert (attributes["slo.cache.hit"], attributes["slo.cache.age"]) == (True, 60)
    assert (figure(recorded, "slo.cache.hits", name), figure(recorded, "slo.cache.misses", name)) == (1, 3)


def test_the_longest_unused_goes_first_and_blocking_calls_are_served(name: str) -> None:
    cache: OutputCache[str] = OutputCache(name, most_entries=2)
    for prompt in ("a", "b", "a", "c"):
        cache.answer_sync(lambda prompt=prompt: prompt.upper(), prompt)  # type: ignore[misc]
    assert [cache.get(prompt) is not None for prompt in ("a", "b", "c")] == [True, False, True]


def test_a_call_that_fails_leaves_nothing(name: str) -> None:
    cache: OutputCache[str] = OutputCache(name)

    def fails() -> str:
        raise KeyError("no answer")

    with pytest.raises(KeyError):
        cache.answer_sync(fails, "why?")
    assert cache.get("why?") is None


async def test_those_who_ask_the_same_at_once_cost_one_call(recorded: Recorded, name: str) -> None:
    calls: list[int] = []
    cache: OutputCache[str] = OutputCache(name)

    async def call() -> str:
        calls.append(1)
        await asyncio.sleep(0.05)
        return "answer"

    answers = await asyncio.gather(*(cache.answer(call, "why?") for _ in range(20)), cache.answer(call, "how?"))
    assert set(answers) == {"answer"}
    assert len(calls) == 2
    assert (figure(recorded, "slo.cache.hits", name), figure(recorded, "slo.cache.misses", name)) == (19, 2)


async def test_whoever_waits_calls_when_the_first_is_cancelled_and_shares_an_error(name: str) -> None:
    cache: OutputCache[str] = OutputCache(name)
    calls: list[int] = []

    async def call() -> str:
        calls.append(1)
        await asyncio.sleep(0.1)
        if len(calls) > 2:
            raise ValueError("down")
        return "answer"

    first = asyncio.create_task(cache.answer(call, "why?"))
    rest = [asyncio.create_task(cache.answer(call, "why?")) for _ in range(5)]
    await asyncio.sleep(0.01)
    rest.pop().cancel()
    first.cancel()
    assert await asyncio.gather(*rest) == ["answer"] * 4
    assert len(calls) == 2
    failed = await asyncio.gather(*(cache.answer(call, "how?") for _ in range(3)), return_exceptions=True)
    assert [str(error) for error in failed] == ["down"] * 3
    assert len(calls) == 3


async def test_a_call_that_asks_its_own_cache_does_not_wait_for_itself(name: str) -> None:
    cache: OutputCache[str] = OutputCache(name)

    async def inner() -> str:
        return "inner"

    async def outer() -> str:
        return await cache.answer(inner, "why?") + " and outer"

    async with asyncio.timeout(20):
        assert await cache.answer(outer, "why?") == "inner and outer"
    assert cache.answer_sync(lambda: cache.answer_sync(lambda: "a", "sync?") + "b", "sync?") == "ab"


def test_threads_that_ask_the_same_at_once_cost_one_call(name: str) -> None:
    cache: OutputCache[str] = OutputCache(name)
    calls: list[int] = []

    def call() -> str:
        calls.append(1)
        time.sleep(0.1)
        return "answer"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: cache.answer_sync(call, "why?"), range(8)))
    assert answers == ["answer"] * 8
    assert len(calls) == 1


async def test_a_batch_asks_for_new_texts_only_once_each_and_in_order(recorded: Recorded, name: str) -> None:
    asked: list[list[str]] = []

    async def embed(texts: list[str]) -> list[list[float]]:
        asked.append(texts)
        return [[float(len(text))] for text in texts]

    cache = EmbeddingCache(name)
    assert await cache.embed(["one", " one ", "three"], embed) == [[3.0], [3.0], [5.0]]
    assert await cache.embed(["th  ree", "three", "one\n"], embed) == [[6.0], [5.0], [3.0]]
    assert await cache.embed(["one"], embed, model="other") == [[3.0]]
    assert asked == [["one", "three"], ["th ree"], ["one"]]
    assert (figure(recorded, "slo.cache.hits", name), figure(recorded, "slo.cache.misses", name)) == (3, 4)


def test_vectors_that_do_not_fit_the_texts_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="2 texts were embedded into 1 vectors"):
        EmbeddingCache(name).embed_sync(["a", "b"], lambda _: [[1.0]])


def at(degrees: float) -> list[float]:
    return [5 * math.cos(math.radians(degrees)), 5 * math.sin(math.radians(degrees)), 0.0]


def test_the_nearest_question_within_the_threshold_answers(recorded: Recorded, name: str) -> None:
    cache: SemanticCache[str] = SemanticCache(name)
    cache.put("east", at(0))
    cache.put("north", at(90))
    cache.put("other tenant", at(40), scope="acme")
    for degrees, answer in ((23.0, "east"), (23.2, None), (67.0, "north"), (-90.0, None)):  # acos(0.92) = 23.07 degrees
        hit = cache.get(at(degrees))
        assert (hit.value if hit else None) == answer, degrees
    scoped = cache.get(at(40), scope="acme")
    assert scoped is not None
    assert scoped.value == "other tenant"
    assert cache.get([1.0, 0.0]) is None  # of another model
    assert (figure(recorded, "slo.cache.hits", name), figure(recorded, "slo.cache.misses", name)) == (3, 3)


def test_a_question_that_is_too_old_is_forgotten(name: str) -> None:
    clock = Clock()
    cache: SemanticCache[str] = SemanticCache(name, ttl_s=10, clock=clock)
    cache.put("old", at(0))
    clock.now_s += 11
    assert cache.get(at(0)) is None
    assert not cache._entries
    with pytest.raises(ValueError, match="no direction"):
        cache.put("nowhere", [0.0, 0.0])


def test_a_setting_that_cannot_be_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="ttl_s is 0"):
        OutputCache(name, ttl_s=0)
    with pytest.raises(UserError, match=r"threshold is 1\.1"):
        SemanticCache(name, threshold=1.1)
