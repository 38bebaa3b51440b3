"""What the engine reports: one `llm_request` span a request, live decode counters, Prometheus figures."""

import logging
import time
from dataclasses import dataclass
from functools import partial

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tailbudget.instrument import providers, vocabulary
from tailbudget.instrument.metering import decode_meter

from .engine import Engine
from .scheduler import Generation
from .watch import GpuWatch

logger = logging.getLogger(__name__)
PROVIDER = "tailbudget"
#: Seconds; as vLLM's, but from 5 ms on, since theirs hide everything below 0.3 s.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True)
class Phases:
    """Nanoseconds of a request in each phase; their sum is `total_ns` exactly, since phases share their boundaries."""

    queue_ns: int
    prefill_ns: int
    decode_ns: int

    @property
    def total_ns(self) -> int:
        return self.queue_ns + self.prefill_ns + self.decode_ns


def phases(generation: Generation) -> Phases:
    """Cut an ended generation into its phases; one that ended early has 0 in what it never reached."""
    ended = generation.ended_ns
    if ended is None:
        raise ValueError(f"request {generation.id} has not ended")
    prefill = ended if generation.prefill_ns is None else generation.prefill_ns
    first = ended if generation.first_token_ns is None else generation.first_token_ns
    return Phases(prefill - generation.arrived_ns, first - prefill, ended - first)


class Telemetry:
    """The engine's observer; every call costs plain integer work, but `finished`, which makes a span."""

    def __init__(
        self, *, model: str, server_address: str, registry: CollectorRegistry, watch: GpuWatch | None = None
    ) -> None:
        self._model = model
        self._watch = watch or GpuWatch()
        self._meter = decode_meter(model=model, provider=PROVIDER, server_address=server_address, side="server")
        self._tracer = providers.tracer()
        self._figures = Figures(model, registry)

    def decoding(self, change: int) -> None:
        """Count a stream in or out."""
        if change > 0:
            self._meter.stream_started()
        else:
            self._meter.stream_ended()

    def step(self, *, tokens: int, active_ns: int) -> None:
        """Add a step's tokens and the stream-time they took."""
        self._meter.add(tokens=tokens, chunks=tokens, active_ns=active_ns)

    def finished(self, generation: Generation) -> None:
        """Report a generation that is over. A report that fails is logged and never reaches the engine."""
        try:
            found = phases(generation)
            self._span(generation, found)
            self._figures.add(generation, found)
        except Exception:
            logger.exception("request %s could not be reported", generation.id)

    def _span(self, generation: Generation, found: Phases) -> None:
        # One anchor a span ties its perf_counter stamps to the wall clock, so a clock that is set moves no phase.
        anchor_ns = time.time_ns() - time.perf_counter_ns()
        start_ns = anchor_ns + generation.arrived_ns
        context = generation.trace_context
        span = self._tracer.start_span(
            vocabulary.ENGINE_SPAN,
            context=context if isinstance(context, Context) else Context(),
            kind=SpanKind.SERVER,
            start_time=start_ns,
            attributes={
                **self._attributes(generation, found),
                **self._watch.attributes(generation.id, start_ns, start_ns + found.total_ns),
            },
        )
        if generation.end == "error":
            span.set_status(Status(StatusCode.ERROR, generation.error))
        span.end(end_time=start_ns + found.total_ns)

    def _attributes(self, generation: Generation, found: Phases) -> dict[str, str | int | float | list[str]]:
        attributes: dict[str, str | int | float | list[str]] = {
            vocabulary.TIME_IN_QUEUE: found.queue_ns / 1e9,
            vocabulary.TIME_IN_PREFILL: found.prefill_ns / 1e9,
            vocabulary.TIME_IN_DECODE: found.decode_ns / 1e9,
            vocabulary.TIME_IN_INFERENCE: (found.prefill_ns + found.decode_ns) / 1e9,
            vocabulary.E2E: found.total_ns / 1e9,
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.id": generation.id,
            "gen_ai.request.max_tokens": generation.params.max_tokens,
            "gen_ai.request.temperature": generation.params.temperature,
            "gen_ai.request.top_p": generation.params.top_p,
            "gen_ai.usage.input_tokens": len(generation.prompt),
            "gen_ai.usage.output_tokens": len(generation.output),
            "gen_ai.usage.cache_read.input_tokens": generation.cached,
            "slo.batch.size": generation.batch_peak,
            "slo.kv.usage": generation.kv_peak,
            "slo.preemptions": generation.preemptions,
            "slo.preempted_time": generation.preempted_ns / 1e9,
        }
        if generation.first_token_ns is not None:
            first_s = (found.queue_ns + found.prefill_ns) / 1e9
            attributes[vocabulary.ENGINE_TIME_TO_FIRST_TOKEN] = first_s
        if generation.tenant.name:
            attributes[vocabulary.TENANT] = generation.tenant.name
        if generation.finish:
            attributes["gen_ai.response.finish_reasons"] = [generation.finish]
        if generation.end != "complete":
            attributes[vocabulary.STREAM_END] = generation.end or "error"
        return attributes


class Figures:
    """Prometheus figures under vLLM's names with our prefix, so that dashboards made for one need one replacement."""

    def __init__(self, model: str, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"tailbudget:{name}", text, ("model_name", *labels), registry=registry)

        def seconds(name: str, text: str) -> Histogram:
            histogram = Histogram(
                f"tailbudget:{name}_seconds", text, ("model_name",), registry=registry, buckets=BUCKETS_S
            )
            return histogram.labels(model)

        self._model = model
        self._prompt = counter("prompt_tokens", "Prompt tokens of ended requests.").labels(model)
        self._generated = counter("generation_tokens", "Tokens generated by ended requests.").labels(model)
        self._ended = counter("request_success", "Requests by how they ended.", "finished_reason")
        self._first = seconds("time_to_first_token", "From arrival to the first token.")
        self._total = seconds("e2e_request_latency", "From arrival to the last token.")
        self._queue = seconds("request_queue_time", "Waiting, tokenising included.")
        self._prefill = seconds(
            "request_prefill_time", "From the first prompt token computed to the first answer token."
        )
        self._decode = seconds("request_decode_time", "From the first answer token to the last.")

    def add(self, generation: Generation, found: Phases) -> None:
        """Count an ended generation."""
        self._prompt.inc(len(generation.prompt))
        self._generated.inc(len(generation.output))
        self._ended.labels(self._model, generation.finish or generation.end).inc()
        self._total.observe(found.total_ns / 1e9)
        self._queue.observe(found.queue_ns / 1e9)
        self._prefill.observe(found.prefill_ns / 1e9)
        self._decode.observe(found.decode_ns / 1e9)
        if generation.first_token_ns is not None:
            self._first.observe((found.queue_ns + found.prefill_ns) / 1e9)


def live_gauges(registry: CollectorRegistry, *, model: str, engine: Engine) -> None:
    """Add the gauges that are read from the engine whenever Prometheus asks."""
    for name, (text, attribute) in LIVE.items():
        gauge = Gauge(f"tailbudget:{name}", text, ("model_name",), registry=registry)
        gauge.labels(model).set_function(partial(getattr, engine, attribute))


#: Gauge -> its help and the engine's property.
LIVE = {
    "num_requests_running": ("Requests that hold a slot of the batch.", "running"),
    "num_requests_waiting": ("Requests that wait for a slot.", "waiting"),
    "kv_cache_usage_perc": ("Share of the KV cache in use, 0 to 1.", "kv_used"),
}
