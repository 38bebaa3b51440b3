"""A request ends at the deadline that came with it, waiting or running, within a step, and says so in its span."""

import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import Generation
from tests.runtime_support import Receiver, engine, on_devices, receiver, server
from tests.support import wait_until

ASK: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "The river"}], "temperature": 0}
ENDLESS = {"max_tokens": 400, "ignore_eos": True}


@pytest.fixture(scope="module")
def otlp() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture(scope="module")
def url(otlp: Receiver) -> Iterator[str]:
    with server(otlp.endpoint, max_context=512, max_running=2, step_delay_ms=50) as (base, _):
        yield base


@on_devices
def test_running_and_waiting_generations_end_at_their_deadline_and_free_their_places(device: str) -> None:
    with engine(device=device, max_running=1, step_delay_ms=20) as bench:
        ids = bench.tokenizer.encode("The river")
        params = SamplingParams(400, temperature=0.0, ignore_eos=True)
        now_ns = time.perf_counter_ns()
        running = Generation("running", ids, params, now_ns, deadline_ns=now_ns + 300_000_000)
        waiting = Generation("waiting", ids, params, now_ns, deadline_ns=now_ns + 150_000_000)
        for generation in (running, waiting):
            bench.engine.submit(generation)
        bench.finish(waiting)
        bench.finish(running)
        assert (waiting.end, waiting.output) == ("deadline", [])
        assert running.end == "deadline"
        assert running.output
        assert bench.engine.running == 0
        for generation in (running, waiting):
            assert generation.ended_ns is not None
            assert generation.deadline_ns is not None
            assert generation.ended_ns >= generation.deadline_ns
        assert running.deadline_ns is not None
        assert sum(at_ns > running.deadline_ns for at_ns in running.token_ns) <= 1, "no more than the step under way"
        assert bench.submit("The river", max_tokens=2).deadline_ns is None


def _waited_ns(device: str) -> int:
    """Return how long a request with 50 ms left was held by an engine that waits 10 s for others."""
    with engine(device=device, batch_delay_ms=10_000) as bench:
        now_ns = time.perf_counter_ns()
        hurried = Generation("hurried", [5, 6], SamplingParams(2), now_ns, deadline_ns=now_ns + 50_000_000)
        bench.engine.submit(hurried)
        bench.finish(hurried)
    assert (hurried.end, hurried.prefill_ns) == ("deadline", None)
    assert hurried.ended_ns is not None
    return hurried.ended_ns - now_ns


@on_devices
def test_an_engine_that_waits_for_others_waits_no_longer_than_a_deadline(device: str) -> None:
    # An engine that waits on does so each time, a machine that hesitates does not.
    assert any(_waited_ns(device) < 10e9 for _ in range(3))


def test_an_answer_that_is_not_ready_is_a_408_that_is_not_tried_again(url: str) -> None:
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2, timeout=120) as client,
        pytest.raises(openai.APIStatusError, match="deadline") as caught,
    ):
        client.chat.completions.create(
            **ASK, max_tokens=400, extra_body={"ignore_eos": True}, extra_headers={"x-slo-remaining-ms": "300"}
        )
    assert caught.value.status_code == 408
    assert caught.value.code == "deadline"


def test_a_stream_ends_with_the_error_and_the_span_says_deadline(url: str, otlp: Receiver) -> None:
    body = ASK | ENDLESS | {"stream": True}
    headers = {"x-slo-remaining-ms": "400"}
    lines: list[str] = []
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=120) as answer:
        lines.extend(line for line in answer.iter_lines() if line)
    assert any('"content"' in line for line in lines)
    assert '"code":"deadline"' in lines[-1].replace(" ", "")
    ends = wait_until(
        lambda: [
            each.value.string_value for span in otlp.spans for each in span.attributes if each.key == "slo.stream.end"
        ],
        what="the span",
    )
    assert set(ends) == {"deadline"}


@pytest.mark.parametrize("remaining", ["soon", "-5", "1.5", "9" * 400, "9" * 5000])
def test_a_header_that_is_no_deadline_is_ignored(url: str, remaining: str) -> None:
    headers = {"x-slo-remaining-ms": remaining}
    answer = httpx.post(f"{url}/v1/chat/completions", json=ASK | {"max_tokens": 2}, headers=headers, timeout=120)
    assert answer.status_code == 200
