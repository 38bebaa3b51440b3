"""The runtime's /metrics is what dashboards made for vLLM 0.33 ask for, and says what the engine did."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.runtime_support import receiver, server
from tests.support import wait_until

#: What the Grafana dashboards among vLLM's examples ask for: overview, instances, KV cache, speculation, status board,
#: and the older one. Left out is what this engine has none of: KV transfer, residency of blocks, adapters, images.
OF_VLLMS_DASHBOARDS = {
    "http_requests_total",
    "process_resident_memory_bytes",
    "vllm:admission_rejections_total",
    "vllm:cache_config_info",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:engine_sleep_state",
    "vllm:generation_tokens_total",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:iteration_tokens_total_bucket",
    "vllm:kv_cache_usage_perc",
    "vllm:num_preemptions_total",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prompt_tokens_by_source_total",
    "vllm:prompt_tokens_cached_total",
    "vllm:prompt_tokens_total",
    "vllm:request_decode_time_seconds_sum",
    "vllm:request_generation_tokens_bucket",
    "vllm:request_inference_time_seconds_sum",
    "vllm:request_max_num_generation_tokens_sum",
    "vllm:request_num_preemptions_bucket",
    "vllm:request_params_max_tokens_bucket",
    "vllm:request_params_n_bucket",
    "vllm:request_prefill_kv_computed_tokens_sum",
    "vllm:request_prefill_time_seconds_sum",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_queue_time_seconds_sum",
    "vllm:request_success_total",
    "vllm:request_time_per_output_token_seconds_bucket",
    "vllm:spec_decode_num_accepted_tokens_per_pos_total",
    "vllm:spec_decode_num_accepted_tokens_total",
    "vllm:spec_decode_num_draft_tokens_total",
    "vllm:spec_decode_num_drafts_total",
    "vllm:time_to_first_token_seconds_bucket",
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    settings: dict[str, Any] = {"max_context": 256, "max_running": 2, "max_waiting": 1, "speculate": 3, "control": True}
    with receiver() as otlp, server(otlp.endpoint, **settings) as (base, _):
        yield base


def _ask(url: str, **asked: Any) -> httpx.Response:
    body = {"model": "tiny", "temperature": 0, **asked}
    return httpx.post(f"{url}/v1/completions", json=body, timeout=120)


Told = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _told(url: str) -> Told:
    """Return every sample by its name without a prefix, and its labels."""
    text = httpx.get(f"{url}/metrics").text
    return {
        (sample.name.partition(":")[2] or sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _grown(url: str, before: Told, metric: str, **labels: str) -> float:
    """Return by how much a metric grew, over all of its samples with these labels."""
    now = _told(url).items()
    return sum(value - before.get(key, 0.0) for key, value in now if key[0] == metric and labels.items() <= key[1])


def test_vllms_names_are_all_there_with_its_labels(url: str) -> None:
    repeated = [7, 8, 9, 10] * 8  # so that there is something to guess
    assert _ask(url, prompt=repeated, max_tokens=40, logit_bias={"7": 60}).status_code == 200
    text = httpx.get(f"{url}/metrics", params={"as": "vllm"}).text
    assert OF_VLLMS_DASHBOARDS - {line.partition("{")[0].split(" ")[0] for line in text.splitlines()} == set()
    assert 'vllm:num_requests_running{engine="0",model_name="tiny"}' in text
    ours = httpx.get(f"{url}/metrics").text
    for name in ("num_requests_running", "generation_tokens_total", "time_to_first_token_seconds_count"):
        assert f'tailbudget:{name}{{model_name="tiny"}}' in ours
    assert "vllm:" not in ours
    # vLLM's begin at 0.3 s, which hides a queue of milliseconds.
    assert 'tailbudget:request_queue_time_seconds_bucket{le="0.005",model_name="tiny"}' in ours


def test_counters_say_what_the_engine_did(url: str) -> None:
    before = _told(url)
    prompt = [300 + index for index in range(40)]
    for answers in (1, 2):  # the second time both find its first two pages
        assert _ask(url, prompt=prompt, max_tokens=5, n=answers, ignore_eos=True).status_code == 200
    whole, cached = _grown(url, before, "prompt_tokens_total"), _grown(url, before, "prompt_tokens_cached_total")
    assert (whole, cached) == (120.0, 64.0)
    assert _grown(url, before, "prompt_tokens_by_source_total", source="local_cache_hit") == cached
    assert _grown(url, before, "prompt_tokens_by_source_total", source="local_compute") == whole - cached
    assert _grown(url, before, "prompt_tokens_computed_total") == whole - cached
    assert _grown(url, before, "request_prefill_kv_computed_tokens_sum") == whole - cached
    assert _grown(url, before, "generation_tokens_total") == 15
    assert _grown(url, before, "request_params_n_sum") == 3
    assert _grown(url, before, "request_params_max_tokens_sum") == 15
    assert _grown(url, before, "request_success_total", finished_reason="length") == 3
    steps = _grown(url, before, "engine_steps_total")
    assert _grown(url, before, "iteration_tokens_total_count") == steps
    assert _grown(url, before, "iteration_tokens_total_bucket", le="+Inf") == steps
    assert 0 < _grown(url, before, "iteration_tokens_total_bucket", le="8.0") < steps
    assert _grown(url, before, "http_requests_total", handler="/v1/completions", method="POST", status="2xx") == 2


def test_guesses_are_counted_by_check_and_by_place(url: str) -> None:
    before = _told(url)
    assert _ask(url, prompt=[7, 8, 9, 10] * 8, max_tokens=60, logit_bias={"7": 60}).status_code == 200
    checks = _grown(url, before, "spec_decode_num_drafts_total")
    drafted = _grown(url, before, "spec_decode_num_draft_tokens_total")
    places = [
        _grown(url, before, "spec_decode_num_accepted_tokens_per_pos_total", position=str(place)) for place in range(3)
    ]
    assert 0 < checks <= drafted <= 3 * checks
    assert places == sorted(places, reverse=True)
    assert sum(places) == _grown(url, before, "spec_decode_num_accepted_tokens_total") > 0


def test_refusals_and_those_who_left_are_counted(url: str) -> None:
    before = _told(url)
    httpx.post(f"{url}/control", json={"step_delay_ms": 50})
    assert _ask(url, prompt="The", n=4).status_code == 400  # more than there are places
    ask = {"model": "tiny", "prompt": "The", "max_tokens": 250, "n": 3, "stream": True}
    with httpx.stream("POST", f"{url}/v1/completions", json=ask) as left:
        parts = left.iter_text()  # held: a response closes with its iterator
        next(parts)
        assert _ask(url, prompt="The").status_code == 503
    httpx.post(f"{url}/control", json={"step_delay_ms": 0})
    wait_until(lambda: _grown(url, before, "request_success_total", finished_reason="abort") == 3, what="the abort")
    assert _grown(url, before, "admission_rejections_total", reason="max_num_queued_reqs") == 1
    assert _grown(url, before, "http_requests_total", status="5xx") == 1
    assert _grown(url, before, "http_requests_total", status="4xx") == 1
