"""Commands that take `--reader` say the same on DuckDB, on ClickHouse and on a Spark cluster, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from playwright.sync_api import Browser

from tailbudget.analytics.reader import DATABASE_NAME
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.lake.uploader import Uploader

from .local_api import local_api
from .scale_support import HOST, ROOT, clickhouse, same, spark_cluster, spark_connect
from .seed import empty, seed
from .seed_more import furnish
from .support import free_port, wait_until
from .test_app_browser import Visit, _answers, browser

pytest.importorskip("sqlglot", reason="the extra `scale` is not installed: make test-scale")
pytest.importorskip("chdb", reason="chdb, ClickHouse's engine, is not installed: make test-scale")
pytest.importorskip("pyspark", reason="pyspark is not installed: make test-scale")
pytest.importorskip("grpc_status", reason="grpcio-status, of pyspark[connect], is not installed: make test-scale")
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

__all__ = ["browser"]

#: At the end of a slice of 5 minutes, and so long ago that no rule's window loses rows while commands are compared.
NOW = datetime.now(UTC).replace(second=0, microsecond=0)
ENDED = NOW - timedelta(hours=3, minutes=NOW.minute % 5)
ENGINES = ("clickhouse", "connect", "cluster")
WINDOW = ("--from", (ENDED - timedelta(minutes=10)).isoformat(), "--to", ENDED.isoformat())
BASELINE = ("--baseline-from", (ENDED - timedelta(minutes=15)).isoformat(), "--baseline-to", WINDOW[1])
OBJECTIVES = """
objectives:
  - {name: chat, where: "route = '/chat'", total: p95 < 2.5s, retrieval: p99 < 300ms, success: 99%}
  - {name: slices, total: p95 < 2.5s, slice: 5m at 95%}
---
apiVersion: openslo/v1
kind: SLO
metadata: {name: mean}
spec:
  indicator: {spec: {thresholdMetric: {metricSource: {type: duckdb, spec: {signal: total}}}}}
  budgetingMethod: RatioTimeslices
  objectives: [{op: lt, value: 2500, target: 0.95, timeSliceWindow: 5m}]
"""
QUESTION = (
    "select route, count(*) as n, quantile_cont(total_ms, 0.95) as p95_ms, min(started) as first "
    "from requests group by all order by n"
)

#: A reader counts renamed tenants of a lake whose hour is then uploaded anew, until its first file is deleted.
RENEWED = """
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tailbudget.collector.engines.spark import SparkReader
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.lake.uploader import Uploader
from tests.seed import empty, seed
folder, url = Path(sys.argv[1]), sys.argv[2]
now = datetime.now(UTC)
with empty(folder) as connection:
    connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
    seed(connection, ended=now, minutes=1)
    lake = Lake(str(folder / "lake"))
    upload = lambda: Uploader(connection, lake, seal_after=timedelta(0)).tick(now + timedelta(hours=2))
    upload()
    reader = SparkReader(url, lake.tables)
    question = "select count(distinct tenant) as n from requests where tenant like 'new%'"
    ask = lambda: print(reader.query(question)["n"][0])
    ask()
    before = set(lake.tables()["requests"])
    for name in ("a", "b", "c"):
        connection.execute("update requests set tenant = 'new-' || $1 || '-' || hash(request_id) % 3", [name])
        upload()
    assert not any(Path(file).exists() for file in before)
    ask()
"""


@dataclass
class Sides:
    """The same rows thrice: the options that make a command ask each engine, and a file of objectives."""

    options: Mapping[str, tuple[str, ...]]
    objectives: Path


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    from tailbudget.collector.store.mirror import Mirror

    folder = tmp_path_factory.mktemp("commands")
    (folder / "data").mkdir()
    (folder / "slo.yaml").write_text(OBJECTIVES)
    lake = str(folder / "lake")
    with ExitStack() as stack:
        address, _ = stack.enter_context(clickhouse(folder / "clickhouse"))
        with empty(folder / "data") as connection:
            connection.execute("insert into meta values (3, 0, 0, 'c0ffee00')")
            furnish(connection, seed(connection, ended=ENDED))
            Mirror(connection, address).tick(ENDED)
            Uploader(connection, Lake(lake), seal_after=timedelta(0)).tick(ENDED + timedelta(hours=2))
        cluster = stack.enter_context(spark_cluster(folder / "spark"))
        # One worker's core serves Spark Connect, the other's a command that is a driver of its own.
        connect = stack.enter_context(spark_connect(folder / "connect", cluster.url))
        spark = ("--reader", "spark", "--lake", lake, "--url")
        options = {
            "duckdb": ("--data", str(folder / "data")),
            "clickhouse": ("--reader", "clickhouse", "--url", address),
            "connect": (*spark, connect),
            "cluster": (*spark, cluster.url),
        }
        yield Sides(options, folder / "slo.yaml")


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "SPARK_LOCAL_IP": HOST, "PYSPARK_PYTHON": sys.executable}


def _said(*arguments: str) -> str:
    command = [sys.executable, "-m", "tailbudget.app.main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _both(sides: Sides, engine: str, *arguments: str) -> tuple[Any, Any]:
    """Return what DuckDB and an engine answer a command, as JSON."""
    here, there = (_said(*arguments, "--json", *sides.options[one]) for one in ("duckdb", engine))
    assert json.loads(here), "equal emptiness proves nothing"
    return json.loads(here), json.loads(there)


@pytest.mark.parametrize("engine", ENGINES)
def test_sql_says_the_same(sides: Sides, engine: str) -> None:
    assert same(*_both(sides, engine, "sql", QUESTION))


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_blame_says_the_same(sides: Sides, engine: str) -> None:
    assert same(*_both(sides, engine, "blame", *WINDOW, *BASELINE, "--by", "operation"))


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_a_report_says_the_same(sides: Sides, engine: str) -> None:
    here, there = _both(sides, engine, "report", "--since", "1d", "--by", "stage,tenant,route")
    assert here["all"]["n"] > 400
    assert same(*({name: one[name] for name in ("all", "breakdowns")} for one in (here, there)))


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_objectives_stand_alike(sides: Sides, engine: str) -> None:
    assert same(*_both(sides, engine, "slo", "status"))


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_budgets_are_counted_anew_alike(sides: Sides, engine: str) -> None:
    counted = _both(sides, engine, "slo", "status", str(sides.objectives))
    told = ("objective", "n", "bad", "firing")
    here, there = ([{name: one[name] for name in told} for one in rows] for rows in counted)
    assert here == there
    assert all(one["n"] > 300 if one["objective"].startswith("chat.") else one["n"] == 3 for one in here)  # slices
    good = [[one["good_share"] for one in rows] for rows in counted]
    assert good[0] == pytest.approx(good[1])
    fired = _both(sides, engine, "slo", "test", str(sides.objectives), "--since", "1d")
    opened = [[(row["rule"], row["opened"]) for row in rows] for rows in fired]
    assert opened[0] == opened[1]


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_an_incident_has_the_same_rows(sides: Sides, engine: str, tmp_path: Path) -> None:
    for one in ("duckdb", engine):
        _said("incident", *WINDOW, "--out", str(tmp_path / one), *sides.options[one])
    here, there = ((tmp_path / one / "report.md").read_text() for one in ("duckdb", engine))
    assert "decode" in here
    assert "**kv_pressure**" in here  # a diagnosis
    assert here == there
    files = sorted(path.relative_to(tmp_path / "duckdb") for path in (tmp_path / "duckdb").rglob("*"))
    assert files == sorted(path.relative_to(tmp_path / engine) for path in (tmp_path / engine).rglob("*"))


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_what_an_engine_cannot_answer_is_said_by_name(sides: Sides, engine: str) -> None:
    command = [sys.executable, "-m", "tailbudget.app.main", "sql", "select count(*) as n from dirty"]
    done = subprocess.run([*command, *sides.options[engine]], capture_output=True, text=True, env=_environment())
    assert done.returncode == 1
    assert "does not answer dirty: what a collector has still to assemble is known to it alone" in done.stderr
    assert "Traceback" not in done.stderr


@contextmanager
def _dashboard(*options: str) -> Iterator[str]:
    """Give the address of `tailbudget app` with these options."""
    port = free_port()
    command = [sys.executable, "-m", "tailbudget.app.main", "app", "--port", str(port), *options]
    running = subprocess.Popen(command, env=_environment())
    try:
        wait_until(
            lambda: running.poll() is not None or _answers(f"http://{HOST}:{port}/_stcore/health"), timeout_s=240
        )
        assert running.poll() is None
        yield f"http://{HOST}:{port}"
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


def _shown(browser: Browser, address: str) -> str:
    """Return what the first page says of a stretch of time, without what depends on when it is asked."""
    visit = Visit(browser.new_page())
    between = "/".join(f"{moment:%Y-%m-%dT%H:%M:%S}" for moment in (ENDED - timedelta(minutes=10), ENDED))
    visit.page.goto(f"{address}/?between={between}&live=false")
    visit.page.wait_for_selector('[data-testid="stVegaLiteChart"] svg', timeout=300_000)
    visit.page.wait_for_selector('[data-testid="stApp"][data-test-script-state="notRunning"]', timeout=300_000)
    said = visit.page.locator('[data-testid="stMain"]').inner_text()
    assert not visit.errors
    visit.page.close()
    return said


@pytest.mark.parametrize("engine", ENGINES[:2])
def test_the_dashboard_shows_the_same(sides: Sides, engine: str, browser: Browser) -> None:
    data = Path(sides.options["duckdb"][1])
    with (
        duckdb.connect(str(data / DATABASE_NAME), read_only=True) as connection,
        local_api(connection) as api,
        _dashboard("--api", api) as address,
    ):
        here = _shown(browser, address)
    with _dashboard(*sides.options[engine], "--api", "http://127.0.0.1:1") as address:
        there = _shown(browser, address)
    assert "p95" in here
    assert here == there


def test_a_dashboard_reads_an_hour_that_was_written_anew_meanwhile(sides: Sides, tmp_path: Path) -> None:
    url = sides.options["connect"][-1]
    done = subprocess.run(
        [sys.executable, "-c", RENEWED, str(tmp_path), url],
        capture_output=True, text=True, cwd=ROOT, env=_environment(), timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["0", "3"]
