"""Metrics of calls with the conventions' names and buckets, the event loop's lag, and Prometheus' exposition."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import openai
import prometheus_client
import pytest
from openai import OpenAI
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from prometheus_client.parser import text_string_to_metric_families

from tailbudget import request, stream
from tailbudget.instrument import call_metrics, hooks, providers
from tailbudget.instrument.loop_lag import watch_loop
from tailbudget.instrument.prometheus import ScrapedReader
from tests.instrument_support import ModelServer, Recorded, recording, serve, sink
from tests.test_instrument_export import service

SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
WORDS = ["one ", "two ", "three."]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture
def client() -> Iterator[OpenAI]:
    hooks.install()
    try:
        with (
            serve(ModelServer(WORDS, delay_s=0.02).app()) as url,
            OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk,
        ):
            yield sdk
    finally:
        hooks.uninstall()


def ask(client: OpenAI, model: str = "m", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": "?"}], **more)


def histogram(recorded: Recorded, name: str) -> list[HistogramDataPoint]:
    return [point for found, point in recorded.histograms() if found == name]


def test_a_streamed_call_is_in_the_conventions_histograms(recorded: Recorded, client: OpenAI) -> None:
    list(ask(client, stream=True))
    found = {name: point for name, point in recorded.histograms() if name.startswith("gen_ai.client.operation.")}
    assert set(found) == {
        "gen_ai.client.operation.duration",
        "gen_ai.client.operation.time_to_first_chunk",
        "gen_ai.client.operation.time_per_output_chunk",
    }
    for point in found.values():
        assert list(point.explicit_bounds) == SECONDS
        assert point.attributes == {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "m",
            "gen_ai.response.model": "m-0613",
            "gen_ai.provider.name": "openai",
            "server.address": "127.0.0.1",
        }
        assert point.count == 1
    assert found["gen_ai.client.operation.duration"].sum >= 0.06
    assert 0.005 <= found["gen_ai.client.operation.time_per_output_chunk"].sum < 10


def test_tokens_are_counted_by_kind_and_only_those_that_were_reported(recorded: Recorded, client: OpenAI) -> None:
    ask(client)
    usage = {
        point.attributes["gen_ai.token.type"]: point.sum
        for point in recorded_usage(recorded)
        if point.attributes is not None
    }
    assert usage == {"input": 11, "output": 3}
    assert list(recorded_usage(recorded)[0].explicit_bounds)[:4] == [1, 4, 16, 64]
    assert not histogram(recorded, "gen_ai.client.operation.time_to_first_chunk")
    list(stream(iter(WORDS), model="silent"))
    assert {point.attributes["gen_ai.request.model"] for point in recorded_usage(recorded) if point.attributes} == {"m"}


def recorded_usage(recorded: Recorded) -> list[HistogramDataPoint]:
    return histogram(recorded, "gen_ai.client.token.usage")


def test_a_call_that_fails_is_timed_with_its_error(recorded: Recorded, client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        ask(client, "missing")
    (point,) = histogram(recorded, "gen_ai.client.operation.duration")
    assert point.attributes is not None
    assert point.attributes["error.type"] == "openai.NotFoundError"


def test_calls_that_are_not_sampled_are_measured_too(recorded: Recorded) -> None:
    providers.use(TracerProvider(sampler=ALWAYS_OFF), recorded.meter_provider)
    list(stream(iter(WORDS), model="unsampled"))
    (point,) = histogram(recorded, "gen_ai.client.operation.duration")
    assert point.attributes is not None
    assert point.attributes["gen_ai.request.model"] == "unsampled"


def test_a_call_counts_once_and_one_without_an_end_is_forgotten(recorded: Recorded) -> None:
    import gc

    chunks = stream(iter(WORDS), model="m")
    next(chunks)
    chunks.close()
    chunks.close()
    (point,) = histogram(recorded, "gen_ai.client.operation.duration")
    assert point.count == 1
    span = recorded.tracer_provider.get_tracer("t").start_span("twice")
    call_metrics.began(span, {"gen_ai.request.model": "twice"}, streamed=False)
    for _ in range(2):
        call_metrics.ended(span)
    twice = [p.count for p in histogram(recorded, "gen_ai.client.operation.duration") if "twice" in str(p.attributes)]
    assert twice == [1]
    del span
    before = len(call_metrics._calls)
    call_metrics.began(recorded.tracer_provider.get_tracer("t").start_span("dropped"), {}, streamed=False)
    gc.collect()
    assert len(call_metrics._calls) == before


def test_what_a_provider_says_is_left_is_a_gauge(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_metrics, "_remaining_by", {})  # of the process: other tests' providers are in it
    for left in (90, 80):
        call_metrics.ratelimit(left, kind="tokens", provider="openai", server_address="api.example.org")
    labels = {"kind": "tokens", "gen_ai.provider.name": "openai", "server.address": "api.example.org"}
    assert recorded.points("slo.ratelimit.remaining") == [(labels, 80)]


async def test_a_blocked_loop_shows_in_its_lag(recorded: Recorded) -> None:
    watch_loop()
    watch_loop()
    await asyncio.sleep(0.05)
    time.sleep(0.6)  # noqa: ASYNC251 - the loop is to stand still
    await asyncio.sleep(0.05)
    (point,) = histogram(recorded, "slo.loop.lag")
    assert 0.25 < point.max < 30
    assert point.count <= 5  # one timer, not two


def test_prometheus_reads_the_same_figures_as_often_as_it_asks() -> None:
    registry = prometheus_client.CollectorRegistry()
    reader = ScrapedReader(registry)
    meters = MeterProvider([reader], shutdown_on_exit=False)
    providers.use(TracerProvider(), meters)
    try:
        with request("scraped", tenant='a"b'):
            list(stream(iter(WORDS), model="scraped-model"))
            scrapes = [prometheus_client.generate_latest(registry).decode() for _ in range(2)]
    finally:
        providers.use(None)
        meters.shutdown()
    for scrape in scrapes:
        families = {family.name: family for family in text_string_to_metric_families(scrape)}
        started = [s for s in families["slo_requests_started"].samples if s.labels["route"] == "scraped"]
        assert [(s.name, s.labels["tenant"], s.value) for s in started] == [("slo_requests_started_total", 'a"b', 1)]
        active = [s for s in families["slo_requests_active"].samples if s.labels["route"] == "scraped"]
        assert [s.value for s in active] == [1]
        assert families["slo_requests_oldest_age_seconds"].type == "gauge"
        duration = families["gen_ai_client_operation_duration_seconds"]
        values = {
            (s.name.removeprefix(duration.name), s.labels.get("le")): s.value
            for s in duration.samples
            if s.labels["gen_ai_request_model"] == "scraped-model"
        }
        assert values["_count", None] == values["_bucket", "+Inf"] == 1
        assert 0 < values["_sum", None] < 60
    assert not prometheus_client.generate_latest(registry)


def test_init_puts_the_metrics_into_the_services_own_registry_and_sends_them_too() -> None:
    code = (
        "import prometheus_client, tailbudget\n"
        "tailbudget.init('svc', prometheus=True)\n"
        "with tailbudget.request('chat'): pass\n"
        "print(prometheus_client.generate_latest().decode())\n"
        "tailbudget.shutdown()\n"
        "assert b'slo_requests' not in prometheus_client.generate_latest()\n"
    )
    with sink() as collector:
        done = service(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        assert (done.returncode, done.stderr) == (0, "")
        assert 'slo_requests_started_total{route="chat"} 1.0' in done.stdout
        assert collector.metric_named("slo.requests.started")


def test_prometheus_beside_a_provider_that_is_already_there_says_what_to_do() -> None:
    code = (
        "import tailbudget\nfrom opentelemetry import metrics\nfrom opentelemetry.sdk.metrics import MeterProvider\n"
        "metrics.set_meter_provider(MeterProvider())\ntailbudget.init(prometheus=True)\n"
    )
    done = service(code)
    assert done.returncode == 1
    assert "tailbudget.instrument.prometheus.ScrapedReader()" in done.stderr


def test_without_prometheus_client_init_says_what_to_install() -> None:
    code = "import sys; sys.modules['prometheus_client'] = None\nimport tailbudget\ntailbudget.init(prometheus=True)\n"
    done = service(code)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("which is not installed: pip install prometheus-client")
