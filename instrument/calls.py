"""A model call seen from its client: its span, its clocks, and the HTTP requests below it."""

import functools
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind
from opentelemetry.util.types import AttributeValue

from . import call_metrics
from .caps import caps_around
from .chunks import Reported
from .contexts import SPAN_KEY, current
from .dialects import Dialect, Take
from .guard import Guard
from .hooks.patching import CALL_SUPPRESSED, INSIDE_A_CALL, suppressed
from .hygiene import hygiene_of
from .metering import decode_meter
from .network import RECORD_KEY, NetRecord
from .request import current_request
from .spans import Activation, record_error, start, stopped
from .stream_record import StreamRecord, end_of, ended_by_budget, tell_reported
from .streams import wrap
from .vocabulary import FALLBACK, HEDGED, ROLE, ROUTE_MODEL, STAGE, STREAM_END

#: end of the host -> well-known provider. Any other server that speaks OpenAI's API is called "openai", as the GenAI
#: conventions ask of a client that cannot know better.
PROVIDERS = {
    ".openai.azure.com": "azure.ai.openai",
    "api.anthropic.com": "anthropic",
    "api.cohere.com": "cohere",
    "api.deepseek.com": "deepseek",
    "api.groq.com": "groq",
    "api.mistral.ai": "mistral_ai",
    "api.perplexity.ai": "perplexity",
    "api.x.ai": "x_ai",
    "generativelanguage.googleapis.com": "gcp.gemini",
    "aiplatform.googleapis.com": "gcp.vertex_ai",
}
#: argument of a call -> attribute; the first that is given wins where several lead to one.
REQUEST_ARGUMENTS = {
    "max_completion_tokens": "gen_ai.request.max_tokens",
    "max_output_tokens": "gen_ai.request.max_tokens",
    "maxOutputTokens": "gen_ai.request.max_tokens",
    "max_tokens": "gen_ai.request.max_tokens",
    "maxTokens": "gen_ai.request.max_tokens",
    "maxTokenCount": "gen_ai.request.max_tokens",
    "max_gen_len": "gen_ai.request.max_tokens",
    "num_predict": "gen_ai.request.max_tokens",
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "topP": "gen_ai.request.top_p",
    "seed": "gen_ai.request.seed",
}
#: Modules of instrumentors of the same library: where one is at work, its span is the call's.
OTHERS = {
    "openai": (
        "opentelemetry.instrumentation.genai.openai", "opentelemetry.instrumentation.openai_v2",
        "opentelemetry.instrumentation.openai", "openinference.instrumentation.openai",
    ),
    "anthropic": (
        "opentelemetry.instrumentation.genai.anthropic", "opentelemetry.instrumentation.anthropic",
        "openinference.instrumentation.anthropic",
    ),
    "google-genai": (
        "opentelemetry.instrumentation.google_genai", "opentelemetry.instrumentation.google_generativeai",
        "openinference.instrumentation.google_genai",
    ),
    "litellm": ("openinference.instrumentation.litellm",),
    "ollama": ("opentelemetry.instrumentation.ollama",),
    "botocore": (
        "opentelemetry.instrumentation.botocore", "opentelemetry.instrumentation.bedrock",
        "openinference.instrumentation.bedrock",
    ),
    "httpx": ("opentelemetry.instrumentation.httpx",),
    "celery": ("opentelemetry.instrumentation.celery",),
    "aiohttp": ("opentelemetry.instrumentation.aiohttp_client",),
    "urllib3": ("opentelemetry.instrumentation.urllib3", "opentelemetry.instrumentation.requests"),
}  # fmt: skip

#: Kinds of calls whose attributes are kept: models, hosts and ports, of which a service has few.
MAX_KINDS = 512

guard = Guard("model call")
_CLIENT = SpanKind.CLIENT  # which the enumeration looks up anew each time
_SAID_KEY = otel_context.create_key("tailbudget-call-attributes")


def covered(library: str) -> bool:
    """Say whether another instrumentor is at work on this library."""
    names = OTHERS.get(library, ())
    if sys.modules.keys().isdisjoint(names):
        return False
    for name in names:
        module = sys.modules.get(name)
        for kind in vars(module).values() if module else ():
            instance = getattr(kind, "_instance", None) if isinstance(kind, type) else None
            if getattr(instance, "_is_instrumented_by_opentelemetry", False):
                return True
    return False


@functools.lru_cache(maxsize=1024)
def provider_of(host: str, default: str = "openai") -> str:
    """Return the provider's name in the GenAI conventions for the host of its API."""
    if host.startswith("bedrock-") and host.endswith(".amazonaws.com"):  # other hosts there are machines of anybody
        return "aws.bedrock"
    return next((name for end, name in PROVIDERS.items() if host.endswith(end)), default)


@contextmanager
def calls(
    *, role: str | None = None, fallback: bool = False, hedged: bool = False, route_model: str | None = None
) -> Iterator[None]:
    """Say of the model calls in this block what only the app knows.

    `role` is what they are for (`answer`, `plan`, `judge`), `route_model` the model that was asked of a router.
    """
    said: dict[str, AttributeValue | None] = {
        ROLE: role, ROUTE_MODEL: route_model, FALLBACK: fallback or None, HEDGED: hedged or None,
    }  # fmt: skip
    known = otel_context.get_value(_SAID_KEY)
    inherited = known if isinstance(known, dict) else {}
    added = {name: value for name, value in said.items() if value is not None}
    activation = Activation(otel_context.set_value(_SAID_KEY, inherited | added))
    try:
        yield
    finally:
        activation.restore()


@functools.lru_cache(maxsize=MAX_KINDS)
def _kind(
    operation: str,
    model: str,
    provider: str,
    address: str,
    port: int | None,
    streamed: bool,  # noqa: FBT001 - by keyword the cache costs twice as much
) -> Mapping[str, AttributeValue]:
    said: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": model or None,
        "gen_ai.provider.name": provider or None,
        "server.address": address or None,
        "server.port": port,
    }
    if operation == "embeddings":
        said[STAGE] = "retrieval"
    else:
        said["gen_ai.request.stream"] = streamed
    return {name: value for name, value in said.items() if value is not None}


@dataclass(slots=True)
class Asked:
    """What a call asks for, as far as its caller says."""

    dialect: Dialect
    model: str = ""
    provider: str = ""
    address: str = ""
    port: int | None = None
    streamed: bool = False
    arguments: Mapping[str, Any] = default(default_factory=dict)

    def attributes(self) -> dict[str, AttributeValue]:
        """Return the attributes with which the span starts."""
        kind = _kind(self.dialect.operation, self.model, self.provider, self.address, self.port, self.streamed)
        said = dict(kind)
        for argument in REQUEST_ARGUMENTS if not REQUEST_ARGUMENTS.keys().isdisjoint(self.arguments) else ():
            value = self.arguments.get(argument)
            if isinstance(value, (bool, int, float, str)):  # an SDK's "not given" is an object
                said.setdefault(REQUEST_ARGUMENTS[argument], value)
        return said


class ModelCall:
    """One call, from `begin` to `answer` or `fail`."""

    def __init__(self, asked: Asked) -> None:
        self.started_ns = time.perf_counter_ns()
        self.asked = asked
        context = current()
        self._request = current_request(context)
        self._caps = caps_around()
        attributes = asked.attributes()
        if asked.dialect.operation != "embeddings":
            attributes.update(hygiene_of(asked.arguments, self._request))
        if isinstance(said := context.get(_SAID_KEY), dict):
            attributes.update(said)
        if self._request and self._request.failed_model not in ("", asked.model):
            attributes.setdefault(FALLBACK, True)
            self._request.failed_model = ""
        name = f"{asked.dialect.operation} {asked.model}".strip()
        self.span = start(name, kind=_CLIENT, attributes=attributes, context=context)
        call_metrics.began(self.span, attributes, streamed=asked.streamed, context=context)
        self.network = NetRecord(self.span, host=asked.address)
        self.context = Context({**context, INSIDE_A_CALL: True, RECORD_KEY: self.network, SPAN_KEY: self.span})

    def activate(self) -> Activation:
        """Make the call current, so that its HTTP requests are found and no second call span is made."""
        return Activation(self.context)

    def record(self, take: Take | None = None) -> StreamRecord:
        """Return the record of a streamed answer; it ends the span. `take` reads what its dialect's would."""
        asked = self.asked
        instance = f"{asked.address}:{asked.port}" if asked.port else asked.address
        meter = decode_meter(model=asked.model, provider=asked.provider, server_address=instance, side="client")
        return StreamRecord(
            self.span,
            started_ns=self.started_ns,
            request=self._request,
            meter=meter if asked.model else None,
            text_of=asked.dialect.read,
            take=take or asked.dialect.take,
        )

    def answer(self, answer: Any, *, asynchronous: bool) -> Any:
        """Return the answer: a stream wrapped, any other as it is with its figures on the span."""
        try:
            if self.asked.streamed:
                return wrap(answer, self.record(), asynchronous=asynchronous)
            self.report(answer)
        except Exception as error:
            if not guard.swallow(error):
                raise
        return answer

    def report(self, answer: Any) -> None:
        """End the span with what a whole answer says."""
        reported = Reported()
        try:
            self.asked.dialect.take(reported, answer)
            tell_reported(self.span, reported)
        finally:
            self.span.end()
            call_metrics.ended(self.span, reported=reported)

    @guard
    def fail(self, error: BaseException) -> None:
        """End the span of a call that got no answer."""
        try:
            end = ended_by_budget(end_of(error), error, self._request, self._caps)
            if end != "error":
                self.span.set_attribute(STREAM_END, end)
            if self._request and not stopped(error):
                self._request.failed_model = self.asked.model
            record_error(self.span, error)
            said = (getattr(error, name, None) for name in ("status_code", "status", "code"))
            status = next((found for found in said if isinstance(found, int)), None)
            if status is not None:
                self.span.set_attribute("http.response.status_code", status)
        finally:
            self.span.end()
            call_metrics.ended(self.span, error=error)


def begin(library: str, asked: Asked) -> ModelCall | None:
    """Start the span of a call; None where somebody wants none, or another instrumentor makes it."""
    if suppressed(CALL_SUPPRESSED) or covered(library):
        return None
    return ModelCall(asked)
