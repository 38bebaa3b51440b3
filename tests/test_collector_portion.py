"""Spans land in whole row groups where so many wait, and each once, whatever body is cut and whoever is killed."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.recognise import PROMOTED
from tailbudget.collector.counters import Counters
from tailbudget.collector.journal.writer import Position
from tailbudget.collector.land.database import ROW_GROUP_ROWS, open_database
from tailbudget.collector.land.lander import Lander
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.land.portion import Entry, Portion
from tailbudget.collector.receive.batches import Batches, SpanBatches
from tailbudget.collector.receive.decode import decode_metrics, decode_traces

from .collector_support import gauge, metrics_body, trace_request
from .support import wait_until

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_database(tmp_path)
    yield found
    found.close()


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailbudget.collector.land.portion.ROW_GROUP_ROWS", 10)


def batches(seed: int, spans: int) -> SpanBatches:
    """Return spans of which each has an event and a link, and one more that is rejected."""
    request = trace_request(spans, seed=seed)
    (scope,) = request.resource_spans[0].scope_spans
    for span in scope.spans:
        span.events.add(name="e")
        span.links.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8)
    scope.spans.add(name="without an id")
    return decode_traces(request.SerializeToString(), promoted=PROMOTED)


def entry(number: int, found: Batches | None) -> Entry:
    start, end = Position(1, number * 10), Position(1, number * 10 + 10)
    return Entry(start=start, end=end, digest=number.to_bytes(16, "big"), arrived_s=0.0, batches=found)


def portion(*entries: Entry) -> Portion:
    found = Portion()
    for one in entries:
        found.add(one, one.batches)
    found.shorten()
    return found


def counts(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    names = ("spans", "span_events", "span_links")
    return {name: connection.cursor().execute(f"select count(*) from {name}").fetchall()[0][0] for name in names}


def health(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    sql = "select reason, sum(n)::bigint from ingest_health group by reason"
    return dict(connection.cursor().execute(sql).fetchall())


@pytest.mark.usefixtures("small_groups")
def test_the_last_body_is_cut_where_a_row_group_ends_and_the_journal_has_landed_up_to_it() -> None:
    taken = portion(*(entry(number, batches(number, 4)) for number in range(3)))
    assert [body.batches.spans.num_rows for body in taken.readable if isinstance(body.batches, SpanBatches)] == [
        4,
        4,
        2,
    ]
    assert taken.spans == 10
    assert taken.position == Position(1, 20)
    assert taken.rest
    assert isinstance(taken.rest.batches, SpanBatches)
    assert taken.rest.batches.spans.num_rows == 2
    assert taken.rest.digest == (2).to_bytes(16, "big")  # by which a repeat is known, once all of it landed
    assert taken.readable[-1].digest != taken.rest.digest


@pytest.mark.usefixtures("small_groups")
def test_bodies_beyond_the_last_row_group_wait() -> None:
    metrics = decode_metrics(metrics_body(gauge("hw.power", 1.0, {}, t_ns=1)))
    entries = (entry(0, batches(0, 10)), entry(1, metrics), entry(2, None), entry(3, batches(3, 4)))
    taken = portion(*entries)
    assert ([one.start for one in taken.entries], taken.rest) == ([one.start for one in entries[:3]], None)
    assert taken.position == Position(1, 30)


@pytest.mark.usefixtures("small_groups")
def test_less_than_a_row_group_lands_as_it_is() -> None:
    taken = portion(entry(0, batches(0, 4)), entry(1, batches(1, 5)))
    assert (len(taken.entries), taken.spans, taken.rest) == (2, 9, None)


@pytest.mark.usefixtures("small_groups")
def test_bodies_without_a_row_fill_a_transaction_too() -> None:
    taken = Portion()
    for number in range(100):
        if taken.is_full:
            break
        taken.add(entry(number, None), None)
    assert len(taken.entries) == 20


def test_events_links_and_counts_go_with_the_spans_of_a_cut_body() -> None:
    whole = batches(1, 5)
    first, rest = whole.cut(2)
    for name in ("spans", "events", "links"):
        parts = [getattr(part, name)["span_id"].to_pylist() for part in (first, rest)]
        assert (parts[0] + parts[1], len(parts[0])) == (getattr(whole, name)["span_id"].to_pylist(), 2)
    assert (first.rejected, rest.rejected) == (0, whole.rejected) == (0, 1)
    assert first.health == {("shop", "accepted"): 2}
    assert first.health + rest.health == whole.health


@pytest.mark.usefixtures("small_groups")
def test_each_span_lands_once_whatever_is_cut(connection: duckdb.DuckDBPyConnection) -> None:
    told: list[tuple[Position, int]] = []
    sizes = (4, 25, 1, 8, 13, 3)
    running = Lander(
        Landing(connection),
        load=lambda one: batches(one.start.offset // 10, sizes[one.start.offset // 10]),
        landed=lambda upto, nbytes: told.append((upto, nbytes)),
        counters=Counters(),
        queue_bytes=10**9,
    )
    for number, size in enumerate(sizes):  # some are read back from the journal
        running.put(entry(number, batches(number, size) if number % 2 else None))
    running.start()
    wait_until(lambda: counts(connection)["spans"] == sum(sizes))
    assert running.close(within_s=20)
    assert counts(connection) == dict.fromkeys(("spans", "span_events", "span_links"), sum(sizes))
    assert health(connection) == {"accepted": sum(sizes), "bad_id": len(sizes)}
    assert (told[-1][0], sum(nbytes for _, nbytes in told)) == (Position(1, 60), 60)
    digests = {bytes(row[0]) for row in connection.execute("select digest from bodies").fetchall()}
    assert digests >= {number.to_bytes(16, "big") for number in range(len(sizes))}
    assert (running._decoded_bytes, running._decoded_rows) == (0, 0)


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize(("spans", "waits"), [(5, True), (1, False)])
def test_a_transaction_waits_for_a_row_group_where_one_fills_soon(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, spans: int, waits: bool
) -> None:
    monkeypatch.setattr("tailbudget.collector.land.lander.AT_MOST_EVERY_S", 1e6)
    running = Lander(
        Landing(connection),
        load=lambda _: batches(0, 1),
        landed=lambda *_: None,
        counters=Counters(),
        queue_bytes=10**9,
    )
    running.put(entry(0, batches(0, spans)))
    running.start()
    wait_until(lambda: counts(connection)["spans"] == spans)
    assert running.close(within_s=20)
    assert (running._next_s - time.monotonic() > 1e5) == waits


@pytest.mark.usefixtures("small_groups")
def test_the_rest_of_a_cut_body_lands_once_after_a_kill_however_long_it_lay(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    whole = entry(0, batches(0, 17))
    taken = portion(whole)
    Landing(connection).land(taken.readable, now=LONG_AGO, position=taken.position)
    assert counts(connection)["spans"] == 10
    connection.close()
    connection = open_database(tmp_path)
    assert whole.batches
    Landing(connection).land([Body(digest=whole.digest, batches=whole.batches)])  # the journal has it from its start
    assert counts(connection) == {"spans": 17, "span_events": 17, "span_links": 17}
    connection.close()


def test_a_full_row_group_is_written_past_the_write_ahead_log_whatever_sizes_its_bodies_have(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    taken = Portion()
    for number in range(1, 32):
        found = decode_traces(trace_request(700, seed=number).SerializeToString(), promoted=PROMOTED)
        taken.add(entry(number, found), found)
        if taken.is_full:
            break
    taken.shorten()
    assert taken.spans == ROW_GROUP_ROWS
    Landing(connection).land(taken.readable, position=taken.position)
    rows = connection.execute(
        "select row_group_id, bool_and(persistent) from pragma_storage_info('spans_open') group by all"
    ).fetchall()
    assert rows == [(0, True)]
