"""The load's own part in the traces: a span a request, begun when it was planned, and the headers that mark it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

from tailbudget.instrument import providers
from tailbudget.instrument import vocabulary as words

from .behaviour import Behaviour
from .results import Result
from .target import Target

SERVICE: Final = "tailbudget-load"
#: Our outcome -> a request's, where this span is the request; of a client that left the collector judges what it had.
OUTCOMES: Final = {name: name for name in ("ok", "error", "timeout", "shed", "rejected")}
#: How a stream ended, by outcome.
ENDS: Final = {"ok": "complete", "left": "closed", "timeout": "deadline", "error": "error"}


@dataclass
class Sender:
    """Marks the requests of one run; without a collector the spans go nowhere, the headers are the same."""

    run_id: str
    target: Target

    def begin(self, result: Result, behaviour: Behaviour, *, offered: float) -> tuple[Span, dict[str, str]]:
        """Begin the span of a request at its planned time; return it with the headers that tell the service of it."""
        request_id = f"{self.run_id}-{result.number}"
        said: dict[str, AttributeValue] = {
            words.SYNTHETIC: True,
            words.RUN_ID: self.run_id,
            words.REQUEST_ID: request_id,
            words.LOAD_STEP: result.step,
            words.LOAD_OFFERED: offered,
            words.LOAD_NUMBER: result.number,
            "http.route": self.target.route,
        }
        baggage = {words.SYNTHETIC: "true", words.RUN_ID: self.run_id, words.REQUEST_ID: request_id}
        if result.tenant:
            said[words.TENANT] = baggage[words.TENANT] = result.tenant
        if behaviour.fault:
            baggage[words.FAULT] = behaviour.fault
        span = providers.tracer().start_span(
            self._name(),
            Context(),
            kind=SpanKind.CLIENT,
            attributes=said | self._described(),
            start_time=result.planned_ns,
        )
        headers = {
            "x-request-id": request_id,
            "baggage": ",".join(f"{name}={quote(value)}" for name, value in baggage.items()),
        }
        known = span.get_span_context()
        if known.is_valid:
            result.trace_id, result.span_id = f"{known.trace_id:032x}", f"{known.span_id:016x}"
            headers["traceparent"] = f"00-{result.trace_id}-{result.span_id}-01"
        return span, headers

    def end(self, span: Span, result: Result) -> None:
        """End the span with what became of the request."""
        span.set_attributes({name: value for name, value in self._ended(result).items() if value is not None})
        if result.outcome in ("error", "timeout"):
            span.set_status(Status(StatusCode.ERROR))
        span.end(result.planned_ns + int(result.total_ms * 1e6))

    def _name(self) -> str:
        openai = f"{'chat' if self.target.api == 'chat' else 'text_completion'} {self.target.model}"
        return f"{self.target.method} {self.target.route}" if self.target.api == "http" else openai

    def _described(self) -> dict[str, AttributeValue]:
        host, port = self.target.address
        said: dict[str, AttributeValue] = {"server.address": host, "server.port": port}
        if self.target.api == "http":
            return said | {"http.request.method": self.target.method, "url.path": self.target.route}
        operation = "chat" if self.target.api == "chat" else "text_completion"
        return said | {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "openai",
            "gen_ai.request.model": self.target.model,
            "gen_ai.request.stream": self.target.stream,
        }

    def _ended(self, result: Result) -> Mapping[str, AttributeValue | None]:
        said: dict[str, AttributeValue | None] = {
            words.LOAD_LATENESS: result.late_ms / 1e3,
            words.LOAD_OUTCOME: result.outcome,
            words.OUTCOME: OUTCOMES.get(result.outcome),
            words.TIME_TO_FIRST_TOKEN: None if result.ttft_ms is None else result.ttft_ms / 1e3,
            words.NET_ATTEMPTS: result.attempts,
            words.NET_BACKOFF: result.waited_ms / 1e3 or None,
            "http.response.status_code": result.status or None,
            "error.type": result.error or None,
        }
        if self.target.api == "http":
            return said
        return said | {
            "gen_ai.usage.input_tokens": result.input_tokens,
            "gen_ai.usage.output_tokens": result.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": result.cached_tokens,
            words.STREAM_CHUNKS: result.chunks,
            words.STREAM_END: ENDS.get(result.outcome, "error") if self.target.stream else None,
            words.STREAM_CONSUMER_TIME: result.consumer_ms / 1e3,
        }

    def tell_step(self, step: Mapping[str, Any], *, at_ns: int) -> None:
        """Send a record of a step that is over; what is no plain value goes as JSON text."""
        plain = {name: value if isinstance(value, bool | int | float | str) else json.dumps(value)
                 for name, value in step.items() if value is not None}  # fmt: skip
        attributes = {words.RUN_ID: self.run_id, words.LOAD_STEP: step["step"]}
        attributes |= {f"slo.load.{name}": value for name, value in plain.items()}
        providers.logger().emit(
            LogRecord(
                timestamp=at_ns,
                observed_timestamp=at_ns,
                context=Context(),
                severity_number=SeverityNumber.INFO,
                event_name=words.LOAD_STEP_EVENT,
                attributes=attributes,
            )
        )
