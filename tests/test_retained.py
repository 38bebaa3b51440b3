"""What retention ends here stays in the lake that hours were sealed to, which ends its own."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from tailbudget.collector.counters import Counters
from tailbudget.collector.lake import uploader
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.lake.uploader import Uploader
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.landing import Landing
from tailbudget.collector.seal.retention import Keep, Retention
from tailbudget.instrument.errors import UserError

from .test_seal import LATER, land, seal, traces

#: Of traces 7 s apart from midnight on those of the first ten minutes are older than this at noon.
MOST_OF_IT = Keep(spans=timedelta(hours=11, minutes=50), requests=timedelta(hours=11, minutes=50))


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_database(tmp_path / "data")
    yield found
    found.close()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


def _retain(connection: duckdb.DuckDBPyConnection, data: Path, keep: Keep) -> None:
    found = Retention(connection, data, keep=keep, counters=Counters())
    while found.tick(LATER):
        pass


def _upload(connection: duckdb.DuckDBPyConnection, lake: Lake) -> int:
    return Uploader(connection, lake, seal_after=timedelta(0)).tick(LATER)


def _count(lake: Lake, table: str) -> int:
    return sum(file.num_rows for file in lake.read(table))


def _since_s(connection: duckdb.DuckDBPyConnection, relation: str) -> float:
    ((found,),) = connection.execute("select epoch(since) from retained where relation = $1", [relation]).fetchall()
    return float(found) - (LATER - timedelta(hours=12)).timestamp()


def test_an_hour_of_which_retention_ends_a_part_here_stays_whole_in_the_lake(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, lake: Lake
) -> None:
    land(connection, traces(600, seed=1))
    assert _upload(connection, lake) > 0
    _retain(connection, tmp_path / "data", MOST_OF_IT)
    assert connection.execute("select count(*) from spans").fetchall() == [(600 - 86,)]
    _upload(connection, lake)
    assert [_count(lake, table) for table in ("spans", "requests", "span_events")] == [600, 600, 600]


def test_a_part_of_an_hour_that_retention_ends_while_the_hour_is_written_anew_stays_in_the_lake(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    land(connection, traces(600, seed=1))
    _upload(connection, lake)
    connection.execute("update requests set tenant = 'renamed'")
    fingerprints = Uploader._fingerprints

    def then_ended(self: Uploader, *given: object) -> object:
        found = fingerprints(self, *given)  # type: ignore[arg-type]
        _retain(connection, tmp_path / "data", MOST_OF_IT)
        return found

    monkeypatch.setattr(uploader.Uploader, "_fingerprints", then_ended)
    _upload(connection, lake)
    assert _count(lake, "requests") == 600


def test_an_hour_that_changes_beside_what_retention_ended_is_written_anew(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, lake: Lake
) -> None:
    land(connection, traces(600, seed=1))
    _upload(connection, lake)
    _retain(connection, tmp_path / "data", MOST_OF_IT)
    connection.execute("update requests set tenant = 'renamed' where started >= $1", [LATER - timedelta(hours=11)])
    _upload(connection, lake)
    tenants = [row for file in lake.read("requests") for row in file["tenant"].to_pylist()]
    assert tenants.count("renamed") == 600 - 515


def test_a_row_that_comes_after_others_of_its_time_have_ended_says_nothing_of_them(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    land(connection, traces(600, seed=1))
    _retain(connection, tmp_path / "data", MOST_OF_IT)
    assert _since_s(connection, "spans") == _since_s(connection, "requests") == 600
    Landing(connection).land([traces(1, seed=2)], now=LATER)
    _retain(connection, tmp_path / "data", MOST_OF_IT)
    assert _since_s(connection, "spans") == 600


def test_files_that_end_are_remembered_too(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    land(connection, traces(600, seed=1))
    seal(connection, tmp_path / "data")
    _retain(connection, tmp_path / "data", Keep(spans=timedelta(hours=11)))
    assert connection.execute("select count(*) from spans").fetchall() == [(600 - 515,)]
    assert _since_s(connection, "spans") == pytest.approx(7 * 514)


def test_a_lake_that_is_kept_for_a_time_ends_its_oldest_hours_and_lists_no_file_that_is_gone(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    land(connection, traces(600, seed=1))  # of the hours from midnight and from one o'clock on
    whole, kept = (Lake(f"file://{tmp_path}/lake{said}") for said in ("", "?keep=11h"))
    _upload(connection, whole)
    assert _count(whole, "spans") == 600
    for _ in range(2):  # readers may hold what was listed last
        _upload(connection, kept)
    assert _count(whole, "spans") == _count(kept, "spans") == 600 - 515
    assert not [path for path in (tmp_path / "lake" / "spans").iterdir() if path.name.startswith("20260101T00")]
    with pytest.raises(UserError, match=r"keep in .*no length of time"):
        Lake("file:///lake?keep=long")


def test_young_hours_are_looked_at_often_and_old_ones_seldom(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(str(tmp_path / "lake"))
    land(connection, traces(1100, seed=1))  # of three hours
    found = Uploader(connection, lake, seal_after=timedelta(0))
    now = LATER - timedelta(hours=9)
    assert found.tick(now) > 0
    connection.execute("update requests set tenant = 'renamed'")
    assert found.tick(now) == 0  # nothing is due
    found._due_s[0] = 0.0
    assert found.tick(now) == 2  # files of requests: of the last two hours
    found._due_s[1] = 0.0
    assert found.tick(now) == 1
