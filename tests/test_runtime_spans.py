"""Each request makes one `llm_request` span whose phases sum to its length, however it ended."""

from collections.abc import Iterator

import pytest
from opentelemetry.propagate import extract
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.scheduler import End, Generation
from tailbudget.gpu_runtime.telemetry import Telemetry
from tailbudget.instrument import providers
from tailbudget.instrument.gaps import decode_gaps
from tests.runtime_support import engine, on_devices
from tests.support import wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    providers.use(provider)
    yield exporter
    providers.use(None)
    provider.shutdown()


def _telemetry() -> Telemetry:
    return Telemetry(model="tiny", server_address="127.0.0.1:8000", registry=CollectorRegistry())


def _seconds(span: ReadableSpan, *names: str) -> list[float]:
    attributes = span.attributes or {}
    return [float(str(attributes[f"gen_ai.latency.{name}"])) for name in names]


def _check_sum(span: ReadableSpan) -> None:
    assert span.end_time is not None
    assert span.start_time is not None
    parts = _seconds(span, "time_in_queue", "time_in_model_prefill", "time_in_model_decode")
    inference, total = _seconds(span, "time_in_model_inference", "e2e")
    assert abs(sum(parts) - total) < 1e-9
    assert abs(parts[1] + parts[2] - inference) < 1e-9
    assert abs((span.end_time - span.start_time) / 1e9 - total) < 1e-9


def _ended(end: End, **stamps: int) -> Generation:
    """Return a generation that arrived at 1 s on the clock and ended at 3 s, with other stamps as given."""
    generation = Generation("r", [1, 2, 3], SamplingParams(max_tokens=9), 1_000_000_000, trace_context=None)
    generation.end, generation.ended_ns = end, 3_000_000_000
    for name, value in stamps.items():
        setattr(generation, name, value)
    return generation


@on_devices
def test_the_phases_of_real_requests_sum_to_their_spans(device: str, spans: InMemorySpanExporter) -> None:
    with engine(_telemetry(), device=device, max_running=2) as bench:
        sent = [bench.submit(prompt, max_tokens=12) for prompt in ("The river", "June", "noon")]
        for generation in sent:
            bench.finish(generation)
    finished = spans.get_finished_spans()
    assert [span.name for span in finished] == ["llm_request"] * 3
    for span in finished:
        _check_sum(span)
        assert span.kind is SpanKind.SERVER
        assert all(
            part > 0 for part in _seconds(span, "time_in_queue", "time_in_model_prefill", "time_in_model_decode")
        )
        queue, prefill, first = _seconds(span, "time_in_queue", "time_in_model_prefill", "time_to_first_token")
        assert abs(queue + prefill - first) < 1e-9


@on_devices
def test_a_span_says_what_was_asked_and_what_came(device: str, spans: InMemorySpanExporter) -> None:
    with engine(_telemetry(), device=device) as bench:
        generation = bench.submit([5, 6, 7], max_tokens=4)
        bench.finish(generation)
    attributes = dict(spans.get_finished_spans()[0].attributes or {})
    expected = {
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.response.id": generation.id,
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.request.max_tokens": 4,
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "slo.batch.size": 1,
    }
    assert expected.items() <= attributes.items()
    assert "slo.stream.end" not in attributes
    assert 0 < float(str(attributes["slo.kv.usage"])) < 1


@on_devices
def test_the_times_between_tokens_travel_on_the_span(device: str, spans: InMemorySpanExporter) -> None:
    with engine(_telemetry(), device=device, step_delay_ms=15) as bench:
        generation = bench.submit("The river", max_tokens=6)
        bench.finish(generation)
    attributes = dict(spans.get_finished_spans()[0].attributes or {})
    gaps, rest = decode_gaps(bytes(attributes["slo.stream.gaps"]))  # type: ignore[arg-type]
    assert attributes["slo.stream.chunks"] == 6
    assert (len(gaps), rest) == (5, [])
    assert all(gap_us >= 15_000 for gap_us in gaps)
    (decode_s,) = _seconds(spans.get_finished_spans()[0], "time_in_model_decode")
    assert sum(gaps) / 1e6 == pytest.approx(decode_s, abs=1e-5)


def test_a_span_hangs_under_the_callers(spans: InMemorySpanExporter) -> None:
    generation = _ended("complete", prefill_ns=1_500_000_000, first_token_ns=2_000_000_000)
    generation.trace_context = extract({"traceparent": f"00-{TRACE}-{PARENT}-01"})
    _telemetry().finished(generation)
    span = spans.get_finished_spans()[0]
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)


@pytest.mark.parametrize(
    ("stamps", "queue", "prefill", "decode"),
    [
        ({}, 2.0, 0.0, 0.0),
        ({"prefill_ns": 1_500_000_000}, 0.5, 1.5, 0.0),
        ({"prefill_ns": 1_500_000_000, "first_token_ns": 2_250_000_000}, 0.5, 0.75, 0.75),
    ],
    ids=["queue", "prefill", "decode"],
)
def test_a_client_that_left_has_no_time_in_phases_it_never_reached(
    spans: InMemorySpanExporter, stamps: dict[str, int], queue: float, prefill: float, decode: float
) -> None:
    _telemetry().finished(_ended("cancelled", **stamps))
    span = spans.get_finished_spans()[0]
    _check_sum(span)
    assert _seconds(span, "time_in_queue", "time_in_model_prefill", "time_in_model_decode") == [queue, prefill, decode]
    attributes = span.attributes or {}
    assert attributes["slo.stream.end"] == "cancelled"
    assert "gen_ai.response.finish_reasons" not in attributes
    assert ("gen_ai.latency.time_to_first_token" in attributes) == ("first_token_ns" in stamps)


@on_devices
def test_a_failed_request_says_so(device: str, spans: InMemorySpanExporter) -> None:
    with engine(_telemetry(), device=device) as bench:
        bench.finish(bench.submit([10**9]))
    span = spans.get_finished_spans()[0]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "IndexError in the engine")
    assert (span.attributes or {})["slo.stream.end"] == "error"


@on_devices
def test_a_span_that_cannot_be_made_does_not_reach_the_engine(device: str, caplog: pytest.LogCaptureFixture) -> None:
    generation = _ended("complete")
    generation.ended_ns = None
    _telemetry().finished(generation)
    assert "could not be reported" in caplog.text


@on_devices
def test_the_wall_clock_of_a_span_is_now(device: str, spans: InMemorySpanExporter) -> None:
    import time

    before_ns = time.time_ns()
    with engine(_telemetry(), device=device) as bench:
        generation = bench.submit("The river")
        bench.finish(generation)
        wait_until(spans.get_finished_spans)
    span = spans.get_finished_spans()[0]
    assert span.start_time is not None
    assert span.end_time is not None
    assert before_ns <= span.start_time < span.end_time <= time.time_ns()
