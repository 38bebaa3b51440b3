"""Violations are listed, counted by blamed stage and placed in time, as the stored rows say."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailbudget.analytics import violations
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window

from .seed import Row, Seeded, empty, seed

ENDED = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
WINDOW = Window(ENDED - timedelta(minutes=13), ENDED - timedelta(minutes=1), route="/chat")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConnectionReader, Seeded]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    yield ConnectionReader(connection), seed(connection, ended=ENDED)
    connection.close()


def _over(seeded: Seeded) -> list[Row]:
    synthetic = {row["request_id"] for row in seeded.rows["requests"] if row["synthetic"]}
    return [
        row
        for row in seeded.rows["violations"]
        if WINDOW.from_ts <= row["started"] < WINDOW.to_ts
        and row["route"] == "/chat"
        and row["request_id"] not in synthetic
    ]


def test_violations_come_newest_first_up_to_a_limit(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    newest = sorted(_over(seeded), key=lambda row: row["started"], reverse=True)
    found = violations.violations(reader, WINDOW, rows=20).to_pylist()
    assert [row["request_id"] for row in found] == [row["request_id"] for row in newest[:20]]
    assert found[0]["over_ms"] == newest[0]["over_ms"]
    assert found[0]["over_by"] == "budget"


def test_violations_are_counted_by_the_stage_to_blame(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    found = violations.violations_by_stage(reader, WINDOW).to_pylist()
    assert {row["stage"]: row["n"] for row in found} == Counter(row["over_stage"] for row in _over(seeded))
    assert found[0]["stage"] == "decode" or found[0]["n"] >= found[1]["n"]
    assert found[0]["over_max_ms"] == max(
        row["over_ms"] for row in _over(seeded) if row["over_stage"] == found[0]["stage"]
    )


def test_the_timeline_adds_up_to_all_violations(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    found = violations.violations_timeline(reader, WINDOW, bucket_s=60).to_pylist()
    expected = Counter((int(row["started"].timestamp() // 60 * 60), row["over_stage"]) for row in _over(seeded))
    assert {(int(row["t"].timestamp()), row["stage"]): row["n"] for row in found} == expected


def test_a_violation_that_no_stage_explains_counts_as_none(tmp_path: Path) -> None:
    connection = empty(tmp_path)
    seeded = seed(connection, ended=ENDED)
    connection.execute("update violations set over_stage = null")
    found = violations.violations_by_stage(ConnectionReader(connection), WINDOW).to_pylist()
    assert [(row["stage"], row["n"]) for row in found] == [("none", len(_over(seeded)))]
    connection.close()
