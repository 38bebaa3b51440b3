"""One request is found by its id, with its spans in order, its nine stages, and its attributes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tailbudget.analytics import traces
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.instrument.vocabulary import STAGES

from .seed import Row, Seeded, empty, seed

ENDED = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConnectionReader, Seeded]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    yield ConnectionReader(connection), seed(connection, ended=ENDED)
    connection.close()


def _one(seeded: Seeded) -> Row:
    return next(row for row in seeded.rows["requests"] if row["over_stage"] == "retrieval" and row["route"] == "/chat")


def test_the_slowest_requests_come_first(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    slowest = sorted(seeded.rows["requests"], key=lambda row: -row["total_ms"])[:5]
    found = traces.slowest_requests(reader, Window(seeded.started, ENDED), rows=5)
    assert found["request_id"].to_pylist() == [row["request_id"] for row in slowest]


def test_a_request_is_found_by_its_id_and_an_unknown_one_is_no_row(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    one = _one(seeded)
    assert traces.request(reader, one["request_id"]).to_pylist()[0]["total_ms"] == one["total_ms"]
    assert traces.request(reader, "req-nobody").num_rows == 0


def test_spans_come_by_their_start_and_the_budget_begins_with_the_first_of_a_stage(
    data: tuple[ConnectionReader, Seeded],
) -> None:
    reader, seeded = data
    one = _one(seeded)
    found = traces.request_spans(reader, one["request_id"], trace_id=one["trace_id"]).to_pylist()
    assert [row["from_ms"] for row in found] == sorted(row["from_ms"] for row in found)
    tools = [row for row in found if row["stage"] == "tools"]
    assert [row["room_to_ms"] for row in tools] == [pytest.approx(tools[0]["from_ms"] + 300), None]
    assert [row["room_from_ms"] for row in found if row["stage"] == "post"] == [None]


def test_the_stages_of_a_request_sum_to_its_total(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    one = _one(seeded)
    found = traces.request_stages(reader, one["request_id"], trace_id=one["trace_id"]).to_pylist()
    assert [row["stage"] for row in found] == list(STAGES)
    assert sum(row["critical_ms"] or 0 for row in found) == pytest.approx(one["total_ms"])


def test_attributes_are_listed_as_text_by_span(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    one = _one(seeded)
    found = traces.request_attributes(reader, trace_id=one["trace_id"]).to_pylist()
    first = [(row["key"], row["value"]) for row in found if row["stage"] == "retrieval"]
    assert first == [("k1", "1.5"), ("slo.retrieval.documents", "8"), ("slo.stage", "retrieval")]
