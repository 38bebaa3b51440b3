"""Hours that are over go to Parquet and every question still sees each row once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.recognise import PROMOTED
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.forgetting import _forget_rows
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.decode import decode_logs, decode_metrics, decode_traces
from tailbudget.collector.seal import sealer as sealing
from tailbudget.collector.seal.forget import forget_sealed
from tailbudget.collector.seal.sealer import Sealer, delete_unlisted
from tailbudget.collector.seal.views import BULK

from .collector_support import T0_NS, S, any_value, gauge, metrics_body, pairs, trace_request

HOUR_NS = 3600 * S
#: When all that the tests land is over.
LATER = datetime.fromtimestamp(T0_NS / 1e9, UTC) + timedelta(hours=12)
Content = dict[str, tuple[int, int]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def connection(data: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_database(data)
    yield found
    found.close()


def traces(spans: int, *, seed: int, start_ns: int = T0_NS) -> Body:
    """Return spans 7 s apart, each with an event and a link."""
    request = trace_request(spans, seed=seed, start_ns=start_ns, attributes={"slo.request": "/chat"})
    for number, span in enumerate(request.resource_spans[0].scope_spans[0].spans):
        span.start_time_unix_nano += number * 7 * S
        span.end_time_unix_nano += number * 7 * S
        span.events.add(name="seen", time_unix_nano=span.start_time_unix_nano, attributes=pairs({"n": number}))
        span.links.add(trace_id=span.trace_id, span_id=b"12345678")
    return Body(digest=seed.to_bytes(16, "big"), batches=decode_traces(request.SerializeToString(), promoted=PROMOTED))


def metrics(points: int, *, seed: int) -> Body:
    body = metrics_body(*(gauge("depth", n, {"n": n}, t_ns=T0_NS + n * 60 * S) for n in range(points)))
    return Body(digest=seed.to_bytes(16, "big"), batches=decode_metrics(body))


def land(connection: duckdb.DuckDBPyConnection, *bodies: Body) -> None:
    """Land the bodies and assemble what they bring."""
    Landing(connection).land(bodies, now=LATER - timedelta(hours=11))
    while Assembler(connection).tick(LATER).unfinished:
        pass


def seal(connection: duckdb.DuckDBPyConnection, data: Path, *, now: datetime = LATER) -> int:
    """Seal all that is over, and return the number of steps."""
    found = Sealer(connection, data)
    steps = 1
    while found.tick(now):
        steps += 1
    return steps


def content(connection: duckdb.DuckDBPyConnection) -> Content:
    """Return for each view the number of rows and a hash of them."""
    found = {}
    for view in BULK:
        query = f"select count(*), coalesce(sum(hash(x)::hugeint), 0)::varchar from {view} as x"
        ((rows, total),) = connection.execute(query).fetchall()
        found[view] = (rows, total)
    return found


def in_table(connection: duckdb.DuckDBPyConnection) -> list[int]:
    return [connection.execute(f"select count(*) from {view}_open").fetchall()[0][0] for view in BULK]


def files(data: Path) -> list[str]:
    return sorted(str(path.relative_to(data / "sealed")) for path in data.glob("sealed/*/*"))


def test_every_view_reads_the_same_rows_from_parquet_as_from_its_table(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    land(connection, traces(1200, seed=1), metrics(130, seed=2))
    before = content(connection)
    assert before["spans"][0] == 1200
    seal(connection, data)
    assert content(connection) == before
    assert sum(in_table(connection)) == 0
    hours = {name.split("/")[1].split("-")[0] for name in files(data)}
    assert hours == {"20260101T00", "20260101T01", "20260101T02"}


def test_an_hour_that_is_not_over_long_enough_stays(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    land(connection, traces(1200, seed=1))
    seal(connection, data, now=datetime(2026, 1, 1, 2, 30, tzinfo=UTC))
    assert {name.split("/")[1].split("-")[0] for name in files(data)} == {"20260101T00"}
    assert in_table(connection)[0] == 1200 - 515
    assert content(connection)["spans"][0] == 1200


def test_types_and_comments_are_those_of_the_table(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    query = "select column_name, data_type, comment from duckdb_columns() where table_name = $1 order by 1"
    land(connection, traces(5, seed=1), metrics(5, seed=2))
    seal(connection, data)
    for view in BULK:
        expected = connection.execute(query, [f"{view}_open"]).fetchall()
        assert connection.execute(query, [view]).fetchall() == expected
        assert all(comment for _, _, comment in expected)


def test_a_file_has_many_slices_and_an_hour_many_files(
    connection: duckdb.DuckDBPyConnection, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "SLICE_ROWS", 20)
    monkeypatch.setattr(sealing, "FILE_ROWS", 200)
    land(connection, traces(500, seed=1))
    before = content(connection)
    seal(connection, data)
    assert content(connection) == before
    assert len([name for name in files(data) if name.startswith("spans/")]) == 3
    query = f"select count(distinct row_group_id) from parquet_metadata('{data}/sealed/{files(data)[-1]}')"
    assert connection.execute(query).fetchall()[0][0] >= 5


def test_late_spans_go_to_a_file_of_their_own(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    land(connection, traces(100, seed=1))
    seal(connection, data)
    land(connection, traces(50, seed=2))
    before = content(connection)
    seal(connection, data)
    assert content(connection) == before
    assert [name for name in files(data) if name.startswith("spans/") and "-late-1." in name]


def test_rows_that_come_while_a_file_is_written_are_neither_lost_nor_doubled(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    land(connection, traces(100, seed=1))
    found = Sealer(connection, data)
    while found.tick(LATER):
        if found._job is not None and found._job.bulk.view == "spans" and found._job.written:
            break
    land(connection, traces(50, seed=2))
    before = content(connection)
    assert before["spans"][0] == 150
    while found.tick(LATER):
        assert content(connection) == before
    assert content(connection) == before
    assert in_table(connection)[0] == 0


def test_a_trace_that_waits_to_be_assembled_is_not_sealed(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    Landing(connection).land([traces(10, seed=1)], now=LATER)
    seal(connection, data)
    assert in_table(connection)[0] == 10


def test_a_repeat_of_a_span_is_stored_once_whether_its_hour_is_sealed_or_not(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    once, other = traces(20, seed=1), traces(20, seed=2)
    land(connection, once)
    land(connection, other)
    connection.execute(
        "insert into spans_open from spans_open where trace_id in (select trace_id from spans_open limit 5)"
    )
    assert content(connection)["spans"][0] == 45
    seal(connection, data)
    assert content(connection)["spans"][0] == 40
    connection.execute("insert into spans_open from spans limit 7")
    seal(connection, data)
    assert (content(connection)["spans"][0], in_table(connection)[0]) == (40, 0)


def test_a_late_span_of_a_sealed_trace_changes_its_request_and_loses_none(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    request = trace_request(2, seed=1, attributes={"slo.request": "/chat"})
    root, late = request.resource_spans[0].scope_spans[0].spans
    late.trace_id, late.parent_span_id, late.name = root.trace_id, root.span_id, "chat"
    late.ClearField("attributes")
    late.attributes.extend(pairs({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}))
    spans = request.resource_spans[0].scope_spans[0].spans
    bodies = []
    for number in range(2):
        spans_left = [root] if number == 0 else [late]
        one = type(request)()
        one.CopyFrom(request)
        one.resource_spans[0].scope_spans[0].ClearField("spans")
        one.resource_spans[0].scope_spans[0].spans.extend(spans_left)
        bodies.append(
            Body(digest=bytes([number] * 16), batches=decode_traces(one.SerializeToString(), promoted=PROMOTED))
        )
    assert len(spans) == 2
    land(connection, bodies[0])
    seal(connection, data)
    assert connection.execute("select request_id is not null, calls from requests").fetchall() == [(True, 0)]
    land(connection, bodies[1])
    assert connection.execute("select calls, model from requests").fetchall() == [(1, "m")]


def test_logs_are_sealed_too(connection: duckdb.DuckDBPyConnection, data: Path) -> None:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    request = ExportLogsServiceRequest()
    scope = request.resource_logs.add().scope_logs.add()
    for number in range(3):
        scope.log_records.add(time_unix_nano=T0_NS + number * S, body=any_value("x"), severity_number=9)
    land(connection, Body(digest=bytes(16), batches=decode_logs(request.SerializeToString())))
    before = content(connection)
    assert before["logs"][0] == 3
    seal(connection, data)
    assert content(connection) == before
    assert len(files(data)) == 1


def test_a_moved_folder_keeps_its_sealed_rows(data: Path, tmp_path: Path) -> None:
    with open_database(data) as first:
        land(first, traces(30, seed=1))
        before = content(first)
        seal(first, data)
    data.rename(tmp_path / "moved")
    with open_database(tmp_path / "moved") as second:
        assert content(second) == before


def test_a_file_that_somebody_deleted_costs_its_rows_alone(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open_database(data) as first:
        land(first, traces(600, seed=1))
        seal(first, data)
    next(data.glob("sealed/spans/20260101T00*")).unlink()
    with open_database(data) as second:
        assert content(second)["spans"][0] == 600 - 515
    assert "its 515 rows are lost" in caplog.text


def test_user_sql_still_reaches_no_file(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    (tmp_path / "secret.csv").write_text("a\n1\n")
    for statement in (f"from '{tmp_path}/secret.csv'", f"copy meta to '{tmp_path}/out.csv'", "from glob('*')"):
        with pytest.raises(duckdb.Error, match=r"disabled by configuration|does not exist"):
            connection.execute(statement).fetchall()


def test_forgotten_traces_are_gone_from_tables_and_files_and_the_rest_is_as_it_was(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    land(connection, traces(30, seed=1), metrics(5, seed=9))
    seal(connection, data)
    land(connection, traces(20, seed=2))
    before = files(data)
    chosen = "select trace_id::varchar from (from spans order by hash(trace_id) limit 11)"
    gone = [trace_id for (trace_id,) in connection.execute(chosen).fetchall()]
    kept = (
        "select count(*), sum(hash(x)::hugeint)::varchar from spans as x where not list_contains($1::uuid[], trace_id)"
    )
    left = connection.execute(kept, [gone]).fetchall()
    connection.execute("create temp table forgotten as select unnest($1::uuid[]) as trace_id", [gone])
    conditions = {f"{view}_open": "trace_id in (from forgotten)" for view in BULK if view != "metrics"}
    sealed = sum(forget_sealed(connection, data, conditions).values())
    assert 0 < sealed < 33
    open_rows = sum(_forget_rows(connection, table, condition) for table, condition in conditions.items())
    assert sealed + open_rows == 33  # a span, an event and a link each
    assert connection.execute(kept, [gone]).fetchall() == left
    assert content(connection)["spans"][0] == 50 - 11
    assert content(connection)["metrics"][0] == 5
    for name in files(data):
        query = (
            f"select count(*) from read_parquet('{data}/sealed/{name}') where trace_id in (select unnest($1::uuid[]))"
        )
        if not name.startswith("metrics"):
            assert connection.execute(query.replace(str(data) + "/", ""), [gone]).fetchall() == [(0,)]
    assert files(data) != before
    assert len(files(data)) == len(before)
    delete_unlisted(connection, data)
    assert content(connection)["spans"][0] == 50 - 11


def test_a_restart_remembers_spans_that_were_sealed_as_soon_as_they_landed(
    connection: duckdb.DuckDBPyConnection, data: Path
) -> None:
    land(connection, traces(20, seed=1))
    seal(connection, data, now=datetime.now(UTC))
    assert in_table(connection)[0] == 0
    again = traces(20, seed=1)
    counted = Landing(connection).land([Body(digest=b"another body's.", batches=again.batches)])
    assert content(connection)["spans"][0] == 20
    assert sum(n for (_, _, reason), n in counted.items() if reason == "duplicate") == 20
