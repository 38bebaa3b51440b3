"""The read API answers SELECTs in three formats and nothing else, within limits."""

import csv
import io
import json
from collections.abc import Iterator
from http.client import HTTPConnection
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest

from tailbudget.analytics.reader import ARROW_STREAM, ApiReader, QueryError
from tailbudget.app.cli import run
from tailbudget.collector.api.spool import MEMORY_BYTES, Spool
from tailbudget.collector.token import read_token
from tailbudget.instrument.errors import UserError

from .collector_support import Collector, collector, send, trace_body
from .support import wait_until

FILES = Path("/proc/self/fd")
SLOW = "select count(*) from range(100000000) a, range(100000) b"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("api") / "data") as found:
        assert found.post("/v1/traces", trace_body(3, seed=31, attributes={"k": [1, "a"]}))[0] == 200
        wait_until(lambda: found.value("select count(*) from spans") == 3)
        yield found


@pytest.mark.parametrize("accept", [ARROW_STREAM, "application/json", "text/csv"])
@pytest.mark.parametrize("sql", ["from spans", "describe spans", "explain analyze select 1", "summarize spans"])
def test_reads_are_answered_in_every_form(running: Collector, sql: str, accept: str) -> None:
    status, body = running.ask(sql, accept=accept)
    assert status == 200, body


def test_json_is_one_array_of_objects_with_values_by_type(running: Collector) -> None:
    sql = """select 1 as b, 'x' as a, null as n, 1.5::double as d, 'nan'::double as nan, 12.30::decimal(9,2) as dec,
        timestamptz '2026-01-02 03:04:05.678+01' as t, timestamp '2026-01-02 03:04:05' as naive,
        '{"k": [1, {"z": 2.0}]}'::json as j, '\\xAB\\x01'::blob as bytes,
        '4bf92f35-77b3-4da6-a3ce-929d0e0e4736'::uuid as u, sum(9007199254740993::bigint) as huge,
        170141183460469231731687303715884105727::hugeint as largest, [1, null] as l, {'p': now() is null} as s,
        map {'m': '\\xFF'::blob} as m, true as yes, date '2026-01-02' as day, 18446744073709551615::ubigint as ub,
        interval 90 minute as iv, ['{"q": 1}'::json] as jl"""
    status, body = running.ask(sql)
    assert status == 200
    text = body.decode()
    assert '"dec":12.30' in text
    assert '"largest":170141183460469231731687303715884105727' in text
    (row,) = json.loads(text)
    assert list(row)[:3] == ["b", "a", "n"]
    assert row == {
        "b": 1, "a": "x", "n": None, "d": 1.5, "nan": None, "dec": 12.3,
        "t": "2026-01-02T02:04:05.678000Z", "naive": "2026-01-02T03:04:05.000000Z",
        "j": {"k": [1, {"z": 2.0}]}, "bytes": "ab01", "u": "4bf92f35-77b3-4da6-a3ce-929d0e0e4736",
        "huge": 9007199254740993, "largest": 170141183460469231731687303715884105727, "l": [1, None],
        "s": {"p": False}, "m": {"m": "ff"}, "yes": True, "day": "2026-01-02", "ub": 18446744073709551615,
        "iv": "01:30:00", "jl": [{"q": 1}],
    }  # fmt: skip


def test_an_empty_answer_is_an_empty_array_and_a_header_line(running: Collector) -> None:
    assert running.ask("select 1 as a, 2 as b where false")[1] == b"[]"
    assert running.ask("select 1 as a, 2 as b where false", accept="text/csv")[1] == b"a,b\n"


def test_csv_quotes_what_needs_it(running: Collector) -> None:
    _, body = running.ask("""select 'a"b,c\nd' as x, null as y, [1] as z""", accept="text/csv")
    assert list(csv.reader(io.StringIO(body.decode()))) == [["x", "y", "z"], ['a"b,c\nd', "", "[1]"]]


def test_arrow_is_the_default_and_params_are_bound(running: Collector) -> None:
    reader = ApiReader(f"http://127.0.0.1:{running.api_port}")
    table = reader.query("select name, attrs from spans where name = $name", {"name": "work"})
    assert table.column_names == ["name", "attrs"]
    assert json.loads(table["attrs"][0].as_py()) == {"k": [1, "a"]}
    status, body = running.ask("select 1 as a", accept="*/*")
    assert (status, pa.ipc.open_stream(body).read_all().to_pylist()) == (200, [{"a": 1}])
    with pytest.raises(QueryError, match="nowhere"):
        reader.query("from nowhere")


def test_an_error_says_where_and_what_may_be_meant(running: Collector) -> None:
    _, body = running.ask("select nam from spans")
    answer = json.loads(body)
    assert '"nam" not found' in answer["error"]
    assert '"name"' in answer["hint"]
    _, body = running.ask("select 1 frm spans where")
    assert json.loads(body)["position"] is not None


def test_more_rows_than_allowed_are_an_error_not_a_cut_answer(running: Collector) -> None:
    assert len(running.rows("select range r from range(1000000)")) == 1_000_000
    status, body = running.ask("from range(1000001)")
    assert (status, "max_rows" in json.loads(body)["hint"]) == (400, True)
    assert running.ask("from range(11)", max_rows=10)[0] == 400
    assert running.ask("from range(1000001)", accept=ARROW_STREAM, max_rows=2_000_000)[0] == 200


def test_more_bytes_than_allowed_are_an_error_not_a_cut_answer(running: Collector) -> None:
    wide = "select repeat('x', 1000) as s from range(100000)"
    for accept in (ARROW_STREAM, "application/json", "text/csv"):
        status, body = running.ask(wide, accept=accept, max_bytes=50_000_000)
        assert (status, json.loads(body)["hint"]) == (
            400,
            "add a limit, name columns, or ask for more with max_bytes (default 2147483648)",
        )
    assert len(running.ask(wide, max_bytes=200_000_000)[1]) > 100_000_000


def test_what_fails_behind_its_first_rows_has_a_status_of_its_own(running: Collector) -> None:
    status, body = running.ask(
        "select case when r = 900000 then error('in the end') else r end x from range(1000000) t(r)"
    )
    assert (status, "in the end" in json.loads(body)["error"]) == (400, True)


def test_a_long_answer_is_not_held_in_memory(running: Collector) -> None:
    assert running.process is not None
    status = Path(f"/proc/{running.process.pid}/status")

    def peak_mb() -> int:
        return next(int(line.split()[1]) // 1024 for line in status.read_text().splitlines() if "VmHWM" in line)

    running.ask("select 1")
    before = peak_mb()
    assert running.ask("select r, repeat('x', 300) as s from range(1000000) t(r)")[0] == 200  # 330 MB of JSON
    assert peak_mb() - before < 100
    assert not [path for path in running.data.iterdir() if path.name.startswith("tmp") and path.is_file()]


@pytest.mark.skipif(not FILES.exists(), reason="open files are counted in /proc")
def test_only_an_answer_that_has_a_file_is_read_by_a_thread_of_its_own(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=2 * MEMORY_BYTES, reserve_bytes=0)
    before = len(list(FILES.iterdir()))
    for nbytes, in_memory in ((MEMORY_BYTES, True), (1, False)):
        spool.write(bytes(nbytes))
        assert (spool.in_memory, len(list(FILES.iterdir()))) == (in_memory, before + (not in_memory))
    spool.close()


def test_clients_that_do_not_read_their_answers_hold_no_slot(running: Collector) -> None:
    waiting = []
    for _ in range(3):
        connection = HTTPConnection("127.0.0.1", running.api_port, timeout=120)
        connection.request("POST", "/v1/sql", json.dumps({"sql": "select repeat('x', 1000) from range(50000)"}))
        connection.getresponse()  # its first bytes; the rest fills the sockets and waits
        waiting.append(connection)
    assert running.value("select 1") == 1
    for connection in waiting:
        connection.close()


def test_only_who_bears_the_token_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with collector(tmp_path / "data", token="s3cret") as running:
        for path in ("/healthz", "/readyz"):
            assert running.get(path)[0] == 200
        for given in (
            {},
            {"Authorization": "Bearer s3cre"},
            {"Authorization": "s3cret"},
            {"Authorization": "Basic s3cret"},
        ):
            status, body = running.get("/metrics", **given)
            assert (status, "TAILBUDGET_TOKEN" in json.loads(body)["hint"]) == (401, True)
        assert running.get("/metrics", Authorization="bearer s3cret")[0] == 200
        api = f"http://127.0.0.1:{running.api_port}"
        with pytest.raises(QueryError, match="no token"):
            ApiReader(api).query("select 1")
        monkeypatch.setenv("TAILBUDGET_TOKEN", "s3cret\n")
        assert ApiReader(api).query("select 1 as one").to_pylist() == [{"one": 1}]
        assert run(["sql", "--api", api, "select 1"]) == 0
        assert run(["doctor", "--api", api]) == 0


def test_a_token_is_read_from_a_file_outside_of_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for folder in (tmp_path, data):
        (folder / "token").write_text(" s3cret \nmore\n")
    assert read_token(tmp_path / "token", data=data) == "s3cret"
    with pytest.raises(UserError, match="lies in the data folder"):
        read_token(data / "token", data=data)
    (tmp_path / "token").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_token(tmp_path / "token", data=data)
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path / "nothing", data=data)


def test_a_slow_query_is_stopped_at_its_timeout(running: Collector) -> None:
    status, _ = running.ask(SLOW, timeout_s=0.3)  # left alone it takes an hour
    assert status == 408


def test_a_third_query_waits_and_is_told_to_come_again_unless_it_is_known_to_be_short(running: Collector) -> None:
    assert running.value("select 1 as known") == 1
    two = [ask_for_long(running.api_port) for _ in range(2)]
    numbers = count()

    def refused() -> dict[str, str] | None:
        status, body = running.ask(f"select 1 as new_{next(numbers)}")
        found: dict[str, str] = json.loads(body)
        return found if status == 503 else None

    assert wait_until(refused, what="both slots to be taken")["hint"] == "try again"
    assert running.value("select 2 as known") == 2
    for connection in two:
        connection.close()
    wait_until(lambda: running.ask("select 1 as new")[0] == 200, what="the end of queries whose clients left")


def ask_for_long(port: int) -> HTTPConnection:
    """Return the connection on which a query that takes an hour was sent."""
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/v1/sql", json.dumps({"sql": SLOW, "timeout_s": 600}))
    return connection


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"sql": 1}', b'{"sql": "select 1", "timeout_s": -1}', b'{"sql": "select 1", "max_rows": "x"}',
     b'{"sql": "select 1", "more": 1}', b'{"sql": "select 1", "params": [1]}', b"\xff"],
)  # fmt: skip
def test_a_request_of_another_shape_is_refused(running: Collector, body: bytes) -> None:
    status, _, answer = send(running.api_port, "POST", "/v1/sql", body, {})
    assert (status, "error" in json.loads(answer)) == (400, True)


def test_a_page_that_points_its_own_name_here_is_refused(running: Collector) -> None:
    for host in ("evil.example", "evil.example:4320", ""):
        status, answer = running.get("/metrics", Host=host)
        assert status == 403
        assert json.loads(answer)["hint"] == "call it 127.0.0.1 or ::1 or localhost"
    for host in ("localhost", f"127.0.0.1:{running.api_port}", "LOCALHOST:1", "[::1]:4320"):
        assert running.get("/healthz", Host=host)[0] == 200


def test_paths_and_methods(running: Collector) -> None:
    assert running.get("/healthz") == (200, b"ok\n")
    assert running.get("/readyz")[0] == 200
    assert running.get("/nothing")[0] == 404
    assert running.get("/v1/sql")[0] == 405
    assert b"tailbudget_items_total" in running.get("/metrics")[1]
