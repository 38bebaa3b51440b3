"""Several answers to one request are what each is alone; the prompt is computed once, and one span tells of all."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import openai
import pytest

from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import Generation
from tailbudget.gpu_runtime.telemetry import joined, phases
from tests.runtime_support import Bench, Notes, engine, on_devices, page_tokens, receiver, server
from tests.support import wait_until

#: Prompts here fill so many pages and go on for some tokens: others take the pages over, and compute the rest anew.
PAGES, REST, CONTEXT = 4, 6, 2048
ASK: dict[str, Any] = {"model": "tiny", "n": 3, "max_tokens": 8, "temperature": 1.0, "seed": 5}


def _prompt(device: str) -> list[int]:
    return [(11 * index) % 490 + 5 for index in range(PAGES * page_tokens(device) + REST)]


def _ask(bench: Bench, prompt: list[int], count: int, *, name: str = "several", **params: Any) -> list[Generation]:
    chosen = SamplingParams(**{"max_tokens": 20, "temperature": 1.0, "seed": 3, **params})
    now_ns = time.perf_counter_ns()
    answers = [
        Generation(name, prompt, replace(chosen, seed=(chosen.seed or 0) + index), now_ns) for index in range(count)
    ]
    for each in answers:
        each.siblings = answers if count > 1 else []
    bench.engine.submit(answers[0])
    return answers


def _alone(device: str, count: int, **params: Any) -> list[list[int]]:
    with engine(device=device, max_context=CONTEXT, max_running=1, prefix_cache=False) as bench:
        sent = [
            bench.submit(_prompt(device), **{"max_tokens": 20, "temperature": 1.0, "seed": 3 + at, **params})
            for at in range(count)
        ]
        for generation in sent:
            bench.finish(generation)
        return [generation.output for generation in sent]


@on_devices
@pytest.mark.parametrize("prefix_cache", [True, False])
def test_each_answer_is_the_one_of_its_seed_and_the_prompt_is_computed_once(device: str, prefix_cache: bool) -> None:
    alone, shared = _alone(device, 4), PAGES * page_tokens(device)
    with engine(device=device, max_context=CONTEXT, max_running=4, prefix_cache=prefix_cache) as bench:
        answers = _ask(bench, _prompt(device), 4)
        for generation in answers:
            bench.finish(generation)
        assert bench.engine.counts.prompt_tokens == shared + 4 * REST
        assert [generation.cached for generation in answers] == [0, shared, shared, shared]
        assert bench.engine.kv_used == 0
    assert [generation.output for generation in answers] == alone
    assert len({tuple(output) for output in alone}) == 4


@on_devices
def test_without_a_prefix_cache_no_other_request_finds_their_pages(device: str) -> None:
    prompt = _prompt(device)
    with engine(device=device, max_context=CONTEXT, max_running=4, prefix_cache=False) as bench:
        for generation in _ask(bench, prompt, 2):
            bench.finish(generation)
        stranger = bench.submit(prompt)
        bench.finish(stranger)
        assert stranger.cached == 0
        others = _ask(bench, prompt, 2, name="others")
        for generation in others:
            bench.finish(generation)
        assert [generation.cached for generation in others] == [0, PAGES * page_tokens(device)]


@on_devices
def test_few_pages_and_slots_change_nothing_but_the_time(device: str) -> None:
    tokens = 5 * page_tokens(device) // 2
    alone = _alone(device, 5, max_tokens=tokens)
    pages: dict[str, Any] = {"kv_pages": 3 * PAGES * page_tokens(device) // 16, "max_context": CONTEXT}
    with engine(device=device, max_running=3, speculate=3, **pages) as bench:
        answers = _ask(bench, _prompt(device), 5, max_tokens=tokens)
        for generation in answers:
            bench.finish(generation)
        assert bench.engine.counts.preemptions > 0
        assert (bench.engine.kv_used, bench.engine.running, bench.engine.waiting) == (0, 0, 0)
    assert [generation.output for generation in answers] == alone


@on_devices
@pytest.mark.parametrize("end", ["cancelled", "deadline", "error"])
def test_what_ends_the_first_before_its_token_ends_them_all(device: str, end: str) -> None:
    notes = Notes()
    with engine(notes, device=device, max_running=1, step_delay_ms=5) as bench:
        running = bench.submit("The river", max_tokens=300)
        wait_until(lambda: running.output)
        answers = _ask(bench, [10**9] if end == "error" else [5, 6, 7], 3)
        if end == "deadline":
            answers[0].deadline_ns = answers[0].arrived_ns
        answers[0].cancelled = end == "cancelled"
        running.cancelled = True
        for generation in answers:
            assert bench.finish(generation) == ""
            assert generation.end == end
        assert (bench.engine.kv_used, bench.engine.waiting) == (0, 0)


@on_devices
def test_the_span_of_several_answers_sums_to_the_whole_request(device: str) -> None:
    with engine(device=device, max_running=2) as bench:
        answers = _ask(bench, [5, 6, 7], 3)
        for generation in answers:
            bench.finish(generation)
    whole = joined(answers)
    found = phases(whole)
    assert found.total_ns == max(each.ended_ns or 0 for each in answers) - answers[0].arrived_ns
    assert len(whole.output) == sum(len(each.output) for each in answers)
    assert found.queue_ns == phases(answers[0]).queue_ns


def test_choices_through_the_sdk_with_one_span_and_the_prompt_counted_once() -> None:
    with receiver() as otlp, server(otlp.endpoint, max_context=256, max_running=2) as (url, _):
        # One stream for each answer, told apart by its index.
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=120) as client:
            chat: dict[str, Any] = ASK | {"messages": [{"role": "user", "content": "The river"}]}
            whole = client.chat.completions.create(**chat)
            texts = {choice.index: choice.message.content for choice in whole.choices}
            streamed: dict[int, str] = dict.fromkeys(range(3), "")
            finishes: dict[int, str] = {}
            roles = []
            for chunk in client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True}):
                for choice in chunk.choices:
                    roles += [choice.index] if choice.delta.role else []
                    streamed[choice.index] += choice.delta.content or ""
                    finishes |= {choice.index: choice.finish_reason} if choice.finish_reason else {}
                usage = chunk.usage
            completion = client.completions.create(**ASK, prompt="June", logprobs=1)
        assert streamed == texts
        assert len(set(texts.values())) == 3
        assert (roles, finishes) == ([0, 1, 2], dict.fromkeys(range(3), "length"))
        assert usage is not None
        assert whole.usage is not None
        assert usage.completion_tokens == whole.usage.completion_tokens == 3 * 8
        assert usage.prompt_tokens < 40
        assert [choice.logprobs.text_offset[0] for choice in completion.choices if choice.logprobs] == [0, 0, 0]
        ids = [whole.id, completion.id]

        def spans(name: str) -> list[Any]:
            return [span for span in otlp.spans if name in str(span.attributes)]

        for name in ids:
            wait_until(partial(spans, name))
            assert len(spans(name)) == 1
