"""What every hooked HTTP client does around a request: propagate, time its phases, name its peer."""

from collections.abc import Callable, Mapping

from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.util.types import AttributeValue

from .. import call_metrics, propagation, wire
from ..calls import ModelCall, covered, provider_of
from ..contexts import current
from ..guard import Guard
from ..network import Attempt, NetRecord, record_in, sending
from ..spans import error_type, record_error, start, stopped
from ..vocabulary import HTTP_METHODS, RATELIMIT_PREFIX
from .patching import HTTP_SUPPRESSED, INSIDE_A_CALL, suppressed

PORTS: Mapping[str, int] = {"https": 443, "http": 80}

guard = Guard("HTTP client")


class Outgoing:
    """One HTTP request: part of the model call that runs here, a model call by itself, or a span of its own."""

    def __init__(
        self, library: str, method: str, scheme: str, host: str, port: int | None, path: str, body: bytes | None
    ) -> None:
        port = port or PORTS.get(scheme)
        context = current()
        self.host = host
        self.call: ModelCall | None = None
        self._span = None
        record = record_in(context) if context.get(INSIDE_A_CALL) else None
        if record and record.host not in ("", host):  # a token fetched for the call, say, is no attempt at it
            record = None
        if record is None:
            self.call = wire.call_of(library, method, path, host, port, body)
        if self.call:
            record, context = self.call.network, self.call.context
        elif record is None:
            attributes: dict[str, AttributeValue] = {
                "http.request.method": method if method in HTTP_METHODS else "_OTHER",
                "server.address": host,
                "url.scheme": scheme,
            }
            if port:
                attributes["server.port"] = port
            self._span = start(
                method if method in HTTP_METHODS else "HTTP", kind=SpanKind.CLIENT, attributes=attributes
            )
            context = set_span_in_context(self._span)
            record = NetRecord(self._span)
        self._record = record
        self.context = context
        self.attempt = record.begin(host)

    def inject(self, *, has: Callable[[str], bool], put: Callable[[str, str], object]) -> None:
        """Put the headers of propagation onto the request."""
        propagation.inject(self.context, self.host, has=has, put=put)

    def again(self) -> None:
        """Start another attempt at the same request."""
        self.attempt.stop()
        self.attempt = self._record.begin(self.host)

    @guard
    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Take an answer's status and headers; the span of a plain request ends here, as the conventions want."""
        self._record.end(self.attempt, headers, status=status)
        for kind in ("requests", "tokens") if self._record.limits else ():
            remaining = self._record.limits.get(f"{RATELIMIT_PREFIX}remaining_{kind}")
            if isinstance(remaining, int):
                call_metrics.ratelimit(remaining, kind=kind, provider=provider_of(self.host), server_address=self.host)
        if self.call and status >= 400:
            self.call.span.set_attribute("http.response.status_code", status)
            self.call.span.set_attribute("error.type", str(status))
            self.call.span.set_status(Status(StatusCode.ERROR))
            self.call.span.end()
            call_metrics.ended(self.call.span)
            self.call = None
        if self._span:
            self._span.set_attribute("http.response.status_code", status)
            if status >= 400:
                self._span.set_attribute("error.type", str(status))
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.end()

    @guard
    def failed(self, error: BaseException) -> None:
        """Take the error of a request without an answer."""
        self._record.end(self.attempt)
        if self.call:
            self.call.fail(error)
        if self._span:
            record_error(self._span, error)
            if stopped(error):
                self._span.set_attribute("error.type", error_type(error))
            self._span.end()


class Joined(Outgoing):
    """A request that another client sends through this one: the phases that this one sees are the other's."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.call = None

    def inject(self, *, has: Callable[[str], bool], put: Callable[[str, str], object]) -> None:
        """Put nothing: the outer client did."""

    def again(self) -> None:
        """Count nothing: the outer client's request is one."""

    def answered(self, status: int, headers: Mapping[str, str]) -> None:
        """Leave the answer to the outer client."""

    def failed(self, error: BaseException) -> None:
        """Leave the error to the outer client."""


@guard
def outgoing(
    library: str, method: str, scheme: str, host: str, port: int | None, path: str, body: bytes | None
) -> Outgoing | None:
    """Start a request; None where somebody wants no span, or another instrumentor of the client makes it."""
    if suppressed(HTTP_SUPPRESSED) or covered(library):
        return None
    attempt = sending.get()
    if attempt and attempt.host == host:
        return Joined(attempt)
    return Outgoing(library, method, scheme, host, port, path, body)
