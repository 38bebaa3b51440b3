"""A tally of ours counts what a histogram of the SDK's counts, and reaches the collector as one."""

import os
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.sdk.metrics import Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader, MetricsData, ResourceMetrics
from opentelemetry.sdk.resources import Resource

from tailbudget.instrument import tallied
from tailbudget.instrument.histograms import MAX_NOTED, MAX_SETS, Labels, Tallies
from tests.instrument_support import sink
from tests.test_instrument_export import service

BOUNDARIES = (0.01, 1, 5.0)
ONE_CALL = (
    "import os\nfrom tailbudget import *\ninit('svc')\nwith request('chat'):\n"
    "  for word in stream(iter(['a', 'b']), model='m'): pass\n"
)
COUNTED = ("attributes", "count", "sum", "bucket_counts", "explicit_bounds", "min", "max")

recordings = st.lists(
    st.tuples(
        st.one_of(
            st.floats(0, 1e9), st.sampled_from((-1, 0, 3, float("nan"), float("inf"))), st.sampled_from(BOUNDARIES)
        ),
        st.dictionaries(st.sampled_from("ab"), st.sampled_from(("x", "y"))),
    ),
    max_size=20,
)


def of_the_sdk(rounds: Sequence[Sequence[tuple[float, Labels]]]) -> list[list[dict[str, object]]]:
    reader = InMemoryMetricReader({Histogram: AggregationTemporality.DELTA})
    provider = MeterProvider([reader], shutdown_on_exit=False)
    histogram = provider.get_meter("x").create_histogram("h", explicit_bucket_boundaries_advisory=BOUNDARIES)
    found = []
    for recorded in rounds:
        for value, labels in recorded:
            histogram.record(value, labels)
        found.append(counted(reader.get_metrics_data()))
    provider.shutdown()
    return found


def of_ours(rounds: Sequence[Sequence[tuple[float, Labels]]]) -> list[list[dict[str, object]]]:
    tallies = Tallies()
    found = []
    for recorded in rounds:
        for value, labels in recorded:
            tallies.of("h", "s", BOUNDARIES).record(value, labels)
        found.append(counted(tallied._with(tallies, MetricsData([ResourceMetrics(Resource({}), [], "")]))))
    return found


def counted(data: MetricsData | None) -> list[dict[str, object]]:
    metrics = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    said = [{name: getattr(point, name) for name in COUNTED} for m in metrics for point in m.data.data_points]
    return sorted(said, key=repr)


@settings(max_examples=60)
@given(st.lists(recordings, max_size=3))
def test_a_tally_counts_as_the_sdk_does_round_by_round(rounds: list[list[tuple[float, Labels]]]) -> None:
    normal = [[(value, dict(sorted(labels.items()))) for value, labels in recorded] for recorded in rounds]
    assert of_ours(normal) == of_the_sdk(normal)


def test_sets_of_labels_are_bounded_and_the_rest_counts_together() -> None:
    tally = Tallies().of("h", "s", BOUNDARIES)
    for n in range(MAX_SETS + 5):
        tally.record(0.5, {"tenant": str(n)})
    found = tally.take()[2]
    assert len(found) == MAX_SETS + 1
    assert [sum(point.counts) for point in found if point.labels == {"otel.metric.overflow": True}] == [5]


def test_what_is_noted_is_bounded_and_nothing_of_it_is_lost() -> None:
    tally = Tallies().of("h", "s", BOUNDARIES)
    held = []
    for _ in range(3 * MAX_NOTED + 5):
        tally.record(0.5, {})
        held.append(len(tally._noted))
    assert max(held) < MAX_NOTED
    assert [sum(point.counts) for point in tally.take()[2]] == [3 * MAX_NOTED + 5]
    assert tally.take()[2] == []


def test_what_is_not_collected_with_anything_stays_for_the_next_time() -> None:
    tallies = Tallies()
    tallies.of("h", "s", BOUNDARIES).record(0.5, {})
    assert tallied._with(tallies, MetricsData([])) == MetricsData([])
    assert len(tallies.of("h", "s", BOUNDARIES).take()[2]) == 1


@pytest.mark.parametrize("variables", [{}, {"OTEL_METRICS_EXEMPLAR_FILTER": "trace_based"}])
def test_a_service_sends_each_histogram_once_with_the_trace_it_was_measured_in(variables: dict[str, str]) -> None:
    with sink() as collector:
        done = service(ONE_CALL, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **variables)
        assert (done.returncode, done.stderr) == (0, "")
        (span,) = [span for span in collector.spans() if span.name == "chat m"]
        for name in ("operation.duration", "operation.time_to_first_chunk", "operation.time_per_output_chunk"):
            (metric,) = collector.metric_named(f"gen_ai.client.{name}")
            (point,) = metric.histogram.data_points
            assert (point.count, metric.unit, metric.histogram.aggregation_temporality) == (1, "s", 1)
            assert [exemplar.trace_id for exemplar in point.exemplars] == [span.trace_id]
            assert len(point.explicit_bounds) == 14


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_sends_its_own_calls_alone() -> None:
    code = ONE_CALL + "if os.fork() == 0:\n  shutdown()\n  os._exit(0)\nos.wait()\n"
    with sink() as collector:
        done = service(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        assert done.returncode == 0, done.stderr
        found = [p for m in collector.metric_named("gen_ai.client.operation.duration") for p in m.histogram.data_points]
        assert sum(point.count for point in found) == 1
