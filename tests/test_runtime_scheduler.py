"""The scheduler keeps running streams fed, computes prompts in chunks, and admits in order of arrival."""

import subprocess
import sys

from tailbudget.gpu_runtime.kv import Pages
from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import Generation, Scheduler, Work


def _generation(name: str, prompt_tokens: int) -> Generation:
    return Generation(name, list(range(prompt_tokens)), SamplingParams(max_tokens=100), arrived_ns=0)


def _step(scheduler: Scheduler) -> list[tuple[str, int, bool]]:
    """Run one step as the engine does; returns (request, tokens computed, new token)."""
    work = scheduler.plan()
    seen = [(item.generation.id, item.count, item.samples) for item in work]
    sampled = [item.generation for item in work if item.samples]
    scheduler.advance(work)
    for generation in sampled:
        generation.output.append(7)
    return seen


def test_a_long_prompt_is_computed_in_chunks_while_others_decode() -> None:
    scheduler = Scheduler(Pages(100), slots=2, prefill_chunk=4)
    scheduler.add(_generation("short", 3))
    scheduler.add(_generation("long", 10))
    assert _step(scheduler) == [("short", 3, True), ("long", 1, False)]
    assert _step(scheduler) == [("short", 1, True), ("long", 4, False)]
    assert _step(scheduler) == [("short", 1, True), ("long", 4, False)]
    assert _step(scheduler) == [("short", 1, True), ("long", 1, True)]
    assert _step(scheduler) == [("short", 1, True), ("long", 1, True)]


def test_requests_are_admitted_in_order_of_arrival_as_slots_come_free() -> None:
    scheduler = Scheduler(Pages(100), slots=1, prefill_chunk=100)
    first, second, third = (_generation(name, 2) for name in ("first", "second", "third"))
    for generation in (first, second, third):
        scheduler.add(generation)
    assert _step(scheduler) == [("first", 2, True)]
    scheduler.remove(first)
    assert _step(scheduler) == [("second", 2, True)]
    assert list(scheduler.waiting) == [third]


def test_a_removed_request_lets_go_of_its_pages() -> None:
    pages = Pages(50, size=4)
    scheduler = Scheduler(pages, slots=1, prefill_chunk=100)
    generation = _generation("only", 5)
    scheduler.add(generation)
    _step(scheduler)
    assert pages.held == 2
    scheduler.remove(generation)
    assert (pages.held, scheduler.running, generation.pages) == (0, [], [])


def test_a_cancelled_request_is_found_wherever_it_is() -> None:
    scheduler = Scheduler(Pages(100), slots=1, prefill_chunk=100)
    running, waiting = _generation("running", 2), _generation("waiting", 2)
    for generation in (running, waiting):
        scheduler.add(generation)
    _step(scheduler)
    running.cancelled = waiting.cancelled = True
    assert scheduler.cancelled() == [running, waiting]
    for generation in (running, waiting):
        scheduler.remove(generation)
    assert scheduler.plan() == []


def test_only_the_last_chunk_of_a_prompt_gives_a_token() -> None:
    generation = _generation("one", 5)
    assert not Work(generation, 4).samples
    assert Work(generation, 5).samples


def test_the_scheduler_needs_no_torch() -> None:
    code = "import sys, tailbudget.gpu_runtime.scheduler; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
