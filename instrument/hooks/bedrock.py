"""Amazon Bedrock through boto3: converse and invoke_model, streamed or not."""

import json
import weakref
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from .. import dialects
from ..calls import Asked, ModelCall, begin
from ..dialects import INVOCATION, Dialect
from ..guard import Guard
from ..wire import MAX_BODY_BYTES
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


def _measuring(original: Callable[..., Any]) -> Callable[..., Any]:
    def make_api_call(self: Any, operation_name: str, api_params: Any) -> Any:
        operation = OPERATIONS.get(operation_name)
        call = _begin(self, operation, api_params) if operation else None
        if operation is None or call is None:
            return original(self, operation_name, api_params)
        with Inside(call):
            answer = original(self, operation_name, api_params)
        return _answered(call, operation, answer)

    return make_api_call


@guard
def _begin(client: Any, operation: Operation, params: Mapping[str, Any]) -> ModelCall | None:
    if client.meta.service_model.service_name != "bedrock-runtime":
        return None
    url = urlsplit(client.meta.endpoint_url)
    said = {**params, **_json(params.get("body"))}
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


def _json(body: Any) -> Mapping[str, Any]:
    if not isinstance(body, (str, bytes, bytearray)) or len(body) > MAX_BODY_BYTES:
        return {}
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _answered(call: ModelCall, operation: Operation, answer: Any) -> Any:
    with guard:
        if operation.key is None:
            call.report(answer)
        elif operation.streamed:
            answer[operation.key] = call.answer(answer[operation.key], asynchronous=False)
        else:
            body = answer[operation.key]
            body._raw_stream = _Observed(body._raw_stream, call, _counts(answer))  # noqa: SLF001 - all its methods read it
    return answer


def _counts(answer: Mapping[str, Any]) -> Mapping[str, int]:
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return {meaning: int(headers[name]) for name, meaning in COUNTS.items() if str(headers.get(name)).isdigit()}


class _Observed:
    """The bytes of a whole answer, kept on their way to whoever reads them; the call ends with the last."""

    def __init__(self, raw: Any, call: ModelCall, counts: Mapping[str, int]) -> None:
        self._raw = raw
        self._call = call
        self._read = bytearray()
        self._end = weakref.finalize(self, _report, call, self._read, counts)  # left unread: what headers say

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """Read as the stream does."""
        try:
            part = self._raw.read(*args, **kwargs)
        except BaseException as error:
            if self._end.detach():
                self._call.fail(error)
            raise
        with guard:
            if len(self._read) <= MAX_BODY_BYTES:
                self._read += part
            if not part or not (args or kwargs) or (args or (kwargs.get("amt"),))[0] is None:
                self._end()
        return part

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer as the stream does."""
        part = self.read(len(buffer))
        buffer[: len(part)] = part
        return len(part)

    def close(self) -> None:
        """Close the stream."""
        self._end()
        self._raw.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


@guard
def _report(call: ModelCall, body: bytearray, counts: Mapping[str, int]) -> None:
    call.report({**_json(body), INVOCATION: counts})
