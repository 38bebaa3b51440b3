"""What a service tells the hosts that it calls: the trace to all of them, tenant and baggage to its own alone."""

import functools
import ipaddress
import os
from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from opentelemetry import baggage, trace
from opentelemetry import context as otel_context
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.trace import DEFAULT_TRACE_STATE, INVALID_SPAN_CONTEXT, SpanContext
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .caps import outgoing
from .errors import UserError
from .request import RequestState, current_request
from .vocabulary import REQUEST_ID, TENANT

VARIABLE = "TAILBUDGET_PROPAGATE_TO"
#: Names that lead to no public host: those without a dot, and the domains kept for private use.
PRIVATE_NAMES = ("localhost", "*.localhost", "*.local", "*.internal", "*.lan", "*.home.arpa", "*.svc")

_trace = TraceContextTextMapPropagator()
_baggage = W3CBaggagePropagator()
_hosts: tuple[str, ...] | None = None
#: Under which a context holds its baggage.
_BAGGAGE_KEY = next(iter(baggage.set_baggage("a", "b", Context())))


def use_hosts(hosts: tuple[str, ...] | None) -> None:
    """Let hosts see baggage and tenant: names with `*`, addresses, networks such as `10.0.0.0/8`.

    None means TAILBUDGET_PROPAGATE_TO, else loopback and private addresses. Raises UserError for an entry that is none.
    """
    global _hosts
    if hosts is None:
        said = os.environ.get(VARIABLE)
        hosts = tuple(part.strip() for part in said.split(",") if part.strip()) if said is not None else None
    for host in hosts or ():
        if "/" in host:
            _network(host)
    _hosts = hosts
    trusted.cache_clear()


def _network(host: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        return ipaddress.ip_network(host, strict=False)
    except ValueError:
        raise UserError(
            f"propagate_to has {host!r}: expected host names such as '*.example.internal', addresses, or networks such "
            "as '10.0.0.0/8'"
        ) from None


@functools.lru_cache(maxsize=1024)
def trusted(host: str) -> bool:
    """Say whether baggage, tenant and what is left of a deadline may go to `host`."""
    host = host.strip("[]").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if _hosts is None:
        if address is not None:
            return address.is_private or address.is_loopback or address.is_link_local
        return "." not in host or any(fnmatch(host, pattern) for pattern in PRIVATE_NAMES)
    return any(
        (address is not None and address in _network(known)) if "/" in known else fnmatch(host, known.lower())
        for known in _hosts
    )


def inject(context: Context, host: str, *, has: Callable[[str], bool], put: Callable[[str, str], object]) -> None:
    """Add the headers for a request to `host`; a header that is there already stays."""
    carrier: dict[str, str] = {}
    _inject_trace(carrier, context)
    if trusted(host):
        state = current_request()
        _inject_baggage(carrier, context, state)
        if state and state.deadline_ns is not None:
            carrier |= outgoing()
    for name, value in carrier.items():
        if not has(name):
            put(name, value)


def _inject_trace(carrier: dict[str, str], context: Context) -> None:
    told: Any = trace.get_current_span(context).get_span_context()
    # By place, each of its fields being a property; OpenTelemetry's own writing of it takes thirteen functions.
    if (
        type(told) is SpanContext
        and len(told) == len(INVALID_SPAN_CONTEXT)
        and told[4] is DEFAULT_TRACE_STATE
        and told[5]
    ):
        carrier["traceparent"] = f"00-{told[0]:032x}-{told[1]:016x}-{told[3]:02x}"
    else:
        _trace.inject(carrier, context)


def _inject_baggage(carrier: dict[str, str], context: Context, state: RequestState | None) -> None:
    # An id alone, of letters and digits that need no quoting, is the usual case, and written here for a sixth.
    simple = state is not None and not state.tenant and state.request_id.isascii() and state.request_id.isalnum()
    if state and simple and not context.get(_BAGGAGE_KEY):
        carrier["baggage"] = f"{REQUEST_ID}={state.request_id}"
    else:
        _baggage.inject(carrier, with_request(context))


def with_request(context: Context | None = None) -> Context:
    """Return `context` with the request's id and tenant in its baggage."""
    state = current_request()
    said = {REQUEST_ID: state.request_id if state else "", TENANT: state.tenant if state else ""}
    for name, value in said.items():
        if value:
            context = baggage.set_baggage(name, value, context)
    return otel_context.get_current() if context is None else context
