"""A disk that is full or read-only is refused politely, and everything acknowledged is there once it is not."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from tailbudget.collector.land.database import open_database
from tailbudget.collector.seal.sealer import Sealer

from .collector_support import Collector, collector, span_ids, trace_body
from .support import wait_until
from .test_seal import LATER, content, land, traces

MIB = 1024 * 1024


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a small disk of memory on the folder; skips where that is not permitted."""
    folder.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", ",".join(["size=64m", *options]), "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs permission to mount a small disk (root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write until the disk is full, and return the file."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(MIB))
            except OSError:
                return filler


def tick_to_the_end(sealer: Sealer) -> None:
    while sealer.tick(LATER):
        pass


def test_a_full_disk_is_refused_with_503_and_taken_again_when_it_has_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk, collector(disk / "data", free_bytes=8 * MIB) as running:
        first, refused, later = (trace_body(200, seed=seed) for seed in range(3))
        assert running.post("/v1/traces", first)[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 200)
        filler = fill(disk)
        status, headers, _ = running.post("/v1/traces", refused)
        assert status == 503
        assert "retry-after" in headers
        assert running.value("select count(*) from spans") == 200, "questions are answered"
        filler.unlink()
        assert running.post("/v1/traces", refused)[0] == 200
        assert running.post("/v1/traces", later)[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 600)
        assert running.value("select count(distinct span_id) from spans") == 600


@pytest.mark.slow
def test_a_disk_that_fills_up_after_the_acknowledgement_costs_nothing(tmp_path: Path) -> None:
    bodies = [trace_body(500, seed=seed) for seed in range(6)]
    with mounted(tmp_path / "disk") as disk:
        running = Collector(disk / "data", {"free_bytes": 0}).start()
        acknowledged = []
        filler: Path | None = None
        for number, body in enumerate(bodies):
            if number == 3:
                filler = fill(disk)
            try:
                if running.post("/v1/traces", body)[0] == 200:
                    acknowledged.append(body)
            except OSError:
                break
        assert filler is not None
        filler.unlink()
        if running.process is not None:
            running.process.kill()
            running.process.communicate()
        expected = sum(len(span_ids(body)) for body in acknowledged)
        assert expected >= 1500
        with collector(disk / "data", free_bytes=0) as again:
            for body in acknowledged:
                assert again.post("/v1/traces", body)[0] == 200
            wait_until(lambda: again.value("select count(*) from spans") >= expected)
            assert again.value("select count(*) from spans") == expected


def test_sealing_on_a_full_disk_changes_nothing_and_goes_on_when_it_has_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk, open_database(disk / "data") as connection:
        land(connection, traces(300, seed=1))
        connection.execute("checkpoint")
        before = content(connection)
        sealer = Sealer(connection, disk / "data")
        filler = fill(disk)
        with pytest.raises((OSError, duckdb.Error)):
            tick_to_the_end(sealer)
        assert content(connection) == before
        filler.unlink()
        tick_to_the_end(sealer)
        assert content(connection) == before
        assert connection.execute("select count(*) from spans_open").fetchall() == [(0,)]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "ro") as disk:
        running = Collector(disk / "data")
        process = running.launch()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "Traceback" not in errors
        assert "--data" in errors.splitlines()[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="remounts a disk")
@pytest.mark.slow
def test_a_folder_that_turned_read_only_refuses_to_start_in_one_sentence(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk") as disk:
        with collector(disk / "data", free_bytes=0) as running:
            assert running.post("/v1/traces", trace_body(5, seed=1))[0] == 200
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        process = Collector(disk / "data").launch()
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "Traceback" not in errors
        assert "--data" in errors.splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with collector(disk / "data", free_bytes=0) as again:
            wait_until(lambda: again.value("select count(*) from spans") == 5)
