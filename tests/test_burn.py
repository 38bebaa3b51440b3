"""Error budgets and burn rates are exact: what a plain count over the events gives, minute for minute."""

import math
import random
from bisect import bisect_right
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tailbudget.analytics.objectives import Limit, Objective, Period, burn
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.suggest import suggest
from tailbudget.analytics.window import Window
from tailbudget.instrument.errors import UserError

from .slo_support import odds, store, write

NOW = datetime(2026, 3, 20, 12, 0, 30, tzinfo=UTC)
FAST = Objective(name="chat", target=0.99, limits=(Limit("total", 1000.0),))
RULES = {
    "2% in 1h": (60, 5, 14.4),
    "5% in 6h": (360, 30, 6.0),
    "10% in 1d": (1440, 120, 3.0),
    "10% in 3d": (4320, 360, 1.0),
}

Event = tuple[datetime, float, str]


def _events(number: int, *, hours: int, per_hour: float, bad: float, incident: tuple[int, int] = (0, 0)) -> list[Event]:
    """Return events up to NOW; in the hours of `incident`, counted back from NOW, half of them are bad."""
    chance = random.Random(number)
    found: list[Event] = []
    t = NOW - timedelta(hours=hours)
    while (t := t + timedelta(hours=chance.expovariate(per_hour))) < NOW:
        back_h = (NOW - t).total_seconds() / 3600
        share = 0.5 if incident[1] < back_h <= incident[0] else bad
        outcome = chance.choice(("error", "dropped", "ok")) if chance.random() < share else "ok"
        found.append((t, 1500.0 if outcome == "ok" and chance.random() < share else 400.0, outcome))
    return found


def _is_bad(event: Event) -> bool:
    return event[2] != "ok" or event[1] >= 1000.0


@pytest.mark.parametrize("number", range(3))
def test_every_burn_rate_is_the_plain_count_over_its_windows(number: int) -> None:
    events = _events(number, hours=80, per_hour=(3, 40, 400)[number], bad=0.004, incident=(3, 1))
    connection = store()
    write(connection, events)
    since = NOW - timedelta(hours=4)
    rows = burn.burn(ConnectionReader(connection), FAST, since=since, until=NOW).to_pylist()
    minutes = [int(t.timestamp() // 60) for t, _, _ in events]
    total_bad = [0]
    for event in events:
        total_bad.append(total_bad[-1] + _is_bad(event))

    def window(minute: int, length_min: int) -> tuple[int, int]:
        low, high = bisect_right(minutes, minute - length_min), bisect_right(minutes, minute)
        return high - low, total_bad[high] - total_bad[low]

    checked = 0
    for row in rows:
        if row["rule"] not in RULES:
            continue
        long_min, short_min, factor = RULES[row["rule"]]
        minute = int(row["minute"].timestamp() // 60)
        (n, bad), (short_n, short_bad) = window(minute, long_min), window(minute, short_min)
        assert (row["n"], row["bad"], row["factor"]) == (n, bad, pytest.approx(factor))
        firing = bad >= 3 and short_n > 0 and bad >= factor * 0.01 * n and short_bad >= factor * 0.01 * short_n
        if firing and row["severity"] == "page":
            firing = odds(n, bad, 0.99) >= math.log(burn.LIKELIER)
        assert row["firing"] is firing, row
        checked += 1
    assert checked == 4 * 241


@pytest.mark.parametrize("number", range(4))
def test_what_was_counted_before_tells_the_same_alarms_and_budgets_as_the_requests(number: int) -> None:
    rates = ((2, 2), (300, 40), (2, 900), (900, 2))[number]  # requests an hour: before, and in the last half hour
    events = [
        event
        for hours, per_hour in ((80, rates[0]), (0.5, rates[1]))
        for event in _events(number, hours=1, per_hour=per_hour * hours, bad=0.02, incident=(1, 0))
    ]
    stretched = [
        (NOW - (NOW - t) * (80 if n < len(events) // 2 else 0.5), ms, how) for n, (t, ms, how) in enumerate(events)
    ]
    connection, reader = store(), ConnectionReader
    write(connection, sorted(stretched))
    params = burn.counts_params(FAST, since=NOW - timedelta(days=40), until=NOW)
    connection.execute(burn.count_sql(FAST), {**params, "objective": FAST.name})
    for back in (timedelta(minutes=10), timedelta(hours=30)):
        both = [
            burn.alarms(reader(connection), FAST, since=NOW - back, until=NOW, stored=stored).to_pylist()
            for stored in (True, False)
        ]
        assert both[0] == both[1]
    both = [burn.status(reader(connection), FAST, now=NOW, stored=stored).to_pylist() for stored in (True, False)]
    assert both[0] == both[1]
    assert both[0][0]["n"] == len(stretched)


def test_a_budget_is_counted_over_its_period_and_its_events_alone() -> None:
    connection = store()
    day = timedelta(days=1)
    old, recent = [(NOW - 31 * day, 5000.0, "ok")], [(NOW - (index + 1) * day, 400.0, "ok") for index in range(19)]
    bad = [(NOW - 2 * day, 1000.0, "ok")]
    neither = [(NOW - 3 * day, 9000.0, "rejected")]
    write(connection, [*old, *recent, *bad, *neither])
    connection.execute("update requests set synthetic = true where started = $1", [recent[0][0]])
    (row,) = burn.status(ConnectionReader(connection), FAST, now=NOW).to_pylist()
    assert (row["n"], row["bad"], row["good_share"]) == (19, 1, pytest.approx(18 / 19))
    assert row["budget_left"] == pytest.approx(1 - 1 / (19 * 0.01))
    assert row["hours_left"] is None


@pytest.mark.parametrize(
    ("outcome", "total_ms", "degraded_good", "counted"),
    [
        ("ok", 999.9, False, (1, 0)),
        ("ok", 1000.0, False, (1, 1)),
        ("left", 400.0, False, (1, 0)),
        ("left", 1400.0, False, (1, 1)),
        ("dropped", 400.0, False, (1, 1)),
        ("shed", 4.0, False, (1, 1)),
        ("lost", 4.0, False, (1, 1)),
        ("timeout", 4.0, False, (1, 1)),
        ("degraded", 400.0, False, (1, 1)),
        ("degraded", 400.0, True, (1, 0)),
    ],
)
def test_giving_up_is_bad_however_fast(
    outcome: str, total_ms: float, degraded_good: bool, counted: tuple[int, int]
) -> None:
    connection = store()
    write(connection, [(NOW - timedelta(minutes=1), total_ms, outcome)])
    one = Objective(name="x", target=0.99, limits=(Limit("total", 1000.0),), degraded_good=degraded_good)
    (row,) = burn.status(ConnectionReader(connection), one, now=NOW).to_pylist()
    assert (row["n"], row["bad"]) == counted


def test_a_limit_that_a_request_has_no_measure_for_leaves_it_out() -> None:
    connection = store()
    write(connection, [(NOW - timedelta(minutes=1), 400.0, "ok"), (NOW - timedelta(minutes=2), 400.0, "error")])
    one = Objective(name="x", target=0.99, limits=(Limit("ttft", 500.0),))
    (row,) = burn.status(ConnectionReader(connection), one, now=NOW).to_pylist()
    assert (row["n"], row["bad"]) == (1, 1)  # not streamed: no first token to judge; an error is bad all the same


def test_stages_and_their_sums_are_limited_too() -> None:
    connection = store()
    write(connection, [(NOW - timedelta(minutes=1), 700.0, "ok")], stage="tools")
    write(connection, [(NOW - timedelta(minutes=1), 700.0, "ok")], stage="prefill")
    for measure, bad in (("tools", 1), ("post", 0), ("tools+post", 1), ("model", 1), ("decode", 0)):
        one = Objective(name="x", target=0.9, limits=(Limit(measure, 500.0),))
        (row,) = burn.status(ConnectionReader(connection), one, now=NOW).to_pylist()
        assert (measure, row["bad"]) == (measure, bad)


def test_each_tenant_has_a_budget_of_its_own_where_the_objective_says_so() -> None:
    connection = store()
    write(connection, [(NOW - timedelta(minutes=1), 400.0, "ok")] * 9, tenant="a")
    write(connection, [(NOW - timedelta(minutes=1), 400.0, "error")] * 3, tenant="b")
    one = Objective(name="x", target=0.9, per="tenant")
    rows = burn.status(ConnectionReader(connection), one, now=NOW).to_pylist()
    assert [(row["part"], row["n"], row["bad"], row["paging"]) for row in rows] == [
        ("b", 3, 3, True),
        ("a", 9, 0, False),
    ]


def test_slices_of_time_are_counted_where_the_objective_says_so() -> None:
    connection = store()
    start = NOW.replace(minute=0, second=0) - timedelta(minutes=50)
    for index, bad in enumerate((0, 1, 2, 10)):
        t = start + timedelta(minutes=10 * index, seconds=5)
        write(connection, [(t, 1500.0 if k < bad else 400.0, "ok") for k in range(10)])
    one = Objective(
        name="x", target=0.9, limits=(Limit("total", 1000.0),), method="timeslices", slice_s=600, slice_target=0.9
    )
    (row,) = burn.status(ConnectionReader(connection), one, now=NOW).to_pylist()
    assert (row["n"], row["bad"], row["good_share"]) == (4, 2, 0.5)
    mean = replace(one, method="ratio_timeslices")  # of 1, 0.9, 0.8 and 0
    (row,) = burn.status(ConnectionReader(connection), mean, now=NOW).to_pylist()
    assert (row["n"], row["bad"], row["good_share"]) == (4, 3, pytest.approx(0.675))


def test_a_month_of_the_calendar_begins_in_its_zone() -> None:
    berlin = Period(days=31, calendar="month", zone="Europe/Berlin")
    assert burn.period_start(berlin, NOW) == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert burn.period_start(Period(days=28), NOW) == NOW - timedelta(days=28)
    assert burn.period_start(Period(days=92, calendar="quarter"), NOW) == datetime(2026, 1, 1, tzinfo=UTC)


def test_a_target_too_low_for_a_rule_is_said_and_capped() -> None:
    low = Objective(name="x", target=0.9)
    (said,) = burn.unreachable(low)
    assert said.startswith("the rule '2% in 1h' needs 14.4 x the budget, beyond what a target of 90 % allows")
    assert burn.unreachable(FAST) == ()
    connection = store()
    write(connection, [(NOW - timedelta(minutes=k), 400.0, "error") for k in range(60)])
    (row,) = burn.status(ConnectionReader(connection), low, now=NOW).to_pylist()
    assert "2% in 1h" in row["firing"]


def test_a_burst_of_twenty_bad_events_within_a_minute_is_no_page_by_the_rule_of_low_traffic() -> None:
    connection = store()
    calm = [(NOW - timedelta(hours=2) + timedelta(seconds=0.05 * k), 400.0, "ok") for k in range(0, 140_000, 20)]
    write(connection, [*calm, *((NOW - timedelta(seconds=40 - k), 400.0, "error") for k in range(20))])
    rows = burn.alarms(ConnectionReader(connection), FAST, since=NOW - timedelta(minutes=5), until=NOW).to_pylist()
    assert [row for row in rows if row["rule"] == "half of the last 20"] == []


def test_the_rule_of_low_traffic_is_silent_again_once_traffic_is_dense() -> None:
    connection = store()
    sparse = [(NOW - timedelta(hours=1, seconds=40 + 17 * n), 400.0, "error") for n in range(20)]
    dense = [(NOW - timedelta(seconds=2 * n), 400.0, "ok") for n in range(1, 1800)]
    write(connection, sorted(sparse + dense))
    found = burn.burn(ConnectionReader(connection), FAST, since=NOW - timedelta(hours=4), until=NOW).to_pylist()
    firing = [row["minute"] for row in found if row["rule"] == "half of the last 20" and row["firing"]]
    assert firing
    assert max(firing) < NOW - timedelta(minutes=58)


def test_an_alarm_ends_when_its_rules_are_silent() -> None:
    connection = store()
    bad = [(NOW - timedelta(minutes=200 - k), 400.0, "error") for k in range(10)]
    good = [(NOW - timedelta(minutes=300 - k), 400.0, "ok") for k in range(300) if not 100 <= k < 110]
    write(connection, [*bad, *good])
    rows = burn.alarms(ConnectionReader(connection), FAST, since=NOW - timedelta(hours=6), until=NOW).to_pylist()
    (page,) = [row for row in rows if row["severity"] == "page"]
    assert NOW - timedelta(minutes=200) < page["opened"] < NOW - timedelta(minutes=190)
    assert page["closed"] is not None
    assert page["closed"] < NOW - timedelta(minutes=120)


def test_silence_where_events_were_expected_is_blindness_not_success() -> None:
    connection, reader = store(), ConnectionReader
    week = timedelta(days=7)
    write(connection, [(NOW - week + timedelta(minutes=2 * k - 30), 400.0, "ok") for k in range(30)])
    write(connection, [(NOW - timedelta(minutes=41), 400.0, "ok")])
    last, blind = burn.blind(reader(connection), FAST, now=NOW)
    assert (last, blind) == (NOW - timedelta(minutes=41), True)
    assert burn.blind(reader(connection), FAST, now=NOW - timedelta(minutes=2))[1] is False
    write(connection, [(NOW - timedelta(minutes=20), 400.0, "ok")])
    assert burn.blind(reader(connection), FAST, now=NOW)[1] is False


def test_a_quiet_hour_that_was_quiet_a_week_ago_is_not_blind() -> None:
    connection = store()
    write(connection, [(NOW - timedelta(hours=5, minutes=k), 400.0, "ok") for k in range(60)])
    assert burn.blind(ConnectionReader(connection), FAST, now=NOW)[1] is False


def test_suggested_stage_budgets_sum_to_the_total_and_are_equally_hard() -> None:
    connection = store()
    write(connection, [(NOW - timedelta(minutes=k + 1), 1000.0, "ok") for k in range(400)])
    connection.execute("update requests set retrieval_ms = 100 + span_id % 50, decode_ms = 400 + 3 * (span_id % 97)")
    shares = suggest(ConnectionReader(connection), Window(NOW - timedelta(days=1), NOW), total_ms=800.0)
    assert sum(shares.budgets_ms.values()) == pytest.approx(800.0)
    assert set(shares.budgets_ms) == {"retrieval", "decode"}
    assert shares.requests == 400
    with pytest.raises(UserError, match="expected a total above"):
        suggest(ConnectionReader(connection), Window(NOW - timedelta(days=1), NOW), total_ms=300.0)
