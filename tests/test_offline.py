"""A folder that no collector has open is read whole: what its journal holds is landed and assembled first."""

import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.reader import DATABASE_NAME, QueryError
from tailbudget.collector.assemble import Assembler, assembler
from tailbudget.collector.journal.record import MAGIC, Record, path_of
from tailbudget.collector.land.database import open_database
from tailbudget.collector.offline import open_offline
from tests.collector_support import trace_body

TRACES = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder whose journal holds traces that no table has yet."""
    with open_database(tmp_path):
        pass
    (tmp_path / "journal").mkdir()
    body = trace_body(TRACES, attributes={"slo.request": "/chat"})
    record = Record(signal="traces", encoding="identity", digest=b"d" * 16, arrived_ns=time.time_ns(), payload=body)
    path_of(tmp_path / "journal", 1).write_bytes(MAGIC + record.pack())
    return tmp_path


def _counts(folder: Path) -> tuple[int, ...]:
    with open_offline(folder) as connection:
        row = connection.execute("select (select count(*) from spans), (select count(*) from requests)").fetchone()
    assert row is not None
    return row


def test_a_journal_of_more_traces_than_one_tick_takes_is_assembled_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembler, "TRACES", 2)
    assert _counts(folder) == (TRACES, TRACES)
    assert _counts(folder) == (TRACES, TRACES), "the folder is as it was"


def test_what_cannot_be_assembled_is_told_in_one_line_and_the_rest_answers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise duckdb.OutOfMemoryException("no memory left\nmany more lines")

    monkeypatch.setattr(Assembler, "tick", fail)
    assert _counts(folder) == (TRACES, 0)
    (record,) = caplog.records
    assert "assembly failed: no memory left" in record.getMessage()
    assert "\n" not in record.getMessage()


def _refused(folder: Path) -> QueryError:
    with pytest.raises(QueryError) as caught, open_offline(folder):
        pass
    return caught.value


def test_a_file_that_is_no_database_is_not_said_to_be_owned_by_a_collector(tmp_path: Path) -> None:
    folder = tmp_path / "blocks"  # a word with `lock` in it
    folder.mkdir()
    (folder / DATABASE_NAME).write_bytes(b"x" * 10_000)
    assert "not a valid DuckDB database" in str(_refused(folder))
    assert _refused(folder).hint.startswith("the file is damaged")


def test_a_database_of_something_else_is_said_to_be_one(tmp_path: Path) -> None:
    duckdb.connect(str(tmp_path / DATABASE_NAME)).close()
    assert str(_refused(tmp_path)).startswith("the database is none of a collector")


def test_a_file_that_another_process_has_open_is_said_to_be_owned(tmp_path: Path) -> None:
    program = f"import duckdb; c = duckdb.connect({str(tmp_path / DATABASE_NAME)!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        assert _refused(tmp_path).hint.startswith("a running collector owns the file")
        owner.kill()
