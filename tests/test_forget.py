"""What is forgotten is in no table and in no byte of the data folder, and everything else stays."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.recognise import PROMOTED
from tailbudget.app.cli import run
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.journal.record import Record
from tailbudget.collector.journal.writer import Journal, Limits, Position
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.forgetting import Forget, forget
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.land.schema import create_or_check
from tailbudget.collector.receive.batches import Batches
from tailbudget.collector.receive.decode import decode_metrics, decode_traces
from tailbudget.collector.seal.sealer import Sealer
from tailbudget.instrument.errors import UserError

from .collector_support import Collector, collector, gauge, metrics_body, send, trace_body, trace_request
from .support import wait_until

MARK = "Zq7-remember-me-not"


def marked(folder: Path, mark: str = MARK) -> set[str]:
    """Return the files that hold the mark."""
    return {path.name for path in folder.rglob("*") if path.is_file() and mark.encode() in path.read_bytes()}


@contextmanager
def uncompressed(file: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a data file whose text is not compressed, so that bytes can be searched."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "storage_compatibility_version": "v1.5.0",
        "memory_limit": "256MB",
        "threads": "2",
    }
    with duckdb.connect(str(file), config=config) as connection:
        connection.execute("set force_compression = 'uncompressed'")
        yield connection


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data file with 250,000 spans of 500 tenants."""
    file = tmp_path_factory.mktemp("many") / "t.duckdb"
    with uncompressed(file) as connection:
        create_or_check(connection, name="t")
        connection.execute(
            f"""insert into spans_open by name
            select md5((i // 5)::varchar)::uuid as trace_id, i as span_id, 'x' as name, 'SERVER' as kind,
                   make_timestamptz(i) as started, i as start_ns, i + 1 as end_ns, 1 as duration_ns, 'UNSET' as status,
                   1 as resource_id, 'container' as role, 'other' as rule, '{MARK}-' || (i // 5) % 500 || '-' as tenant,
                   '{{"said": "{MARK}-' || (i // 5) % 500 || '-"}}' as attrs
            from range(250000) t(i)"""
        )
        connection.execute(
            """insert into requests by name
            select span_id::varchar as request_id, trace_id, span_id, started, tenant, 'ok' as outcome, 1 as total_ms,
                   0 as network_ms, 0 as queue_ms, 0 as retrieval_ms, 0 as prompt_ms, 0 as prefill_ms, 0 as decode_ms,
                   0 as tools_ms, 0 as post_ms, 1 as other_ms, 0 as calls, 0 as tool_rounds, false as synthetic
            from spans where span_id % 5 = 0"""
        )
        connection.execute(
            """insert into metrics_open by name
            select 'slo.requests.ended' as name, 'sum' as kind, started as t, 1 as resource_id,
                   json_object('slo.tenant', tenant) as attrs from requests"""
        )
        connection.execute("checkpoint")
    return file


@pytest.fixture
def plain(many: Path, tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A copy of it."""
    with uncompressed(shutil.copyfile(many, tmp_path / "t.duckdb")) as connection:
        yield connection


def counts(connection: duckdb.DuckDBPyConnection) -> tuple[int, ...]:
    tables = ("spans", "requests", "metrics")
    return tuple(connection.execute(f"select count(*) from {table}").fetchall()[0][0] for table in tables)


def test_tenants_leave_no_byte_in_the_data_file(plain: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    for number in (7, 499):  # the second finds row groups that the first has rewritten
        tenant = f"{MARK}-{number}-"
        assert marked(tmp_path, tenant)
        before = counts(plain)
        found = forget(plain, Forget(tenant=tenant), data=tmp_path)
        assert (found.traces, found.rows) == (100, {"metrics": 100, "requests": 100, "spans": 500})
        assert counts(plain) == (before[0] - 500, before[1] - 100, before[2] - 100)
        assert marked(tmp_path, tenant) == set()
    assert marked(tmp_path, f"{MARK}-8-")
    assert (
        plain.execute("select count(distinct span_id), sum(span_id) from spans where tenant like '%-8-'").fetchall()[0][
            0
        ]
        == 500
    )


def test_alerts_deliveries_silences_and_budgets_of_a_tenant_go_with_it(
    plain: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    mine, other = f"{MARK}-7-", f"{MARK}-8-"
    for tenant in (mine, other):
        said = {
            "id": f"burn|chat.total|page|objective=chat.total|tenant={tenant}|2026-03-20T12:00:00Z",
            "tenant": tenant,
        }
        plain.execute(
            """insert into alerts by name select $id as alert_id, 'burn' as kind, 'chat.total' as rule,
               'page' as severity, now() as opened, 'chat.total (' || $tenant || ') burns' as summary,
               json_object('objective', 'chat.total', 'tenant', $tenant) as labels""",
            said,
        )
        for place, content in (("sent", None), ("waits", json.dumps({"facts": {"worst_tenant": tenant}}))):
            plain.execute(
                """insert into deliveries by name select $place || $id as delivery_id, 'm' as message_id,
                   $id as alert_id, 'firing' as transition, 'c' as channel, 'g' as grouped_by, now() as created,
                   1 as attempts, $content::json as content""",
                {"id": said["id"], "place": place, "content": content},
            )
        plain.execute(
            """insert into deliveries by name select 'hit' || $tenant as delivery_id, 'm' as message_id,
               'all' as alert_id, 'firing' as transition, 'c' as channel, 'g' as grouped_by, now() as created,
               1 as attempts, json_object('worst_tenant', $tenant) as content""",
            {"tenant": tenant},
        )
        plain.execute(
            """insert into silences by name select $tenant as silence_id, now() as created, now() as until,
               json_object('tenant', $tenant) as labels""",
            {"tenant": tenant},
        )
        plain.execute(
            "insert into slo_minute by name select 'c' as objective, $t as part, now() as minute, 1 as n, 1 as bad",
            {"t": tenant},
        )
        plain.execute(
            """insert into metrics_open by name select 'slo.requests.ended' as name, 'sum' as kind, now() as t,
               1 as resource_id, json_object('route', '/chat', 'tenant', $tenant) as attrs""",
            {"tenant": tenant},
        )
    plain.execute("checkpoint")
    found = forget(plain, Forget(tenant=mine), data=tmp_path)
    wanted = {"alerts": 1, "deliveries": 3, "silences": 1, "slo_minute": 1}
    assert {table: found.rows.get(table) for table in wanted} == wanted
    assert found.rows["metrics"] == 101
    assert marked(tmp_path, mine) == set()
    for table, n in wanted.items():
        assert plain.execute(f"select count(*) from {table}").fetchall() == [(n,)], table
    comments = plain.execute("select comment from duckdb_columns() where table_name = 'alerts'").fetchall()
    assert all(comment for (comment,) in comments)
    with pytest.raises(duckdb.ConstraintException):
        plain.execute("insert into silences by name from silences")


def test_a_plain_delete_would_leave_them(plain: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    for table in ("spans_open", "requests"):
        plain.execute(f"delete from {table} where tenant = '{MARK}-7-'")
    plain.execute("checkpoint")
    assert marked(tmp_path, f"{MARK}-7-")


def test_one_request_goes_with_its_trace_alone(plain: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    before = counts(plain)
    assert forget(plain, Forget(request="1000"), data=tmp_path).rows == {"requests": 1, "spans": 5}
    assert counts(plain) == (before[0] - 5, before[1] - 1, before[2])
    assert forget(plain, Forget(request="1000"), data=tmp_path).traces == 0


def test_a_message_that_waits_and_links_to_the_request_goes_too(
    plain: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    for request in ("1000", "10005"):
        plain.execute(
            """insert into deliveries by name select $id as delivery_id, 'm' as message_id, 'a' as alert_id,
               'firing' as transition, 'c' as channel, 'g' as grouped_by, now() as created, 0 as attempts,
               json_object('traces', ['http://board.test/trace?request=' || $id]) as content""",
            {"id": request},
        )
    assert forget(plain, Forget(request="1000"), data=tmp_path).rows["deliveries"] == 1
    assert plain.execute("select delivery_id from deliveries").fetchall() == [("10005",)]


@pytest.mark.parametrize("fields", [{}, {"tenant": ""}, {"tenant": "a", "request": "b"}])
def test_what_to_forget_is_one_of_two(fields: dict[str, str]) -> None:
    with pytest.raises(UserError, match="expected one of the two"):
        Forget(**fields)


def test_a_rolled_journal_goes_on_in_a_new_segment(tmp_path: Path) -> None:
    limits = Limits(journal_bytes=1 << 30, segment_bytes=1 << 20, free_bytes=0)
    journal = Journal(tmp_path, segment=3, limits=limits)
    journal.start()
    written: list[Position] = []

    def append() -> None:
        done = threading.Event()

        def stored(start: Position, _: Position) -> None:
            written.append(start)
            done.set()

        record = Record(signal="traces", encoding="identity", digest=bytes(16), arrived_ns=1, payload=b"x")
        journal.append(record, written=stored, refused=lambda error: done.set())
        assert done.wait(10)

    assert journal.roll() == 3  # nothing was written yet
    append()
    assert journal.roll() == 4
    append()
    journal.discard_before(4)
    assert [path.name for path in tmp_path.iterdir()] == ["0000000004.journal"]
    journal.close()
    assert [position.segment for position in written] == [3, 4]
    assert journal.roll() == 4


def tenant_body(tenant: str, *, seed: int) -> bytes:
    return trace_request(3, seed=seed, attributes={"slo.tenant": tenant, "slo.request": "chat"}).SerializeToString()


def filled(running: Collector) -> None:
    assert running.post("/v1/traces", tenant_body(MARK, seed=1))[0] == 200
    assert running.post("/v1/traces", tenant_body("other", seed=2))[0] == 200
    assert running.post("/v1/traces", trace_body(2, seed=3))[0] == 200
    wait_until(lambda: running.value("select count(*) from spans") == 8)


def test_a_running_collector_forgets_a_tenant_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    with collector(data) as running:
        filled(running)
        assert marked(data)
        assert run(["forget", "--tenant", MARK, "--api", f"http://127.0.0.1:{running.api_port}"]) == 0
        assert "forgot 3 traces: " in capsys.readouterr().out
        assert marked(data) == set()
        assert running.value("select count(*) from spans") == 5
        assert running.post("/v1/traces", tenant_body("other", seed=4))[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 8)
        running.kill()
        running.start()
        assert running.value("select count(*) from spans where tenant = 'other'") == 6
        assert marked(data) == set()


def test_a_folder_that_nobody_has_open_forgets_too_journal_included(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    with collector(data) as running:
        filled(running)
        assert running.post("/v1/traces", tenant_body(MARK, seed=9))[0] == 200
        running.kill()  # the last may be in the journal alone
    assert marked(data)
    assert run(["forget", "--tenant", MARK, "--data", str(data)]) == 0
    assert "forgot 6 traces" in capsys.readouterr().out
    assert marked(data) == set()
    assert list((data / "journal").iterdir()) == []
    assert run(["forget", "--request", "x", "--data", str(tmp_path / "nothing")]) == 1


def test_only_who_bears_the_token_may_let_forget(tmp_path: Path) -> None:
    with collector(tmp_path / "data", token="s3cret") as running:
        body = json.dumps({"tenant": "x"}).encode()
        assert send(running.api_port, "POST", "/v1/forget", body, {})[0] == 401
        bearer = {"Authorization": "Bearer s3cret"}
        assert send(running.api_port, "POST", "/v1/forget", b'{"tenants": "x"}', bearer)[0] == 400
        status, _, answer = send(running.api_port, "POST", "/v1/forget", body, bearer)
        assert (status, json.loads(answer)) == (200, {"traces": 0, "rows": {}})


def test_sealed_files_forget_too_what_they_hold_of_a_tenant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    hour_ago_ns = time.time_ns() - 3 * 3600 * 10**9
    point = gauge("slo.requests.active", 1.0, {"slo.tenant": MARK}, t_ns=hour_ago_ns)
    with open_database(data) as connection:
        batches: list[Batches] = [decode_metrics(metrics_body(point))]
        for seed, tenant in enumerate((MARK, "other")):
            body = tenant_request(tenant, seed=seed, start_ns=hour_ago_ns)
            batches.append(decode_traces(body, promoted=PROMOTED))
        landed = [Body(digest=bytes([number]) * 16, batches=batch) for number, batch in enumerate(batches)]
        Landing(connection).land(landed)
        while Assembler(connection).tick(datetime.now(UTC) + timedelta(hours=1)).unfinished:
            pass
        sealer = Sealer(connection, data, seal_after=timedelta(0))
        while sealer.tick(datetime.now(UTC)):
            pass
        assert connection.execute("select count(*) from sealed_files").fetchall()[0][0] == 2
        assert connection.execute("select count(*) from spans_open").fetchall() == [(0,)]
    assert tenants(data) == {MARK, "other"}
    assert run(["forget", "--tenant", MARK, "--data", str(data)]) == 0
    assert "3 of spans" in capsys.readouterr().out
    assert tenants(data) == {"other"}
    assert marked(data) == set()


def tenant_request(tenant: str, *, seed: int, start_ns: int) -> bytes:
    attributes = {"slo.tenant": tenant, "slo.request": "chat"}
    return trace_request(3, seed=seed, start_ns=start_ns, attributes=attributes).SerializeToString()


def tenants(data: Path) -> set[str]:
    """Return the tenants of the stored spans and points, sealed files included, which are compressed."""
    found = [str(path) for path in (data / "sealed").rglob("*.parquet")]
    assert found
    query = "select to_json(x)::varchar from read_parquet($1) x"
    with duckdb.connect() as connection:
        texts = [text for path in found for (text,) in connection.execute(query, [path]).fetchall()]
    return {tenant for tenant in (MARK, "other") if any(tenant in text for text in texts)}
