"""The lander lives on, whatever a body, a chore or the machine does to it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from tailbudget.analytics.recognise import PROMOTED
from tailbudget.collector.counters import Counters
from tailbudget.collector.journal.writer import Position
from tailbudget.collector.land import lander as lander_module
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.lander import Chore, Lander
from tailbudget.collector.land.landing import Body, Health, Landing
from tailbudget.collector.land.portion import Entry
from tailbudget.collector.receive.batches import SpanBatches
from tailbudget.collector.receive.decode import BadBodyError, decode_traces

from .collector_support import trace_request
from .support import wait_until


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_database(tmp_path)
    yield found
    found.close()


def batches(seed: int, spans: int = 2) -> SpanBatches:
    return decode_traces(trace_request(spans, seed=seed).SerializeToString(), promoted=PROMOTED)


def unlandable(seed: int) -> SpanBatches:
    bad = batches(seed)
    at = bad.spans.schema.get_field_index("end_ns")  # a duration that no BIGINT holds
    spans = bad.spans.set_column(at, bad.spans.schema.field(at), pa.array([-(2**63)] * 2))
    return replace(bad, spans=spans)


def entry(number: int, found: SpanBatches | None) -> Entry:
    start, end = Position(1, number * 10), Position(1, number * 10 + 10)
    return Entry(start=start, end=end, digest=number.to_bytes(16, "big"), arrived_s=0.0, batches=found)


@contextmanager
def lander(
    connection: duckdb.DuckDBPyConnection,
    *,
    counters: Counters | None = None,
    load: Callable[[Entry], SpanBatches] = lambda entry: batches(entry.start.offset),
    landed: Callable[[Position, int], None] = lambda upto, nbytes: None,
    chores: Sequence[Chore] = (),
    backlog: Sequence[Entry] = (),
    queue_bytes: int = 10**9,
) -> Iterator[Lander]:
    running = Lander(
        Landing(connection),
        load=load,
        landed=landed,
        counters=counters or Counters(),
        chores=chores,
        queue_bytes=queue_bytes,
        backlog=backlog,
    )
    running.start()
    yield running
    assert running.close(within_s=20)


def stored(connection: duckdb.DuckDBPyConnection) -> int:
    return int(connection.cursor().execute("select count(*) from spans").fetchall()[0][0])


def test_what_was_put_lands_and_the_journal_is_told(connection: duckdb.DuckDBPyConnection) -> None:
    told: list[tuple[Position, int]] = []
    with lander(connection, landed=lambda upto, nbytes: told.append((upto, nbytes))) as running:
        for number in range(5):
            running.put(entry(number, batches(number)))
        wait_until(lambda: stored(connection) == 10)
    assert told[-1][0] == Position(1, 50)
    assert sum(nbytes for _, nbytes in told) == 50


def test_bodies_that_come_one_by_one_share_a_transaction(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lander_module, "EVERY_S", 60.0)
    monkeypatch.setattr(lander_module, "AT_MOST_EVERY_S", 60.0)
    counters = Counters()
    with lander(connection, counters=counters) as running:
        running.put(entry(0, batches(0)))
        wait_until(lambda: stored(connection) == 2)  # the first lands at once
        for number in range(1, 4):
            running.put(entry(number, batches(number)))
            time.sleep(0.1)  # time enough for one that does not wait
    assert stored(connection) == 8
    (work,) = counters.work_s.collect()
    assert {one.labels["work"]: one.value for one in work.samples if one.name.endswith("_count")}["landing"] == 2


@pytest.mark.parametrize(
    ("rows", "bodies", "pause_s"), [(10**6, 3, 0.3), (1, 4, 60.0)], ids=["now and then", "a transaction's worth each"]
)
def test_what_need_not_wait_leaves_no_wait_to_others(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, rows: int, bodies: int, pause_s: float
) -> None:
    monkeypatch.setattr("tailbudget.collector.land.portion.ROW_GROUP_ROWS", rows)
    for name in ("EVERY_S", "AT_MOST_EVERY_S"):
        monkeypatch.setattr(lander_module, name, pause_s)
    with lander(connection) as running:
        for number in range(bodies):
            running.put(entry(number, batches(number)))
            wait_until(lambda number=number: stored(connection) == 2 * number + 2)  # type: ignore[misc]
        left_s = running._next_s - time.monotonic()
    assert left_s <= (0 if rows > 1 else pause_s)


def test_closing_lands_what_waits(connection: duckdb.DuckDBPyConnection) -> None:
    with lander(connection) as running:
        for number in range(50):
            running.put(entry(number, batches(number)))
    assert stored(connection) == 100


def test_a_body_that_does_not_fit_the_tables_is_dropped_alone_and_counted(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    bad = unlandable(7)
    counters = Counters()
    with lander(connection, counters=counters) as running:
        for number in range(6):
            running.put(entry(number, bad if number == 3 else batches(number + 100)))
        wait_until(lambda: stored(connection) == 10)
    counted = connection.execute("select n from ingest_health where reason = 'unlandable'").fetchall()
    assert counted == [(1,)]


def test_one_bad_body_of_many_is_found_in_few_transactions(connection: duckdb.DuckDBPyConnection) -> None:
    counters = Counters()
    backlog = [entry(number, unlandable(7) if number == 30 else batches(number + 100)) for number in range(64)]
    with lander(connection, counters=counters, backlog=backlog):
        wait_until(lambda: stored(connection) == 126)
    failures = counters.registry.get_sample_value("tailbudget_failures_total", {"work": "landing"})
    assert failures == 7  # of 64, 32, 16, 8, 4, 2 and 1
    transactions = counters.registry.get_sample_value("tailbudget_work_seconds_count", {"work": "landing"})
    assert transactions == 6


def test_a_body_that_duckdb_itself_stumbles_over_is_dropped_after_a_few_tries(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    land = Landing.land

    def stumble(self: Landing, bodies: Sequence[Body], **more: Any) -> Health:
        if any(body.digest == (3).to_bytes(16, "big") for body in bodies):
            raise duckdb.InternalException("INTERNAL Error")
        return land(self, bodies, **more)

    monkeypatch.setattr(Landing, "land", stumble)
    monkeypatch.setattr(lander_module, "RETRY_S", 0.01)
    counters = Counters()
    with lander(connection, counters=counters, backlog=[entry(number, batches(number)) for number in range(6)]):
        wait_until(lambda: stored(connection) == 10)
    assert connection.execute("select n from ingest_health where reason = 'unlandable'").fetchall() == [(1,)]


def test_entries_beyond_the_queue_are_read_back(connection: duckdb.DuckDBPyConnection) -> None:
    loaded: list[Entry] = []

    def load(found: Entry) -> SpanBatches:
        loaded.append(found)
        return batches(found.start.offset)

    with lander(connection, load=load, queue_bytes=1) as running:
        for number in range(20):
            running.put(entry(number, batches(number * 10)))
        wait_until(lambda: stored(connection) == 40)
    assert loaded


def test_a_backlog_lands_first_and_an_entry_that_cannot_be_read_is_counted(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    def load(found: Entry) -> SpanBatches:
        if found.start.offset == 10:
            raise BadBodyError("damaged")
        return batches(found.start.offset)

    counters = Counters()
    with lander(connection, load=load, counters=counters, backlog=[entry(number, None) for number in range(3)]):
        wait_until(lambda: stored(connection) == 4)
    assert connection.execute("select n from ingest_health where reason = 'unreadable'").fetchall() == [(1,)]


def test_a_chore_that_raises_is_counted_and_landing_goes_on(connection: duckdb.DuckDBPyConnection) -> None:
    runs = threading.Semaphore(0)

    def broken(now: datetime) -> None:
        runs.release()
        raise ValueError(f"broken at {now}")

    counters = Counters()
    with lander(connection, counters=counters, chores=[Chore("broken", 0.5, broken)]) as running:
        assert runs.acquire(timeout=120)
        running.put(entry(1, batches(1)))
        wait_until(lambda: stored(connection) == 2)
        assert runs.acquire(timeout=120)
    assert b'tailbudget_failures_total{work="broken"}' in counters.exposition()


def test_a_chore_that_left_work_goes_on_at_once(connection: duckdb.DuckDBPyConnection) -> None:
    left = [True] * 5 + [False]
    done = threading.Event()

    def one(_: datetime) -> bool:
        more = left.pop(0)
        if not left:
            done.set()
        return more

    with lander(connection, chores=[Chore("long", 3600.0, one)]):
        assert done.wait(10)


def test_a_chore_takes_its_share_of_the_time_at_most(connection: duckdb.DuckDBPyConnection) -> None:
    runs, began = [], time.monotonic()

    def slow(_: datetime) -> None:
        time.sleep(0.05)
        runs.append(time.monotonic())

    with lander(connection, chores=[Chore("slow", 0.01, slow, share=0.1)]):
        wait_until(lambda: len(runs) >= 3)
    # Half a second from one start to the next, however fast the machine is.
    assert runs[2] - began >= 2 * 0.5


def test_counts_without_bodies_are_stored_at_the_end(connection: duckdb.DuckDBPyConnection) -> None:
    counters = Counters()
    with lander(connection, counters=counters):
        counters.dropped("logs", "signal_not_stored", 4)
    assert connection.execute("select signal, n from ingest_health").fetchall() == [("logs", 4)]
