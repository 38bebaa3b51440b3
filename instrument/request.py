"""The request: one user interaction, its budgets, and what becomes of it."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from types import MappingProxyType, TracebackType

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind
from opentelemetry.util.types import AttributeValue

from .budget import Budget, Policies
from .contexts import SPAN_KEY, current
from .guard import Guard
from .identity import MAX_ID_LENGTH, request_attributes
from .metering import request_counts
from .overruns import record_overrun
from .running import registry
from .spans import Activation, owner, put, record_error, start, stopped
from .vocabulary import (
    BUDGET_PREFIX,
    DEADLINE,
    OUTCOME,
    OUTCOMES,
    REQUEST,
    REQUEST_ID,
    S_PER_NS,
    TENANT,
    TIME_TO_FINAL,
    TIME_TO_FIRST_TOKEN,
    TIME_TO_USABLE,
    TOOL_ROUNDS,
    USABLE_SOURCE,
    Outcome,
    Stage,
    budget_attribute,
    convert,
)
from .work import Work

BudgetsMs = Mapping[str, float]

CONVERSATION_ID = "gen_ai.conversation.id"

_STATE_KEY = otel_context.create_key("tailbudget-request")


class RequestState:
    """What is known about a running request; all clocks are `perf_counter_ns`.

    `span` is the request's span. Streams report here; their figures become attributes when the request ends. `marked`
    is false for an HTTP request that is none of ours. Of requests inside of each other the outermost counts.
    """

    #: Of the last model call that failed; a later call of another model is its fallback.
    failed_model = ""
    tool_rounds: int | None = None
    last_beat_ns = 0
    told_stalled = False
    prompt_version = ""
    retrieved_tokens = 0
    outcome: Outcome | None = None
    usable_ns: int | None = None
    usable_source = ""
    first_token_ns: int | None = None
    final_ns: int | None = None
    _lead_ns = 0
    _open_streams = 0
    _when_idle: Callable[[], None] | None = None

    def __init__(
        self,
        span: Span,
        *,
        started_ns: int,
        route: str,
        tenant: str = "",
        request_id: str = "",
        marked: bool = True,
    ) -> None:
        outer = current_request()
        inner = outer is not None and outer.marked
        if outer and marked:
            outer.work.on_first = None  # the work is this request's
        self.span = span
        self.marked: bool = marked or inner
        self.started_ns = started_ns
        self.route = route
        self.tenant = tenant
        self.request_id = request_id or (f"{span.get_span_context().span_id:016x}" if self.marked else "")
        self._begin_budgets(outer)
        self._lock = threading.RLock()
        self._key: tuple[str, str] | None = None
        if marked and not inner:
            self._count_in()

    def _count_in(self) -> None:
        self._key = request_counts.start(self.route, self.tenant)
        registry.enter(self)

    def discover(self, route: str) -> None:
        """Take note that an HTTP request which nobody marked has stages or model calls: it counts as one of `route`."""
        self.marked, self.route = True, self.route or route
        self.request_id = self.request_id or f"{self.span.get_span_context().span_id:016x}"
        self._count_in()

    def _begin_budgets(self, outer: "RequestState | None") -> None:
        """Begin with no budgets but the deadline and the policies of the request around this one."""
        self.work: Work = Work(outer.work if outer else None)
        self.budgets_ms: dict[str, float] = {}
        self.on_over: Policies = outer.on_over if outer else "record"
        self.deadline_ns: int | None = outer.deadline_ns if outer else None
        #: The caller said how long it waits.
        self.hurried: bool = outer.hurried if outer else False

    def stage_now(self) -> Stage:
        """Return the stage in which the request is."""
        return self.work.stage_now()

    @property
    def streamed(self) -> bool:
        """Whether a streamed call was seen."""
        return self._lead_ns > 0

    def stream_opened(self, started_ns: int) -> None:
        """Take note of a streamed call; the latest to start speaks for the request: nobody reads a planner's words."""
        with self._lock:
            self._open_streams += 1
            if started_ns >= self._lead_ns:
                self._lead_ns = started_ns
                self.first_token_ns = self.final_ns = None
                if self.usable_source != "app":
                    self.usable_ns = None

    def stream_usable(self, started_ns: int, usable_ns: int, source: str) -> None:
        """Take a usable answer seen in the stream that started at `started_ns`; what the app marked goes before it."""
        if started_ns == self._lead_ns and self.usable_ns is None:
            self.usable_ns, self.usable_source = usable_ns, source

    def stream_closed(self, started_ns: int, first_token_ns: int | None, final_ns: int) -> None:
        """Take the clocks of a stream that ended."""
        with self._lock:
            self._open_streams -= 1
            if started_ns == self._lead_ns:
                self.first_token_ns, self.final_ns = first_token_ns, final_ns
            idle = self._when_idle if self._open_streams == 0 else None
        if idle:
            idle()

    def when_idle(self, then: Callable[[], None]) -> None:
        """Call `then` once no stream of this request is open: now, or from whatever ends the last one."""
        with self._lock:
            waiting = self._open_streams > 0
            self._when_idle = then if waiting else None
        if not waiting:
            then()

    def mark_usable(self, now_ns: int) -> None:
        """Take the app's word that the answer is usable; the first mark counts."""
        if self.usable_source != "app":
            self.usable_ns, self.usable_source = now_ns, "app"

    def set_budgets(self, budgets_ms: BudgetsMs) -> None:
        """Hold the request to these budgets and put them on the span, in seconds. An unknown name raises ValueError."""
        if isinstance(budgets_ms, Budget):
            self.on_over = budgets_ms.on_over
            self.tool_rounds = budgets_ms.tool_rounds or self.tool_rounds
        if self.tool_rounds:
            self.span.set_attribute(BUDGET_PREFIX + TOOL_ROUNDS, self.tool_rounds)
        for name, budget_ms in budgets_ms.items():
            attribute = budget_attribute(name)
            self.budgets_ms[name] = budget_ms
            self.span.set_attribute(attribute, convert(budget_ms, "ms", "s"))
        if "total" in budgets_ms:
            self._end_by(self.started_ns + int(convert(budgets_ms["total"], "ms", "ns")))

    def hurry(self, remaining_ms: str | None) -> None:
        """Take the caller's word for how many milliseconds it still waits; what is no number is ignored."""
        if remaining_ms and remaining_ms.strip().isdecimal():
            self.hurried = True
            self._end_by(time.perf_counter_ns() + int(convert(int(remaining_ms), "ms", "ns")))

    def _end_by(self, deadline_ns: int) -> None:
        self.deadline_ns = min(self.deadline_ns or deadline_ns, deadline_ns)
        left_s = convert(self.deadline_ns - time.perf_counter_ns(), "ns", "s")
        self.span.set_attribute(DEADLINE, time.time() + left_s)

    @property
    def too_many_rounds(self) -> bool:
        """Whether tools ran more often, one after the other, than they may."""
        return self.tool_rounds is not None and self.work.tool_rounds > self.tool_rounds

    def finish(self, outcome: Outcome | None, said: Mapping[str, AttributeValue] = MappingProxyType({})) -> None:
        """Write outcome, clocks and `said` to the span and count the request out; ending the span is the caller's."""
        registry.leave(self)
        if self.budgets_ms or self.tool_rounds is not None:
            record_overrun(self)
        outcome = self.outcome or outcome
        attributes = dict(said)
        if self.first_token_ns is not None:
            attributes[TIME_TO_FIRST_TOKEN] = (self.first_token_ns - self.started_ns) * S_PER_NS
        if self.usable_ns is not None:
            attributes[TIME_TO_USABLE] = (self.usable_ns - self.started_ns) * S_PER_NS
            attributes[USABLE_SOURCE] = self.usable_source
        if self.final_ns is not None:
            attributes[TIME_TO_FINAL] = (self.final_ns - self.started_ns) * S_PER_NS
        if outcome:
            attributes[OUTCOME] = outcome
        put(self.span, attributes)
        if self._key:
            request_counts.end(self._key, route=self.route, tenant=self.tenant, outcome=outcome or "")
            self._key = None


def current_request(context: Context | None = None) -> RequestState | None:
    """Return the request that runs in this context, else here, or None."""
    state = (current() if context is None else context).get(_STATE_KEY)
    return state if isinstance(state, RequestState) else None


def request_context(state: RequestState, parent: Context | None = None) -> Context:
    """Return `parent` with the request and its span as the current ones."""
    return Context({**(current() if parent is None else parent), _STATE_KEY: state, SPAN_KEY: state.span})


@dataclass(eq=False)
class _Run:
    """One `with` of a scope; without a state nothing is recorded."""

    owner: object
    state: RequestState | None = None
    activation: Activation | None = None
    around: AbstractAsyncContextManager[None] | None = None

    @property
    def span(self) -> Span:
        """The request's span."""
        return self.state.span if self.state else INVALID_SPAN


class RequestScope:
    """Context manager, made by `request`. Each `with` is a request of its own, in many tasks and threads at once."""

    def __init__(self, route: str, budgets_ms: BudgetsMs, tenant: str | None, request_id: str | None) -> None:
        self._route = route
        self._budgets_ms = budgets_ms
        self._tenant = tenant
        self._request_id = request_id
        self._runs: list[_Run] = []

    async def __aenter__(self) -> Span:
        from .caps import async_cap_of  # which reads requests

        run = self._enter()
        try:
            if cap := async_cap_of(None, run.span):
                around = cap.around()
                await around.__aenter__()
                run.around = around
        except BaseException as error:
            self._leave(run, error)
            raise
        return run.span

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self._latest()
        try:
            if run.around:
                await run.around.__aexit__(kind, error, trace)
        except BaseException as over:
            error = over
            raise
        finally:
            self._leave(run, error)

    def __enter__(self) -> Span:
        return self._enter().span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self._latest(), error)

    def _latest(self) -> _Run:
        """Return the latest run of this task or thread; the latest of all where a run is ended by another one."""
        mine = owner()
        return next((run for run in reversed(self._runs) if run.owner == mine), self._runs[-1])

    def _enter(self) -> _Run:
        run = _Run(owner())
        self._runs.append(run)
        with Guard("request"):
            self._open(run)
        return run

    def _leave(self, run: _Run, error: BaseException | None) -> None:
        self._runs.remove(run)
        with Guard("request"):
            self._close(run, error)

    def _open(self, run: _Run) -> None:
        route = str(self._route)[:MAX_ID_LENGTH]
        attributes = request_attributes(route, tenant=self._tenant, request_id=self._request_id)
        started_ns = time.perf_counter_ns()
        span = start(route, kind=SpanKind.INTERNAL, attributes=attributes)
        run.state = RequestState(
            span,
            started_ns=started_ns,
            route=route,
            tenant=str(attributes.get(TENANT, "")),
            request_id=str(attributes.get(REQUEST_ID, "")),
        )
        run.activation = Activation(request_context(run.state))
        run.state.set_budgets(self._budgets_ms)

    def _close(self, run: _Run, error: BaseException | None) -> None:
        if run.activation:
            run.activation.restore()
        if run.state is None:
            return
        if error is not None:
            record_error(run.span, error)
        try:
            run.state.finish(outcome_of(error))
        finally:
            run.span.end()


def outcome_of(error: BaseException | None) -> Outcome | None:
    """Return the outcome of a request whose body ended so, None for one that was stopped."""
    if error is None:
        return "ok"
    if isinstance(error, TimeoutError):
        return "timeout"
    return None if stopped(error) else "error"


def request(
    route: str, *, budgets_ms: BudgetsMs | None = None, tenant: str | None = None, request_id: str | None = None
) -> RequestScope:
    """Return a context manager whose body is one request of `route`; it gives the request's span.

    Budgets are milliseconds by name: a stage, `model`, `total`, `ttft` or `usable`; a `Budget` can do more than be
    recorded. Under `async with` the body is cancelled when a total budget that bites is spent.
    """
    return RequestScope(route, {} if budgets_ms is None else budgets_ms, tenant, request_id)


@Guard("annotate")
def annotate(
    *,
    route: str | None = None,
    tenant: str | None = None,
    budgets_ms: BudgetsMs | None = None,
    outcome: Outcome | None = None,
    conversation_id: str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> None:
    """Say more about the current request than was known when it began; outside of one it does nothing.

    An outcome outside of the vocabulary is logged and ignored.
    """
    state = current_request()
    if state is None:
        return
    if route is not None:
        state.route = str(route)[:MAX_ID_LENGTH]
        state.span.set_attribute(REQUEST, route)
        state.span.update_name(route)
    if tenant is not None:
        state.tenant = str(tenant)[:MAX_ID_LENGTH]  # a label of metrics: one that cannot be read would stop them all
        state.span.set_attribute(TENANT, state.tenant)
    if conversation_id is not None:
        state.span.set_attribute(CONVERSATION_ID, conversation_id)
    known = outcome is None or outcome in OUTCOMES
    if known:
        state.outcome = outcome or state.outcome
    state.span.set_attributes(attributes or {})
    if budgets_ms is not None:
        state.set_budgets(budgets_ms)
    if not known:
        raise ValueError(f"unknown outcome {outcome!r}: expected one of {', '.join(OUTCOMES)}")


@Guard("usable")
def usable() -> None:
    """Say that what the user has so far is usable; the first call in a request counts."""
    if state := current_request():
        state.mark_usable(time.perf_counter_ns())
