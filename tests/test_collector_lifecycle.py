"""A collector starts, ends and comes back as promised, and says in one line why it cannot start."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tailbudget.collector import collector as collector_module
from tailbudget.collector.settings import CollectorSettings
from tailbudget.instrument.errors import UserError

from .collector_support import Collector, collector, started, trace_body
from .support import wait_until


def refusal(running: Collector) -> str:
    """Return what a collector that cannot start says."""
    process = running.launch()
    _, errors = process.communicate(timeout=120)
    running.process = None
    assert process.returncode == 1
    assert "Traceback" not in errors
    (line,) = errors.strip().splitlines()
    return line


@pytest.mark.parametrize(("name", "option"), [("http_port", "--http"), ("grpc_port", "--grpc"), ("api_port", "--api")])
def test_a_taken_port_is_named_with_its_option_before_anything_is_touched(
    tmp_path: Path, name: str, option: str
) -> None:
    running = Collector(tmp_path / "data")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", getattr(running, name)))
        taken.listen()
        line = refusal(running)
    assert str(getattr(running, name)) in line
    assert option in line
    assert not (tmp_path / "data").exists()


def test_a_folder_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running:
        running.stop()
    connection = duckdb.connect(str(tmp_path / "data" / "tailbudget.duckdb"))
    connection.execute("update meta set schema_version = 99")
    connection.close()
    line = refusal(Collector(tmp_path / "data"))
    assert "schema version 99" in line
    assert "--data" in line


def test_a_folder_that_another_process_has_open_is_refused_with_its_pid(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running:
        assert running.process is not None
        assert f"process {running.process.pid}" in refusal(Collector(tmp_path / "data"))
        assert running.get("/readyz")[0] == 200


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tailbudget.duckdb").write_bytes(b"something else" * 1000)
    assert "--data" in refusal(Collector(tmp_path))


@pytest.mark.parametrize("path", ["file/data", "file"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    assert "--data" in refusal(Collector(tmp_path / path))


@pytest.mark.parametrize(
    "wrong",
    [
        {"http_port": 0},
        {"http_port": 4320},
        {"grpc_port": 4318},
        {"max_bodies": 0},
        {"tls_cert": Path("cert.pem")},
        {"content": "all"},
        {"max_body_bytes": 0},
        {"max_spans_per_body": 0},
        {"memory_limit": "much"},
        {"temp_limit": "9"},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        CollectorSettings(data=tmp_path, **wrong)  # type: ignore[arg-type]


def test_queries_spill_no_more_to_the_disk_than_they_may(tmp_path: Path) -> None:
    with collector_module._open(CollectorSettings(tmp_path / "data", temp_limit="10MiB")) as connection:
        limit = connection.execute("select current_setting('max_temp_directory_size')").fetchall()
    assert limit == [("10.0 MiB",)]


def test_sigterm_lands_what_was_acknowledged_and_leaves_no_journal(tmp_path: Path) -> None:
    with started(Collector(tmp_path / "data", anew=True)) as running:
        for seed in range(20):
            assert running.post("/v1/traces", trace_body(50, seed=seed))[0] == 200
        assert running.stop() == 0
    assert list((tmp_path / "data" / "journal").iterdir()) == []
    assert not (tmp_path / "data" / "tailbudget.duckdb.wal").exists()
    connection = duckdb.connect(str(tmp_path / "data" / "tailbudget.duckdb"), read_only=True)
    assert connection.execute("select count(*) from spans").fetchall() == [(1000,)]
    connection.close()


def test_it_ends_soon_although_a_query_runs_and_a_sender_hangs(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running, socket.create_connection(("127.0.0.1", running.http_port)) as half:
        half.sendall(b"POST /v1/traces HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        with socket.create_connection(("127.0.0.1", running.api_port)) as asking:
            sql = b'{"sql": "select count(*) from range(100000000) a, range(100000) b", "timeout_s": 600}'
            asking.sendall(
                b"POST /v1/sql HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(sql), sql)
            )
            time.sleep(0.5)  # the query runs
            assert running.stop() == 0  # in two minutes, of the ten that the query may take


def test_it_is_ready_after_two_cpu_seconds_after_sigkill_and_has_what_it_acknowledged(tmp_path: Path) -> None:
    with started(Collector(tmp_path / "data", anew=True)) as running:
        for seed in range(10):
            assert running.post("/v1/traces", trace_body(100, seed=seed))[0] == 200
        running.kill()
        running.start()
        assert running.cpu_s() < 2  # Python's own start is in it
        wait_until(lambda: running.value("select count(*) from spans") == 1000)


def test_a_repeated_body_is_acknowledged_and_stored_once_also_over_restarts(tmp_path: Path) -> None:
    body = trace_body(5, seed=3)
    counted = "select sum(n)::bigint from ingest_health where reason = 'repeated_body'"
    with collector(tmp_path / "data") as running:
        for _ in range(3):  # the first copy may still be in the journal
            assert running.post("/v1/traces", body)[0] == 200
        wait_until(lambda: running.value(counted) == 2)
        running.kill()
        running.start()
        assert running.post("/v1/traces", body)[0] == 200
        running.stop()
        running.start()
        assert running.post("/v1/traces", body)[0] == 200
        assert running.post("/v1/traces", trace_body(1, seed=4))[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 6)
        wait_until(lambda: running.value(counted) == 4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_answered_503_reads_go_on_and_it_recovers(small_disk: Path) -> None:
    filler = small_disk / "filler"
    with collector(small_disk / "data", free_bytes=8_000_000) as running:
        assert running.post("/v1/traces", trace_body(10, seed=1))[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 10)
        filler.write_bytes(bytes(36_000_000))
        status, headers, _ = running.post("/v1/traces", trace_body(10, seed=2))
        assert status == 503
        assert int(headers["retry-after"]) >= 5
        assert running.value("select count(*) from spans") == 10
        filler.unlink()
        assert running.post("/v1/traces", trace_body(10, seed=2))[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 20)


def test_a_disk_that_fills_up_between_journal_and_table_loses_nothing(small_disk: Path) -> None:
    """Without a reserve the journal takes the last byte, so that no transaction can be committed any more."""
    filler = small_disk / "filler"
    with collector(small_disk / "data", free_bytes=0) as running:
        disk = os.statvfs(small_disk)
        filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - 1_500_000))
        sent = 0
        while (answer := running.post("/v1/traces", trace_body(100, seed=sent, attributes={"k": "x" * 100})))[0] == 200:
            sent += 100
        assert answer[0] == 503
        wait_until(lambda: b'tailbudget_failures_total{work="landing"}' in running.get("/metrics")[1])
        assert running.value("select count(*) from spans") < sent
        filler.unlink()
        wait_until(lambda: running.value("select count(*) from spans") == sent)
        assert running.post("/v1/traces", trace_body(1, seed=1_000_000))[0] == 200
        assert running.stop() == 0


def test_a_full_disk_at_the_start_is_one_line(small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(41_000_000))
    line = refusal(Collector(small_disk / "data"))
    assert "bytes free" in line
    assert "--data" in line
