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
from tests.runtime_support import Bench, Notes, engine, receiver, server
from tests.support import wait_until

PROMPT = [(11 * index) % 490 + 5 for index in range(70)]
ASK: dict[str, Any] = {"model": "tiny", "n": 3, "max_tokens": 8, "temperature": 1.0, "seed": 5}


def _ask(
    bench: Bench, count: int, *, name: str = "several", prompt: list[int] | None = None, **params: Any
) -> list[Generation]:
    chosen = SamplingParams(**{"max_tokens": 20, "temperature": 1.0, "seed": 3, **params})
    now_ns = time.perf_counter_ns()
    answers = [
        Generation(name, prompt or PROMPT, replace(chosen, seed=(chosen.seed or 0) + index), now_ns)
        for index in range(count)
    ]
    for each in answers:
        each.siblings = answers if count > 1 else []
    bench.engine.submit(answers[0])
    return answers


def _alone(count: int, **params: Any) -> list[list[int]]:
    with engine(max_running=1, prefix_cache=False) as bench:
        sent = [
            bench.submit(PROMPT, **{"max_tokens": 20, "temperature": 1.0, "seed": 3 + at, **params})
            for at in range(count)
        ]
        for generation in sent:
            bench.finish(generation)
        return [generation.output for generation in sent]


@pytest.mark.parametrize("prefix_cache", [True, False])
def test_each_answer_is_the_one_of_its_seed_and_the_prompt_is_computed_once(prefix_cache: bool) -> None:
    alone = _alone(4)
    with engine(max_running=4, prefix_cache=prefix_cache) as bench:
        answers = _ask(bench, 4)
        for generation in answers:
            bench.finish(generation)
        # 70 tokens: four full pages are taken over, the six tokens behind them are computed anew.
        assert bench.engine.counts.prompt_tokens == 70 + 3 * 6
        assert [generation.cached for generation in answers] == [0, 64, 64, 64]
        assert bench.engine.kv_used == 0
    assert [generation.output for generation in answers] == alone
    assert len({tuple(output) for output in alone}) == 4


def test_without_a_prefix_cache_no_other_request_finds_their_pages() -> None:
    with engine(max_running=4, prefix_cache=False) as bench:
        for generation in _ask(bench, 2):
            bench.finish(generation)
        stranger = bench.submit(PROMPT)
        bench.finish(stranger)
        assert stranger.cached == 0
        others = _ask(bench, 2, name="others")
        for generation in others:
            bench.finish(generation)
        assert [generation.cached for generation in others] == [0, 64]


def test_few_pages_and_slots_change_nothing_but_the_time() -> None:
    alone = _alone(5, max_tokens=40)
    with engine(max_running=3, kv_pages=12, max_context=192, speculate=3) as bench:
        answers = _ask(bench, 5, max_tokens=40)
        for generation in answers:
            bench.finish(generation)
        assert bench.engine.counts.preemptions > 0
        assert (bench.engine.kv_used, bench.engine.running, bench.engine.waiting) == (0, 0, 0)
    assert [generation.output for generation in answers] == alone


@pytest.mark.parametrize("end", ["cancelled", "deadline", "error"])
def test_what_ends_the_first_before_its_token_ends_them_all(end: str) -> None:
    notes = Notes()
    with engine(notes, max_running=1, step_delay_ms=5) as bench:
        running = bench.submit("The river", max_tokens=300)
        wait_until(lambda: running.output)
        prompt = [10**9] if end == "error" else None
        answers = _ask(bench, 3, prompt=prompt)
        if end == "deadline":
            answers[0].deadline_ns = answers[0].arrived_ns
        answers[0].cancelled = end == "cancelled"
        running.cancelled = True
        for generation in answers:
            assert bench.finish(generation) == ""
            assert generation.end == end
        assert (bench.engine.kv_used, bench.engine.waiting) == (0, 0)


def test_the_span_of_several_answers_sums_to_the_whole_request() -> None:
    with engine(max_running=2) as bench:
        answers = _ask(bench, 3)
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
