// A program with OpenTelemetry's own SDK and exporters for Node: node_sender.cjs http|proto|grpc BASE_URL SERVICE
const [protocol, url, service] = process.argv.slice(2);
const { BasicTracerProvider, BatchSpanProcessor } = require("@opentelemetry/sdk-trace-base");
const { MeterProvider, PeriodicExportingMetricReader } = require("@opentelemetry/sdk-metrics");
const { LoggerProvider, BatchLogRecordProcessor } = require("@opentelemetry/sdk-logs");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { OTLPTraceExporter } = require(`@opentelemetry/exporter-trace-otlp-${protocol}`);
const { OTLPMetricExporter } = require(`@opentelemetry/exporter-metrics-otlp-${protocol}`);
const { OTLPLogExporter } = require(`@opentelemetry/exporter-logs-otlp-${protocol}`);

const to = (path) => ({ url: protocol === "grpc" ? url : `${url}/v1/${path}`, compression: "gzip" });
const resource = resourceFromAttributes({ "service.name": service });
const tracers = new BasicTracerProvider({ resource, spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter(to("traces")))] });
const reader = new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter(to("metrics")), exportIntervalMillis: 60000 });
const meters = new MeterProvider({ resource, readers: [reader] });
const logProcessor = new BatchLogRecordProcessor({ exporter: new OTLPLogExporter(to("logs")) });
const loggers = new LoggerProvider({ resource, processors: [logProcessor] });

const tracer = tracers.getTracer("shop");
for (let n = 0; n < 300; n++) {
  const span = tracer.startSpan(`step ${n % 10}`, { kind: 2, attributes: { n, ratio: 0.5, list: ["a", "b"], "grüße": "\u{1f680}" } });
  span.addEvent("began", { n });
  span.setStatus({ code: 2, message: "broken" });
  span.end();
}
meters.getMeter("shop").createCounter("orders").add(5, { kind: "book" });
meters.getMeter("shop").createHistogram("wait").record(0.3);
loggers.getLogger("shop").emit({ body: { text: "paid", n: 7 }, severityNumber: 9, severityText: "INFO" });
(async () => {
  for (const provider of [tracers, meters, loggers]) await provider.forceFlush();
  for (const provider of [tracers, meters, loggers]) await provider.shutdown();
})().catch((error) => { console.error(error); process.exit(1); });
