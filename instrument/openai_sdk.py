"""The openai SDK's chat completions as spans: `chat {model}` with the clocks of the stream; traceparent is sent on."""

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from . import call_metrics
from .caps import outgoing
from .chunks import Reported
from .guard import Guard
from .hygiene import hygiene
from .imports import when_imported
from .metering import DecodeMeter, decode_meter
from .request import current_request
from .spans import Activation, record_error
from .stream_record import StreamRecord, end_of, reported_attributes
from .streams import start_call, wrap
from .vocabulary import STREAM_END

MODULE = "openai.resources.chat.completions"
#: Anyone who sets one of these asks for no further span of the call: another instrumentor at work, or ourselves.
_INSIDE_A_CALL = otel_context.create_key("tailbudget-model-call")
SUPPRESSED_BY = (
    _INSIDE_A_CALL,
    "suppress_instrumentation",
    getattr(otel_context, "_SUPPRESS_INSTRUMENTATION_KEY", "suppress_instrumentation"),
    "suppress_language_model_instrumentation",
)
#: Set by `with_raw_response` and `with_streaming_response`: the answer is then no completion yet.
RAW_RESPONSE = "x-stainless-raw-response"

#: end of the host -> well-known provider. Any other server that speaks this API is called "openai", as the GenAI
#: conventions ask of a client that cannot know better.
PROVIDERS = {
    ".openai.azure.com": "azure.ai.openai",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
}
#: argument of `create` -> attribute; the first that is given wins where two lead to one.
REQUEST_ARGUMENTS = {
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_tokens": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
}

guard = Guard("openai")
_propagator = TraceContextTextMapPropagator()
_originals: list[tuple[type, Callable[..., Any]]] = []
_stop_waiting: Callable[[], None] | None = None


def install() -> None:
    """Wrap the SDK now if it is imported, else when it is. Installing twice changes nothing."""
    global _stop_waiting
    if _stop_waiting is None:
        _stop_waiting = when_imported(MODULE, _patch)


def uninstall() -> None:
    """Put the SDK's own methods back and wait for it no longer."""
    global _stop_waiting
    if _stop_waiting:
        _stop_waiting()
        _stop_waiting = None
    while _originals:
        owner, original = _originals.pop()
        setattr(owner, "create", original)  # noqa: B010 - mypy knows no `create` of `type`


def _patch(module: ModuleType) -> None:
    for name, wrapper in (("Completions", _sync), ("AsyncCompletions", _async)):
        owner = getattr(module, name)
        original = owner.create
        _originals.append((owner, original))
        owner.create = functools.wraps(original)(wrapper(original))


def _sync(original: Callable[..., Any]) -> Callable[..., Any]:
    def create(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _begin(self, kwargs)
        if call is None:
            return original(self, *args, **kwargs)
        activation = call.activate()
        try:
            answer = original(self, *args, **call.arguments)
        except BaseException as error:
            call.fail(error)
            raise
        finally:
            activation.restore()
        return call.answer(answer)

    return create


def _async(original: Callable[..., Any]) -> Callable[..., Any]:
    async def create(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = _begin(self, kwargs)
        if call is None:
            return await original(self, *args, **kwargs)
        activation = call.activate()
        try:
            answer = await original(self, *args, **call.arguments)
        except BaseException as error:
            call.fail(error)
            raise
        finally:
            activation.restore()
        return call.answer(answer)

    return create


@guard
def _begin(completions: Any, arguments: dict[str, Any]) -> "_Call | None":
    """Start the span of a call, or answer None where somebody wants none."""
    headers = arguments.get("extra_headers") or {}
    if any(str(name).lower() == RAW_RESPONSE for name in headers):
        return None
    if any(otel_context.get_value(key) for key in SUPPRESSED_BY):
        return None
    return _Call(completions, arguments, headers)


class _Call:
    """One call of `create`."""

    def __init__(self, completions: Any, arguments: dict[str, Any], headers: Mapping[str, Any]) -> None:
        self._started_ns = time.perf_counter_ns()
        url = completions._client.base_url  # noqa: SLF001 - the SDK has no other way to the client of a resource
        self._model = str(arguments.get("model") or "")
        self._address = str(url.host)
        self._provider = provider_of(self._address)
        self._streamed = arguments.get("stream") is True
        self._span = start_call(
            model=self._model, provider=self._provider, server_address=self._address, streamed=self._streamed
        )
        self._span.set_attribute("server.port", url.port or (443 if url.scheme == "https" else 80))
        self._instance = f"{self._address}:{url.port}" if url.port else self._address
        _describe(self._span, arguments)
        self._context = _context_of(self._span)
        carrier = dict(outgoing())
        _propagator.inject(carrier, self._context)
        self.arguments = arguments | {"extra_headers": {**carrier, **headers}}

    def activate(self) -> Activation:
        """Make the call's span current, so that HTTP spans hang below it and no second call span is made."""
        return Activation(self._context)

    def answer(self, answer: Any) -> Any:
        """Return the answer: a stream wrapped, a completion as it is with its figures on the span."""
        with guard:
            if self._streamed:
                record = StreamRecord(
                    self._span, started_ns=self._started_ns, request=current_request(), meter=self._meter()
                )
                return wrap(answer, record)
            reported = Reported()
            reported.take(answer)
            self._span.set_attributes(reported_attributes(reported))
            self._span.end()
            call_metrics.ended(self._span, reported=reported)
        return answer

    def _meter(self) -> DecodeMeter:
        return decode_meter(model=self._model, provider=self._provider, server_address=self._instance, side="client")

    @guard
    def fail(self, error: BaseException) -> None:
        """End the span of a call that got no answer."""
        if isinstance(error, asyncio.CancelledError):
            self._span.set_attribute(STREAM_END, end_of(error))
        record_error(self._span, error)
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            self._span.set_attribute("http.response.status_code", status)
        self._span.end()
        call_metrics.ended(self._span, error=error)


def _describe(span: Span, arguments: Mapping[str, Any]) -> None:
    said: dict[str, bool | int | float | str] = {}
    for argument, attribute in REQUEST_ARGUMENTS.items():
        value = arguments.get(argument)
        if isinstance(value, (bool, int, float, str)):  # the SDK's "not given" is an object
            said.setdefault(attribute, value)
    span.set_attributes({**said, **hygiene(arguments.get("messages"), tools=arguments.get("tools"))})


def _context_of(span: Span) -> Context:
    return otel_context.set_value(_INSIDE_A_CALL, value=True, context=set_span_in_context(span))


def provider_of(host: str) -> str:
    """Return the provider's name in the GenAI conventions for the host of an OpenAI-compatible API."""
    return next((name for end, name in PROVIDERS.items() if host.endswith(end)), "openai")
