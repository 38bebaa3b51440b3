"""One request is found by its id, with its spans in order, its nine stages, and its attributes."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tailbudget.analytics import traces
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.instrument.vocabulary import STAGES

from .seed import Row, Seeded, empty, seed
from .seed_more import furnish
from .seed_streams import STALL_MS, stream

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


@pytest.fixture(scope="module")
def streamed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ConnectionReader, Seeded, dict[str, list[Row]]]]:
    connection = empty(Path(tmp_path_factory.mktemp("streamed")))
    seeded = seed(connection, ended=ENDED)
    furnish(connection, seeded)
    made = stream(connection, seeded)
    yield ConnectionReader(connection), seeded, made
    connection.close()


def test_chunks_come_from_the_first_token_to_the_end_of_decoding_and_the_stall_is_named(
    streamed: tuple[ConnectionReader, Seeded, dict[str, list[Row]]],
) -> None:
    reader, seeded, made = streamed
    call = next(row for row in made["calls"] if row["stalls"])
    one = next(row for row in seeded.rows["requests"] if row["request_id"] == call["request_id"])
    told = next(row for row in made["streams"] if row["request_id"] == call["request_id"])
    found = traces.token_gaps(
        reader, one["request_id"], trace_id=one["trace_id"], started=one["started"], until_ms=9.0
    ).to_pylist()
    assert [round(row["gap_ms"] * 1000) for row in found] == told["gaps_us"]
    assert [row["from_ms"] for row in found[1:]] == pytest.approx([row["to_ms"] for row in found[:-1]])
    assert [row["gap_ms"] for row in found if row["stalled"]] == [STALL_MS]
    assert found[-1]["to_ms"] == pytest.approx(one["total_ms"] - one["post_ms"], abs=1)
    assert {row["chunks"] for row in found} == {len(told["gaps_us"]) + 1}
    assert {row["until_ms"] for row in found} == {9.0}


def test_a_slow_but_even_stream_has_no_stall(streamed: tuple[ConnectionReader, Seeded, dict[str, list[Row]]]) -> None:
    reader, seeded, _ = streamed
    one = seeded.rows["requests"][5]
    reader.connection.execute(
        "update streams set gaps_us = [900000, 1500000, 1400000] where request_id = $1", [one["request_id"]]
    )
    found = traces.token_gaps(reader, one["request_id"], trace_id=one["trace_id"], started=one["started"])
    assert found["stalled"].to_pylist() == [False] * 3


def test_network_phases_follow_one_another_and_waiting_for_headers_is_none_of_them(
    streamed: tuple[ConnectionReader, Seeded, dict[str, list[Row]]],
) -> None:
    reader, seeded, _ = streamed
    one = seeded.rows["requests"][0]
    found = [
        row for row in traces.network_phases(reader, trace_id=one["trace_id"]).to_pylist() if "chat" in row["name"]
    ]
    assert [row["phase"] for row in found] == ["pool wait", "dns", "connect", "tls", "send"]
    assert [row["ms"] for row in found] == pytest.approx([0.4, 1.1, 21, 34, 0.7])
    assert found[-1]["to_ms"] == pytest.approx(57.2)
    assert (found[0]["reused"], found[0]["http_version"], found[0]["wait_headers_ms"]) == (False, "HTTP/2", 410)


def test_a_request_stands_beside_its_route_in_the_hour_around_it(
    streamed: tuple[ConnectionReader, Seeded, dict[str, list[Row]]],
) -> None:
    reader, seeded, _ = streamed
    one = _one(seeded)
    route = [row for row in seeded.rows["requests"] if row["route"] == one["route"] and not row["synthetic"]]
    found = {
        row["part"]: row for row in traces.beside_route(reader, one["request_id"], trace_id=one["trace_id"]).to_pylist()
    }
    assert next(iter(found)) == "total"
    for part in ("total", "retrieval"):
        times = [row[f"{part}_ms"] for row in route]
        told = found[part]
        assert [told["p50_ms"], told["p95_ms"], told["p99_ms"]] == pytest.approx(
            np.percentile(times, [50, 95, 99]).tolist()
        )
        assert (told["n"], told["ms"]) == (len(times), one[f"{part}_ms"])
        assert told["slower_than"] == pytest.approx(np.mean([ms < told["ms"] for ms in times]))


def test_a_call_names_every_instrumentation_that_told_of_it(
    streamed: tuple[ConnectionReader, Seeded, dict[str, list[Row]]],
) -> None:
    reader, seeded, _ = streamed
    one = seeded.rows["requests"][0]
    (call,) = traces.request_calls(reader, one["request_id"], trace_id=one["trace_id"]).to_pylist()
    assert call["spans"] == 2
    assert sorted(call["told_by"].split(", ")) == ["demo: opentelemetry.instrumentation.openai_v2", "demo: tailbudget"]
