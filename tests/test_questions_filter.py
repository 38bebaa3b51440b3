"""Every question of a page counts what its filter leaves, and nothing else: as if there were no other requests."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tailbudget.analytics import (
    breakdown,
    compare,
    drill,
    gpu,
    latency,
    overview,
    questions,
    stages,
    token_rate,
    traces,
    violations,
    whatif,
)
from tailbudget.analytics.percentiles import percentiles
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.sag import SagSettings
from tailbudget.analytics.window import Box, Window

from .seed import empty, seed
from .seed_more import furnish

ENDED = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
ALL = Window(ENDED - timedelta(minutes=15), ENDED)
BOX = Box(ALL.from_ts, ALL.to_ts, 2000.0, float("inf"))
QUESTIONS: dict[str, Callable[[ConnectionReader, Window], Any]] = {
    "latency_summary": overview.latency_summary,
    "latency_heatmap": lambda reader, window: overview.latency_heatmap(reader, window, bucket_s=60),
    "latency_bands": lambda reader, window: latency.latency_bands(reader, window, bucket_s=60),
    "box_requests": lambda reader, window: latency.box_requests(reader, window, box=BOX),
    "box_stages": lambda reader, window: latency.box_stages(reader, window, box=BOX),
    "stage_percentiles": stages.stage_percentiles,
    "stage_shares": lambda reader, window: stages.stage_shares(reader, window, bucket_s=60),
    "stage_waterfall": stages.stage_waterfall,
    "violations": violations.violations,
    "violations_by_stage": violations.violations_by_stage,
    "violations_timeline": lambda reader, window: violations.violations_timeline(reader, window, bucket_s=60),
    "slowest_requests": traces.slowest_requests,
    "segment_values": lambda reader, window: breakdown.segment_values(reader, window, by="route"),
    "percentiles": lambda reader, window: percentiles(reader, window).drop(["reason"]),
    "drill": drill.drill,
    "what_if": lambda reader, window: whatif.what_if(reader, window, stage="decode", budget_ms=500.0),
    "compare": lambda reader, window: compare.compare(reader, compare.Side(window), compare.Side(window)),
}
#: Name -> the value that is filtered by.
FILTERS = {"route": "/chat", "tenant": "acme", "model": "large"}


def _database(folder: Path) -> duckdb.DuckDBPyConnection:
    connection = empty(folder)
    connection.execute("set threads = 1")  # sums of floats depend on their order
    seed(connection, ended=ENDED, minutes=12)
    for table in ("requests", "violations"):
        connection.execute(f"update {table} set model = 'large' where hash(request_id) % 3 = 0")
    return connection


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectionReader]:
    connection = _database(tmp_path_factory.mktemp("whole"))
    yield ConnectionReader(connection)
    connection.close()


@pytest.fixture(scope="module", params=FILTERS)
def left(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Any]]:
    connection = _database(tmp_path_factory.mktemp("left"))
    for table in ("requests", "violations"):
        connection.execute(f"delete from {table} where {request.param} is distinct from ?", [FILTERS[request.param]])
    yield request.param, ConnectionReader(connection)
    connection.close()


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_filter_leaves_what_a_question_would_say_without_the_others(
    whole: ConnectionReader, left: tuple[str, ConnectionReader], name: str
) -> None:
    by, reader = left
    ask = QUESTIONS[name]
    filtered = ask(whole, Window(ALL.from_ts, ALL.to_ts, **{by: FILTERS[by]}))
    assert filtered == ask(reader, ALL)
    assert filtered != ask(whole, ALL)


MODELS: dict[str, Callable[[ConnectionReader, Window], Any]] = {
    "token_rate": lambda reader, window: token_rate.token_rate(reader, window, bucket_s=60, settings=SagSettings()),
    "stream_trouble": lambda reader, window: token_rate.stream_trouble(reader, window, bucket_s=60),
    "worst_streams": token_rate.worst_streams,
    "engine_series": lambda reader, window: gpu.engine_series(reader, window, bucket_s=60),
    "queue_quadrant": lambda reader, window: gpu.queue_quadrant(reader, window, bucket_s=60),
}


@pytest.mark.parametrize("name", MODELS)
def test_engines_and_streams_are_narrowed_to_a_model(tmp_path: Path, name: str) -> None:
    connection = empty(tmp_path)
    furnish(connection, seed(connection, ended=ENDED, minutes=12, gpu=True))
    connection.execute("update calls set stalls = 1, model = if(hash(request_id) % 9 = 0, 'large', model)")
    connection.execute("update engine set model = 'large' where t < $1", [ENDED - timedelta(minutes=5)])
    connection.execute("update decode_rate set model = 'large' where side = 'client'")
    reader, ask = ConnectionReader(connection), MODELS[name]
    found = ask(reader, Window(ALL.from_ts, ALL.to_ts, model="large"))
    assert found != ask(reader, ALL)
    for table in ("calls", "engine", "decode_rate"):
        connection.execute(f"delete from {table} where model <> 'large'")
    assert found.num_rows > 0
    assert found.num_rows == ask(reader, ALL).num_rows
    connection.close()


@pytest.mark.parametrize("name", [name for name in questions.names() if "$route" in questions.sql(name)])
def test_who_can_be_narrowed_to_a_route_can_be_to_a_tenant_and_a_model(name: str) -> None:
    assert set(re.findall(r"\$(route|tenant|model)\b", questions.sql(name))) == {"route", "tenant", "model"}
