"""What a scrape found as an OTLP metrics body, so that it is journaled, counted and landed like any other."""

from collections.abc import Iterable, Iterator
from typing import Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality as Temporality
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as OtlpMetric

from .series import Deltas, Exposition, Histogram, Sample, combine

SCOPE: Final = "tailbudget.scrape"
UP: Final = "slo.engine.up"
#: Mean tokens of a step, from the histogram of all steps since the last scrape.
BATCH_TOKENS: Final = "slo.engine.batch_tokens"
STEP_TOKENS: Final = "slo.engine.step_tokens"


def body(instance: str, found: Exposition | None, deltas: Deltas, *, last_ns: int | None, now_ns: int) -> bytes:
    """Return an ExportMetricsServiceRequest; `found` is None when nothing answered. Counters begin with the second."""
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add()
    attributes = {"service.name": found.engine if found else "engine", "service.instance.id": instance}
    for key, value in attributes.items():
        group.resource.attributes.add(key=key).value.string_value = value
    scope = group.scope_metrics.add()
    scope.scope.name = SCOPE
    metrics = scope.metrics
    if found is None:
        deltas.forget()
        metrics.append(_gauge(UP, "1", 0.0, model=None, t_ns=now_ns))
        return request.SerializeToString()
    for model in sorted({sample.model for sample in found.samples}, key=str):
        metrics.append(_gauge(UP, "1", 1.0, model=model, t_ns=now_ns))
    for sample in found.samples:
        metrics.extend(_metrics(sample, deltas, last_ns=last_ns, now_ns=now_ns))
    return request.SerializeToString()


def _metrics(sample: Sample, deltas: Deltas, *, last_ns: int | None, now_ns: int) -> Iterator[OtlpMetric]:
    metric = sample.metric
    if metric.kind == "gauge":
        value = combine(metric, _numbers(sample.series.values()))
        yield _gauge(metric.name, metric.unit, value, model=sample.model, t_ns=now_ns)
        return
    gained = deltas.of(sample).values()
    if not gained or last_ns is None:
        return
    if metric.kind == "counter":
        sent = OtlpMetric(name=metric.name, unit=metric.unit)
        sent.sum.is_monotonic = True
        sent.sum.aggregation_temporality = Temporality.AGGREGATION_TEMPORALITY_DELTA
        value = combine(metric, _numbers(gained))
        point = sent.sum.data_points.add(start_time_unix_nano=last_ns, time_unix_nano=now_ns, as_double=value)
        _name_model(point.attributes, sample.model)
        yield sent
        return
    histogram = _sum(value for value in gained if isinstance(value, Histogram))
    if histogram is None:
        return
    yield _histogram(sample, histogram, last_ns=last_ns, now_ns=now_ns)
    steps = sum(histogram.counts)
    if metric.name == STEP_TOKENS and steps:
        yield _gauge(BATCH_TOKENS, metric.unit, histogram.total / steps, model=sample.model, t_ns=now_ns)


def _histogram(sample: Sample, histogram: Histogram, *, last_ns: int, now_ns: int) -> OtlpMetric:
    sent = OtlpMetric(name=sample.metric.name, unit=sample.metric.unit)
    sent.histogram.aggregation_temporality = Temporality.AGGREGATION_TEMPORALITY_DELTA
    point = sent.histogram.data_points.add(
        start_time_unix_nano=last_ns,
        time_unix_nano=now_ns,
        count=round(sum(histogram.counts)),
        sum=histogram.total,
        explicit_bounds=histogram.bounds[:-1],
        bucket_counts=[round(count) for count in histogram.counts],
    )
    _name_model(point.attributes, sample.model)
    return sent


def _gauge(name: str, unit: str, value: float, *, model: str | None, t_ns: int) -> OtlpMetric:
    sent = OtlpMetric(name=name, unit=unit)
    _name_model(sent.gauge.data_points.add(time_unix_nano=t_ns, as_double=value).attributes, model)
    return sent


def _name_model(attributes: object, model: str | None) -> None:
    if model is not None:
        attributes.add(key="model").value.string_value = model  # type: ignore[attr-defined]


def _numbers(values: Iterable[float | Histogram]) -> list[float]:
    return [value for value in values if isinstance(value, float)]


def _sum(histograms: Iterable[Histogram]) -> Histogram | None:
    """Return the sum of those with the bounds of the first, which are all of one engine's."""
    listed = list(histograms)
    same = [item for item in listed if item.bounds == listed[0].bounds]
    if not same:
        return None
    counts = tuple(map(sum, zip(*(item.counts for item in same), strict=True)))
    return Histogram(sum(item.total for item in same), same[0].bounds, counts)
