"""The SDKs of openai and anthropic, which one generator made: every method of theirs goes through `request`."""

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from opentelemetry import context as otel_context

from .. import dialects
from ..calls import Asked, ModelCall, begin, provider_of
from ..dialects import Dialect
from ..guard import Guard
from ..wire import report
from . import patching
from .http_httpx import observe
from .inside import Inside
from .patching import replace

#: end of the path that is asked for -> how its answers read; one row adds one more.
ROUTES: Mapping[str, Mapping[str, Dialect]] = {
    "openai": {
        "/chat/completions": dialects.CHAT,
        "/completions": dialects.COMPLETION,
        "/responses": dialects.RESPONSES,
        "/embeddings": dialects.EMBEDDINGS,
    },
    "anthropic": {"/v1/messages": dialects.MESSAGES, "/v1/complete": dialects.MESSAGES},
}
#: Class of a client, or of one that it is made of -> its provider, whatever host it asks.
PLATFORMS: Mapping[str, str] = {
    "AnthropicBedrock": "aws.bedrock",
    "AnthropicBedrockMantle": "aws.bedrock",
    "AnthropicVertex": "gcp.vertex_ai",
    "AzureOpenAI": "azure.ai.openai",
    "BedrockOpenAI": "aws.bedrock",
}
#: Header that `with_raw_response` ("raw") and `with_streaming_response` ("stream") set: the answer is no object yet.
RAW_RESPONSE = "x-stainless-raw-response"
#: Header that `messages.stream` of anthropic sets.
STREAM_HELPER = "x-stainless-stream-helper"

#: Paths, and classes of clients, of which is known what they are.
MAX_KNOWN = 256

guard = Guard("model SDK")


def openai(module: ModuleType) -> None:
    """Measure what the openai SDK asks."""
    _hook(module, "openai")


def anthropic(module: ModuleType) -> None:
    """Measure what the anthropic SDK asks; its own span of a call gives way to ours, which has the stream's clocks."""
    _hook(module, "anthropic")
    native = vars(module.BaseClient).get("_tracer")
    if isinstance(native, property) and native.fget:
        find = native.fget

        def tracer(self: Any) -> Any:
            return None if otel_context.get_value(patching.INSIDE_A_CALL) else find(self)

        patching.set_value(module.BaseClient, "_tracer", property(tracer))


def _hook(module: ModuleType, library: str) -> None:
    replace(module.SyncAPIClient, "request", _sync(library))
    replace(module.AsyncAPIClient, "request", _async(library))


def _sync(library: str) -> Callable[..., Any]:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            call = _begin(library, self, options, kwargs)
            if call is None:
                return original(self, cast_to, options, **kwargs)
            with Inside(call):
                answer = original(self, cast_to, options, **kwargs)
            return _answer(call, answer, options, asynchronous=False)

        return request

    return wrapper


def _async(library: str) -> Callable[..., Any]:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        async def request(self: Any, cast_to: Any, options: Any, **kwargs: Any) -> Any:
            call = _begin(library, self, options, kwargs)
            if call is None:
                return await original(self, cast_to, options, **kwargs)
            with Inside(call):
                answer = await original(self, cast_to, options, **kwargs)
            return _answer(call, answer, options, asynchronous=True)

        return request

    return wrapper


@guard
def _begin(library: str, client: Any, options: Any, kwargs: Mapping[str, Any]) -> ModelCall | None:
    dialect = _dialect(library, str(options.url))
    if dialect is None or str(options.method).lower() != "post":
        return None
    arguments = options.json_data if isinstance(options.json_data, dict) else {}
    url = client.base_url
    host = str(url.host)
    kind: Any = type(client)
    asked = Asked(
        dialect,
        model=str(arguments.get("model") or ""),
        provider=provider_of(host, _platform(kind) or library),
        address=host,
        port=url.port or (443 if url.scheme == "https" else 80),
        streamed=bool(kwargs.get("stream")),
        arguments=arguments,
    )
    return begin(library, asked)


@functools.lru_cache(maxsize=MAX_KNOWN)
def _dialect(library: str, url: str) -> Dialect | None:
    path = url.split("?", 1)[0]
    return next((found for end, found in ROUTES[library].items() if path.endswith(end)), None)


@functools.lru_cache(maxsize=MAX_KNOWN)
def _platform(client: type) -> str | None:
    names = (each.__name__.removeprefix("Async") for each in client.__mro__)
    return next((PLATFORMS[name] for name in names if name in PLATFORMS), None)


@functools.cache
def _helper_reads_response() -> bool:
    """Say whether anthropic's `messages.stream` reads the response by itself, past the stream of the call."""
    kind = getattr(sys.modules.get("anthropic.lib.streaming"), "MessageStream", None)
    return kind is not None and "response" in inspect.signature(kind.__init__).parameters


def _answer(call: ModelCall, answer: Any, options: Any, *, asynchronous: bool) -> Any:
    headers: dict[str, str] = {}
    unread = False
    try:
        if options.headers and isinstance(options.headers, Mapping):
            headers = {str(name).lower(): str(value) for name, value in options.headers.items()}
            unread = STREAM_HELPER in headers and _helper_reads_response()
    except Exception as error:
        if not guard.swallow(error):
            raise
    if not headers.get(RAW_RESPONSE) and not unread:
        return call.answer(answer, asynchronous=asynchronous)
    with guard:
        response = answer.response if unread else answer.http_response
        if response.is_closed:
            report(call, response.content)
        else:
            observe(response, call, asynchronous=asynchronous)
    return answer
