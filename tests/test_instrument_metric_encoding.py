"""Our exporter sends the very bytes that OpenTelemetry's encoder makes of the same metrics."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from tailbudget.instrument import metric_encoding, tallied
from tailbudget.instrument.exporters import PromptSession
from tailbudget.instrument.histograms import Tallies
from tailbudget.instrument.metric_encoding import encode
from tailbudget.instrument.tallied import TalliedExporter
from tests.instrument_support import sink
from tests.test_instrument_encoding import RESOURCES, SCOPES

instants_ns = st.integers(0, 2**63)
temporalities = st.sampled_from(AggregationTemporality)
labels = st.dictionaries(
    st.text(max_size=200),
    st.one_of(
        st.text(), st.sampled_from((True, 1, "1", 0, False)), st.sampled_from((0.0, -0.0, (1,), (True,))), st.integers()
    ),
    max_size=5,
)
numbers = st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(), st.integers(0, 200), st.booleans())
exemplars = st.lists(
    st.builds(
        Exemplar,
        st.one_of(st.just({}), st.just({}), st.just({"a": 1})),
        numbers,
        instants_ns,
        st.one_of(st.integers(1, 2**64 - 1), st.none()),
        st.integers(1, 2**128 - 1),
    ),
    max_size=2,
)
counted = st.builds(NumberDataPoint, labels, instants_ns, instants_ns, numbers, exemplars)
tallies = st.builds(
    HistogramDataPoint,
    labels,
    instants_ns,
    instants_ns,
    st.integers(0, 2**64 - 1),
    numbers,
    st.lists(st.integers(0, 2**64 - 1), max_size=4),
    st.lists(st.floats(), max_size=3),
    st.floats(),
    st.floats(),
    exemplars,
)
data = st.one_of(
    st.builds(Sum, st.lists(counted, max_size=3), temporalities, st.booleans()),
    st.builds(Gauge, st.lists(counted, max_size=3)),
    st.builds(Histogram, st.lists(tallies, max_size=3), temporalities),
)
metrics = st.builds(Metric, st.text(max_size=200), st.text(), st.one_of(st.none(), st.text()), data)
scopes = st.builds(ScopeMetrics, st.sampled_from(SCOPES[:2]), st.lists(metrics, max_size=3), st.just(""))
collected = st.builds(
    MetricsData,
    st.lists(
        st.builds(
            ResourceMetrics,
            st.sampled_from(RESOURCES),
            st.lists(scopes, max_size=2, unique_by=lambda s: s.scope),
            st.just(""),
        ),
        min_size=1,
        max_size=1,
    ),
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@settings(max_examples=100)
@given(collected)
def test_any_metrics_become_the_bytes_of_opentelemetrys_encoder_or_are_left_to_it(batch: MetricsData) -> None:
    ours = encode(batch)
    if ours is not None:
        assert ours == encode_metrics(batch).SerializeToString()


def collection(**labels: Any) -> MetricsData:
    """Return one metric of each kind that we and the SDK collect."""
    delta, seen = AggregationTemporality.DELTA, [Exemplar({}, 0.25, 3, 4, 5), Exemplar({}, 7, 3, 4, 5)]
    kinds: list[Any] = [
        Sum([NumberDataPoint(labels, 1, 2, 3, seen), NumberDataPoint({}, 0, 2, -3, [])], delta, is_monotonic=True),
        Sum([NumberDataPoint(labels, 1, 2, 0.5, [])], AggregationTemporality.CUMULATIVE, is_monotonic=False),
        Gauge([NumberDataPoint(labels, 0, 2, 3, []), NumberDataPoint(labels, 0, 2, 0.0, seen)]),
        Histogram([HistogramDataPoint(labels, 1, 2, 3, 0.75, (0, 2, 1), (0.1, 5), 0.0, 0.5, seen)], delta),
        Gauge([]),
    ]
    found = [Metric(f"a.{n}", "what it is", "s", kind) for n, kind in enumerate(kinds)]
    return MetricsData([ResourceMetrics(RESOURCES[1], [ScopeMetrics(SCOPES[1], found, "")], "")])


def test_what_is_usual_needs_no_other_encoder() -> None:
    for told in ({"route": "chat", "tenant": "ü" * 200}, {"a": True}, {"a": 1}, {"a": 0.0}, {"a": -0.0}, {"a": 2**40}):
        batch = collection(**told)
        assert encode(batch) == encode_metrics(batch).SerializeToString()


@pytest.mark.parametrize("label", [None, "\ud800", 2**70, {"a": 1}, [1]], ids=ascii)
def test_what_is_rare_is_left_to_the_other_encoder(label: Any) -> None:
    assert encode(collection(a=label)) is None
    assert encode(MetricsData([])) is None
    assert encode(MetricsData([*collection().resource_metrics, *collection().resource_metrics])) is None


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metric_encoding, "MAX_KEPT", 10)
    for n in range(50):
        encode(collection(a=n, long="x" * 2_000 * (n % 2)))
        assert len(metric_encoding._said) <= 10
        assert all(len(said) <= metric_encoding.MAX_SAID_BYTES for said in metric_encoding._said.values())


@pytest.mark.parametrize("encodes", [True, False])
@pytest.mark.parametrize("most_bytes", [10, 2**20])
def test_all_of_it_arrives_whoever_encodes_it(encodes: bool, most_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallied, "MAX_BODY_BYTES", most_bytes)
    tallies = Tallies()
    tallies.of("slo.tallied", "s", (1.0, 2.0)).record(1.5, {"a": "b"})
    with sink() as collector, PromptSession() as session:
        exporter = TalliedExporter(
            endpoint=f"{collector.url}/v1/metrics", session=session, tallies=tallies, encodes=encodes
        )
        for label in ("usual", None):
            assert exporter.export(collection(a=label)) is MetricExportResult.SUCCESS
        assert len(collector.metrics) == 2
        assert [len(collector.metric_named(f"a.{n}")) for n in range(5)] == [2] * 5
        (said,) = collector.metric_named("slo.tallied")
        assert list(said.histogram.data_points[0].bucket_counts) == [0, 1, 0]
        assert session.body is None
