"""Violations are listed, counted by blamed stage and placed in time, as the stored rows say."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from tailbudget.analytics import violations
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window

from .seed import Row, Seeded, empty, seed
from .seed_more import OBJECTIVES, furnish

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


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConnectionReader, Seeded]]:
    connection = empty(tmp_path_factory.mktemp("furnished"))
    rows = seed(connection, ended=ENDED, minutes=13)
    furnish(connection, rows)
    yield ConnectionReader(connection), rows
    connection.close()


def test_a_budget_burns_down_from_all_of_it_to_what_is_left(furnished: tuple[ConnectionReader, Seeded]) -> None:
    rows = violations.burn_down(furnished[0]).to_pylist()
    chat = [row for row in rows if row["label"] == "chat-total"]
    n, bad = next((n, bad) for name, _, _, _, n, bad, *_ in OBJECTIVES if name == "chat-total")
    assert (chat[0]["left_share"], chat[0]["even_share"]) == (1.0, 1.0)
    assert chat[0]["t"] == ENDED - timedelta(days=30)
    assert chat[-1]["left_share"] == pytest.approx(1 - bad / (n * 0.05))
    assert sum(row["bad"] for row in chat) == bad
    assert all(before["left_share"] >= after["left_share"] for before, after in pairwise(chat))
    middle = min(chat, key=lambda row: abs(row["even_share"] - 0.5))
    assert abs(middle["t"] - (ENDED - timedelta(days=15))) < timedelta(hours=6)
    assert {row["label"] for row in rows} == {"chat-total", "first-token", "answers · acme"}


def test_a_budget_is_whole_until_something_is_counted(tmp_path: Path) -> None:
    connection = empty(tmp_path)
    furnish(connection, seed(connection, ended=ENDED, minutes=1))
    connection.execute("delete from slo_minute where minute < $since", {"since": ENDED - timedelta(hours=6)})
    rows = [
        row for row in violations.burn_down(ConnectionReader(connection)).to_pylist() if row["label"] == "chat-total"
    ]
    connection.close()
    whole = [row for row in rows if row["left_share"] == 1]
    assert whole[0]["t"] == ENDED - timedelta(days=30)
    assert whole[-1]["t"] >= ENDED - timedelta(hours=12)
    assert rows[-1]["left_share"] < 1
    assert [row["before"] for row in rows[1:]] == [row["t"] for row in rows[:-1]]


def test_the_budget_of_a_month_begins_with_it(tmp_path: Path) -> None:
    connection = empty(tmp_path)
    rows = seed(connection, ended=ENDED, minutes=1)
    furnish(connection, rows)
    connection.execute("update slo_status set period = 'month'")
    (first, *_, last) = (row for row in violations.burn_down(ConnectionReader(connection)).to_pylist() if row["n"] > 50)
    connection.close()
    assert first["t"] == ENDED.replace(day=1, hour=0, minute=0)
    assert 0 < last["even_share"] < 1


def test_marks_stand_on_the_timeline(furnished: tuple[ConnectionReader, Seeded]) -> None:
    reader, rows = furnished
    found = violations.violations_timeline(reader, Window(rows.started, ENDED), bucket_s=20).to_pylist()
    marks = [(row["t"], row["mark"]) for row in found if row["stage"] is None]
    begun = rows.started
    named = [
        (begun + timedelta(seconds=390), "version 1.4.0 (demo)"),
        (begun + timedelta(seconds=455), "rolled the index back"),
    ]
    assert marks == named
    assert sum(row["n"] for row in found if row["stage"]) == sum(row["n"] for row in found)


def test_who_adds_time_is_named_against_what_came_just_before(furnished: tuple[ConnectionReader, Seeded]) -> None:
    reader, rows = furnished
    slow = Window(rows.started + timedelta(seconds=340), rows.started + timedelta(seconds=440))
    first, *_ = violations.suspects(reader, slow).to_pylist()
    assert (first["stage"], first["operation"], first["service"]) == ("retrieval", "retrieval bm25", "demo")
    assert 200 < first["more_ms"] < 800
    assert (first["since"], first["until"]) == (slow.from_ts - timedelta(seconds=100), slow.from_ts)
    assert violations.suspects(reader, Window(rows.started, ENDED)).num_rows == 0
