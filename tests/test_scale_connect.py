"""Commands ask Spark through Spark Connect: over what the collector's own upload lists in a lake."""

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.lake.uploader import Uploader

from .scale_support import HOST, ROOT, process, same
from .seed import empty, seed
from .support import free_port, wait_until

pytest.importorskip("sqlglot", reason="the extra `scale` is not installed: make test-scale")
pyspark = pytest.importorskip("pyspark", reason="pyspark is not installed: make test-scale")
pytest.importorskip("grpc_status", reason="grpcio-status, of pyspark[connect], is not installed: make test-scale")
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

QUESTION = (
    "select route, count(*) as n, quantile_cont(total_ms, 0.95) as p95_ms, min(started) as first "
    "from requests group by all order by n"
)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def test_a_command_is_answered_through_spark_connect(tmp_path: Path) -> None:
    now, port = datetime.now(UTC), free_port()
    (tmp_path / "data").mkdir()
    with empty(tmp_path / "data") as connection:
        connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
        seed(connection, ended=now)
        Uploader(connection, Lake(str(tmp_path / "lake")), seal_after=timedelta(0)).tick(now + timedelta(hours=2))
        here = ConnectionReader(connection).query(QUESTION).to_pylist()
    server = [
        str(Path(pyspark.__file__).parent / "bin" / "spark-submit"),
        *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer", "--master", "local[1]"),
        *("--conf", f"spark.connect.grpc.binding.port={port}", "--conf", f"spark.connect.grpc.binding.address={HOST}"),
        *("--conf", "spark.ui.enabled=false", "spark-internal"),
    ]
    with process(*server, log=tmp_path / "log") as running:
        wait_until(lambda: running.poll() is not None or _listens(port), timeout_s=240)
        assert running.poll() is None, (tmp_path / "log").read_text()[-3000:]
        command = [sys.executable, "-m", "tailbudget.app.main", "sql", QUESTION, "--json"]
        given = ["--reader", "spark", "--url", f"sc://{HOST}:{port}", "--lake", str(tmp_path / "lake")]
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
        asked = subprocess.run([*command, *given], capture_output=True, text=True, env=environment, timeout=300)
    assert asked.returncode == 0, asked.stderr
    there = json.loads(asked.stdout)
    assert [row["n"] for row in there] == [row["n"] for row in here]
    assert all(same(float(one["p95_ms"]), float(other["p95_ms"])) for one, other in zip(here, there, strict=True))
    assert [datetime.fromisoformat(row["first"]) for row in there] == [row["first"] for row in here]
