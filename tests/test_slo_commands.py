"""`tailbudget slo` reads a folder or a collector, prints for people and programs, and ends as scripts expect."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailbudget.analytics.objectives import load
from tailbudget.app.cli import run
from tailbudget.collector.land.database import open_database

from .slo_support import write

CHAT = "name: chat\ntotal: p95 < 1s\n"


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Return a data folder with six hours of requests: three slow ones a minute in the last of them, else none slow."""
    folder = tmp_path / "data"
    connection = open_database(folder)
    now = datetime.now(UTC)
    times = [now - timedelta(seconds=20 * n) for n in range(1, 6 * 180)]
    write(connection, [(t, 4000.0 if now - t < timedelta(hours=1) else 200.0, "ok") for t in times])
    connection.close()
    return str(folder)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slo.yaml"
    path.write_text(CHAT)
    return path


def test_validate_says_what_a_file_promises(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slo", "validate", str(file)]) == 0
    assert capsys.readouterr().out == "chat.total: 95 % of requests: total < 1 s over 30d\n"


def test_validate_says_which_channels_there_are_and_no_secret(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(
        f"{CHAT}---\nchannels:\n- {{name: a, type: slack, url: 'https://x/s3cr3t', owners: [us], default: true}}"
    )
    assert run(["slo", "validate", str(file)]) == 0
    assert capsys.readouterr().out.endswith("\nchannel a: slack, alerts of us, by default\n")


def test_validate_names_file_and_line_of_a_mistake_and_fails(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text(f"{CHAT}owners: us\n")
    assert run(["slo", "validate", str(file)]) == 1
    assert capsys.readouterr().err.startswith(f"tailbudget: {file}:3: unknown key 'owners': expected one of ")


def test_status_of_a_file_is_counted_from_what_is_stored(
    file: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["slo", "status", str(file), "--json", "--data", data]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["n"], row["bad"], row["blind_since"]) == (1079, 179, None)
    assert row["budget_left"] == pytest.approx(1 - 179 / 1079 / 0.05)
    assert run(["slo", "status", str(file), "--data", data]) == 0
    assert "2% in 1h" in capsys.readouterr().out


def test_status_without_a_file_or_a_count_says_what_to_do(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slo", "status", "--data", data]) == 0
    assert "start the collector with --slo" in capsys.readouterr().out


def test_an_objective_that_nothing_came_for_is_named(file: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text("- {name: chat, total: p95 < 1s}\n- {name: typo, where: route = '/chta', total: p95 < 1s}\n")
    for command, said in (("status", "typo.total: no event in its 30d\n"), ("test", "tickets; no event in its 30d\n")):
        assert run(["slo", command, str(file), "--data", data]) == 0
        shown = capsys.readouterr().out
        assert shown.endswith(said)
        assert shown.count("no event") == 1


@pytest.mark.parametrize(("fail_on", "since", "code"), [("nothing", "7d", 0), ("ticket", "7d", 1), ("page", "7d", 1)])
def test_a_back_test_fails_a_build_when_it_is_asked_to(
    fail_on: str, since: str, code: int, file: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["slo", "test", str(file), "--since", since, "--fail-on", fail_on, "--data", data]) == code
    assert "still firing\nchat.total: 1 pages, 1 tickets\n" in capsys.readouterr().out


def test_a_back_test_of_a_promise_that_was_kept_fails_nothing(file: Path, data: str) -> None:
    file.write_text("name: chat\ntotal: p95 < 5s\n")
    assert run(["slo", "test", str(file), "--fail-on", "ticket", "--data", data]) == 0


def test_what_is_suggested_is_a_file_of_objectives(file: Path, data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slo", "suggest", "--total", "p95 < 5s", "--route", "/chat", "--data", data]) == 0
    file.write_text(capsys.readouterr().out)
    names = {one.name for one in load([file])}
    assert {"chat.total", "chat.decode"} <= names
