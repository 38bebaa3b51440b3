"""What is older than it is to be kept ends, and the folder stays below its size, oldest spans first."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.reader import DATABASE_NAME
from tailbudget.collector.counters import Counters
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.landing import Landing
from tailbudget.collector.seal import retention as retaining
from tailbudget.collector.seal.retention import RETENTION, Keep, Retention

from .test_seal import LATER, content, files, in_table, land, seal, traces

NOW = datetime(2026, 1, 1, 2, 25, tzinfo=UTC)
#: Tables that do not grow with time.
BOUNDED = {"resources", "dirty", "live", "slo_status", "bodies", "meta", "sealed_files", "retained"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def connection(data: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_database(data)
    yield found
    found.close()


def retain(
    connection: duckdb.DuckDBPyConnection, data: Path, keep: Keep, *, now: datetime = LATER, at_most: int = 1000
) -> Counters:
    """Run retention until it has nothing more to do."""
    counters = Counters()
    found = Retention(connection, data, keep=keep, counters=counters)
    for _ in range(at_most):
        if not found.tick(now):
            return counters
    raise AssertionError("retention does not come to an end")


def counts(connection: duckdb.DuckDBPyConnection, *tables: str) -> list[int]:
    return [connection.execute(f"select count(*) from {table}").fetchall()[0][0] for table in tables]


def test_every_table_that_grows_with_time_is_retained(connection: duckdb.DuckDBPyConnection) -> None:
    tables = {name for (name,) in connection.execute("select table_name from duckdb_tables()").fetchall()}
    assert tables - {kept.table for kept in RETENTION} == BOUNDED


def test_rows_and_files_end_when_they_are_older_than_they_are_kept(
    connection: duckdb.DuckDBPyConnection, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retaining, "GRACE_S", 0.0)
    land(connection, traces(1200, seed=1))
    seal(connection, data, now=NOW)
    assert len(files(data)) == 3
    keep = Keep(spans=timedelta(hours=11), requests=timedelta(hours=10, minutes=30))
    counters = retain(connection, data, keep, now=LATER)
    ended = 515  # of the 1,200, 7 s apart, those of the first hour
    assert counts(connection, "spans", "span_events") == [1200 - ended, 1200 - ended]
    assert files(data) == []
    assert counts(connection, "requests") == [1200 - 772]
    taken = {(signal, reason): n for (_, signal, reason), n in counters.take_unstored().items()}
    assert taken[("spans", "expired")] == ended
    assert taken[("requests", "expired")] == 772


def test_what_ended_is_counted_in_ingest_health_and_is_not_said_to_be_unstored(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    land(connection, traces(10, seed=1))
    counters = retain(connection, data, Keep(spans=timedelta(hours=1)))
    counted = Landing(connection).land([], health=counters.take_unstored())
    counters.stored(counted)
    query = "select n from ingest_health where signal = 'spans' and reason = 'expired'"
    assert connection.execute(query).fetchall() == [(10,)]
    assert b'reason="expired",signal="spans"} 10.0' in counters.exposition()


def test_a_file_goes_only_after_questions_that_may_read_it_have_ended(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    land(connection, traces(10, seed=1))
    seal(connection, data)
    retain(connection, data, Keep(spans=timedelta(hours=1)))
    assert content(connection)["spans"][0] == 0
    assert len(files(data)) == 3


def test_a_folder_that_is_too_large_loses_its_oldest_file_and_no_more_than_needed(
    connection: duckdb.DuckDBPyConnection, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retaining, "GRACE_S", 0.0)
    land(connection, traces(1200, seed=1))
    seal(connection, data)
    connection.execute("checkpoint")
    found = Retention(connection, data, keep=Keep(), counters=Counters())
    oldest = data / "sealed" / next(name for name in files(data) if "T00" in name and name.startswith("span_events"))
    enough = Keep(max_disk_bytes=found._used_bytes())
    retain(connection, data, enough)
    assert oldest.exists()
    retain(connection, data, replace(enough, max_disk_bytes=enough.max_disk_bytes - 1000))
    assert counts(connection, "spans", "requests")[1] == 1200
    hours = {name.split("/")[1][:11] for name in files(data)}
    assert len(files(data)) < 9
    assert {"20260101T01", "20260101T02"} <= hours


@pytest.mark.slow
def test_without_a_file_the_oldest_rows_of_the_table_end_and_the_youngest_stay(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    land(connection, traces(1200, seed=1))
    connection.execute("checkpoint")
    keep = Keep(max_disk_bytes=1)
    found = Retention(connection, data, keep=keep, counters=Counters())
    for _ in range(30):
        found.tick(NOW)
    assert 0 < in_table(connection)[0] < 150
    assert connection.execute("select epoch(min(started)) from spans").fetchall()[0][0] >= NOW.timestamp() - 660


def test_the_data_file_uses_again_what_was_freed(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    sizes = []
    for seed in range(7):
        Landing(connection).land([traces(3000, seed=seed)], now=LATER)
        connection.execute("checkpoint")
        sizes.append((data / DATABASE_NAME).stat().st_size)
        for table in ("dirty", *(kept.table for kept in RETENTION)):
            connection.execute(f"delete from {table}")
        connection.execute("checkpoint")
    assert max(sizes) <= 1.2 * sizes[2], "what a checkpoint frees is written to by the one after the next"
