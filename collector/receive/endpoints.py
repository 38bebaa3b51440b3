"""The three signals of OTLP as data: where their bodies arrive, what they are, how an answer counts what it rejects."""

from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from ..journal.record import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One signal."""

    signal: Signal
    path: str  # over HTTP
    method: str  # over gRPC
    request: type[Message]
    response: type[Message]
    rejected: str  # field of partial_success
    why: str  # what was wrong with all that was rejected

    def answer(self, *, rejected: int) -> Message:
        """Return the response: partial_success is set only when something was rejected."""
        if not rejected:
            return self.response()
        return self.response(partial_success={self.rejected: rejected, "error_message": self.why})

    def rejected_in(self, answer: bytes) -> int:
        """Return how many items a serialised response rejects."""
        partial: Any = self.response.FromString(answer)
        return int(getattr(partial.partial_success, self.rejected))


ENDPOINTS: Final = (
    Endpoint(
        signal="traces",
        path="/v1/traces",
        method="/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        request=ExportTraceServiceRequest,
        response=ExportTraceServiceResponse,
        rejected="rejected_spans",
        why="a trace id has 16 bytes, a span id 8, neither is all zero",
    ),
    Endpoint(
        signal="metrics",
        path="/v1/metrics",
        method="/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        request=ExportMetricsServiceRequest,
        response=ExportMetricsServiceResponse,
        rejected="rejected_data_points",
        why="a histogram has one bucket more than it has bounds",
    ),
    Endpoint(
        signal="logs",
        path="/v1/logs",
        method="/opentelemetry.proto.collector.logs.v1.LogsService/Export",
        request=ExportLogsServiceRequest,
        response=ExportLogsServiceResponse,
        rejected="rejected_log_records",
        why="a log record could not be read",
    ),
)
#: What `/metrics` and `ingest_health` have for the signal of a request whose path or method is none of these.
UNKNOWN: Final = "unknown"
BY_PATH: Final = {endpoint.path: endpoint for endpoint in ENDPOINTS}
BY_METHOD: Final = {endpoint.method: endpoint for endpoint in ENDPOINTS}
