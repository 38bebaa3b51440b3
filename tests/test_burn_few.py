"""Where requests are few a page is evidence: the rule of two hours, and what it takes besides a fast burn."""

import math
import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest

from tailbudget.analytics.objectives import Limit, Objective, burn
from tailbudget.analytics.reader import ConnectionReader

from .slo_support import odds, store, write

NOW = datetime(2026, 3, 20, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RULE = "improbable in 2h"

#: Minutes before NOW, and whether it was bad.
Event = tuple[int, bool]


def _objective(target: float) -> Objective:
    return Objective(name="chat", target=target, limits=(Limit("total", 1000.0),))


@pytest.fixture(scope="module")
def shared() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a store that tests empty before they use it."""
    connection = store()
    yield connection
    connection.close()


def _rows(
    connection: duckdb.DuckDBPyConnection,
    events: Sequence[Event],
    *,
    target: float,
    hours: float = 0,
    weight: float | None = None,
) -> list[dict[str, Any]]:
    connection.execute("delete from requests")
    written = [(NOW - back * MINUTE, 400.0, "error" if bad else "ok") for back, bad in events]
    write(connection, sorted(written), weight=weight)
    since = NOW - timedelta(hours=hours)
    found = burn.burn(ConnectionReader(connection), _objective(target), since=since, until=NOW)
    return list(found.to_pylist())


def _firing(
    connection: duckdb.DuckDBPyConnection,
    events: Sequence[Event],
    *,
    target: float,
    rule: str = RULE,
    hours: float = 0,
) -> list[int]:
    """Return how many minutes ago the rule fired."""
    rows = _rows(connection, events, target=target, hours=hours)
    last = max(row["minute"] for row in rows)
    return sorted(int((last - row["minute"]) / MINUTE) for row in rows if row["rule"] == rule and row["firing"])


def _expected(events: Sequence[Event], *, target: float, minutes: int) -> list[int]:
    """Return the same from a plain count of every minute, those before the first included."""
    fires, found = False, []
    for ago in range(minutes + 300, -1, -1):
        inside = [bad for back, bad in events if ago <= back < ago + 120]
        n, bad = len(inside), sum(inside)
        likelier = odds(n, bad, target) if bad / max(n, 1) > 0.5 * (1 - target) else 0.0
        last_bad = min((back for back, bad in events if back >= ago and bad), default=10**9)
        if sum(ago <= back < last_bad for back, _ in events) >= 20:
            fires = False
        elif n <= 40 and bad >= 2 and likelier >= math.log(1100) and bad >= min(6 * (1 - target), 0.5) * n - 1e-6:
            fires = True
        elif n > 80 or bad == 0 or likelier < math.log(20):
            fires = False
        if fires and ago <= minutes:
            found.append(ago)
    return sorted(found)


@pytest.mark.parametrize("number", range(5))
def test_it_fires_in_the_minutes_that_a_plain_count_says(shared: duckdb.DuckDBPyConnection, number: int) -> None:
    chance = random.Random(number)
    per_hour, target = ((4, 0.9), (5, 0.95), (10, 0.98), (18, 0.99), (5, 0.999))[number]
    events = [
        (back, chance.random() < (0.7 if back // 120 % 5 == 2 else 0.02))
        for back in range(34 * 60)
        for _ in range(sum(chance.random() < per_hour / 180 for _ in range(3)))
    ]
    expected = _expected(events, target=target, minutes=14 * 60)
    assert expected
    assert _firing(shared, events, target=target, hours=14) == expected


@pytest.mark.parametrize(
    ("target", "good", "bad", "fires"),
    [
        (0.999, 8, 2, True),
        (0.999, 0, 1, False),  # one is chance, whatever the target
        (0.99, 3, 2, True),
        (0.99, 8, 2, False),
        (0.99, 17, 3, True),
        (0.95, 2, 3, True),
        (0.95, 7, 3, False),
        (0.95, 8, 4, True),
        (0.9, 5, 5, True),
        (0.9, 6, 4, False),
        (0.5, 5, 5, False),  # half of them bad is what the objective promises
    ],
)
def test_how_many_of_ten_it_takes_is_said_by_the_target(
    shared: duckdb.DuckDBPyConnection, target: float, good: int, bad: int, fires: bool
) -> None:
    events = [(10 + k, k < bad) for k in range(good + bad)]  # the bad ones come last
    assert bool(_firing(shared, events, target=target)) is fires
    assert (odds(good + bad, bad, target) >= math.log(1100)) is fires or bad < 2


def test_a_two_hour_outage_of_ten_requests_is_one_page_that_ends_when_two_hours_are_good_again(
    shared: duckdb.DuckDBPyConnection,
) -> None:
    outage = [(400 + 12 * k, True) for k in range(10)]
    good = [(12 * k, False) for k in range(33)] + [(520 + 12 * k, False) for k in range(200)]
    connection = shared
    connection.execute("delete from requests")
    write(connection, sorted((NOW - back * MINUTE, 400.0, "error" if bad else "ok") for back, bad in outage + good))
    reader, objective = ConnectionReader(connection), _objective(0.99)
    rows = burn.alarms(reader, objective, since=NOW - timedelta(hours=20), until=NOW).to_pylist()
    (page,) = [row for row in rows if row["severity"] == "page"]
    assert NOW - 508 * MINUTE < page["opened"] < NOW - 480 * MINUTE  # with the third bad one
    assert NOW - 401 * MINUTE + timedelta(hours=1) < page["closed"] < NOW - 400 * MINUTE + timedelta(hours=2.5)


def test_twenty_good_ones_in_a_row_end_it_however_short_the_time(shared: duckdb.DuckDBPyConnection) -> None:
    bad = [(40 + k, True) for k in range(6)]
    for good, fires in ((19, True), (20, False)):
        assert (0 in _firing(shared, bad + [(1 + k, False) for k in range(good)], target=0.97)) is fires


def test_it_ends_when_far_fewer_are_bad_than_promised(shared: duckdb.DuckDBPyConnection) -> None:
    bad, good = [(95 + k, True) for k in range(6)], [(10, False)] * 74
    assert _firing(shared, bad, target=0.5, hours=1) != []
    assert 0 not in _firing(shared, bad + good, target=0.5, hours=1)


def test_dense_traffic_is_left_to_the_other_rules(shared: duckdb.DuckDBPyConnection) -> None:
    dense = [(back, back < 3) for back in range(119)]
    assert _firing(shared, dense, target=0.999) == []
    assert _firing(shared, [(3 + 3 * k, k < 3) for k in range(39)], target=0.999) == [0]


def test_three_bad_ones_at_six_times_the_budget_are_no_evidence_and_do_not_page(
    shared: duckdb.DuckDBPyConnection,
) -> None:
    within_six_hours = [(10 + 14 * k, k in (0, 1, 24)) for k in range(25)]  # 12 % bad at 98 %
    assert odds(25, 3, 0.98) < math.log(1100)
    assert _firing(shared, within_six_hours, target=0.98, rule="5% in 6h") == []
    four = [(back, bad or back == 38) for back, bad in within_six_hours]
    assert odds(25, 4, 0.98) >= math.log(1100)
    assert _firing(shared, four, target=0.98, rule="5% in 6h") == [0]
    day = [(30 + 55 * k, k % 9 == 0) for k in range(25)]
    assert _firing(shared, day, target=0.98, rule="10% in 1d") == [0]  # a ticket needs three alone


def test_sampled_requests_are_as_many_as_were_seen_however_much_they_weigh(shared: duckdb.DuckDBPyConnection) -> None:
    events = [(10 + 11 * k, k in (0, 5)) for k in range(10)]
    for weight in (None, 50.0):
        (row,) = [row for row in _rows(shared, events, target=0.99, weight=weight) if row["rule"] == RULE]
        assert (row["firing"], row["long_burn"]) == (False, pytest.approx(20))


def test_half_of_the_last_twenty_is_no_page_where_the_target_is_one_half(shared: duckdb.DuckDBPyConnection) -> None:
    events = [(10 + 30 * k, k % 2 == 0) for k in range(20)]
    assert _firing(shared, events, target=0.5, rule="half of the last 20") == []
    assert _firing(shared, events, target=0.9, rule="half of the last 20") == [0]
