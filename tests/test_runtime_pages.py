"""Pages are shared by requests that begin alike, given up in order, all come back, and never bring work to a stop."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.gpu_runtime.kv import Pages
from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import Generation, Scheduler


def _generation(name: str, prompt: list[int], max_tokens: int = 8) -> Generation:
    return Generation(name, prompt, SamplingParams(max_tokens), arrived_ns=0)


def _step(scheduler: Scheduler) -> list[Generation]:
    """Run one step as the engine does, every new token a 7; returns those that are over."""
    work = scheduler.plan()
    sampled = [item.generation for item in work if item.samples]
    scheduler.advance(work)
    for generation in sampled:
        generation.output.append(7)
    over = [each for each in sampled if len(each.output) == each.params.max_tokens]
    for generation in over:
        scheduler.remove(generation)
    return over


def _run(scheduler: Scheduler, generation: Generation) -> None:
    scheduler.add(generation)
    while generation not in _step(scheduler):
        pass


def test_a_second_prompt_takes_over_the_full_pages_of_an_equal_beginning() -> None:
    pages = Pages(20, size=4)
    scheduler = Scheduler(pages, slots=2, prefill_chunk=100)
    first = _generation("first", list(range(10)))
    _run(scheduler, first)
    second = _generation("second", [*range(10), 99])
    _run(scheduler, second)
    assert (first.cached, second.cached) == (0, 8)
    assert (scheduler.prefix_queries, scheduler.prefix_hits) == (21, 8)
    different = _generation("different", [1, *range(1, 10)])
    _run(scheduler, different)
    assert different.cached == 0


def test_the_last_token_of_a_known_prompt_is_still_computed() -> None:
    scheduler = Scheduler(Pages(20, size=4), slots=1, prefill_chunk=100)
    _run(scheduler, _generation("first", list(range(8))))
    again = _generation("again", list(range(8)))
    _run(scheduler, again)
    assert again.cached == 4


def test_a_page_that_two_requests_read_stays_until_both_are_gone() -> None:
    pages = Pages(20, size=4)
    scheduler = Scheduler(pages, slots=2, prefill_chunk=100)
    first, second = (_generation(name, list(range(9)), max_tokens=50) for name in ("first", "second"))
    scheduler.add(first)
    _step(scheduler)
    scheduler.add(second)
    _step(scheduler)
    assert first.pages[:2] == second.pages[:2]
    scheduler.remove(first)
    assert pages.held == len(second.pages)
    scheduler.remove(second)
    assert pages.held == 0


def test_without_the_prefix_cache_nothing_is_kept() -> None:
    scheduler = Scheduler(Pages(20, size=4), slots=1, prefill_chunk=100, prefix_cache=False)
    for name in ("first", "second"):
        generation = _generation(name, list(range(12)))
        _run(scheduler, generation)
        assert generation.cached == 0


def test_the_pages_that_nobody_used_for_longest_are_given_up_first() -> None:
    pages = Pages(6, size=2)
    tables: list[list[int]] = [[], [], []]
    chains: list[list[bytes]] = [[], [], []]
    for index, table in enumerate(tables):
        pages.extend(table, 2)
        pages.chain([index] * 4, chains[index])
        for page, digest in zip(table, chains[index], strict=True):
            pages.publish(page, digest)
    for table in (tables[1], tables[0], tables[2]):
        pages.release(table)
    assert (pages.available, pages.held) == (6, 0)
    pages.extend(tables[0], 3)
    assert [len(pages.find(chain)) for chain in chains] == [1, 0, 2]


def test_an_idle_page_is_not_both_found_and_free() -> None:
    pages = Pages(3, size=2)
    table: list[int] = []
    chain: list[bytes] = []
    pages.extend(table, 2)
    pages.chain([1, 2, 3, 4], chain)
    for page, digest in zip(table, chain, strict=True):
        pages.publish(page, digest)
    pages.release(table)
    found = pages.find(chain)
    assert (len(found), pages.available) == (2, 3)
    assert pages.suffice(found, 1)
    assert not pages.suffice(found, 2)
    pages.hold(found)
    with pytest.raises(RuntimeError, match="2 pages are needed and 1 can be had"):
        pages.extend([], 2)


def test_a_request_that_grows_finds_its_next_page_beside_its_last() -> None:
    pages = Pages(64)
    tables: list[list[int]] = [[], [], [], []]
    for table in tables:
        pages.extend(table, 4)
    for _ in range(12):
        for table in tables:
            pages.extend(table, 1)
    for table in tables:
        assert table == list(range(table[0], table[0] + 16))


def test_the_youngest_request_gives_way_and_comes_back_before_those_that_wait() -> None:
    scheduler = Scheduler(Pages(5, size=2), slots=2, prefill_chunk=100)
    oldest, youngest, waiting = (_generation(name, [index] * 4, 6) for index, name in enumerate("abc"))
    for generation in (oldest, youngest, waiting):
        scheduler.add(generation)
    ended = [generation for _ in range(30) for generation in _step(scheduler)]
    assert ended == [oldest, youngest, waiting]
    assert (oldest.preemptions, youngest.preemptions > 0) == (0, True)
    assert scheduler.preemptions == youngest.preemptions + waiting.preemptions


def test_a_request_that_could_never_fit_is_refused() -> None:
    scheduler = Scheduler(Pages(5, size=2), slots=2, prefill_chunk=100)
    with pytest.raises(ValueError, match="11 tokens do not fit into 5 pages of 2"):
        scheduler.add(_generation("long", [1] * 5, 6))


@settings(max_examples=150)
@given(st.integers(0, 2**32), st.integers(4, 14), st.integers(1, 4), st.integers(1, 9), st.booleans())
def test_whatever_comes_and_goes_everything_ends_and_all_pages_return(
    seed: int, count: int, slots: int, chunk: int, prefix_cache: bool
) -> None:
    chance = random.Random(seed)
    pages = Pages(count, size=2)
    scheduler = Scheduler(pages, slots=slots, prefill_chunk=chunk, prefix_cache=prefix_cache)
    for number in range(12):
        length = chance.randint(1, count)
        prompt = [chance.randint(0, 1) for _ in range(length)]
        scheduler.add(_generation(f"r{number}", prompt, chance.randint(1, 2 * count - length)))
    for _ in range(3000):
        _step(scheduler)
        held = {page for generation in scheduler.running for page in generation.pages}
        assert pages.held == len(held)
        assert all(len(each.pages) * 2 >= each.computed for each in scheduler.running)
        assert not any(each.pages for each in scheduler.waiting)
        everybody = (*scheduler.running, *scheduler.waiting)
        if not everybody:
            break
        if chance.random() < 0.05:
            scheduler.remove(chance.choice(everybody))
    assert not scheduler.running
    assert not scheduler.waiting
    assert (pages.held, pages.available) == (0, count)
