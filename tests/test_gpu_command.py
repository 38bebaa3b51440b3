"""`tailbudget gpu` samples the GPUs of a host into the collector's table `gpu`, beside whatever server runs there."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.collector_support import Collector, collector
from tests.nvml_support import absent, compiled
from tests.support import free_port, wait_until

COMMAND = [sys.executable, "-m", "tailbudget.app.main", "gpu"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("data")) as started:
        yield started


@contextmanager
def sampling(driver: Path, *options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command; what it leaves running is killed."""
    process = subprocess.Popen(
        [*COMMAND, *options],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver), **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def _ended(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str]:
    process.send_signal(number)
    return process.wait(timeout=120), process.communicate()[1]


def test_samples_land_in_the_table_and_ctrl_c_ends_it_cleanly(running: Collector, driver: Path) -> None:
    endpoint = f"http://127.0.0.1:{running.http_port}"
    with sampling(driver, "--endpoint", endpoint, "--interval", "0.05", DIVIDED=str(driver)) as process:
        wait_until(lambda: running.value("select count(*) from gpu where gpu = 'GPU-second'") > 30)
        wait_until(lambda: running.value("select count(*) from gpu_processes") > 3)
        status, log = _ended(process, signal.SIGINT)
    assert status == 0
    assert "Traceback" not in log
    assert "sampling 4 GPUs every 0.05 s" in log
    (whole,) = running.rows(
        "select max(util) as util, max(mem_limit_bytes) as room, max(energy_j) as energy_j, max(power_w) as power_w,"
        " bit_or(throttle) as throttle, bool_and(up) as up, max(missing) as missing from gpu where gpu = 'GPU-second'"
    )
    assert whole == {
        "util": 0.75,
        "room": 80 << 30,
        "energy_j": 5000.0,
        "power_w": 350.5,
        "throttle": 0x44,
        "up": True,
        "missing": None,
    }
    (part,) = running.rows(
        "select max(mem_used_bytes) as used, max(power_w) as power_w, max(sm_mhz) as sm_mhz, max(missing) as missing"
        " from gpu where gpu = 'MIG-a'"
    )
    assert (part["used"], part["power_w"], part["sm_mhz"]) == (20 << 30, None, None)
    assert "hw.power: Not Supported" in part["missing"]
    processes = running.rows("select distinct gpu, process, mem_used_bytes from gpu_processes order by gpu")
    assert [row["gpu"] for row in processes] == ["GPU-first", "GPU-second", "MIG-a", "MIG-b"]
    assert {row["mem_used_bytes"] for row in processes} == {18 << 30}


def test_without_a_driver_it_says_so_in_one_line_and_fails(tmp_path: Path) -> None:
    with sampling(absent(tmp_path)) as process:
        assert process.wait(timeout=120) == 1
        _, log = process.communicate()
    (line,) = log.splitlines()
    assert line.startswith("tailbudget: no GPU to sample: NVML says NVML Shared Library Not Found")


def test_it_goes_on_and_ends_while_no_collector_answers(driver: Path) -> None:
    with sampling(driver, "--endpoint", f"http://127.0.0.1:{free_port()}") as process:
        assert process.stderr is not None
        wait_until(lambda: process.stderr is not None and "sampling 2 GPUs" in process.stderr.readline())
        status, _ = _ended(process, signal.SIGTERM)
    assert status == 0


def test_an_endpoint_that_is_none_is_refused(driver: Path) -> None:
    with sampling(driver, "--endpoint", "collector:4318") as process:
        assert process.wait(timeout=120) == 2
        assert "expected an address such as" in process.communicate()[1]
