"""What the network took from a call: its HTTP requests, phase by phase, summed on the span of the call."""

import contextvars
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.trace import Span
from opentelemetry.util.types import AttributeValue

from .contexts import current
from .guard import Guard
from .spans import put
from .vocabulary import (
    NET_ATTEMPTS,
    NET_BACKOFF,
    NET_HTTP_VERSION,
    NET_PREFIX,
    NET_REUSED,
    NET_TLS_RESUMED,
    RATELIMIT_PREFIX,
    RATELIMIT_REFUSED,
    S_PER_NS,
    convert,
)

#: Of a provider's answer -> what of its limits it tells, after `slo.ratelimit.`.
RATE_LIMITS: Final = {
    "x-ratelimit-limit-requests": "limit_requests",
    "x-ratelimit-limit-tokens": "limit_tokens",
    "x-ratelimit-remaining-requests": "remaining_requests",
    "x-ratelimit-remaining-tokens": "remaining_tokens",
    "anthropic-ratelimit-requests-limit": "limit_requests",
    "anthropic-ratelimit-requests-remaining": "remaining_requests",
    "anthropic-ratelimit-tokens-limit": "limit_tokens",
    "anthropic-ratelimit-tokens-remaining": "remaining_tokens",
    "retry-after": "retry_after",
}

#: HTTP status of a provider that refuses for its limits.
TOO_MANY: Final = 429
guard = Guard("network")
#: Where the context of a call holds its record, for the HTTP requests made in it.
RECORD_KEY = otel_context.create_key("tailbudget-network")
#: The HTTP request that this thread or task is sending, for what sees no request: name resolution.
sending: "contextvars.ContextVar[Attempt | None]" = contextvars.ContextVar("tailbudget-sending", default=None)


class Attempt:
    """One HTTP request: nanoseconds by phase, and what its connection and answer were."""

    __slots__ = (
        "_begun",
        "_first",
        "connected",
        "ended_ns",
        "host",
        "http_version",
        "phases",
        "started_ns",
        "tls_resumed",
    )

    def __init__(self, host: str = "") -> None:
        self.host = host
        self.started_ns = time.perf_counter_ns()
        self.ended_ns = 0
        self.phases: dict[str, int] = {}
        self.connected: bool | None = None
        self.tls_resumed: bool | None = None
        self.http_version = ""
        self._begun: dict[str, int] = {}
        self._first = True

    def begin(self, phase: str) -> None:
        """Start the clock of a phase. What went before the first one was waiting for a connection of the pool."""
        now_ns = time.perf_counter_ns()
        if self._first:
            self._first = False
            self.phases.setdefault("pool_wait", now_ns - self.started_ns)
        self._begun[phase] = now_ns

    def end(self, phase: str) -> None:
        """Stop the clock of a phase; one that never began is none."""
        begun_ns = self._begun.pop(phase, None)
        if begun_ns is not None:
            self.phases[phase] = self.phases.get(phase, 0) + time.perf_counter_ns() - begun_ns

    def stop(self) -> None:
        """Take note that the request is over; the first time counts."""
        self.ended_ns = self.ended_ns or time.perf_counter_ns()


@contextmanager
def timed(attempt: Attempt, phase: str) -> Iterator[None]:
    """Let the body's time be that of a phase."""
    with guard:
        attempt.begin(phase)
    try:
        yield
    finally:
        with guard:
            attempt.end(phase)


class NetRecord:
    """The HTTP requests of one call to `host`, whose figures go to `span` as each of them is answered."""

    def __init__(self, span: Span, *, host: str = "") -> None:
        self.host = host
        self._span = span
        self._attempts: list[Attempt] = []
        self._refused = 0
        self.limits: dict[str, AttributeValue] = {}

    def begin(self, host: str = "") -> Attempt:
        """Start one more request."""
        attempt = Attempt(host)
        self._attempts.append(attempt)
        return attempt

    def end(self, attempt: Attempt, headers: Mapping[str, str] | None = None, *, status: int = 0) -> None:
        """Take the headers of an answer, None for none, and its status, and put all that is known on the span."""
        attempt.stop()
        if status == TOO_MANY:
            self._refused += 1
            self.limits[RATELIMIT_REFUSED] = self._refused
        for name in headers or ():  # once over those that came: asking httpx for nine costs six times as much
            meaning = RATE_LIMITS.get(name.lower())
            if headers and meaning and (said := headers[name]).replace(".", "", 1).isdigit():
                self.limits[RATELIMIT_PREFIX + meaning] = float(said) if meaning == "retry_after" else int(float(said))
        if self._span.is_recording():
            put(self._span, self.attributes(), clean=True)

    def attributes(self) -> dict[str, AttributeValue]:
        """Return the sums over the requests so far, in seconds, and what the last one's connection was."""
        attempts = self._attempts
        last = attempts[-1]
        sums = last.phases.copy()
        for attempt in attempts[:-1]:
            for phase, duration_ns in attempt.phases.items():
                sums[phase] = sums.get(phase, 0) + duration_ns
        if "dns" in sums and "connect" in sums:  # httpx and urllib3 resolve the name inside of connecting
            sums["connect"] = max(sums["connect"] - sums["dns"], 0)
        attributes: dict[str, AttributeValue] = {NET_PREFIX + name: ns * S_PER_NS for name, ns in sums.items()}
        attributes[NET_ATTEMPTS] = len(attempts)
        if len(attempts) > 1 and (backoff_ns := self._backoff_ns()) > 0:
            attributes[NET_BACKOFF] = convert(backoff_ns, "ns", "s")
        if last.http_version:
            attributes[NET_HTTP_VERSION] = last.http_version
        if last.connected is not None:
            attributes[NET_REUSED] = not last.connected
        if last.tls_resumed is not None:
            attributes[NET_TLS_RESUMED] = last.tls_resumed
        return attributes | self.limits

    def _backoff_ns(self) -> int:
        pairs = zip(self._attempts, self._attempts[1:], strict=False)
        return sum(max(later.started_ns - earlier.ended_ns, 0) for earlier, later in pairs if earlier.ended_ns)


def record_in(context: Context | None = None) -> NetRecord | None:
    """Return the record of the call that runs here, or None."""
    found = (current() if context is None else context).get(RECORD_KEY)
    return found if isinstance(found, NetRecord) else None
