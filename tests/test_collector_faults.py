"""A collector whose data file or threads fail says so and ends; a new start has everything it acknowledged."""

import json
import resource
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from tailbudget.collector.collector import Collector as Parts
from tailbudget.collector.counters import Counters
from tailbudget.collector.journal.record import Record, path_of
from tailbudget.collector.journal.writer import Journal, JournalRefusedError, Limits, Position
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.lander import Chore, Lander
from tailbudget.collector.land.landing import Landing
from tailbudget.collector.settings import CollectorSettings

from .collector_support import PROGRAM, Collector, collector, span_ids, trace_body
from .local_api import local_api
from .support import wait_until

LIMITS = Limits(journal_bytes=1_000_000, segment_bytes=300, free_bytes=0)
#: A collector on whose first transaction the disk is full while DuckDB makes a checkpoint: that invalidates the file.
FILLED_UP = """
import resource
from tailbudget.collector.land.landing import Landing
land = Landing.land
def land_on_a_full_disk(self, bodies, **more):
    if bodies:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        self._connection.execute("checkpoint")
    return land(self, bodies, **more)
Landing.land = land_on_a_full_disk
"""


def invalidate(connection: duckdb.DuckDBPyConnection) -> None:
    """Let a checkpoint meet a full disk. Raises duckdb.Error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        connection.execute("checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_invalidated_data_file_ends_landing_with_its_reason(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    lander = Lander(
        Landing(connection),
        load=lambda entry: pytest.fail("nothing to load"),
        landed=lambda upto, nbytes: None,
        counters=Counters(),
        chores=[Chore("filling", 1.0, lambda now: invalidate(connection))],
        queue_bytes=10**9,
    )
    assert lander.fault is None
    lander.start()
    wait_until(lambda: lander.fault is not None, what="the fault")
    assert "heckpoint" in str(lander.fault)
    assert not lander.close(within_s=1)
    connection.close()


def test_a_file_invalidated_by_a_full_disk_ends_the_process_and_a_restart_has_everything(tmp_path: Path) -> None:
    body = trace_body(20, seed=5)
    running = Collector(tmp_path / "data")
    ports = {"http_port": running.http_port, "api_port": running.api_port, "grpc_port": running.grpc_port}
    settings = {"data": str(running.data), **ports}
    command = [sys.executable, "-c", FILLED_UP + PROGRAM, json.dumps(settings)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: running.get("/readyz")[0] == 200, what="the collector's /readyz")
        assert running.post("/v1/traces", body)[0] == 200
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert "start again" in errors.splitlines()[-1]
    assert str(running.data) in errors.splitlines()[-1]
    with collector(running.data) as again:
        wait_until(lambda: again.value("select count(*) from spans") == len(span_ids(body)))


def test_a_damaged_record_of_the_journal_is_counted_and_the_others_land(tmp_path: Path) -> None:
    with collector(tmp_path / "data", free_bytes=0) as running:
        running.stop()
    folder = tmp_path / "data" / "journal"
    journal = Journal(folder, segment=100, limits=Limits(journal_bytes=10**6, segment_bytes=10**6, free_bytes=0))
    journal.start()
    done = threading.Semaphore(0)
    for number in range(3):
        record = Record(
            signal="traces",
            encoding="identity",
            digest=number.to_bytes(16, "little"),
            arrived_ns=1,
            payload=trace_body(5, seed=number),
        )
        journal.append(record, written=lambda start, end: done.release(), refused=lambda error: None)
        assert done.acquire(timeout=120)
    journal.close()
    content = bytearray(path_of(folder, 100).read_bytes())
    content[len(content) // 2] ^= 1
    path_of(folder, 100).write_bytes(content)
    with collector(tmp_path / "data") as running:
        wait_until(lambda: running.value("select count(*) from spans") == 10)
        counted = "select sum(n)::bigint from ingest_health where signal = 'journal' and reason = 'damaged'"
        wait_until(lambda: running.value(counted) == 1)


def test_nothing_is_acknowledged_once_landing_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(CollectorSettings(data=tmp_path))
    try:
        assert parts.fault is None
        monkeypatch.setattr(Lander, "fault", "the thread that lands has ended")
        assert parts.fault == "the thread that lands has ended"
        with pytest.raises(JournalRefusedError, match="has ended"):
            parts.intake.accept("traces", b"", None).send(None)  # type: ignore[arg-type]
    finally:
        parts.close()


def test_readyz_says_what_failed_and_healthz_stays(tmp_path: Path) -> None:
    with local_api(open_database(tmp_path), fault="the journal's thread has ended") as address:
        port = int(address.rsplit(":", 1)[1])
        found = Collector(tmp_path, api_port=port)
        assert found.get("/readyz") == (503, b"the journal's thread has ended\n")
        assert found.get("/healthz") == (200, b"ok\n")


def test_a_segment_that_cannot_be_deleted_does_not_end_landing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(tmp_path, segment=3, limits=LIMITS)
    path_of(tmp_path, 1).mkdir()
    path_of(tmp_path, 2).write_bytes(b"")
    journal.landed(Position(3, 0), nbytes=0)
    assert not path_of(tmp_path, 2).exists()
    assert path_of(tmp_path, 1).name in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_journal_whose_thread_ended_has_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, segment=1, limits=LIMITS)
    monkeypatch.setattr(Journal, "_write_group", lambda self, group: 1 / 0)
    journal.start()
    assert journal.fault is None
    journal._waiting.append(None)  # type: ignore[arg-type]
    with journal._lock:
        journal._lock.notify()
    wait_until(lambda: journal.fault is not None, what="the fault")
