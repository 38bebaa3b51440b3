"""The alert timer opens and closes rows of `alerts` as the bins come in."""

from datetime import datetime, timedelta
from functools import cache

import duckdb
import pyarrow as pa
import pytest

from tailbudget.collector.alerting import GRACE_S, AlertChange, SagAlerts, update_sag_alerts
from tailbudget.collector.alerting import sag as sag_alerts

from .spans import Row, database, one, rows
from .test_sag_detector import DEMO, T0, Bin, bins_of, steady

SERIES = "smollm2|tailbudget|127.0.0.1:8000|server|token"


def demo_bins() -> list[Bin]:
    """Return nine minutes of a demo whose decode is throttled from 270 to 360 s."""

    def throttled(n: int, streams: float) -> float:
        return steady(n, streams) * (2.5 if 27 <= n < 36 else 1)

    return bins_of(1, 54, streams=lambda n: 1.0, token_s=throttled, series=SERIES)


def store(connection: duckdb.DuckDBPyConnection, bins: list[Bin]) -> None:
    connection.register("given", pa.Table.from_pylist(bins))
    connection.execute(
        """insert into decode_rate
           select t, series, part[1], part[2], part[3], part[4], part[5], tokens, active_stream_s, streams
           from (select *, string_split(series, '|') as part from given)"""
    )
    connection.unregister("given")


def run(connection: duckdb.DuckDBPyConnection, since_s: int, until_s: int) -> list[AlertChange]:
    """Let the bins come in one by one with a timer of 5 s; return everything that opened or closed."""
    pending, changes = [one for one in demo_bins() if ended(one) >= T0 + timedelta(seconds=since_s)], []
    for tick in range(since_s, until_s, 5):
        now = T0 + timedelta(seconds=tick)
        arrived = [one for one in pending if ended(one) <= now]
        pending = [one for one in pending if ended(one) > now]
        if arrived:
            store(connection, arrived)
        changes += update_sag_alerts(connection, now=now, settings=DEMO)
    return changes


def ended(given: Bin) -> datetime:
    start = given["t"]
    assert isinstance(start, datetime)
    return start + timedelta(seconds=10)


@cache
def story() -> tuple[list[AlertChange], Row, Row]:
    """Return what opened and closed in nine minutes, and the alert's row within the sag and after it."""
    connection = database()
    changes = run(connection, 0, 340)
    meanwhile = one(connection, "from alerts")
    changes += run(connection, 340, 540)
    return changes, meanwhile, one(connection, "select *, closed is null as still from alerts")


def test_a_sag_opens_one_alert_and_closes_it_when_it_is_over() -> None:
    (opened, closed), _, row = story()
    assert (opened.series, opened.closed) == (SERIES, None)
    assert 270 < (opened.opened - T0).total_seconds() <= 310
    assert closed.alert_id == opened.alert_id
    assert closed.closed is not None
    assert 360 < (closed.closed - T0).total_seconds() < 440
    wanted = {
        "kind": "sag", "rule": SERIES, "model": "smollm2", "provider": "tailbudget", "instance": "127.0.0.1:8000",
        "severity": "page", "still": False,
    }  # fmt: skip
    assert {name: row[name] for name in wanted} == wanted


def test_the_summary_is_a_sentence_for_a_person() -> None:
    _, row, _ = story()
    start = f"smollm2 on 127.0.0.1:8000 (server): tokens come {row['value']:.1f}x slower than expected"
    assert row["summary"].startswith(start)
    assert row["value"] > row["threshold"] > 1


def test_a_bin_is_judged_only_when_its_senders_have_had_time_to_report_it() -> None:
    connection = database()
    store(connection, demo_bins()[:31])  # four throttled bins, the last ends at 310 s
    early = T0 + timedelta(seconds=280 + GRACE_S - 1)
    assert update_sag_alerts(connection, now=early, settings=DEMO) == []
    (change,) = update_sag_alerts(connection, now=T0 + timedelta(seconds=310 + GRACE_S), settings=DEMO)
    assert (change.opened - T0).total_seconds() <= 310


def test_running_it_again_changes_nothing() -> None:
    connection = database()
    store(connection, demo_bins()[:32])
    now = T0 + timedelta(seconds=330)
    assert len(update_sag_alerts(connection, now=now, settings=DEMO)) == 1
    before = rows(connection, "select * from alerts")
    assert update_sag_alerts(connection, now=now, settings=DEMO) == []
    assert rows(connection, "select * from alerts") == before


def test_a_series_that_falls_silent_does_not_stay_open_for_ever() -> None:
    connection = database()
    store(connection, demo_bins()[:32])
    update_sag_alerts(connection, now=T0 + timedelta(seconds=330), settings=DEMO)
    (change,) = update_sag_alerts(connection, now=T0 + timedelta(days=1), settings=DEMO)
    assert change.closed == T0 + timedelta(days=1)


def four_instances(*, slow: int) -> list[Bin]:
    """Return the demo of four instances of one model at one provider, of which the first `slow` are throttled."""

    def throttled(n: int, streams: float) -> float:
        return steady(n, streams) * (2.5 if 27 <= n < 36 else 1)

    return [
        given
        for number in range(4)
        for given in bins_of(
            1,
            32,
            streams=lambda n: 1.0,
            token_s=throttled if number < slow else steady,
            series=f"smollm2|tailbudget|10.0.0.{number}:8000|server|token",
        )
    ]


@pytest.mark.parametrize(("slow", "scope"), [(3, "provider tailbudget (3 of 4 series)"), (2, None)])
def test_series_that_sag_together_name_the_coarsest_scope(slow: int, scope: str | None) -> None:
    connection = database()
    store(connection, four_instances(slow=slow))
    changes = update_sag_alerts(connection, now=T0 + timedelta(seconds=330), settings=DEMO)
    assert len(changes) == slow
    alerts = rows(connection, "select scope, summary from alerts")
    assert {alert["scope"] for alert in alerts} == {scope}
    assert all(("together with" in alert["summary"]) is (scope is not None) for alert in alerts)


@pytest.mark.parametrize(
    ("now", "cause"),
    [
        ({"throttle": 4, "sm_mhz": 1700.0}, "GPU power cap"),
        ({"throttle": 64, "sm_mhz": 1700.0}, "GPU slowdown"),
        ({"throttle": 0, "sm_mhz": 1035.0}, "GPU clock"),
        ({"throttle": 0, "sm_mhz": 1700.0}, "provider or engine pacing"),
    ],
)
def test_what_the_gpu_did_meanwhile_is_the_cause(now: dict[str, float], cause: str) -> None:
    connection = database()
    store(connection, demo_bins()[:32])
    connection.execute(
        """insert into gpu by name
           select $t0::timestamptz + to_seconds(n) as sampled_at, 'h' as host, '0' as gpu, 0.9 as util, true as up,
               case when n < 270 then 1710 else $sm_mhz end as sm_mhz,
               case when n < 270 then 0 else $throttle end as throttle
           from range(320) as numbered (n)""",
        {"t0": T0, **now},
    )
    update_sag_alerts(connection, now=T0 + timedelta(seconds=330), settings=DEMO)
    assert one(connection, "select summary from alerts")["summary"].endswith(f"cause: {cause}")


@pytest.mark.parametrize(
    ("tokens", "consumer_ms", "ending"),
    [(4, 0, None), (2, 600, "cause: slow reader"), (2, 0, "cause: provider or engine pacing")],
)
def test_what_the_calls_of_a_client_show_is_the_cause_or_that_there_is_no_sag(
    tokens: int, consumer_ms: int, ending: str | None
) -> None:
    """2 tokens a chunk before; then chunks come at half the rate, with as many tokens or with twice as many."""
    connection = database()
    client = "smollm2|tailbudget|127.0.0.1:8000|client|chunk"
    store(connection, [{**given, "series": client} for given in demo_bins()[:32]])
    connection.execute(
        """insert into calls by name
           select uuid() as trace_id, n as span_id, $t0::timestamptz + to_seconds(10 * n) as started,
               'smollm2' as model, 'ok' as outcome, 1000 as total_ms, 1000 as decode_ms, 'first_token' as split,
               [n] as spans,
               '127.0.0.1:8000' as server_address, 20 as chunks,
               20 * if(n < 27, 2, $tokens) as output_tokens, if(n < 27, 0, $consumer_ms) as consumer_ms
           from range(32) as numbered (n)""",
        {"t0": T0, "tokens": tokens, "consumer_ms": consumer_ms},
    )
    update_sag_alerts(connection, now=T0 + timedelta(seconds=330), settings=DEMO)
    summaries = [alert["summary"] for alert in rows(connection, "select summary from alerts")]
    assert len(summaries) == (0 if ending is None else 1)
    assert all(summary.endswith(str(ending)) for summary in summaries)


@pytest.mark.parametrize(("instance", "cause"), [("127.0.0.1:8000", "preemption"), ("10.0.0.9:8000", "pacing")])
def test_an_engine_that_preempts_meanwhile_is_the_cause(instance: str, cause: str) -> None:
    """Another engine of the model that preempts is none, while this one tells of itself."""
    connection = database()
    store(connection, demo_bins()[:32])
    for name in {"127.0.0.1:8000", instance}:
        connection.execute(
            """insert into engine by name
               select $t0::timestamptz + to_seconds(n) as t, $name as instance, 'smollm2' as model, true as up,
                   if(n >= 270 and $preempts, 2, 0) as preemptions
               from range(320) as numbered (n)""",
            {"t0": T0, "name": name, "preempts": name == instance},
        )
    update_sag_alerts(connection, now=T0 + timedelta(seconds=330), settings=DEMO)
    assert one(connection, "select summary from alerts")["summary"].endswith(cause)


def test_many_series_are_judged_in_turn_and_together_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def throttled(n: int, streams: float) -> float:
        return steady(n, streams) * (2.5 if n >= 27 else 1)

    def opened(connection: duckdb.DuckDBPyConnection) -> list[Row]:
        return rows(connection, "select rule, opened, scope from alerts where closed is null order by rule")

    names = [f"m{number}|p|i:{number}|server|token" for number in range(7)]
    now = T0 + timedelta(seconds=330)
    connections = database(), database()
    for connection in connections:
        for number, name in enumerate(names):
            pace = throttled if number < 6 else steady
            store(connection, bins_of(number, 33, streams=lambda n: 1.0, token_s=pace, series=name))
    update_sag_alerts(connections[0], now=now, settings=DEMO)
    monkeypatch.setattr(sag_alerts, "AT_ONCE", 2)
    in_turn = SagAlerts(connections[1], DEMO)
    in_turn.update(now - timedelta(seconds=3600))  # while there is no series there is one turn
    # Four turns, then once more: who sags together is known when all were looked at.
    seen = [in_turn.update(now) for _ in range(8)]
    assert [len(changes) for changes in seen[4:]] == [0, 0, 0, 0]
    assert all(len(changes) < 6 for changes in seen)
    assert opened(connections[1]) == opened(connections[0])
    assert len(opened(connections[0])) == 6
