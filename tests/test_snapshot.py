"""A duckdb shell opens a snapshot, and the sealed files while the collector runs."""

import subprocess
import sys
from pathlib import Path

import duckdb
from click.testing import CliRunner

from tailbudget.app.cli import cli
from tailbudget.collector.land.database import open_database
from tailbudget.collector.seal.forensics import NAME, Forensics
from tailbudget.collector.seal.views import BULK

from .collector_support import collector, send, trace_body
from .support import wait_until
from .test_seal import LATER, content, land, metrics, seal, traces

#: A second process with a plain duckdb: no setting of ours.
SHELL = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print(connection.execute(sys.argv[2]).fetchall()[0][0])
"""


def shell(file: Path, query: str, *, folder: Path) -> str:
    """Return the first value that another process finds, started in `folder`."""
    command = [sys.executable, "-c", SHELL, str(file), query]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_another_process_reads_the_sealed_files_while_the_data_file_is_open(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with open_database(data) as connection:
        land(connection, traces(30, seed=1), metrics(5, seed=2))
        forensics = Forensics(connection, data)
        forensics.tick(LATER)
        assert shell(data / NAME, "select count(*) from spans", folder=tmp_path) == "0"
        seal(connection, data)
        forensics.tick(LATER)
        assert shell(data / NAME, "select count(*) from spans", folder=tmp_path) == "30"
        assert (
            shell(data / NAME, "select count(*) from metrics join resources using (resource_id)", folder=tmp_path)
            == "5"
        )
        ((trace_id,),) = connection.execute("select trace_id::varchar from spans limit 1").fetchall()
        assert shell(data / NAME, f"select count(*) from trace('{trace_id}')", folder=tmp_path) == "1"
        comments = "select count(*) from duckdb_columns() where table_name = 'spans' and comment is null"
        assert shell(data / NAME, comments, folder=tmp_path) == "0"
        written = (data / NAME).stat().st_mtime_ns
        forensics.tick(LATER)
        assert (data / NAME).stat().st_mtime_ns == written, "what has not changed is not written"


def test_a_file_for_shells_has_the_columns_of_the_data_file(tmp_path: Path) -> None:
    query = "select column_name, data_type from duckdb_columns() where table_name = '{}' order by 1"
    with open_database(tmp_path / "data") as connection:
        land(connection, traces(3, seed=1))
        seal(connection, tmp_path / "data")
        Forensics(connection, tmp_path / "data").tick(LATER)
        with duckdb.connect(str(tmp_path / "data" / NAME)) as other:
            for view in BULK:
                sql = query.format(view)
                assert other.execute(sql).fetchall() == connection.execute(sql).fetchall()


def test_a_snapshot_of_a_folder_has_every_row_and_needs_no_other_file(tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out.duckdb"
    with open_database(data) as connection:
        land(connection, traces(30, seed=1), metrics(5, seed=2))
        seal(connection, data)
        land(connection, traces(20, seed=3))
        before = content(connection)
        requests = connection.execute("select count(*) from requests").fetchall()
    done = CliRunner().invoke(cli, ["snapshot", str(out), "--data", str(data)])
    assert done.exit_code == 0, done.output
    data.rename(tmp_path / "elsewhere")
    with duckdb.connect(str(out)) as copy:
        assert content(copy) == before
        assert copy.execute("select count(*) from requests").fetchall() == requests
        assert copy.execute("select count(*) from coverage").fetchall()[0][0] > 0


def test_a_running_collector_sends_a_snapshot_and_keeps_none(tmp_path: Path) -> None:
    out = tmp_path / "out.duckdb"
    with collector(tmp_path / "data", free_bytes=0) as running:
        assert running.post("/v1/traces", trace_body(50, seed=1))[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 50)
        api = f"http://127.0.0.1:{running.api_port}"
        done = CliRunner().invoke(cli, ["snapshot", str(out), "--api", api])
        assert done.exit_code == 0, done.output
        assert shell(out, "select count(*) from spans", folder=tmp_path) == "50"
        assert list((tmp_path / "data" / "snapshots").iterdir()) == []
        assert running.get("/v1/snapshot")[0] == 405
        page = {"origin": "https://elsewhere.example"}
        assert send(running.api_port, "POST", "/v1/snapshot", b"", page)[0] == 403


def test_a_snapshot_never_writes_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "out.duckdb").write_text("mine")
    done = CliRunner().invoke(cli, ["snapshot", str(tmp_path / "out.duckdb"), "--data", str(tmp_path)])
    assert done.exit_code != 0
    assert (tmp_path / "out.duckdb").read_text() == "mine"


def test_without_anything_to_copy_from_the_reason_is_said(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["snapshot", str(tmp_path / "out.duckdb"), "--data", str(tmp_path / "none")])
    assert done.exit_code != 0
    assert not list(tmp_path.glob("out*"))


def test_any_name_of_a_file_will_do(tmp_path: Path) -> None:
    name = "o'brien's copy.duckdb"
    with open_database(tmp_path / "data") as connection:
        land(connection, traces(3, seed=1))
    done = CliRunner().invoke(cli, ["snapshot", str(tmp_path / name), "--data", str(tmp_path / "data")])
    assert done.exit_code == 0, done.output
    assert shell(tmp_path / name, "select count(*) from spans", folder=tmp_path) == "3"
