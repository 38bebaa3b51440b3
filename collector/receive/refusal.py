"""What can be wrong with a body, and the status that says so over HTTP and over gRPC."""

import logging
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2  # type: ignore[import-untyped]
from google.rpc.error_details_pb2 import BadRequest, RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

from ..asgi import BodyTooLargeError
from ..journal.writer import JournalRefusedError
from ..unpack import BadGzipError, TooLargeError
from .census import TooManyItemsError
from .decode import BadBodyError
from .otlp_json import TooManyValuesError
from .room import BusyError

log: Final = logging.getLogger(__name__)

#: Seconds after which a refused sender may try again: the Python exporter tries 6 times.
RETRY_AFTER_S: Final = 5
REASON_CHARS: Final = 500  # a trailer of gRPC holds some kilobytes
NO_TOKEN: Final = "no token, or not the collector's: OTEL_EXPORTER_OTLP_HEADERS=authorization=Bearer%20TOKEN sends one"


class RefusedError(Exception):
    """A request that is answered with a status and a reason; `extra` are headers of the answer over HTTP."""

    def __init__(self, status: int, code: int, reason: str, **extra: str) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code
        self.extra = extra


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer but success, for either port."""

    status: int  # HTTP
    code: int  # google.rpc.Code
    reason: str

    @property
    def retry(self) -> bool:
        """Whether the same body may be taken later."""
        return bool(self.code == code_pb2.UNAVAILABLE)

    def message(self) -> Status:
        """Return what OTLP sends: with RetryInfo when to try again, with BadRequest what is wrong with the data."""
        detail = AnyMessage()
        if self.retry:
            detail.Pack(RetryInfo(retry_delay=Duration(seconds=RETRY_AFTER_S)))
        elif self.code == code_pb2.INVALID_ARGUMENT:
            detail.Pack(BadRequest(field_violations=[{"field": "body", "description": self.reason}]))
        return Status(code=self.code, message=self.reason, details=[detail] if detail.type_url else [])


#: Fault -> its HTTP status and gRPC code. What is too large once is so for ever: RESOURCE_EXHAUSTED without RetryInfo.
FAULTS: Final[dict[type[Exception], tuple[int, int]]] = {
    BodyTooLargeError: (413, code_pb2.RESOURCE_EXHAUSTED),
    TooLargeError: (413, code_pb2.RESOURCE_EXHAUSTED),
    TooManyItemsError: (413, code_pb2.RESOURCE_EXHAUSTED),
    TooManyValuesError: (413, code_pb2.RESOURCE_EXHAUSTED),
    BadGzipError: (400, code_pb2.INVALID_ARGUMENT),
    BadBodyError: (400, code_pb2.INVALID_ARGUMENT),
    JournalRefusedError: (503, code_pb2.UNAVAILABLE),
    BusyError: (503, code_pb2.UNAVAILABLE),
}
UNFORESEEN: Final = (503, code_pb2.UNAVAILABLE)


def refusal_of(error: Exception) -> Refusal:
    """Return the answer to what a request raised; what nobody foresaw is logged, and its sender tries again later."""
    status, code = UNFORESEEN
    reason = str(error)
    if isinstance(error, RefusedError):
        status, code = error.status, error.code
    elif type(error) in FAULTS:
        status, code = FAULTS[type(error)]
    elif isinstance(error, (CancelledError, TimeoutError)):
        reason = "the collector is shutting down, or cannot keep up"
    else:
        log.error("a request could not be taken", exc_info=error)
        reason = f"internal fault: {error}"
    return Refusal(status=status, code=code, reason=reason[:REASON_CHARS])
