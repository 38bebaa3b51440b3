"""What collectors keep in a shared ClickHouse equals what they have: through its outages, and theirs."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailbudget.analytics.reader import QueryError, Reader

from .collector_support import Collector, collector, trace_request
from .scale_support import clickhouse, kill
from .seed import empty, seed
from .seed_more import furnish
from .support import free_port, wait_until

pytest.importorskip("sqlglot", reason="the extra `scale` is not installed: make test-scale")
pytest.importorskip("chdb", reason="chdb, ClickHouse's engine, is not installed: make test-scale")
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

#: Spans of five hours, at more than one question's length of text for their hashes.
MANY = """
    insert into spans_open by name
        select
            uuid() as trace_id, n as span_id, 'work' as name, 'SERVER' as kind, $1 - to_seconds(n % 18000) as started,
            n as start_ns, n as end_ns, 1 as duration_ns, 'OK' as status, 1 as resource_id, 'stage' as role,
            'slo.stage' as rule, '{}'::json as attrs
        from range(100000) as numbers (n)
"""
MARK = "insert into marks by name select 'm' as mark_id, now() as t, 'note' as kind, 'x' as label"
COUNTED = ("spans", "requests", "calls", "stages", "resources")
ATTRIBUTES = {"slo.request": "/chat", "gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[str]:
    with clickhouse(tmp_path / "clickhouse") as (address, _):
        yield address


def _send(running: Collector, number: int, *, spans: int = 20) -> None:
    body = trace_request(spans, seed=number, start_ns=time.time_ns(), attributes=ATTRIBUTES).SerializeToString()
    status, _, answer = running.post("/v1/traces", body)
    assert status == 200, answer


def _stored(address: str) -> dict[str, int]:
    from tailbudget.collector.engines.clickhouse import ClickHouseReader

    reader = ClickHouseReader(address)
    with suppress(QueryError):  # before its tables are made
        return _counts(reader)
    return {}


def _counts(reader: Reader) -> dict[str, int]:
    return {name: reader.query(f"select count(*) as n from {name}")["n"][0].as_py() for name in COUNTED}


def _local(running: Collector) -> dict[str, int]:
    return {name: running.value(f"select count(*) as n from {name}") for name in COUNTED}


def _equal(running: Collector, address: str, *, spans: int) -> None:
    """Wait until both sides have so many spans, a request each, and the same of all else."""
    wait_until(lambda: _local(running)["requests"] == spans, what="assembly")
    try:
        wait_until(lambda: _stored(address) == _local(running))
    except AssertionError:
        assert _stored(address) == _local(running)
    assert _stored(address)["spans"] == spans


def test_an_outage_of_the_store_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        address, process = stack.enter_context(clickhouse(tmp_path / "clickhouse", port=port))
        running = stack.enter_context(collector(tmp_path / "data", store=address))
        _send(running, 1)
        _equal(running, address, spans=20)
        kill(process)
        _send(running, 2)  # acknowledged all the same
        wait_until(lambda: _local(running)["requests"] == 40)
        wait_until(lambda: b'tailbudget_failures_total{work="store"}' in running.get("/metrics")[1])
        stack.enter_context(clickhouse(tmp_path / "clickhouse", port=port))
        _equal(running, address, spans=40)


def test_a_collector_that_is_killed_while_it_writes_loses_nothing_and_doubles_nothing(
    tmp_path: Path, store: str
) -> None:
    with collector(tmp_path / "data", store=store) as running:
        for round_ in range(3):
            _send(running, 10 + round_, spans=200)
            time.sleep(0.7 * round_)  # the kill comes at another point of the writing each time
            running.kill()
            running.start()
        _equal(running, store, spans=600)


def test_two_collectors_do_not_touch_each_others_rows(tmp_path: Path, store: str) -> None:
    with collector(tmp_path / "a", store=store) as one, collector(tmp_path / "b", store=store) as other:
        _send(one, 1, spans=30)
        _send(other, 2, spans=12)
        wait_until(lambda: _stored(store).get("requests") == 42)
        assert _stored(store)["spans"] == 42


def test_rows_that_changed_or_ended_do_so_in_the_store(tmp_path: Path, store: str) -> None:
    from tailbudget.collector.engines.clickhouse import ClickHouseReader
    from tailbudget.collector.store.mirror import Mirror

    now = datetime.now(UTC)
    (tmp_path / "data").mkdir()
    with empty(tmp_path / "data") as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        seed(connection, ended=now)
        mirror = Mirror(connection, store)
        assert mirror.tick(now) > 1000
        mirror.close()  # the next tick compares everything
        assert mirror.tick(now) == 0
        connection.execute("update requests set tenant = 'renamed' where outcome = 'dropped'")
        connection.execute("delete from stages where stage = 'queue'")
        mirror.close()
        assert mirror.tick(now) > 0
        mirror.close()
        assert mirror.tick(now) == 0
        reader = ClickHouseReader(store)
        for text in (
            "select tenant, count(*) as n, sum(total_ms) as ms from requests group by tenant order by tenant",
            "select stage, count(*) as n from stages group by stage order by stage",
        ):
            here = connection.sql(text).to_arrow_table().to_pylist()
            there = reader.query(text).to_pylist()
            assert [row["n"] for row in here] == [row["n"] for row in there]
            assert any("renamed" in row.values() for row in there) or "stage" in text


def test_a_request_that_runs_no_more_is_gone_from_the_store_too(tmp_path: Path, store: str) -> None:
    from tailbudget.collector.engines.clickhouse import ClickHouseReader
    from tailbudget.collector.store.mirror import Mirror

    now = datetime.now(UTC)
    (tmp_path / "data").mkdir()
    with empty(tmp_path / "data") as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        furnish(connection, seed(connection, ended=now))
        mirror, reader = Mirror(connection, store), ClickHouseReader(store)
        mirror.tick(now)
        assert reader.query("select count(*) as n from live")["n"].to_pylist() == [2]
        connection.execute("delete from live")
        mirror.close()  # the next tick compares everything
        mirror.tick(now)
        assert reader.query("select count(*) as n from live")["n"].to_pylist() == [0]


def test_rows_of_which_none_are_left_here_end_there_too(tmp_path: Path, store: str) -> None:
    from tailbudget.collector.store.mirror import Mirror

    now = datetime.now(UTC)
    (tmp_path / "data").mkdir()
    with empty(tmp_path / "data") as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        seed(connection, ended=now)
        mirror = Mirror(connection, store)
        mirror.tick(now)
        for statement in ("delete from requests where started < $1", "delete from stages where $1 is not null"):
            connection.execute(
                statement, [now - timedelta(minutes=7)]
            )  # as forgetting a tenant does that was here before all others
        mirror.close()  # the next tick compares everything
        mirror.tick(now)
        ((left,),) = connection.execute("select count(*) from requests").fetchall()
    assert 0 < left == _stored(store)["requests"]
    assert _stored(store)["stages"] == 0


def test_more_rows_than_one_insert_takes_reach_the_store(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailbudget.collector.store import mirror as mirrors

    now = datetime.now(UTC)
    monkeypatch.setattr(mirrors, "AT_ONCE", 30_000)
    monkeypatch.setattr(mirrors, "MOST_ROWS", 25_000)
    (tmp_path / "data").mkdir()
    with empty(tmp_path / "data") as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        connection.execute(MANY, [now])
        mirror = mirrors.Mirror(connection, store)
        assert mirror.tick(now) == 100_000
        assert _stored(store)["spans"] == 100_000
        connection.execute("update spans_open set name = 'renamed' where span_id % 2 = 0")
        mirror.close()  # the next tick compares everything
        assert mirror.tick(now) == 100_000  # half of the rows, and the end of what they were
        mirror.close()
        assert mirror.tick(now) == 0
    assert _stored(store)["spans"] == 100_000


def test_what_is_new_reaches_the_store_while_the_old_is_compared(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailbudget.collector.engines.clickhouse import ClickHouseReader
    from tailbudget.collector.store import mirror as mirrors

    now = datetime.now(UTC)
    monkeypatch.setattr(mirrors, "AT_ONCE", 1)  # an hour at a time
    (tmp_path / "data").mkdir()
    with empty(tmp_path / "data") as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        connection.execute(MANY, [now])
        mirror = mirrors.Mirror(connection, store)
        mend = mirror._mend
        mended: list[str] = []

        def noted(part: mirrors.Slice) -> int:
            if "mark" not in mended and part.end and part.end < now - mirrors.HOUR:
                connection.execute(MARK)
                mended.append("mark")
                mirror._due_s[0] = 0.0  # as after two seconds
            mended.append(part.table.name)
            return mend(part)

        monkeypatch.setattr(mirror, "_mend", noted)
        mirror.tick(now)
        assert ClickHouseReader(store).query("select count(*) as n from marks")["n"].to_pylist() == [1]
    after = mended[mended.index("mark") :]
    assert "spans" in after[after.index("marks") :], "before the oldest spans"
