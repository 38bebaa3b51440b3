"""OTLP over HTTP as a raw ASGI application: every answer but 200 says what was wrong and what is expected."""

import logging
from typing import Final

from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from ..asgi import (
    TEXT,
    BodyTooLargeError,
    ClientGoneError,
    Receive,
    Scope,
    Send,
    headers,
    read_body,
    respond,
)
from ..counters import Counters
from ..journal.writer import JournalRefusedError
from ..unpack import BadGzipError, TooLargeError, gunzip
from .census import TooManyItemsError
from .decode import BadBodyError, count_log_records
from .intake import Intake, Packed

log: Final = logging.getLogger(__name__)

PROTOBUF: Final = "application/x-protobuf"
SIGNALS: Final = {"/v1/traces": "traces", "/v1/metrics": "metrics", "/v1/logs": "logs"}
#: Seconds after which a refused sender may try again: the Python exporter tries 6 times.
RETRY_AFTER: Final = {"retry-after": "5"}


class RefusedError(Exception):
    """A request that is answered with `status` and a reason."""

    def __init__(self, status: int, reason: str, **extra: str) -> None:
        super().__init__(reason)
        self.status = status
        self.extra = extra


class OtlpApp:
    """Answers POST /v1/traces, /v1/metrics and /v1/logs."""

    def __init__(self, intake: Intake, *, counters: Counters, max_body_bytes: int) -> None:
        self._intake = intake
        self._counters = counters
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        signal = SIGNALS.get(scope["path"], "unknown")
        status, extra, content_type = 200, {}, PROTOBUF
        try:
            answer = await self._answer(scope, receive)
        except ClientGoneError:
            self._counters.bodies.labels(signal, "client gone").inc()
            return
        except RefusedError as error:
            status, extra, content_type = error.status, error.extra, TEXT
            answer = f"{error}\n".encode()
        except tuple(FAULTS) as error:
            status, extra = _fault(error)
            answer = Status(message=str(error)).SerializeToString()
            self._counters.dropped(signal, f"http_{status}")
        except Exception as error:
            log.exception("a request could not be taken")
            status, extra = 503, RETRY_AFTER
            answer = Status(message=f"internal fault: {error}").SerializeToString()
        self._counters.bodies.labels(signal, str(status)).inc()
        await respond(send, status, answer, content_type=content_type, extra=extra)

    async def _answer(self, scope: Scope, receive: Receive) -> bytes:
        signal = SIGNALS.get(scope["path"])
        if signal is None:
            raise RefusedError(404, f"no {scope['path']!r} here: expected one of {', '.join(SIGNALS)}")
        if scope["method"] != "POST":
            raise RefusedError(405, f"{scope['method']} {scope['path']}: expected POST", allow="POST")
        packed = await self._read(scope, receive)
        self._counters.received.labels(signal).inc(len(packed.data))
        body = packed.data if packed.encoding == "identity" else gunzip(packed.data, limit=self._max_body_bytes)
        if signal == "logs":
            return self._logs(body)
        if signal == "metrics":
            await self._intake.accept("metrics", body, packed)
            return ExportMetricsServiceResponse().SerializeToString()
        rejected = await self._intake.accept("traces", body, packed)
        answer = ExportTraceServiceResponse()
        if rejected:
            answer.partial_success.rejected_spans = rejected
            answer.partial_success.error_message = "a trace id has 16 bytes, a span id 8, neither is all zero"
        return answer.SerializeToString()

    async def _read(self, scope: Scope, receive: Receive) -> Packed:
        fields = headers(scope)
        media = fields.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
        if media != PROTOBUF:
            raise RefusedError(
                415, f"Content-Type {media!r}: expected {PROTOBUF} (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf)"
            )
        encoding = fields.get(b"content-encoding", b"").decode("latin-1").strip().lower() or "identity"
        data = await read_body(receive, declared=fields.get(b"content-length"), limit=self._max_body_bytes)
        if encoding == "gzip":
            return Packed(data, "gzip")
        if encoding == "identity":
            return Packed(data, "identity")
        raise RefusedError(415, f"Content-Encoding {encoding!r}: expected gzip or identity")

    def _logs(self, body: bytes) -> bytes:
        records = count_log_records(body)
        answer = ExportLogsServiceResponse()
        if records:
            self._counters.dropped("logs", "signal_not_stored", records)
            answer.partial_success.rejected_log_records = records
            answer.partial_success.error_message = "logs are not stored by this version"
        return answer.SerializeToString()


#: What can be wrong with a body, and the status that says so.
FAULTS: Final[dict[type[Exception], int]] = {
    BodyTooLargeError: 413,
    TooLargeError: 413,
    TooManyItemsError: 413,
    BadGzipError: 400,
    BadBodyError: 400,
    JournalRefusedError: 503,
}


def _fault(error: Exception) -> tuple[int, dict[str, str]]:
    status = FAULTS[type(error)]
    return status, RETRY_AFTER if status == 503 else {}
