"""Engines for the proofs of scale, on loopback: ClickHouse's engine behind HTTP, a Spark cluster of two workers."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tailbudget.analytics.reader import Reader

from .support import free_port, wait_until

HOST = "127.0.0.1"
#: Of each table of the lake, so that a job has several tasks.
FILES = 6
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def process(*arguments: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Give a process in a group of its own that writes to `log`; the group is killed at the end."""
    environment = {
        **os.environ,
        "SPARK_LOCAL_IP": HOST,
        "PYTHONPATH": str(ROOT / "src"),
        "PYSPARK_PYTHON": sys.executable,
    }
    with log.open("ab") as out:
        running = subprocess.Popen(arguments, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True)
        try:
            yield running
        finally:
            kill(running)


def kill(running: "subprocess.Popen[bytes]") -> None:
    """End a process and what it started, at once."""
    try:
        os.killpg(running.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    running.wait()


@contextmanager
def clickhouse(folder: Path, *, port: int | None = None) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Give the address of a ClickHouse over what `folder` holds, and its process."""
    port = port or free_port()
    log = folder.parent / f"{folder.name}.log"
    with process(sys.executable, "-m", "tests.scale_clickhouse", str(port), str(folder), log=log) as running:
        wait_until(lambda: _answers(f"http://{HOST}:{port}/ping", running, log))
        yield f"clickhouse://{HOST}:{port}/default", running


@dataclass
class Cluster:
    """A Spark cluster: the address of its master, and its two workers."""

    url: str
    workers: Sequence["subprocess.Popen[bytes]"]


def _java() -> None:
    """Skip the test where no Java runtime is, which Spark needs and no package registry of Python's has whole."""
    home = os.environ.get("JAVA_HOME")
    if shutil.which("java") is None and not (home and (Path(home) / "bin" / "java").exists()):
        pytest.skip("Spark needs a Java runtime, 17 or newer (Debian: apt-get install openjdk-17-jre-headless)")


@contextmanager
def spark_cluster(folder: Path) -> Iterator[Cluster]:
    """Give a standalone cluster with two workers of one core on loopback."""
    import pyspark

    _java()

    command = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    package = "org.apache.spark.deploy"
    port, page = free_port(), free_port()
    folder.mkdir(parents=True, exist_ok=True)
    common = ["--host", HOST]
    with ExitStack() as stack:
        master = [command, f"{package}.master.Master", *common, "--port", str(port), "--webui-port", str(page)]
        log = folder / "master.log"
        running = stack.enter_context(process(*master, log=log))
        wait_until(lambda: _answers(f"http://{HOST}:{page}/json/", running, log), timeout_s=180)
        url = f"spark://{HOST}:{port}"
        workers = []
        for number in range(2):
            own = folder / f"worker{number}"
            worker = [
                command,
                f"{package}.worker.Worker",
                *common,
                "--webui-port",
                "0",
                "--cores",
                "1",
                "--memory",
                "1g",
            ]
            log = folder / f"worker{number}.log"
            workers.append(stack.enter_context(process(*worker, "--work-dir", str(own), url, log=log)))
        wait_until(lambda: _alive(page) == 2, timeout_s=180)
        yield Cluster(url, workers)


@contextmanager
def spark_connect(folder: Path, master: str) -> Iterator[str]:
    """Give the address of a Spark Connect server over one core of a cluster."""
    import pyspark

    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "spark.connect.grpc.binding.port": port,
        "spark.connect.grpc.binding.address": HOST,
        "spark.cores.max": 1,
        "spark.ui.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",  # compiling costs small data more than it saves
    }
    command = [str(Path(pyspark.__file__).parent / "bin" / "spark-submit")]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--master", master]
    command += [word for name, value in settings.items() for word in ("--conf", f"{name}={value}")]
    with process(*command, "spark-internal", log=folder / "log") as running:
        wait_until(lambda: running.poll() is not None or _listens(port), timeout_s=240)
        assert running.poll() is None, (folder / "log").read_text(errors="replace")[-3000:]
        yield f"sc://{HOST}:{port}"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _alive(page: int) -> int:
    with urllib.request.urlopen(f"http://{HOST}:{page}/json/", timeout=120) as answer:
        return str(answer.read()).count("ALIVE") - 1  # the master is too


def _answers(url: str, running: "subprocess.Popen[bytes]", log: Path) -> bool:
    if running.poll() is not None:
        raise AssertionError(log.read_text(errors="replace")[-3000:])
    try:
        with urllib.request.urlopen(url, timeout=120) as answer:
            return int(answer.status) == 200
    except OSError:
        return False


def written_lake(reader: Reader, names: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Write each table as FILES Parquet files, and return their paths by table."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[str]] = {}
    for name in names:
        rows = reader.query(f"from {name}")
        size = max(-(-rows.num_rows // FILES), 1)
        for number, start in enumerate(range(0, max(rows.num_rows, 1), size)):
            path = folder / f"{name}-{number}.parquet"
            pq.write_table(rows.slice(start, size), path)
            found.setdefault(name, []).append(str(path))
    return found


def same(one: object, other: object) -> bool:
    """Return whether two answers are equal, numbers within 1e-9 of their size."""
    if isinstance(one, int | float) and isinstance(other, int | float) and float in (type(one), type(other)):
        return one == other or math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-9) or (one != one and other != other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, str) and isinstance(other, str) and one != other:
        with suppress(ValueError):  # in JSON engines write 4.0 or 4, 0.0004 or 4.0E-4
            return same(json.loads(one), json.loads(other))
    return type(one) is type(other) and one == other
