"""The SDKs of openai and anthropic, which one generator made: every method of theirs goes through `request`."""

import functools
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
    path = str(options.url).split("?", 1)[0]
    dialect = next((found for end, found in ROUTES[library].items() if path.endswith(end)), None)
    if dialect is None or str(options.method).lower() != "post":
        return None
    arguments = options.json_data if isinstance(options.json_data, dict) else {}
    url = client.base_url
    asked = Asked(
        dialect,
        model=str(arguments.get("model") or ""),
        provider=provider_of(str(url.host), _platform(type(client)) or library),
        address=str(url.host),
        port=url.port or (443 if url.scheme == "https" else 80),
        streamed=bool(kwargs.get("stream")),
        arguments=arguments,
    )
    return begin(library, asked)


@functools.cache
def _platform(kind: type) -> str | None:
    names = (each.__name__.removeprefix("Async") for each in kind.__mro__)
    return next((PLATFORMS[name] for name in names if name in PLATFORMS), None)


def _answer(call: ModelCall, answer: Any, options: Any, *, asynchronous: bool) -> Any:
    raw = ""
    with guard:
        headers = options.headers if isinstance(options.headers, Mapping) else {}
        raw = next((str(value) for name, value in headers.items() if str(name).lower() == RAW_RESPONSE), "")
    if not raw:
        return call.answer(answer, asynchronous=asynchronous)
    with guard:
        response = answer.http_response
        if response.is_closed:
            report(call, response.content)
        else:
            observe(response, call, asynchronous=asynchronous)
    return answer
