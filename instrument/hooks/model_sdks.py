"""Model SDKs of one function a call: google-genai, ollama, litellm. One row of `FUNCTIONS` adds one more."""

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .. import dialects
from ..calls import Asked, ModelCall, begin, provider_of
from ..dialects import Dialect
from ..guard import Guard
from .inside import Inside
from .patching import replace, replaced, set_value

guard = Guard("model SDK")


class Function(NamedTuple):
    """`owner.name` in the module of a library; `streamed` None means that the argument `stream` tells."""

    library: str
    owner: str
    name: str
    dialect: Dialect
    streamed: bool | None = None


FUNCTIONS = (
    Function("google-genai", "Models", "_generate_content", dialects.GEMINI, streamed=False),
    Function("google-genai", "AsyncModels", "_generate_content", dialects.GEMINI, streamed=False),
    Function("google-genai", "Models", "_generate_content_stream", dialects.GEMINI, streamed=True),
    Function("google-genai", "AsyncModels", "_generate_content_stream", dialects.GEMINI, streamed=True),
    Function("google-genai", "Models", "embed_content", dialects.EMBEDDINGS, streamed=False),
    Function("google-genai", "AsyncModels", "embed_content", dialects.EMBEDDINGS, streamed=False),
    Function("ollama", "Client", "chat", dialects.OLLAMA),
    Function("ollama", "AsyncClient", "chat", dialects.OLLAMA),
    Function("ollama", "Client", "generate", dialects.OLLAMA),
    Function("ollama", "AsyncClient", "generate", dialects.OLLAMA),
    Function("ollama", "Client", "embed", dialects.EMBEDDINGS, streamed=False),
    Function("ollama", "AsyncClient", "embed", dialects.EMBEDDINGS, streamed=False),
    Function("litellm", "", "completion", dialects.CHAT),
    Function("litellm", "", "acompletion", dialects.CHAT),
    Function("litellm", "", "embedding", dialects.EMBEDDINGS, streamed=False),
    Function("litellm", "", "aembedding", dialects.EMBEDDINGS, streamed=False),
)
DEFAULTS = {"google-genai": "gcp.gemini", "ollama": "ollama", "litellm": ""}


def google_genai(module: ModuleType) -> None:
    """Measure google-genai; what it does around automatic function calls is several calls."""
    _hook("google-genai", module)


def ollama(module: ModuleType) -> None:
    """Measure ollama."""
    _hook("ollama", module)


def litellm(module: ModuleType) -> None:
    """Measure litellm; the SDK that it calls below makes no second span."""
    _hook("litellm", module)


def litellm_package(module: ModuleType) -> None:
    """Do the same under the names of the package itself, which copied them from its module, before us or after."""
    main = sys.modules.get(f"{module.__name__}.main")
    for name in [function.name for function in FUNCTIONS if function.library == "litellm"]:
        original = replaced(main, name)
        if original is not None and vars(module).get(name) in (original, getattr(main, name)):
            setattr(module, name, original)
            set_value(module, name, getattr(main, name))


def _hook(library: str, module: ModuleType) -> None:
    for function in FUNCTIONS:
        owner = getattr(module, function.owner, None) if function.owner else module
        if function.library == library and owner is not None:
            replace(owner, function.name, _measuring(function))


def _measuring(function: Function) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        def start(args: Any, kwargs: Any) -> ModelCall | None:
            with guard:
                return begin(function.library, _asked(function, signature, args, kwargs))
            return None

        def measured(*args: Any, **kwargs: Any) -> Any:
            call = start(args, kwargs)
            if call is None:
                return original(*args, **kwargs)
            with Inside(call):
                return call.answer(_lazily(call, original(*args, **kwargs)), asynchronous=False)

        async def measured_async(*args: Any, **kwargs: Any) -> Any:
            call = start(args, kwargs)
            if call is None:
                return await original(*args, **kwargs)
            with Inside(call):
                return call.answer(_lazily(call, await original(*args, **kwargs)), asynchronous=True)

        return measured_async if inspect.iscoroutinefunction(original) else measured

    return wrapper


def _lazily(call: ModelCall, answer: Any) -> Any:
    """Make the call current for the first pull of a generator, which is when it sends its request."""
    if inspect.isgenerator(answer):
        return _Lazy(call, answer)
    return _AsyncLazy(call, answer) if inspect.isasyncgen(answer) else answer


class _Lazy:
    def __init__(self, call: ModelCall, chunks: Any) -> None:
        self._call = call
        self._chunks = chunks
        self._pull = self._first

    def __iter__(self) -> "_Lazy":
        return self

    def __next__(self) -> Any:
        return self._pull()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chunks, name)

    def _first(self) -> Any:
        self._pull = self._chunks.__next__
        with Inside(self._call, ends=False):
            return self._pull()


class _AsyncLazy:
    def __init__(self, call: ModelCall, chunks: Any) -> None:
        self._call = call
        self._chunks = chunks
        self._pull = self._first

    def __aiter__(self) -> "_AsyncLazy":
        return self

    def __anext__(self) -> Any:
        return self._pull()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._chunks, name)

    async def _first(self) -> Any:
        self._pull = self._chunks.__anext__
        with Inside(self._call, ends=False):
            return await self._pull()


def _asked(function: Function, signature: inspect.Signature, args: Any, kwargs: Any) -> Asked:
    given: dict[str, Any] = dict(signature.bind_partial(*args, **kwargs).arguments)
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            given |= given.pop(name, {})
    url = _address(function, given)
    model = str(given.get("model") or "")
    provider = DEFAULTS[function.library]
    if function.library == "google-genai" and given["self"]._api_client.vertexai:  # noqa: SLF001 - it says so nowhere else
        provider = "gcp.vertex_ai"
    if function.library == "litellm":
        provider, _, _ = model.rpartition("/")[0].partition("/")
    return Asked(
        function.dialect,
        model=model.removeprefix("models/") if function.library == "google-genai" else model,
        provider=provider_of(url.hostname or "", provider),
        address=url.hostname or "",
        port=url.port or ({"https": 443, "http": 80}.get(url.scheme)),
        streamed=bool(given.get("stream")) if function.streamed is None else function.streamed,
        arguments={name: value for found in (given, *_nested(given)) for name, value in found.items()},
    )


def _nested(given: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Give the settings that a library takes as one argument: `config` of google-genai, `options` of ollama."""
    for name in ("config", "options"):
        said = given.get(name)
        if isinstance(said, Mapping):
            yield said
        elif said is not None:
            yield getattr(said, "__dict__", {})


def _address(function: Function, given: Mapping[str, Any]) -> Any:
    client: Any = given.get("self")
    found = given.get("api_base") or given.get("base_url")
    if function.library == "ollama":
        found = client._client.base_url  # noqa: SLF001 - the SDK has no other way to the address
    elif function.library == "google-genai":
        options = client._api_client._http_options  # noqa: SLF001
        found = options.base_url
    return urlsplit(str(found or ""))
