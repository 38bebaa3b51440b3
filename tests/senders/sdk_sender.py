"""A program with OpenTelemetry's own SDK and exporters, told where to send by OTEL_* variables alone."""

import os
import sys

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.metrics import Observation
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
else:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter  # type: ignore[assignment]
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter  # type: ignore[assignment]
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # type: ignore[assignment]

SPANS = 700  # more than one batch


def main(service: str) -> None:
    resource = Resource.create({"service.name": service, "service.version": "1.2"})
    tracers = TracerProvider(resource=resource)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(), max_queue_size=2 * SPANS))
    loggers = LoggerProvider(resource=resource)
    loggers.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
    exponential = View(
        instrument_type=Histogram, instrument_name="size", aggregation=ExponentialBucketHistogramAggregation()
    )
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(), export_interval_millis=60_000)
    meters = MeterProvider(resource=resource, metric_readers=[reader], views=[exponential])
    tracer, meter, logger = tracers.get_tracer("shop"), meters.get_meter("shop"), loggers.get_logger("shop")
    orders, waits, sizes = (
        meter.create_counter("orders"),
        meter.create_histogram("wait", unit="s"),
        meter.create_histogram("size"),
    )
    meter.create_observable_gauge("load", [lambda _: [Observation(0.75, {"cpu": 1})]])
    with tracer.start_as_current_span("root", kind=trace.SpanKind.SERVER) as root:
        root.add_event("began", {"n": 1})
        for number in range(SPANS - 1):
            with tracer.start_as_current_span(f"step {number % 10}", attributes={"n": number, "list": ["a", "b"]}):
                orders.add(1, {"kind": "book"})
                waits.record(number / 1000)
                sizes.record(number)
        logger.emit(LogRecord(body="paid", severity_number=SeverityNumber.INFO, attributes={"n": 7}))
    done = [provider.force_flush() for provider in (tracers, loggers, meters)]
    for provider in (tracers, loggers, meters):
        provider.shutdown()
    sys.exit(0 if all(done) else "not everything was sent")


if __name__ == "__main__":
    main(sys.argv[1])
