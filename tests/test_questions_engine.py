"""A queue is held against its GPUs' use, who was in a step is told, joules a token are those of the counters."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics import gpu
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window

from .seed import INSTANCE, Row, Seeded, empty, seed
from .seed_more import furnish
from .seed_streams import stream

ENDED = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
WINDOW = Window(ENDED - timedelta(minutes=15), ENDED)
MINUTE = Window(WINDOW.from_ts, WINDOW.from_ts + timedelta(minutes=1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConnectionReader, Seeded, dict[str, list[Row]]]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    seeded = seed(connection, ended=ENDED)
    made = furnish(connection, seeded)
    stream(connection, seeded)
    yield ConnectionReader(connection), seeded, made
    connection.close()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = empty(tmp_path)
    yield connection
    connection.close()


def _sample(connection: duckdb.DuckDBPyConnection, table: str, row: Row) -> None:
    names = ", ".join(f"${name} as {name}" for name in row)
    connection.execute(f"insert into {table} by name select {names}", row)


def _engine(connection: duckdb.DuckDBPyConnection, *, instance: str, waiting: float) -> None:
    row = {"t": WINDOW.from_ts, "instance": instance, "up": True, "running": 4.0, "waiting": waiting}
    _sample(connection, "engine", row)


def _busy(connection: duckdb.DuckDBPyConnection, *, host: str, util: float) -> None:
    row = {"sampled_at": WINDOW.from_ts, "host": host, "gpu": "GPU-0", "util": util, "up": True}
    _sample(connection, "gpu", row)


def _calls(connection: duckdb.DuckDBPyConnection, n: int, *, instance: str, queue_ms: float | None) -> None:
    for number in range(n):
        row = {
            "trace_id": f"{number:032x}",
            "span_id": number,
            "started": WINDOW.from_ts + timedelta(seconds=1),
            "outcome": "ok",
            "total_ms": 900.0,
            "queue_ms": queue_ms,
            "split": "none" if queue_ms is None else "server",
            "server_address": instance,
        }
        _sample(connection, "calls", {**row, "spans": [number]})


def _quadrant(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    rows: list[Row] = gpu.queue_quadrant(ConnectionReader(connection), MINUTE, bucket_s=60).to_pylist()
    return rows


def test_both_wrong_corners_are_named(bare: duckdb.DuckDBPyConnection) -> None:
    for instance, util, queue_ms in (("idle:1", 0.1, 4000.0), ("busy:1", 0.95, 10.0), ("fine:1", 0.9, 300.0)):
        _engine(bare, instance=instance, waiting=6)
        _busy(bare, host=instance.partition(":")[0], util=util)
        _calls(bare, 3, instance=instance, queue_ms=queue_ms)
    found = {row["instance"]: row for row in _quadrant(bare)}
    assert {instance: row["corner"] for instance, row in found.items()} == {
        "idle:1": "idle, many wait", "busy:1": "busy, nobody waits", "fine:1": "as it should be",
    }  # fmt: skip
    assert (found["idle:1"]["wait_ms"], found["idle:1"]["n"]) == (4000, 3)
    assert len({row["id"] for row in found.values()}) == 3


def test_an_engine_is_held_against_the_gpus_of_its_host_else_against_all(bare: duckdb.DuckDBPyConnection) -> None:
    _engine(bare, instance="box:8000", waiting=0)
    _engine(bare, instance="gateway:8000", waiting=0)
    _busy(bare, host="box", util=0.9)
    _busy(bare, host="other", util=0.1)
    found = {row["instance"]: row["util"] for row in _quadrant(bare)}
    assert found == {"box:8000": pytest.approx(0.9), "gateway:8000": pytest.approx(0.5)}


def test_a_queue_that_nobody_timed_is_reckoned_from_who_waits_and_who_comes(bare: duckdb.DuckDBPyConnection) -> None:
    _busy(bare, host="box", util=0.5)
    _engine(bare, instance="box:1", waiting=6)
    _calls(bare, 30, instance="box:1", queue_ms=None)
    (row,) = _quadrant(bare)
    assert row["wait_ms"] == pytest.approx(1000 * 6 / (30 / 60))
    assert row["source"] == "waiting over calls a second"


def test_a_queue_of_which_nothing_is_known_is_no_point(bare: duckdb.DuckDBPyConnection) -> None:
    _busy(bare, host="box", util=0.5)
    _engine(bare, instance="box:1", waiting=6)
    assert _quadrant(bare) == []


def test_those_in_a_step_are_the_calls_that_were_in_the_engine_then_with_their_phase(
    data: tuple[ConnectionReader, Seeded, dict[str, list[Row]]],
) -> None:
    reader, seeded, _ = data
    window = Window(seeded.started + timedelta(seconds=620), seeded.started + timedelta(seconds=680))
    found = gpu.step_requests(reader, window, instance=INSTANCE).to_pylist()
    moment = found[0]["moment"]
    inside = {
        (row["request_id"], row["stage"])
        for row in seeded.rows["stage_spans"]
        if row["stage"] in ("queue", "prefill", "decode")
        and row["started"] <= moment < row["started"] + timedelta(milliseconds=row["duration_ms"])
    }
    assert {(row["request_id"], row["phase"]) for row in found} == inside != set()
    phases = [row["phase"] for row in found]
    assert phases == sorted(phases, key=["queue", "prefill", "decode"].index)
    assert all(0 <= row["since_ms"] <= row["duration_ms"] + 1 for row in found)
    assert gpu.step_requests(reader, window, instance="elsewhere:1").num_rows == 0


def test_the_step_that_is_shown_is_the_one_in_which_most_waited(
    data: tuple[ConnectionReader, Seeded, dict[str, list[Row]]],
) -> None:
    reader, seeded, made = data
    window = Window(seeded.started + timedelta(seconds=600), seeded.started + timedelta(seconds=720))
    samples = [row for row in made["engine"] if window.from_ts <= row["t"] < window.to_ts]
    found = gpu.step_requests(reader, window, instance=INSTANCE).to_pylist()
    assert {row["waiting"] for row in found} == {max(row["waiting"] for row in samples)}


def test_joules_a_token_are_what_the_counters_grew_by_over_what_engines_generated(
    data: tuple[ConnectionReader, Seeded, dict[str, list[Row]]],
) -> None:
    reader, _, made = data
    rows = gpu.engine_series(reader, WINDOW, bucket_s=900).to_pylist()
    (found,) = [row for row in rows if row["measure"] == "joules_a_token"]
    joules = made["gpu"][-1]["energy_j"] - made["gpu"][0]["energy_j"]
    assert found["value"] == pytest.approx(joules / sum(row["generation_tokens"] for row in made["engine"]))
