"""What people and deployments did is in `marks`, and a heartbeat is heard while all is well."""

from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import duckdb

from tailbudget.collector.alerting import ObjectiveFiles
from tailbudget.collector.alerting.courier import Courier
from tailbudget.collector.alerting.heartbeat import Watchdog
from tailbudget.collector.alerting.marks import Changes

from .alert_receivers import Receiver, receiver
from .collector_support import collector
from .slo_support import store, write
from .support import wait_until

NOW = datetime(2026, 3, 20, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def requests(connection: duckdb.DuckDBPyConnection, version: str, *, since: int, until: int) -> None:
    write(connection, [(NOW + minute * MINUTE, 100.0, "ok") for minute in range(since, until)])
    connection.execute("update requests set service = 'shop', version = $1 where version is null", [version])


def marks(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    return connection.execute("select kind, label, old_value, new_value from marks order by t, label").fetchall()


def test_a_new_version_is_marked_once_even_where_the_old_one_goes_on() -> None:
    connection = store()
    changes = Changes(connection)
    requests(connection, "1.0", since=-60, until=0)
    changes.update(NOW)
    assert marks(connection) == []
    requests(connection, "1.1", since=0, until=3)
    requests(connection, "1.0", since=0, until=3)
    for minute in (3, 4, 5):
        changes.update(NOW + minute * MINUTE)
    assert marks(connection) == [("version", "shop: version 1.0 -> 1.1", "1.0", "1.1")]
    ((t,),) = connection.execute("select epoch(t) from marks").fetchall()
    assert t == NOW.timestamp()
    Changes(connection).update(NOW + 6 * MINUTE)
    assert len(marks(connection)) == 1


def test_going_back_to_a_version_of_before_yesterday_is_a_change_too() -> None:
    connection = store()
    changes = Changes(connection)
    for day, version in enumerate(("1.0", "1.1", "1.1", "1.0")):
        requests(connection, version, since=day * 1440, until=day * 1440 + 2)
        changes.update(NOW + (day * 1440 + 2) * MINUTE)
    assert [label for _, label, *_ in marks(connection)] == ["shop: version 1.0 -> 1.1", "shop: version 1.1 -> 1.0"]


def test_prompts_flags_and_models_are_marked() -> None:
    connection = store()
    changes = Changes(connection)
    changes.update(NOW)
    for minute, word in ((1, "a"), (3, "b")):
        at = NOW + minute * MINUTE
        write(connection, [(at, 100.0, "ok")])
        connection.execute("update requests set service = 'shop' where started = $1", [at])
        connection.execute(
            """insert into spans_open by name
               select uuid() as trace_id, $n as span_id, 'chat' as name, 'CLIENT' as kind,
               $t as started, 0 as start_ns, 0 as end_ns, 0 as duration_ns, 'shop' as service, 'UNSET' as status,
               1 as resource_id, 'call' as role, 'x' as rule, json_object('slo.prompt.version', $word) as attrs""",
            {"n": minute, "t": at, "word": f"p-{word}"},
        )
        connection.execute(
            """insert into span_events_open by name
               select trace_id, span_id, 'feature_flag.evaluation' as name, $t as t,
               0 as t_ns, json_object('feature_flag.key', 'rerank', 'feature_flag.result.variant', $word) as attrs
               from requests where started = $t""",
            {"t": at, "word": word},
        )
        connection.execute(
            """insert into calls by name
               select trace_id, span_id, request_id, started, 'shop' as service, $word as model,
               'ok' as outcome, 1.0 as total_ms, 'none' as split, [1] as spans from requests where started = $t""",
            {"t": at, "word": f"m-{word}"},
        )
        changes.update(at + MINUTE)
    assert marks(connection) == [
        ("flag", "shop: flag rerank a -> b", "a", "b"),
        ("model", "shop: model m-a -> m-b", "m-a", "m-b"),
        ("prompt", "shop: prompt p-a -> p-b", "p-a", "p-b"),
    ]


def _heard(hook: Receiver, n: int) -> bool:
    return len(hook.received) == n


def test_a_heartbeat_is_heard_as_often_as_the_file_says_while_all_is_well(tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    wrong: list[str] = []
    with receiver() as hook:
        file.write_text(f"heartbeat: {{url: '{hook.url}', every: 2m}}\n")
        courier = Courier()
        watchdog = Watchdog(ObjectiveFiles([file]), courier, unwell=lambda _: wrong[0] if wrong else None)
        try:
            for minute in (0, 1, 2, 3):
                watchdog.update(NOW + minute * MINUTE)
                wait_until(partial(_heard, hook, 1 + minute // 2), what="the heartbeat")
            wrong.append("objectives are not evaluated")
            watchdog.update(NOW + 10 * MINUTE)
        finally:
            courier.close()
        assert len(hook.received) == 2


def test_a_collector_that_lands_and_judges_is_heard(tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    with receiver() as hook:
        file.write_text(f"heartbeat: {hook.url} every 1m\n")
        with collector(tmp_path / "data", slo=[str(file)]):
            wait_until(lambda: hook.received, what="the heartbeat")
