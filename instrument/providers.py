"""Where spans, metrics and log records go: the global OpenTelemetry providers, or what a test puts in their place."""

from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import _logs, metrics, trace
from opentelemetry.context import Context
from opentelemetry.util.types import AttributeValue

SCOPE = "tailbudget"
#: Starts a span of this name, in this context or the current one, of this kind, with these attributes.
Start = Callable[[str, Context | None, trace.SpanKind, Mapping[str, AttributeValue]], trace.Span]

_start: Start | None = None
_tracer: trace.Tracer | None = None
_meter: metrics.Meter | None = None
_logger: _logs.Logger | None = None


def tracer() -> trace.Tracer:
    """Return the tracer of all our spans. Before a provider is set it is a proxy that finds the provider later."""
    global _tracer
    if _tracer is None:
        _tracer = trace.get_tracer(SCOPE)
    return _tracer


def starter() -> Start:
    """Return what starts all our spans: the tracer, or what does the same at less cost on a provider of ours."""
    return _start or tracer().start_span


def meter() -> metrics.Meter:
    """Return the meter of all our metrics, a proxy before a provider is set."""
    global _meter
    if _meter is None:
        _meter = metrics.get_meter(SCOPE)
    return _meter


def logger() -> _logs.Logger:
    """Return the logger of all our log records, a proxy before a provider is set."""
    global _logger
    if _logger is None:
        _logger = _logs.get_logger(SCOPE)
    return _logger


def use(
    tracer_provider: trace.TracerProvider | None,
    meter_provider: metrics.MeterProvider | None = None,
    logger_provider: _logs.LoggerProvider | None = None,
) -> None:
    """Send all of it to these providers from now on; None means the global one again. For tests."""
    global _start, _tracer, _meter, _logger
    _tracer = tracer_provider.get_tracer(SCOPE) if tracer_provider else None
    quick: Any = getattr(tracer_provider, "starter", None)
    _start = quick(_tracer) if quick else None
    _meter = meter_provider.get_meter(SCOPE) if meter_provider else None
    _logger = logger_provider.get_logger(SCOPE) if logger_provider else None
