"""Amazon Bedrock through boto3 and aiobotocore: converse and invoke_model, streamed or not."""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .. import dialects
from ..calls import Asked, ModelCall, begin
from ..collected import when_collected
from ..dialects import INVOCATION, Dialect
from ..guard import Guard
from ..wire import MAX_BODY_BYTES, json_object
from .inside import Inside
from .patching import replace

guard = Guard("bedrock")


class Operation(NamedTuple):
    """How the answer reads, and under which key its stream or body is; None where it is a dictionary as it comes."""

    dialect: Dialect
    key: str | None
    streamed: bool


OPERATIONS: Mapping[str, Operation] = {
    "Converse": Operation(dialects.CONVERSE, None, streamed=False),
    "ConverseStream": Operation(dialects.CONVERSE, "stream", streamed=True),
    "InvokeModel": Operation(dialects.INVOKED, "body", streamed=False),
    "InvokeModelWithResponseStream": Operation(dialects.INVOKED, "body", streamed=True),
}
#: Where a body has the settings of a model: Titan's, Nova's and Converse's.
SETTINGS = ("textGenerationConfig", "inferenceConfig", "toolConfig")
#: Header of an answer -> what the last chunk of a streamed one says under `INVOCATION`.
COUNTS = {
    "x-amzn-bedrock-input-token-count": "inputTokenCount",
    "x-amzn-bedrock-output-token-count": "outputTokenCount",
}


def botocore(module: ModuleType) -> None:
    """Measure what a client of `bedrock-runtime` asks."""
    replace(module.BaseClient, "_make_api_call", _measuring)


def aiobotocore(module: ModuleType) -> None:
    """Measure what an asynchronous client of `bedrock-runtime` asks."""
    replace(module.AioBaseClient, "_make_api_call", _measuring_async)


def _measuring(original: Callable[..., Any]) -> Callable[..., Any]:
    def make_api_call(self: Any, operation_name: str, api_params: Any) -> Any:
        operation = OPERATIONS.get(operation_name)
        call = _begin(self, operation, api_params) if operation else None
        if operation is None or call is None:
            return original(self, operation_name, api_params)
        with Inside(call):
            answer = original(self, operation_name, api_params)
        return _answered(call, operation, answer, asynchronous=False)

    return make_api_call


def _measuring_async(original: Callable[..., Any]) -> Callable[..., Any]:
    async def make_api_call(self: Any, operation_name: str, api_params: Any) -> Any:
        operation = OPERATIONS.get(operation_name)
        call = _begin(self, operation, api_params) if operation else None
        if operation is None or call is None:
            return await original(self, operation_name, api_params)
        with Inside(call):
            answer = await original(self, operation_name, api_params)
        return _answered(call, operation, answer, asynchronous=True)

    return make_api_call


@guard
def _begin(client: Any, operation: Operation, params: Mapping[str, Any]) -> ModelCall | None:
    if client.meta.service_model.service_name != "bedrock-runtime":
        return None
    url = urlsplit(client.meta.endpoint_url)
    said = {**params, **json_object(params.get("body"))}
    for name in SETTINGS:
        if isinstance(found := said.get(name), Mapping):
            said |= found
    model = str(params.get("modelId") or "")
    asked = Asked(
        dialects.EMBEDDINGS if "embed" in model else operation.dialect,
        model=model,
        provider="aws.bedrock",
        address=url.hostname or "",
        port=url.port or {"https": 443, "http": 80}.get(url.scheme),
        streamed=operation.streamed,
        arguments=said,
    )
    return begin("botocore", asked)


def _answered(call: ModelCall, operation: Operation, answer: Any, *, asynchronous: bool) -> Any:
    with guard:
        if operation.key is None:
            call.report(answer)
        elif operation.streamed:
            answer[operation.key] = call.answer(answer[operation.key], asynchronous=asynchronous)
        else:
            body = answer[operation.key]
            kept = _Kept(body, call, _counts(answer))
            if asynchronous:
                body.read = _reading(body.read, kept)  # which all its methods call
            else:
                body._raw_stream = _Observed(body._raw_stream, kept)  # noqa: SLF001 - which all its methods read
    return answer


def _counts(answer: Mapping[str, Any]) -> Mapping[str, int]:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {meaning: int(headers[name]) for name, meaning in COUNTS.items() if str(headers.get(name)).isdigit()}


class _Kept:
    """The bytes of a whole answer, kept on their way to whoever reads them; the call ends with the last."""

    def __init__(self, body: Any, call: ModelCall, counts: Mapping[str, int]) -> None:
        self._call = call
        self._read = bytearray()
        self.end = when_collected(body, _report, call, self._read, counts)  # left unread: what headers say

    @guard
    def see(self, part: bytes, args: tuple[Any, ...]) -> None:
        """Keep a part that was read with these arguments, of which the first is how much was asked for."""
        if len(self._read) <= MAX_BODY_BYTES:
            self._read += part
        if not part or args[:1] in ((), (None,)):
            self.end()

    def fail(self, error: BaseException) -> None:
        """End the call with what stopped the answer."""
        if self.end.detach():
            self._call.fail(error)


class _Observed:
    """What a body of botocore reads from, observed."""

    def __init__(self, raw: Any, kept: _Kept) -> None:
        self._raw = raw
        self._kept = kept

    def read(self, *args: Any) -> Any:
        """Read as the stream does."""
        try:
            part = self._raw.read(*args)
        except BaseException as error:
            self._kept.fail(error)
            raise
        self._kept.see(part, args)
        return part

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer as the stream does."""
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """Close the stream."""
        self._kept.end()
        self._raw.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _reading(original: Callable[..., Any], kept: _Kept) -> Callable[..., Any]:
    async def read(*args: Any) -> Any:
        try:
            part = await original(*args)
        except BaseException as error:
            kept.fail(error)
            raise
        kept.see(part, args)
        return part

    return read


@guard
def _report(call: ModelCall, body: bytearray, counts: Mapping[str, int]) -> None:
    call.report({**json_object(body), INVOCATION: counts})
