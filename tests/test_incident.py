"""An incident's folder tells what happened, and holds the rows and the SQL that tell it again."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.app.cli import run
from tailbudget.collector.land.database import open_database

from .local_api import local_api
from .seed import Seeded, seed

FROM_S, TO_S = 330, 450  # the seed's slow index


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seeded]:
    """Return a data folder with the seed's quarter of an hour, an objective's counts and two marks."""
    folder = tmp_path_factory.mktemp("data")
    connection = open_database(folder)
    found = seed(connection, ended=datetime(2026, 3, 1, 12, tzinfo=UTC))
    at = found.started + timedelta(seconds=FROM_S)
    connection.execute(
        "insert into marks by name select 'm1' as mark_id, $1::timestamptz as t, 'version' as kind, 'shop' as service, "
        "'shop: version 1 -> 2' as label",
        [at - timedelta(minutes=10)],
    )
    connection.execute(
        "insert into slo_minute "
        "select 'chat.total', '', time_bucket(interval 1 minute, $1::timestamptz + interval 1 minute), 50, 20",
        [at],
    )
    connection.close()
    return folder, found


def _incident(seeded: tuple[Path, Seeded], out: Path) -> tuple[str, list[str]]:
    folder, found = seeded
    times = [(found.started + timedelta(seconds=second)).isoformat() for second in (FROM_S, TO_S)]
    assert run(["incident", "--from", times[0], "--to", times[1], "--out", str(out), "--data", str(folder)]) == 0
    return (out / "report.md").read_text(), times


def test_the_report_tells_what_happened(seeded: tuple[Path, Seeded], tmp_path: Path) -> None:
    report, _ = _incident(seeded, tmp_path / "out")
    sections = dict(part.split("\n", 1) for part in report.split("\n## ")[1:])
    assert list(sections) == ["Summary", "Timeline", "Budgets", "Alerts", "Marks", "GPU", "Example traces", "Blame"]
    assert "retrieval" in sections["Summary"]
    assert "chat.total" in sections["Budgets"]
    assert "shop: version 1 -> 2" in sections["Marks"]
    assert "10 rows" in sections["Example traces"]
    assert "### By stage" in sections["Blame"]


def test_its_rows_and_its_sql_stand_alone(seeded: tuple[Path, Seeded], tmp_path: Path) -> None:
    out = tmp_path / "out"
    _incident(seeded, out)
    found = seeded[1]
    window = [found.started + timedelta(seconds=second) for second in (FROM_S, TO_S)]
    inside = [row for row in found.rows["requests"] if window[0] <= row["started"] < window[1]]
    expected = sum(not row["synthetic"] for row in inside)
    with duckdb.connect(str(out / "tailbudget.duckdb"), read_only=True) as connection:
        answers = [
            ConnectionReader(connection).query(statement).to_pylist()
            for statement in (out / "queries.sql").read_text().split(";\n")
            if "select" in statement  # the first sets the time zone
        ]
        spans = connection.execute("select count(distinct trace_id) from spans").fetchall()
    assert len(answers) == 7
    assert answers[0][0]["n"] == expected
    counted = duckdb.execute(f"select count(*) from '{out}/rows/requests.parquet'").fetchall()
    assert counted == [(len(inside),)]
    assert spans == [(10,)]
    assert run(["sql", "select count(*) from requests", "--data", str(out)]) == 0


def test_a_running_collector_gives_the_same_rows(seeded: tuple[Path, Seeded], tmp_path: Path) -> None:
    _, times = _incident(seeded, tmp_path / "a")
    with (
        duckdb.connect(str(seeded[0] / "tailbudget.duckdb"), read_only=True) as connection,
        local_api(connection) as api,
    ):
        given = ["--from", times[0], "--to", times[1], "--out", str(tmp_path / "b"), "--api", api]
        assert run(["incident", *given]) == 0
    assert (tmp_path / "a" / "report.md").read_text() == (tmp_path / "b" / "report.md").read_text()


def test_a_folder_in_use_is_left_alone(
    seeded: tuple[Path, Seeded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    given = ["--from", "2026-03-01T12:00Z", "--to", "2026-03-01T13:00Z", "--out", str(tmp_path)]
    assert run(["incident", *given, "--data", str(seeded[0])]) == 1
    assert "is not empty: name a new folder" in capsys.readouterr().err
