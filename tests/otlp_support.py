"""Calls of OTLP/gRPC with raw bytes, and what their answers say."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.rpc.error_details_pb2 import BadRequest, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from tailbudget.collector.receive.endpoints import ENDPOINTS

METHODS: Mapping[str, str] = {endpoint.signal: endpoint.method for endpoint in ENDPOINTS}


@dataclass(frozen=True)
class Answer:
    """How a call ended."""

    code: grpc.StatusCode
    body: bytes = b""
    reason: str = ""
    status: Any = None  # google.rpc.Status of the trailers

    @property
    def retry_s(self) -> int | None:
        """Seconds after which to try again, where the answer says so."""
        found = RetryInfo()
        (detail,) = self.status.details
        return int(found.retry_delay.seconds) if detail.Unpack(found) else None

    @property
    def violations(self) -> list[str]:
        """What is wrong with the data."""
        found = BadRequest()
        (detail,) = self.status.details
        return [item.description for item in found.field_violations] if detail.Unpack(found) else []


@contextmanager
def channel(port: int, *, certificate: bytes | None = None) -> Iterator[grpc.Channel]:
    """Connect to loopback."""
    options = [("grpc.max_send_message_length", -1)]
    if certificate is None:
        opened = grpc.insecure_channel(f"127.0.0.1:{port}", options)
    else:
        opened = grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(certificate), options)
    with opened:
        yield opened


def call(
    to: grpc.Channel,
    method: str,
    body: bytes,
    *,
    compression: grpc.Compression = grpc.Compression.NoCompression,
    timeout_s: float = 30.0,
    metadata: Mapping[str, str] = {},
) -> Answer:
    """Call the method, or that of the signal, once."""
    export: Callable[..., bytes] = to.unary_unary(METHODS.get(method, method))
    try:
        answer = export(body, metadata=tuple(metadata.items()), compression=compression, timeout=timeout_s)
    except grpc.RpcError as error:
        trailers: Any = dict(cast("Any", error.trailing_metadata()) or ())
        details = trailers.get("grpc-status-details-bin")
        status = None if details is None else Status.FromString(details)
        return Answer(error.code(), reason=error.details() or "", status=status)
    return Answer(grpc.StatusCode.OK, answer)
