"""The page Load says which load a run survived and what broke first; Compare tells two runs apart."""

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tailbudget.analytics import load_runs
from tailbudget.analytics.breakdown import segment_values
from tailbudget.analytics.compare import Side, compare
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.instrument.vocabulary import STAGES

from .local_api import local_api
from .seed import empty
from .test_app_pages import _charts, _run, _text

NOW = datetime.now(UTC) - timedelta(seconds=30)
WINDOW = Window(NOW - timedelta(hours=1), NOW + timedelta(hours=1))
#: Load -> milliseconds in queue, in decode, whether the objectives held.
STEPS = {2.0: (10.0, 400.0, True), 4.0: (40.0, 420.0, True), 6.0: (900.0, 480.0, False), 8.0: (4000.0, 500.0, False)}
EACH = 120


def store(connection: duckdb.DuckDBPyConnection, run_id: str, *, slower: float = 1.0, began: datetime = NOW) -> None:
    """Store a run of four steps as a collector would, EACH requests a step."""
    rng = np.random.default_rng(7)
    logs: list[dict[str, Any]] = []
    requests: list[dict[str, Any]] = []
    spans: list[dict[str, Any]] = []
    for step, (offered, (queue_ms, decode_ms, held)) in enumerate(STEPS.items(), 1):
        totals = []
        for number in range(EACH):
            started = began - timedelta(minutes=20) + timedelta(minutes=step, seconds=number / offered)
            queued, decoded = (float(ms * slower * rng.lognormal(0, 0.2)) for ms in (queue_ms, decode_ms))
            trace_id, total_ms = str(uuid.uuid4()), queued + decoded
            totals.append(total_ms)
            said = {"slo.load.step": step, "slo.load.offered": offered, "slo.load.number": number}
            spans.append(_span(trace_id, started, run_id, total_ms, said | {"slo.load.outcome": "ok"}))
            requests.append(_request(trace_id, started, run_id, total_ms, queue_ms=queued, decode_ms=decoded))
        p50, p95, p99 = (float(value) for value in np.percentile(totals, (50, 95, 99)))
        told = {
            "slo.run.id": run_id, "slo.load.step": step, "slo.load.offered": offered, "slo.load.unit": "requests/s",
            "slo.load.n": EACH, "slo.load.lasted_s": EACH / offered, "slo.load.per_s": offered,
            "slo.load.goodput_per_s": offered if held else 0.5, "slo.load.holds": held,
            "slo.load.total_ms": json.dumps({"p50": p50, "p95": p95, "p99": p99}),
            "slo.load.broke": None if held else json.dumps({"objectives": ["total"], "stage": "queue"}),
        }  # fmt: skip
        attrs = json.dumps({name: value for name, value in told.items() if value is not None})
        ended = began - timedelta(minutes=18 - step)
        logs.append({"t": ended, "event_name": "slo.load.step", "resource_id": 1, "attrs": attrs})
    for table, rows in (("logs_open", logs), ("requests", requests), ("spans_open", spans)):
        connection.register("rows", pa.Table.from_pylist(rows))
        connection.execute(f"insert into {table} by name select * from rows")
        connection.unregister("rows")


def _request(trace_id: str, started: datetime, run_id: str, total_ms: float, **stages: float) -> dict[str, Any]:
    times = {f"{stage}_ms": stages.get(f"{stage}_ms", 0.0) for stage in STAGES}
    return {"request_id": trace_id, "trace_id": trace_id, "span_id": 1, "started": started, "service": "shop",
            "route": "/ask", "outcome": "ok", "total_ms": total_ms, **times, "calls": 1, "tool_rounds": 0,
            "synthetic": True, "run_id": run_id}  # fmt: skip


def _span(trace_id: str, started: datetime, run_id: str, total_ms: float, attrs: dict[str, Any]) -> dict[str, Any]:
    start_ns = int(started.timestamp() * 1e9)
    duration_ns = int(total_ms * 1e6)
    return {"trace_id": trace_id, "span_id": 2, "name": "POST /ask", "kind": "CLIENT", "started": started,
            "start_ns": start_ns, "end_ns": start_ns + duration_ns, "duration_ns": duration_ns, "status": "UNSET",
            "resource_id": 1, "role": "network", "rule": "http client", "synthetic": True, "run_id": run_id,
            "attrs": json.dumps(attrs)}  # fmt: skip


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConnectionReader]:
    connection = empty(Path(tmp_path_factory.mktemp("runs")))
    store(connection, "run-old", slower=0.7, began=NOW - timedelta(minutes=25))
    store(connection, "run-new")
    yield ConnectionReader(connection)
    connection.close()


@pytest.fixture(scope="module")
def api(reader: ConnectionReader) -> Iterator[str]:
    with local_api(reader.connection) as address:
        yield address


def test_runs_are_listed_newest_first_with_their_knee(reader: ConnectionReader) -> None:
    rows = load_runs.load_runs(reader, WINDOW).to_pylist()
    assert [(row["run_id"], row["steps"], row["n"], row["knee"]) for row in rows] == [
        ("run-new", 4, 4 * EACH, 4.0), ("run-old", 4, 4 * EACH, 4.0),
    ]  # fmt: skip


def test_steps_come_by_load_and_say_what_broke(reader: ConnectionReader) -> None:
    rows = load_runs.load_steps(reader, run_id="run-new").to_pylist()
    assert [(row["offered"], row["state"], row["broke_stage"], row["knee"]) for row in rows] == [
        (2.0, "holds", None, 4.0),
        (4.0, "holds", None, 4.0),
        (6.0, "broke", "queue", 4.0),
        (8.0, "broke", "queue", 4.0),
    ]


def test_stage_shares_of_each_load_sum_to_one(reader: ConnectionReader) -> None:
    rows = load_runs.load_stages(reader, run_id="run-new").to_pylist()
    for offered, (queue_ms, decode_ms, _) in STEPS.items():
        shares = {row["stage"]: row["share"] for row in rows if row["offered"] == offered}
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["queue"] == pytest.approx(queue_ms / (queue_ms + decode_ms), abs=0.03)
        assert all(row["n"] == EACH for row in rows)


def test_two_runs_are_compared_and_no_other_comparison_counts_them(reader: ConnectionReader) -> None:
    values = segment_values(reader, WINDOW, by="run_id").to_pylist()
    assert [row["value"] for row in values] == ["run-new", "run-old"]
    assert segment_values(reader, WINDOW, by="route").num_rows == 0
    found = {
        one.measure: one for one in compare(reader, *(Side(WINDOW, "run_id", run) for run in ("run-old", "run-new")))
    }
    assert found["total_ms_p95"].a_n == 4 * EACH
    difference = found["total_ms_p95"].difference
    assert difference is not None
    assert difference.change == pytest.approx(1 / 0.7 - 1, rel=0.02)


def test_the_page_says_what_it_carries_and_what_breaks_first(monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    app = _run(monkeypatch, api, "load", range="6h")
    assert _charts(app) == 3
    assert "It carries 4 requests/s" in _text(app)
    assert "At 6 queue breaks first" in _text(app)
    older = _run(monkeypatch, api, "load", range="6h", run="run-old")
    assert older.selectbox(key="run").value == "run-old"


def test_without_a_run_the_page_says_how_to_send_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    connection = empty(tmp_path)
    with local_api(connection) as address:
        assert "tailbudget load URL" in _text(_run(monkeypatch, address, "load"))
    connection.close()
