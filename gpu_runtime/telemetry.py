"""What the engine reports: one `llm_request` span a request, live decode counters, Prometheus figures."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind, Status, StatusCode
from prometheus_client import CollectorRegistry, Counter, Histogram

from tailbudget.instrument import providers, vocabulary
from tailbudget.instrument.gaps import Gaps
from tailbudget.instrument.metering import decode_meter

from .scheduler import Generation
from .watch import GpuWatch

logger = logging.getLogger(__name__)
PROVIDER = "tailbudget"
#: Seconds; as vLLM's, but from 5 ms on, since theirs hide everything below 0.3 s.
BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
GAP_BUCKETS_S = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0)
TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
COUNT_BUCKETS = (1, 2, 5, 10, 20)
#: Histogram of vLLM's -> what it measures of an ended request.
SECONDS = {
    "time_to_first_token_seconds": "From arrival to the first token.",
    "e2e_request_latency_seconds": "From arrival to the last token.",
    "request_queue_time_seconds": "Waiting, tokenising included.",
    "request_prefill_time_seconds": "From the first prompt token computed to the first answer token.",
    "request_decode_time_seconds": "From the first answer token to the last.",
    "request_inference_time_seconds": "Prefill and decode.",
    "request_time_per_output_token_seconds": "Decode divided by the tokens after the first.",
}


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


def joined(answers: Sequence[Generation]) -> Generation:
    """Return the ended answers to one request as one: its first token is the first one's, its end the last one's."""
    first = answers[0]
    if len(answers) == 1:
        return first
    worst = next((each for each in answers if each.end != "complete"), first)
    return replace(
        first,
        output=[token for each in answers for token in each.output],
        ended_ns=max(each.ended_ns or 0 for each in answers),
        preemptions=sum(each.preemptions for each in answers),
        preempted_ns=max(each.preempted_ns for each in answers),
        batch_peak=max(each.batch_peak for each in answers),
        kv_peak=max(each.kv_peak for each in answers),
        end=worst.end,
        error=worst.error,
    )


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
            self._figures.add(generation, phases(generation))
            answers = generation.siblings or [generation]
            if all(each.ended_ns is not None for each in answers):
                self._figures.answered(answers)
                self._span(joined(answers), [each.finish for each in answers if each.finish])
        except Exception:
            logger.exception("request %s could not be reported", generation.id)

    def _span(self, generation: Generation, finishes: Sequence[str]) -> None:
        found = phases(generation)
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
                **({"gen_ai.response.finish_reasons": finishes} if finishes else {}),
                **self._watch.attributes(generation.id, start_ns, start_ns + found.total_ns),
            },
        )
        if generation.end == "error":
            span.set_status(Status(StatusCode.ERROR, generation.error))
        span.end(end_time=start_ns + found.total_ns)

    def _attributes(self, generation: Generation, found: Phases) -> dict[str, str | int | float | bytes | list[str]]:
        attributes: dict[str, str | int | float | bytes | list[str]] = {
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
            gaps = Gaps()
            gaps.feed(generation.token_ns)
            attributes |= {vocabulary.STREAM_CHUNKS: len(generation.token_ns), vocabulary.STREAM_GAPS: gaps.encode()}
        if generation.tenant.name:
            attributes[vocabulary.TENANT] = generation.tenant.name
        if generation.end != "complete":
            attributes[vocabulary.STREAM_END] = generation.end or "error"
        return attributes


class Figures:
    """Prometheus figures under vLLM's names with our prefix, so that dashboards made for one need one replacement."""

    def __init__(self, model: str, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: Sequence[float] = BUCKETS_S) -> Histogram:
            made = Histogram(f"tailbudget:{name}", text, ("model_name",), registry=registry, buckets=buckets)
            return made.labels(model)

        self._model = model
        self._ended = Counter(
            "tailbudget:request_success",
            "Requests by how they ended.",
            ("model_name", "finished_reason"),
            registry=registry,
        )
        self._of_request = {name: histogram(name, text) for name, text in SECONDS.items()}
        self._gaps = histogram("inter_token_latency_seconds", "From one token to the next.", GAP_BUCKETS_S)
        self._prompt = histogram("request_prompt_tokens", "Prompt tokens of ended requests.", TOKEN_BUCKETS)
        self._generated = histogram("request_generation_tokens", "Tokens of ended answers.", TOKEN_BUCKETS)
        self._longest = histogram(
            "request_max_num_generation_tokens", "Tokens of the longest answer to a request.", TOKEN_BUCKETS
        )
        self._most = histogram("request_params_max_tokens", "What answers were allowed at most.", TOKEN_BUCKETS)
        self._answers = histogram("request_params_n", "Answers to a request.", COUNT_BUCKETS)
        self._preempted = histogram("request_num_preemptions", "How often a request gave way.", (0, *COUNT_BUCKETS))
        self._computed = histogram(
            "request_prefill_kv_computed_tokens", "Prompt tokens that the prefix cache did not have.", TOKEN_BUCKETS
        )

    def answered(self, answers: Sequence[Generation]) -> None:
        """Count a request all of whose answers have ended."""
        self._answers.observe(len(answers))
        self._longest.observe(max(len(each.output) for each in answers))

    def add(self, generation: Generation, found: Phases) -> None:
        """Count an ended generation."""
        # "abort" is vLLM's word for a client that left.
        ended = generation.finish or generation.end
        self._ended.labels(self._model, "abort" if ended == "cancelled" else ended).inc()
        self._most.observe(generation.params.max_tokens)
        self._preempted.observe(generation.preemptions)
        if generation.prefill_ns is not None:
            self._computed.observe(len(generation.prompt) - generation.cached)
        self._prompt.observe(len(generation.prompt))
        self._generated.observe(len(generation.output))
        seconds = {
            "e2e_request_latency_seconds": found.total_ns / 1e9,
            "request_queue_time_seconds": found.queue_ns / 1e9,
            "request_prefill_time_seconds": found.prefill_ns / 1e9,
            "request_decode_time_seconds": found.decode_ns / 1e9,
            "request_inference_time_seconds": (found.prefill_ns + found.decode_ns) / 1e9,
        }
        if generation.first_token_ns is not None:
            seconds["time_to_first_token_seconds"] = (found.queue_ns + found.prefill_ns) / 1e9
        if len(generation.output) > 1:
            rest = len(generation.output) - 1
            seconds["request_time_per_output_token_seconds"] = found.decode_ns / 1e9 / rest
        for name, value in seconds.items():
            self._of_request[name].observe(value)
        for before_ns, after_ns in pairwise(generation.token_ns):
            self._gaps.observe((after_ns - before_ns) / 1e9)
