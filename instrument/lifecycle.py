"""Start and end of telemetry in a process: `init` and `shutdown`."""

import atexit
import itertools
import os
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry import _logs, metrics, trace

from . import histograms, hooks, metering, propagation, providers
from .errors import UserError
from .guard import Guard
from .hooks import patching
from .running import Watch, tell_all

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider

    from .exporters import Exports

#: A server that stops waits no longer than this for what it holds to be delivered.
DELIVERY_S: Final = 2.0
_lock = threading.Lock()
_fork_seen = False
_running: "_Running | None" = None
_joined: Watch | None = None
_delivery: threading.Thread | None = None
#: Providers of ours that ended: a global one cannot be replaced in this process, but a later `init` may use another.
_retired: list[object] = []


def init(
    service: str | None = None,
    *,
    endpoint: str | None = None,
    propagate_to: Sequence[str] | None = None,
    instrument_libraries: bool = True,
    prometheus: bool = False,
) -> None:
    """Send this process's spans, metrics and running requests to a collector, and hook the libraries that it uses.

    `service` names the service, else OTEL_SERVICE_NAME does. `endpoint` is the collector's base URL, else the
    OTEL_EXPORTER_OTLP_* variables, else http://127.0.0.1:4318. The other OTEL_* variables hold too. `propagate_to`
    names the hosts that may see baggage and tenant (`*.example.internal`, `10.0.0.0/8`), else TAILBUDGET_PROPAGATE_TO
    does, else it is loopback and private addresses; `traceparent` goes to every host. `instrument_libraries=False`
    hooks nothing: then only what the code says itself is recorded. With `prometheus` the metrics are in the default
    registry of prometheus-client too, for a service that is scraped. A TracerProvider that is already set is used as it
    is. A second call changes nothing. Raises UserError for a setting that cannot be.
    """
    _check(service, endpoint, propagate_to)
    propagation.use_hosts(None if propagate_to is None else tuple(propagate_to))
    global _running
    if disabled():
        return
    with _lock, Guard("init"):
        if _running is None:
            _running = _Running(service, endpoint, instrument_libraries=instrument_libraries, prometheus=prometheus)


def disabled() -> bool:
    """Say whether OTEL_SDK_DISABLED switches telemetry off."""
    return os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


@Guard("shutdown")
def shutdown() -> None:
    """Deliver what is still held and end telemetry; runs at exit by itself.

    Takes a second or two at most where no collector answers.
    """
    global _running
    with _lock:
        running, _running = _running, None
    if running:
        running.end()


@Guard("join")
def join() -> None:
    """Hook the libraries, and tell of running requests, for providers that somebody else has set."""
    global _joined
    with _lock:
        hooks.install()
        if _joined is None and _running is None:
            _joined = Watch()
            atexit.register(tell_all)  # before the providers end, which were there first
            _watch_forks()


@Guard("leave")
def leave() -> None:
    """Undo `join`."""
    global _joined
    with _lock:
        watch, _joined = _joined, None
        hooks.uninstall()
        if watch:
            atexit.unregister(tell_all)
            watch.stop()


@Guard("delivery")
def deliver() -> None:
    """Deliver what is held and go on; returns after two seconds at the latest, at once while an earlier one hangs."""
    global _delivery
    if (_running or _joined) and not (_delivery and _delivery.is_alive()):
        work = _running.deliver if _running else _deliver_to
        _delivery = threading.Thread(target=Guard("delivery")(work), name="tailbudget-delivery", daemon=True)
        _delivery.start()
        _delivery.join(DELIVERY_S)


def _deliver_to(*own: Any) -> None:
    """Deliver through these providers of spans, metrics and log records; None stands for the global one."""
    tell_all()
    found = (trace.get_tracer_provider(), metrics.get_meter_provider(), _logs.get_logger_provider())
    for mine, shared in itertools.zip_longest(own, found):
        flush: Callable[[], object] | None = getattr(mine or shared, "force_flush", None)
        if flush:
            flush()


def delivering(send: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    """Return the `send` of ASGI's lifespan, which delivers before it says that the app has shut down.

    uvicorn ends by the signal that stopped it, past every exit handler: where it is not hooked, it is the last moment.
    """

    async def tell(message: Any) -> None:
        server = sys.modules.get("uvicorn.server")
        hooked = server is not None and patching.replaced(server.Server, "shutdown") is not None
        if message["type"].startswith("lifespan.shutdown.") and not hooked:
            deliver()
        await send(message)

    return tell


def _check(service: object, endpoint: object, propagate_to: object) -> None:
    if service is not None and not (isinstance(service, str) and service.strip()):
        raise UserError(f"service is {service!r}: expected a name such as 'chat-api', or None for OTEL_SERVICE_NAME")
    if endpoint is not None and not _is_url(endpoint):
        raise UserError(f"endpoint is {endpoint!r}: expected the collector's base URL, such as 'http://127.0.0.1:4318'")
    hosts = None if isinstance(propagate_to, str) or not isinstance(propagate_to, Sequence) else propagate_to
    if propagate_to is not None and (hosts is None or not all(isinstance(host, str) for host in hosts)):
        raise UserError(f"propagate_to is {propagate_to!r}: expected names or networks, such as ['*.example.internal']")


def _is_url(endpoint: object) -> bool:
    parts = urlsplit(endpoint) if isinstance(endpoint, str) else None
    return parts is not None and parts.scheme in ("http", "https") and bool(parts.netloc)


def _watch_forks() -> None:
    global _fork_seen
    if not _fork_seen and hasattr(os, "register_at_fork"):
        _fork_seen = True
        os.register_at_fork(after_in_child=_after_fork)


@Guard("fork")
def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()
    metering.after_fork()
    if _running:
        _running.after_fork()


class _Running:
    """The providers that `init` made; None stands for one that was there before."""

    def __init__(
        self, service: str | None, endpoint: str | None, *, instrument_libraries: bool, prometheus: bool
    ) -> None:
        from .exporters import Exports  # the SDK is loaded by those who call `init`

        self._exports = Exports(endpoint)
        resource = _resource(service)
        self._tracer_provider = _tracer_provider(self._exports, resource)
        self._meter_provider = _meter_provider(self._exports, resource, prometheus=prometheus)
        self._logger_provider = _logger_provider(self._exports, resource)
        providers.use(self._tracer_provider, self._meter_provider, self._logger_provider)
        if self._exports.tallies is not None:
            histograms.tally(providers.meter(), self._exports.tallies)
        metering.register()
        if instrument_libraries:
            hooks.install()
        self._watch = _joined or Watch()
        atexit.register(shutdown)
        _watch_forks()

    def after_fork(self) -> None:
        """Go on in a forked worker; OpenTelemetry starts its threads there and names the instance anew by itself."""
        self._exports.after_fork()

    def deliver(self) -> None:
        """Deliver what is held."""
        _deliver_to(self._tracer_provider, self._meter_provider, self._logger_provider)

    def end(self) -> None:
        """Deliver the rest and close the providers."""
        atexit.unregister(shutdown)
        hooks.uninstall()
        self._watch.stop()
        tell_all()
        self._exports.hurry()
        for provider in (self._tracer_provider, self._meter_provider, self._logger_provider):
            if provider:
                _retired.append(provider)
                provider.shutdown()
        providers.use(None)


def _resource(service: str | None) -> "Resource":
    from opentelemetry.sdk.resources import Resource

    existing = getattr(trace.get_tracer_provider(), "resource", None)
    if isinstance(existing, Resource):
        return existing
    resource = Resource.create({"service.name": service} if service else {})
    if "service.instance.id" not in resource.attributes:
        resource = resource.merge(Resource({"service.instance.id": str(uuid.uuid4())}))
    return resource


def _tracer_provider(exports: "Exports", resource: "Resource") -> "TracerProvider | None":
    from .starts import UnseenStarts

    current = trace.get_tracer_provider()
    unset = isinstance(current, trace.ProxyTracerProvider)
    if not unset and current not in _retired:
        return None
    provider = UnseenStarts(resource=resource, shutdown_on_exit=False)
    for processor in exports.span_processors():
        provider.add_span_processor(processor)
    if unset:
        trace.set_tracer_provider(provider)
    return provider


def _meter_provider(exports: "Exports", resource: "Resource", *, prometheus: bool) -> "MeterProvider | None":
    from opentelemetry.sdk.metrics import MeterProvider

    # The proxy that stands there until a provider is set is private to OpenTelemetry.
    current = metrics.get_meter_provider()
    unset = type(current).__name__ == "_ProxyMeterProvider"
    if not unset and current not in _retired:
        if prometheus:
            raise UserError(
                "init(prometheus=True): a MeterProvider is already set, and its readers cannot be changed: give it "
                "tailbudget.instrument.prometheus.ScrapedReader() as one of them where it is made"
            )
        return None
    readers = exports.metric_readers(alone=not prometheus)
    if prometheus:
        from .prometheus import ScrapedReader

        readers.append(ScrapedReader())
    provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    if unset:
        metrics.set_meter_provider(provider)
    return provider


def _logger_provider(exports: "Exports", resource: "Resource") -> "LoggerProvider | None":
    from opentelemetry.sdk._logs import LoggerProvider

    current = _logs.get_logger_provider()
    unset = type(current).__name__ == "ProxyLoggerProvider"  # private too
    if not unset and current not in _retired:
        return None
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    for processor in exports.log_processors():
        provider.add_log_record_processor(processor)
    if unset:
        _logs.set_logger_provider(provider)
    return provider
