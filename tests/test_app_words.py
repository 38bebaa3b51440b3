"""Figures are shown in words that keep their unit, and a violation says whose fault it is."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest

from tailbudget.app.pages.parts import controls, tables, words


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (None, "—"),
        (0.04, "0.0 ms"),
        (4.25, "4.2 ms"),
        (812.4, "812 ms"),
        (999.6, "1 s"),
        (4210, "4.21 s"),
        (125_000, "2 min 5 s"),
        (120_000, "2 min"),
    ],
)
def test_a_duration_has_the_unit_that_reads_best(ms: float | None, shown: str) -> None:
    assert words.duration(ms) == shown


@pytest.mark.parametrize(
    ("part", "whole", "shown"), [(0, 0, "—"), (1, 3, "33.3 %"), (99_999, 100_000, "99.9 %"), (7, 7, "100 %")]
)
def test_a_share_is_100_percent_only_when_nothing_is_missing(part: int, whole: int, shown: str) -> None:
    assert words.share(part, whole) == shown


def test_a_clock_names_its_zone_and_another_day() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC).astimezone(timezone(timedelta(hours=5)))
    assert words.clock(noon, now=noon) == "12:00:00 UTC"
    assert words.clock(noon, now=noon + timedelta(days=1)) == "1 Mar 12:00:00 UTC"


def test_a_clock_is_in_the_viewers_zone_with_utc_on_hover(monkeypatch: pytest.MonkeyPatch) -> None:
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    monkeypatch.setattr(words, "zone", lambda: ZoneInfo("Europe/Berlin"))
    assert words.clock(noon, now=noon) == "14:00:00 CEST"
    assert 'title="2026-07-01 12:00:00 UTC"' in words.html_clock(noon)


def test_an_instant_in_a_table_is_in_the_viewers_zone_with_utc_on_hover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "zone", lambda: ZoneInfo("Asia/Kolkata"))
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    column = tables.clock(pa.table({"started": [noon, noon + timedelta(minutes=5)]}), "started")
    assert column["type_config"]["timezone"] == "Asia/Kolkata"
    assert column["help"] == "In Asia/Kolkata: 2026-07-01 12:00:00 to 12:05:00 UTC. The CSV has UTC."


def test_what_was_dragged_is_whole_seconds_from_the_earlier_to_the_later_end() -> None:
    begin, end = datetime(2026, 7, 1, 12, tzinfo=UTC), datetime(2026, 7, 1, 12, 5, tzinfo=UTC)
    dragged = [1000 * one.timestamp() + 400 for one in (end, begin)]  # from right to left
    assert controls.time_of({"t": dragged}) == (begin, end + timedelta(seconds=1))
    assert controls.time_of({}) is None
    assert controls.stretch(begin, end) == "2026-07-01T12:00:00/2026-07-01T12:05:00"


def test_markdown_in_a_name_is_shown_as_it_is() -> None:
    assert words.plain("a_b $1 [x](y)") == r"a\_b \$1 \[x\]\(y\)"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"over_stage": "retrieval", "over_by": "budget", "budget_ms": 300.0, "over_ms": 512.0, "total_ms": 2000.0},
            "retrieval took 812 ms, 512 ms over its budget of 300 ms",
        ),
        (
            {"over_stage": "decode", "over_by": "baseline", "budget_ms": 4000.0, "over_ms": 1200.0, "total_ms": 5200.0},
            "all of it took 5.2 s, 1.2 s over the budget of 4 s; decode was furthest above its usual time",
        ),
        (
            {"over_stage": None, "over_by": None, "budget_ms": 4000.0, "over_ms": 1200.0, "total_ms": 5200.0},
            "all of it took 5.2 s, 1.2 s over the budget of 4 s; no stage stands out",
        ),
    ],
)
def test_a_violation_says_whose_fault_it_is(row: dict[str, object], sentence: str) -> None:
    assert words.fault(row) == sentence
