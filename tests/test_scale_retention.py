"""A shared ClickHouse ends rows when they are older than they are to be kept there, and no others."""

import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.reader import QueryError
from tailbudget.analytics.window import length
from tailbudget.collector.counters import Counters
from tailbudget.collector.engines.catalog import catalog
from tailbudget.collector.engines.clickhouse import ClickHouseReader, connect
from tailbudget.collector.seal.retention import RETENTION, Keep, Kept, Retention
from tailbudget.collector.store.mirror import Mirror
from tailbudget.collector.store.tables import tables
from tailbudget.instrument.errors import UserError

from .collector_support import Collector, trace_request
from .scale_support import clickhouse
from .seed import empty
from .support import wait_until

pytest.importorskip("sqlglot", reason="the extra `scale` is not installed: make test-scale")
pytest.importorskip("chdb", reason="chdb, ClickHouse's engine, is not installed: make test-scale")
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
#: The collector as its command runs, told by options.
COMMAND = """
import json, sys
from tailbudget.app.cli import cli
given = json.loads(sys.argv[1])
cli(["collector", *(word for name, value in given.items() for word in (f"--{name.removesuffix('_port')}", str(value)))])
"""
#: A value of each type of DuckDB.
VALUES = {
    "VARCHAR": "'x'",
    "JSON": "'{}'::json",
    "UUID": "uuid()",
    "BOOLEAN": "true",
    "MAP(VARCHAR, DOUBLE)": "map {'x': 1.0}",
    "TIMESTAMP WITH TIME ZONE": "now()",
}
SHARED = [kept for kept in RETENTION if kept.relation in tables()]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    with clickhouse(tmp_path / "clickhouse") as (address, _):
        yield address


@pytest.fixture
def data(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    (tmp_path / "data").mkdir()
    with closing(empty(tmp_path / "data")) as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        yield connection


def _insert(connection: duckdb.DuckDBPyConnection, kept: Kept, moment: datetime) -> None:
    """Insert one row of that time; its other columns say nothing."""
    named = {
        name: f"[]::{kind}" if kind.endswith("[]") else VALUES.get(kind, f"1::{kind}")
        for name, (kind, _) in catalog().columns()[kept.relation].items()
    }
    key = {"alerts": "alert_id", "marks": "mark_id"}.get(kept.relation)
    named |= {kept.time: "$1::timestamptz"} | ({key: "uuid()::varchar"} if key else {})
    values = ", ".join(f"{value} as {name}" for name, value in named.items())
    connection.execute(f"insert into {kept.table} by name select {values}", [moment])


def _ages(address: str, now: datetime) -> Mapping[str, list[int]]:
    """Return the ages of the rows of each table, in whole days."""
    reader = ClickHouseReader(address)
    asked = {kept.relation: f"select {kept.time} as t from {kept.relation} order by t desc" for kept in SHARED}
    return {name: [(now - at).days for at in reader.query(text)["t"].to_pylist()] for name, text in asked.items()}


def _merge(address: str) -> None:
    """Do now what the store does by itself within hours: merge parts, and end what is too old."""
    client = connect(address)
    for kept in SHARED:
        client.command(f"OPTIMIZE TABLE {tables()[kept.relation].table} FINAL")
    client.close()


@pytest.mark.parametrize(
    "keep",
    [Keep(), Keep(spans=3 * DAY, requests=80 * DAY, rollups=40 * DAY)],
    ids=["as given", "as the user says"],
)
def test_old_rows_end_and_young_ones_stay_in_every_table_that_has_a_retention(
    store: str, data: duckdb.DuckDBPyConnection, keep: Keep
) -> None:
    now = datetime.now(UTC)
    lengths = {kept.relation: kept.length(keep) for kept in SHARED}
    for kept in SHARED:
        for age in (2 * DAY, lengths[kept.relation], lengths[kept.relation] + DAY):
            _insert(data, kept, now - age - HOUR)
    mirror = Mirror(data, store, keep=keep)
    assert mirror.tick(now - 2 * DAY) >= 3 * len(SHARED)  # when none of them was too old
    _merge(store)
    assert _ages(store, now) == {name: [2] for name in lengths}
    mirror.close()
    assert mirror.tick(now) == 0, "what the store has ended is not written again"


def test_what_the_collector_ended_the_store_keeps_even_when_a_row_of_that_time_comes_late(
    store: str, data: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    mirror = Mirror(data, f"{store}?keep_spans=90d&keep_requests=90d&keep_rollups=900d")
    for kept in SHARED:
        for days in (1, 30, 50):
            _insert(data, kept, now - timedelta(days=days, hours=1))
    mirror.tick(now)
    retention = Retention(
        data, tmp_path, keep=Keep(spans=7 * DAY, requests=7 * DAY, rollups=7 * DAY), counters=Counters()
    )
    while retention.tick(now):
        pass
    late = {kept.relation for kept in SHARED if kept.relation not in ("alerts", "marks")}
    for kept in SHARED:
        if kept.relation in late:
            _insert(data, kept, now - timedelta(days=40, hours=1))
    mirror.close()
    mirror.tick(now)
    assert _ages(store, now) == {
        kept.relation: [1, 30, 40, 50] if kept.relation in late else [1, 30, 50] for kept in SHARED
    }
    data.execute("delete from requests where started > $1", [now - 2 * DAY])
    mirror.close()
    mirror.tick(now)
    assert _ages(store, now)["requests"] == [30, 40, 50], "what something else deletes ends there too"


def _lengths(address: str) -> Mapping[str, str]:
    """Return by table how many seconds the store keeps its rows."""
    client = connect(address)
    rows = client.query_arrow("SELECT name, engine_full FROM system.tables", use_strings=True).to_pylist()
    client.close()
    return {
        row["name"].removesuffix("_kept"): row["engine_full"].partition("toIntervalSecond(")[2].partition(")")[0]
        for row in rows
        if row["name"].endswith("_kept")
    }


def _send(running: Collector, number: int, *, age: timedelta) -> None:
    start_ns = time.time_ns() - age // timedelta(microseconds=1) * 1000
    body = trace_request(20, seed=number, start_ns=start_ns, attributes={"slo.request": "/chat"})
    assert running.post("/v1/traces", body.SerializeToString())[0] == 200


def _seen(address: str) -> list[int]:
    reader = ClickHouseReader(address)
    with suppress(QueryError):  # before its tables are made
        return [reader.query(f"select count(*) as n from {name}")["n"][0].as_py() for name in ("spans", "requests")]
    return []


def test_the_store_keeps_what_lands_as_long_as_the_command_says(tmp_path: Path, store: str) -> None:
    options = {"keep-spans": "10d", "keep-requests": "20d", "keep-rollups": "30d"}
    running = Collector(tmp_path / "data", {**options, "store": store}, program=COMMAND)
    try:
        running.start()
        _send(running, 1, age=timedelta(hours=1))
        _send(running, 2, age=3 * DAY)
        wait_until(lambda: running.value("select count(*) from requests") == 40)
        running.kill()  # when it starts again everything is compared
        running.start()
        wait_until(lambda: _seen(store) == [40, 40], timeout_s=90)
        kept = _lengths(store)
        named = {kept.relation: options[f"keep-{kept.kind}"] for kept in SHARED}
        assert {name: kept[name] for name in named} == {
            name: str(int(length(text).total_seconds())) for name, text in named.items()
        }
        running.kill()
        running.settings = {**options, "store": f"{store}?keep_spans=2d"}
        running.start()
        wait_until(lambda: _lengths(store)["spans"] == "172800", timeout_s=90)
        _send(running, 3, age=timedelta(0))
        _merge(store)
        wait_until(lambda: _seen(store) == [40, 60], timeout_s=90)
        assert running.value("select count(*) from spans") == 60
    finally:
        if running.process is not None:
            running.kill()


def test_a_collector_that_keeps_rows_for_less_time_does_not_shorten_what_others_keep(
    store: str, data: duckdb.DuckDBPyConnection, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime.now(UTC)
    Mirror(data, store).tick(now)
    before = _lengths(store)
    Mirror(data, store, keep=Keep(spans=DAY)).tick(now)
    assert _lengths(store) == before
    assert "the store keeps spans for 7 days, 0:00:00, not 1 day" in caplog.text
    assert "keep_spans=..." in caplog.text


def test_an_address_with_another_parameter_is_refused_by_name(data: duckdb.DuckDBPyConnection) -> None:
    for wrong in ("keep_span=3d", "keep_spans=3 days"):
        with pytest.raises(UserError, match="keep_spans, keep_requests, keep_rollups"):
            Mirror(data, f"clickhouse://127.0.0.1/db?{wrong}")
