"""An incident's folder tells what happened, and holds the rows and the SQL that tell it again."""

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import duckdb
import pytest

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.app.cli import run
from tailbudget.app.incident import pictures, write
from tailbudget.collector.land.database import open_database

from .diagnosed import stored, traffic
from .local_api import local_api
from .seed import Seeded, seed
from .spans import later

FROM_S, TO_S = 330, 450  # the seed's slow index


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Seeded]:
    """Return a data folder with the seed's quarter of an hour, an objective's counts and two marks."""
    folder = tmp_path_factory.mktemp("data")
    connection = open_database(folder)
    found = seed(connection, ended=datetime(2026, 3, 1, 12, tzinfo=UTC), gpu=True)
    at = found.started + timedelta(seconds=FROM_S)
    connection.execute(
        "insert into marks by name select 'm1' as mark_id, $1::timestamptz as t, 'version' as kind, 'shop' as service, "
        "'shop: version 1 -> 2' as label",
        [at - timedelta(minutes=10)],
    )
    connection.execute(
        "insert into slo_minute by name select 'chat.total' as objective, '' as part, 50 as n, 20 as bad, "
        "time_bucket(interval 1 minute, $1::timestamptz + interval 1 minute) as minute",
        [at],
    )
    connection.close()
    return folder, found


def _times(found: Seeded) -> list[str]:
    return [(found.started + timedelta(seconds=second)).isoformat() for second in (FROM_S, TO_S)]


def _incident(seeded: tuple[Path, Seeded], out: Path) -> Path:
    begin, end = _times(seeded[1])
    assert run(["incident", "--from", begin, "--to", end, "--out", str(out), "--data", str(seeded[0])]) == 0
    return out


@pytest.fixture(scope="module")
def written(seeded: tuple[Path, Seeded], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the slow index's incident, to be read only."""
    return _incident(seeded, tmp_path_factory.mktemp("incident") / "out")


def test_the_report_tells_what_happened(written: Path) -> None:
    report = (written / "report.md").read_text()
    sections = dict(part.split("\n", 1) for part in report.split("\n## ")[1:])
    assert list(sections) == [
        "Summary", "Pictures", "Timeline", "Budgets", "Alerts", "Marks", "GPU", "Example traces", "Diagnoses", "Blame",
    ]  # fmt: skip
    assert "retrieval" in sections["Summary"]
    assert "chat.total" in sections["Budgets"]
    assert "shop: version 1 -> 2" in sections["Marks"]
    assert "10 rows" in sections["Example traces"]
    assert "### By stage" in sections["Blame"]
    assert re.match(r"\nAgainst 2026-03-01 .+, [1-9]\d* requests, best suspect first\.", sections["Blame"])


def test_the_report_says_when_nothing_is_there_to_blame_it_against(tmp_path: Path) -> None:
    connection = stored(traffic("p95_over_2s", wrong=True))
    report = write(ConnectionReader(connection), Window(later(0), later(600)), tmp_path / "out").read_text()
    assert ", when there was no request: more than nothing is all of their time." in report


def test_its_pictures_are_the_dashboards_charts_of_its_rows(written: Path) -> None:
    report = (written / "report.md").read_text()
    shown = re.findall(r"^!\[(.+)\]\((pictures/.+\.svg)\)$", report, re.MULTILINE)
    assert {name for _, name in shown} == {
        f"pictures/{name}.svg"
        for name in ("heatmap", "violations_timeline", "stage_bullets", "token_rate-1", "token_rate-2", "gpu_clock-1")
    }
    drawn = {name: ElementTree.parse(written / name).getroot() for _, name in shown}
    marks = {name: len(svg.findall(".//*[@role='graphics-symbol']")) for name, svg in drawn.items()}
    assert min(marks.values()) > 5, marks
    violated = "".join(drawn["pictures/violations_timeline.svg"].itertext())
    assert "retrieval" in violated  # the seed's slow index
    assert len(drawn["pictures/heatmap.svg"].findall(".//{*}path")) > 20


def test_without_the_extra_the_report_says_how_to_get_pictures(
    seeded: tuple[Path, Seeded], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda _: None)
    out = _incident(seeded, tmp_path / "out")
    assert pictures.MISSING in (out / "report.md").read_text()
    assert not (out / "pictures").exists()


def test_what_was_wrong_by_the_rules_is_told_once_with_what_mends_it(tmp_path: Path) -> None:
    connection = stored(traffic("p95_over_2s", wrong=True))
    report = write(ConnectionReader(connection), Window(later(0), later(600)), tmp_path / "out").read_text()
    lines = [line for line in report.splitlines() if "**p95_over_2s**" in line]
    (line,) = lines
    assert line.startswith("- 12:05 **p95_over_2s** (service shop, route /chat): retrieval of /chat: hold retrieval")
    assert line.endswith("p95 falls by 2500 ms")


def test_its_rows_and_its_sql_stand_alone(seeded: tuple[Path, Seeded], written: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(written, tmp_path / "out"))  # alone
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


def test_a_running_collector_gives_the_same_rows(seeded: tuple[Path, Seeded], written: Path, tmp_path: Path) -> None:
    times = _times(seeded[1])
    with (
        duckdb.connect(str(seeded[0] / "tailbudget.duckdb"), read_only=True) as connection,
        local_api(connection) as api,
    ):
        given = ["--from", times[0], "--to", times[1], "--out", str(tmp_path / "b"), "--api", api]
        assert run(["incident", *given]) == 0
    assert (written / "report.md").read_text() == (tmp_path / "b" / "report.md").read_text()


def test_a_folder_in_use_is_left_alone(
    seeded: tuple[Path, Seeded], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    given = ["--from", "2026-03-01T12:00Z", "--to", "2026-03-01T13:00Z", "--out", str(tmp_path)]
    assert run(["incident", *given, "--data", str(seeded[0])]) == 1
    assert "is not empty: name a new folder" in capsys.readouterr().err
