"""Work that happens elsewhere: the interaction goes on through a queue, and what the queue took is a stage of it."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from opentelemetry import propagate
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import providers
from .guard import Guard
from .identity import request_attributes
from .propagation import with_request
from .request import BudgetsMs, RequestState, outcome_of, request_context
from .spans import Activation, record_error
from .vocabulary import QUEUE_WAIT, REQUEST_ID, STAGE, TENANT, convert

#: Among the headers of a job: when it was put into the queue, in nanoseconds since 1970.
ENQUEUED = "slo-enqueued-ns"

guard = Guard("job")


def job_headers() -> dict[str, str]:
    """Return what a job's payload must carry, as text by name, for `job` to go on with the request that runs here."""
    headers = {ENQUEUED: str(time.time_ns())}
    with guard:
        context = with_request()
        TraceContextTextMapPropagator().inject(headers, context)
        W3CBaggagePropagator().inject(headers, context)
    return headers


def job(
    name: str,
    headers: Mapping[str, Any] | None,
    *,
    route: str | None = None,
    budgets_ms: BudgetsMs | None = None,
    messaging_system: str | None = None,
) -> "JobScope":
    """Return a context manager whose body is the work of a job that carries `headers`; it gives the job's span.

    The time in the queue becomes a span of the stage `queue`. Where the user still waits at the service that enqueued,
    that service's request stays open and this is a part of it. Where that service has answered already, `route` makes
    this the request: it began when the job was put into the queue and ends with this body, when the result is there.
    """
    return JobScope(name, headers or {}, route, budgets_ms or {}, messaging_system)


class JobScope:
    """Context manager of one job, made by `job`."""

    def __init__(
        self, name: str, headers: Mapping[str, Any], route: str | None, budgets_ms: BudgetsMs, system: str | None
    ) -> None:
        self._name = name
        self._headers = headers
        self._route = route
        self._budgets_ms = budgets_ms
        self._system = system
        self._span: Span = INVALID_SPAN
        self._state: RequestState | None = None
        self._activation: Activation | None = None

    def __enter__(self) -> Span:
        with guard:
            self._open()
        return self._span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with guard:
            if self._activation:
                self._activation.restore()
            if error is not None:
                record_error(self._span, error)
            try:
                if self._state:
                    self._state.finish(outcome_of(error))
            finally:
                self._span.end()

    def _open(self) -> None:
        now_ns = time.time_ns()
        enqueued_ns = min(self._enqueued_ns() or now_ns, now_ns)  # clocks of two machines may differ
        parent = propagate.extract(self._headers, getter=_AnyCase())
        attributes = request_attributes(self._route or "", tenant=None, request_id=None, context=parent)
        self._span = providers.tracer().start_span(
            self._route or f"process {self._name}",
            context=parent,
            kind=SpanKind.CONSUMER,
            attributes=attributes
            | {"messaging.operation.type": "process", "messaging.destination.name": self._name}
            | {QUEUE_WAIT: convert(now_ns - enqueued_ns, "ns", "s")}
            | ({"messaging.system": self._system} if self._system else {}),
            start_time=enqueued_ns,
        )
        context = set_span_in_context(self._span, parent)
        if self._route is not None:
            self._state = RequestState(
                self._span,
                started_ns=time.perf_counter_ns() - (now_ns - enqueued_ns),
                route=self._route,
                tenant=str(attributes.get(TENANT, "")),
                request_id=str(attributes.get(REQUEST_ID, "")),
            )
            self._state.set_budgets(self._budgets_ms)
            context = request_context(self._state, parent)
        self._activation = Activation(context)
        if self._enqueued_ns():
            waiting(self._name, enqueued_ns, now_ns, context)

    def _enqueued_ns(self) -> int:
        said = str(self._headers.get(ENQUEUED, ""))
        return int(said) if said.isdigit() else 0


class _AnyCase(Getter[Mapping[str, Any]]):
    """Reads headers of a queue, whose values may be of any type."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        value = carrier.get(key)
        return None if value is None else [str(value)]

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        return list(carrier)


def waiting(name: str, start_ns: int, end_ns: int, context: Context) -> None:
    """Record that this long, in nanoseconds since 1970, was spent in the queue `name`."""
    span = providers.tracer().start_span(
        f"queue {name}", context=context, attributes={STAGE: "queue"}, start_time=start_ns
    )
    span.end(end_ns)
