"""Every question gives the same rows on DuckDB, ClickHouse and Spark, or an engine says what it cannot."""

import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tailbudget.analytics import questions
from tailbudget.analytics.reader import ConnectionReader, NotAnsweredError, Reader
from tailbudget.collector.lake.manifest import Lake
from tailbudget.collector.lake.uploader import Uploader
from tailbudget.collector.land.schema import create_or_check
from tailbudget.collector.store.mirror import Mirror
from tailbudget.instrument.vocabulary import STAGES

from .diagnosed import CASES
from .scale_data import fill
from .scale_support import HOST, ROOT, Cluster, clickhouse, kill, same, spark_cluster, written_lake
from .support import wait_until
from .test_questions_registry import SAMPLES

pytest.importorskip("sqlglot", reason="the extra `scale` is not installed: make test-scale")
pytestmark = [pytest.mark.scale, pytest.mark.filterwarnings("default")]

#: The same minute of an hour whenever it runs, since the sag detector counts anew each hour, and in the past.
ENDED = (datetime.now(UTC) - timedelta(hours=1)).replace(minute=50, second=0, microsecond=0)
TABLE = ROOT / "docs" / "scale-questions.md"
ENGINES = ("clickhouse", "spark")
HEAD = """# Questions and engines

Each question of `analytics/sql/` asked of DuckDB, ClickHouse and Spark on the same data. `same`: the same rows, numbers
within 1e-9. Made by `tests/test_scale_questions.py`; `make test-scale` fails when it is not so any more.

| question | one row | ClickHouse | Spark |
| --- | --- | --- | --- |
"""


@pytest.fixture(scope="module")
def local() -> Iterator[ConnectionReader]:
    with duckdb.connect(config={"storage_compatibility_version": "v1.5.0"}) as connection:
        connection.execute("set timezone = 'UTC'")
        create_or_check(connection, name="the test's data")
        fill(connection, ended=ENDED)
        yield ConnectionReader(connection)


@pytest.fixture(scope="module")
def engines(
    local: ConnectionReader, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Mapping[str, Reader], Cluster]]:
    pytest.importorskip("chdb", reason="chdb, ClickHouse's engine, is not installed: make test-scale")
    pytest.importorskip("pyspark", reason="pyspark is not installed: make test-scale")
    from tailbudget.collector.engines.clickhouse import ClickHouseReader
    from tailbudget.collector.engines.spark import SparkReader

    os.environ["SPARK_LOCAL_IP"] = HOST  # read by the Java machine that the session starts
    folder = tmp_path_factory.mktemp("scale")
    lake = Lake(str(folder / "lake"))
    Uploader(local.connection, lake, seal_after=timedelta(0)).tick(ENDED + timedelta(hours=2))
    with clickhouse(folder / "clickhouse") as (address, _), spark_cluster(folder / "spark") as cluster:
        Mirror(local.connection, address).tick(ENDED)
        stored = ClickHouseReader(address)
        spark = SparkReader(cluster.url, lake.tables)
        spark.session.conf.set("spark.sql.codegen.wholeStage", "false")  # compiling costs small data more than it saves
        yield {"clickhouse": stored, "spark": spark}, cluster
        spark.session.stop()


def _params(local: Reader) -> dict[str, object]:
    (row,) = local.query(
        "select request_id, trace_id::varchar as trace_id from requests where over_stage is not null "
        "order by started limit 1"
    ).to_pylist()
    listed = local.query("select distinct series from decode_rate order by series")["series"].to_pylist()
    instants = {
        "from_ts": ENDED - timedelta(minutes=10),
        "to_ts": ENDED,
        "shown_from_ts": ENDED - timedelta(minutes=12),
        "now": ENDED,
        "since": ENDED - timedelta(minutes=15),
        "baseline_from_ts": ENDED - timedelta(minutes=15),
        "baseline_to_ts": ENDED - timedelta(minutes=10),
        "box_from_ts": ENDED - timedelta(minutes=10),
        "box_to_ts": ENDED - timedelta(minutes=5),
        "opened": ENDED - timedelta(minutes=4),
    }
    sag = {"bucket_stream_s": 1, "baseline_s": 240, "gap_s": 30, "window_s": 30, "min_buckets": 15, "threshold": 0.12}
    return {
        **SAMPLES,
        **row,
        **instants,
        **sag,
        "series": listed[0],
        "sagging": listed,
        "stages": list(STAGES),
        "value": "1.4.0",
    }


def _asked(local: Reader, name: str) -> tuple[str, dict[str, object]]:
    text = questions.sql(name)
    params = {word: _params(local)[word] for word in set(re.findall(r"\$([a-z_]+)", text))}
    by = {"blame": "operation", "compare": "version", "segment_values": "version", "cost": "model"}
    if name in by:
        params["by"] = by[name]
    if name == "diagnoses":
        params["from_ts"] = ENDED - timedelta(days=5)
    return text, params


def _verdict(local: Reader, reader: Reader, engine: str, name: str) -> str:
    text, params = _asked(local, name)
    wanted: list[dict[str, Any]] = local.query(text, params).to_pylist()
    try:
        found = reader.query(text, params).to_pylist()
    except NotAnsweredError as error:
        return str(error).removeprefix(f"{engine} ").partition(":")[0]
    differing = next((pair for pair in zip(wanted, found, strict=False) if not same(*pair)), None)
    assert same(wanted, found), (
        f"{name} on {engine}: {len(found)} rows, expected {len(wanted)}; first other {differing}"
    )
    if name == "diagnoses":
        assert {row["rule"] for row in wanted} == set(CASES)
    assert wanted, f"{name} answers no row here: give it data in scale_data.py, since equal emptiness proves nothing"
    return "same"


def test_every_question_gives_the_same_rows_on_every_engine(
    local: ConnectionReader, engines: tuple[Mapping[str, Reader], Cluster]
) -> None:
    readers, _ = engines
    rows = []
    for name in questions.names():
        verdicts = [_verdict(local, readers[engine], engine, name) for engine in ENGINES]
        first = (
            questions.sql(name).splitlines()[0].removeprefix("-- One row").lstrip(":, ").partition(":")[0].rstrip(".")
        )
        rows.append(f"| `{name}` | {first.replace('|', ' ')} | {' | '.join(verdicts)} |\n")
    table = HEAD + "".join(rows)
    if "TAILBUDGET_WRITE_DOCS" in os.environ:
        TABLE.write_text(table, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == table, "run it with TAILBUDGET_WRITE_DOCS=1 to write the table anew"


#: Views and macros that a user selects from, with their arguments; the diagnoses' are in the question `diagnoses`.
SELECTED = (
    "coverage", "live_streams", "load_requests", "load_steps", "map_edges", "map_nodes", "map_services",
    "gpu_processes",
    "gpu_calls_between($from_ts, $now)", "gpu_requests_between($from_ts, $now)", "gpu_energy_between($from_ts, $now)",
    "gpu_throughput_between($from_ts, $now::timestamptz + interval 5 minute)",
    "req($request_id)", "trace($trace_id)", "requests where started > since('365d')",
)  # fmt: skip


def test_every_view_and_macro_says_the_same_on_every_engine(
    local: ConnectionReader, engines: tuple[Mapping[str, Reader], Cluster]
) -> None:
    from tailbudget.collector.engines.macros import macros

    readers, _ = engines
    given = _params(local)
    for selected in SELECTED:
        params = {word: given[word] for word in re.findall(r"\$([a-z_]+)", selected)}
        wanted = _sorted(local.query(f"from {selected}", params).to_pylist())
        assert wanted, f"{selected} answers no row here: give it data in scale_data.py"
        for engine in ENGINES:
            found = _sorted(readers[engine].query(f"from {selected}", params).to_pylist())
            assert same(wanted, found), f"{selected} on {engine}: {found[:2]}, expected {wanted[:2]}"
    public = {name for name, one in macros().items() if one.table and not name.startswith(("diag_", "found_"))}
    assert public - {selected.partition("(")[0] for selected in SELECTED} == INNER


#: Macros that only others are made of.
INNER = {"counted", "counted_requests", "coverage_over", "hops_over", "map_edges_of"}


def _sorted(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return rows in one order; ClickHouse has no null for lists and maps, an empty one stands for it."""
    return sorted(({name: None if one in ([], {}) else one for name, one in row.items()} for row in rows), key=str)


def test_a_worker_that_is_killed_amid_a_job_changes_no_answer(
    local: ConnectionReader, engines: tuple[Mapping[str, Reader], Cluster], tmp_path: Path
) -> None:
    from tailbudget.collector.engines.spark import SparkReader

    _, cluster = engines
    heavy = (
        "select one.route, count(*) as n, max(one.total_ms + two.total_ms + stages.critical_ms) as most "
        "from requests as one, requests as two, stages where one.total_ms + two.total_ms > stages.critical_ms "
        "and stages.stage = 'queue' and two.tenant = 'acme' group by one.route order by one.route"
    )
    files = written_lake(local, ("requests", "stages"), tmp_path)
    reader = SparkReader(cluster.url, lambda: files)
    session = reader.session
    session.conf.set("spark.sql.files.maxPartitionBytes", "64k")  # a task a file
    tracker = session.sparkContext.statusTracker()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(reader.query, heavy)
        wait_until(lambda: _busy(tracker) or answer.done(), timeout_s=300)
        assert not answer.done(), f"the job ended before the worker was killed: {answer.result()}"
        kill(cluster.workers[0])
        assert same(local.query(heavy).to_pylist(), answer.result(timeout=500).to_pylist())
    assert cluster.workers[0].poll() is not None


def _busy(tracker: Any) -> int:
    """Return how many stages run that have a task on either worker and others to come."""
    stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
    return sum(stage.numActiveTasks > 1 and stage.numTasks > stage.numCompletedTasks + 2 for stage in stages if stage)
