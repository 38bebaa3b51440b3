"""Stages: a span that owns the time of one step of a request, around a block, a function or a generator."""

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar, ParamSpec, TypeVar, cast

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, set_span_in_context
from opentelemetry.util.types import AttributeValue

from . import faults, providers
from .caps import async_cap_of, call_in_worker, cap_of
from .errors import UserError
from .guard import Guard
from .request import RequestState, current_request
from .spans import Activation, arguments_hash, owner, record_error
from .vocabulary import STAGE, STAGES, TOOL_CALL_HASH, Stage
from .work import OWNED

F = TypeVar("F", bound=Callable[..., Any])
P = ParamSpec("P")
R = TypeVar("R")

#: stage -> first word of the span's name, kind. Stages that are not here are named as they are, INTERNAL.
SPAN_FORMS: dict[str, tuple[str, SpanKind]] = {
    "retrieval": ("retrieval", SpanKind.CLIENT),
    "tools": ("execute_tool", SpanKind.INTERNAL),
}


class OpenStage:
    """One run of a stage. When it could not be opened, all of it does nothing."""

    def __init__(self, stage: Stage, name: str | None, attributes: dict[str, AttributeValue]) -> None:
        self.span: Span = INVALID_SPAN
        self._inside = otel_context.get_current()
        self._stage = stage
        self._request: RequestState | None = None
        with Guard("stage"):
            self.span = _start(stage, name, attributes)
            self._inside = otel_context.set_value(OWNED, stage, set_span_in_context(self.span))
            self._request = current_request()
            if self._request:
                self._request.work.stage_began(stage)

    @property
    def context(self) -> Context:
        """The context in which the stage's span is the current one."""
        return self._inside

    def activate(self) -> Activation:
        """Make the stage's span current until the activation is restored."""
        return Activation(self._inside)

    @contextmanager
    def resumed(self) -> Iterator[None]:
        """Run the next step of a generator in the context in which it stopped, and the consumer's again after it."""
        outside = otel_context.get_current()
        otel_context.attach(self._inside)
        try:
            yield
        finally:
            self._inside = otel_context.get_current()
            otel_context.attach(outside)

    def end(self, error: BaseException | None) -> None:
        """End the span, marked as failed if `error` is an error."""
        with Guard("stage"):
            request, self._request = self._request, None
            if request:
                request.work.stage_ended(self._stage)
            if error is not None:
                record_error(self.span, error)
            self.span.end()


def _start(stage: Stage, name: str | None, attributes: dict[str, AttributeValue]) -> Span:
    if stage not in STAGES:
        raise ValueError(f"unknown stage {stage!r}: expected one of {', '.join(STAGES)}")
    word, kind = SPAN_FORMS.get(stage, (stage, SpanKind.INTERNAL))
    said: dict[str, AttributeValue] = {STAGE: stage}
    if stage == "tools":
        said["gen_ai.operation.name"] = "execute_tool"
        if name:
            said["gen_ai.tool.name"] = name
    span_name = f"{word} {name}" if name else word
    return providers.tracer().start_span(span_name, kind=kind, attributes=said | attributes)


@dataclass(eq=False)
class _Run:
    """One `with` of a scope."""

    opened: OpenStage
    activation: Activation
    owner: object
    around: AbstractAsyncContextManager[None] | None = None


class StageScope:
    """Context manager and decorator, made by `stage`. Each `with` and each call is a stage of its own.

    One scope may serve many tasks and threads at once, and be entered again inside of itself.
    """

    def __init__(self, stage: Stage, name: str | None, attributes: dict[str, AttributeValue]) -> None:
        self._stage = stage
        self._name = name
        self._attributes = attributes
        self._runs: list[_Run] = []

    def __enter__(self) -> Span:
        return self._enter().opened.span

    def _enter(self) -> _Run:
        opened = self.open(self._name)
        run = _Run(opened, opened.activate(), owner())
        self._runs.append(run)
        if faults.heeded:
            try:
                faults.suffer(self._stage)
            except BaseException as error:
                self._leave(run, error)
                raise
        return run

    def _latest(self) -> _Run:
        """Return the latest run of this task or thread; the latest of all where a run is ended by another one."""
        mine = owner()
        return next((run for run in reversed(self._runs) if run.owner == mine), self._runs[-1])

    def _leave(self, run: _Run, error: BaseException | None) -> None:
        self._runs.remove(run)
        run.activation.restore()
        run.opened.end(error)

    async def __aenter__(self) -> Span:
        run = self._enter()
        try:
            if cap := async_cap_of(self._stage, run.opened.span):
                around = cap.around()
                await around.__aenter__()
                run.around = around
            if faults.heeded:
                await faults.endure(self._stage)
        except BaseException as error:
            self._leave(run, error)
            raise
        return run.opened.span

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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(self._latest(), error)

    def open(self, name: str | None) -> OpenStage:
        """Begin the stage under this name."""
        return OpenStage(self._stage, name, self._attributes)

    def _of_call(self, name: str | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> "StageScope":
        """Return the scope of one call of a decorated function."""
        return StageScope(self._stage, name, _told(self._stage, args, kwargs) | self._attributes)

    #: What to do with each kind of function; the first test that holds decides.
    _WRAPPERS: ClassVar[tuple[tuple[Callable[[Any], bool], str], ...]] = (
        (inspect.isasyncgenfunction, "_async_generator"),
        (inspect.isgeneratorfunction, "_generator"),
        (inspect.iscoroutinefunction, "_coroutine"),
        (callable, "_function"),
    )

    def __call__(self, function: F) -> F:
        name = self._name or getattr(function, "__name__", None)
        wrap = next((wrapper for test, wrapper in self._WRAPPERS if test(function)), None)
        if wrap is None:
            raise UserError(f"stage({self._stage!r}) was given {function!r} to decorate: expected a function")
        wrapped = getattr(self, wrap)(function, name)
        return cast("F", functools.wraps(function)(wrapped))

    def _function(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self._of_call(name, args, kwargs) as span:
                cap = cap_of(self._stage, span)
                return function(*args, **kwargs) if cap is None or cap.left_s > 0 else cap.answer()

        return call

    def _coroutine(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            with self._of_call(name, args, kwargs) as span:
                cap = async_cap_of(self._stage, span)
                work = function(*args, **kwargs)
                if faults.heeded:
                    work = _late(self._stage, work)
                return await (cap.run(work) if cap else work)

        return call

    def _generator(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            return (yield from _drive(self._of_call(name, args, kwargs).open(name), function(*args, **kwargs)))

        return call

    def _async_generator(self, function: Callable[..., Any], name: str | None) -> Callable[..., Any]:
        async def call(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            running = self._of_call(name, args, kwargs).open(name)
            generator = function(*args, **kwargs)
            step: Callable[[], Any] = functools.partial(generator.asend, None)
            try:
                while True:
                    with running.resumed():
                        value = await step()
                    try:
                        sent = yield value
                    except GeneratorExit:
                        with running.resumed():
                            await generator.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, handed on
                        step = functools.partial(generator.athrow, error)
                    else:
                        step = functools.partial(generator.asend, sent)
            except StopAsyncIteration:
                running.end(None)
            except BaseException as error:
                running.end(error)
                raise

        return call


def _told(stage: Stage, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, AttributeValue]:
    """Return what a call's arguments say: of a tool a hash, so that the same call made twice shows."""
    with Guard("stage"):
        return {TOOL_CALL_HASH: arguments_hash([args, kwargs])} if stage == "tools" else {}
    return {}


async def _late(stage: Stage, work: Awaitable[R]) -> R:
    """Return what `work` gives, begun as late as the request asks."""
    await faults.endure(stage)
    return await work


def stage(stage: Stage, name: str | None = None, **attributes: AttributeValue) -> StageScope:
    """Return a context manager and decorator under which time belongs to `stage`.

    As a context manager it gives the stage's span. As a decorator it takes functions, coroutine functions, generators
    and asynchronous generators; a generator's stage covers its whole iteration. Without `name` a decorated function's
    own name is used. `attributes` go onto the span; a decorated tool's has a hash of its arguments too.

    Where the request's budget bites (`Budget(on_over=...)`) coroutine functions and `async with` blocks are cancelled
    when the stage's budget or the total is spent, and a blocking function is not begun when nothing is left.
    """
    return StageScope(stage, name, attributes)


def within(stage: Stage, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what a blocking function returns, run as `stage`; raises what it raises.

    Where the request's budget bites it runs in a thread of its own, with the same context, and is waited for until the
    stage's budget or the total is spent: then the fallback answers, or OverBudgetError is raised. Nothing can stop
    such a thread: the function goes on and its result is thrown away.
    """
    with StageScope(stage, getattr(function, "__name__", None), _told(stage, args, kwargs)) as span:
        cap = cap_of(stage, span)
        answer: R = call_in_worker(cap, function, *args, **kwargs) if cap else function(*args, **kwargs)
        return answer


def _drive(running: OpenStage, generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Run `generator` with the stage current inside it, and only there: between two values the consumer runs."""
    step: Callable[[], Any] = functools.partial(generator.send, None)
    try:
        while True:
            with running.resumed():
                value = step()
            try:
                sent = yield value
            except GeneratorExit:
                with running.resumed():
                    generator.close()
                raise
            except BaseException as error:  # noqa: BLE001 - thrown in by the consumer, handed to the generator
                step = functools.partial(generator.throw, error)
            else:
                step = functools.partial(generator.send, sent)
    except StopIteration as stop:
        running.end(None)
        return stop.value
    except BaseException as error:
        running.end(error)
        raise
