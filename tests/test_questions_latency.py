"""Percentiles, budgets, good share and heatmap of a window equal figures computed without the database."""

import math
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from tailbudget.analytics import overview, stages
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.instrument.vocabulary import STAGES

from .seed import Row, Seeded, empty, seed

ENDED = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
WINDOW = Window(ENDED - timedelta(minutes=10), ENDED - timedelta(minutes=2))
CHAT = Window(WINDOW.from_ts, WINDOW.to_ts, route="/chat")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConnectionReader, Seeded]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    yield ConnectionReader(connection), seed(connection, ended=ENDED)
    connection.close()


def _shown(seeded: Seeded, window: Window) -> list[Row]:
    return [
        row
        for row in seeded.rows["requests"]
        if window.from_ts <= row["started"] < window.to_ts
        and window.route in (None, row["route"])
        and not row["synthetic"]
    ]


@pytest.mark.parametrize("window", [WINDOW, CHAT])
def test_percentiles_are_exact_and_carry_their_n(data: tuple[ConnectionReader, Seeded], window: Window) -> None:
    reader, seeded = data
    totals = [row["total_ms"] for row in _shown(seeded, window)]
    found = overview.latency_summary(reader, window).to_pylist()[0]
    assert found["n"] == len(totals) > 100
    assert [found[f"p{q}_ms"] for q in (50, 95, 99)] == pytest.approx(np.percentile(totals, [50, 95, 99]).tolist())


def test_good_requests_are_within_their_budget_and_were_not_given_up(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    counted = [row for row in _shown(seeded, WINDOW) if row["outcome"] != "rejected"]
    good = [row for row in counted if row["total_ms"] <= row["budget_ms"] and row["outcome"] in ("ok", "left")]
    found = overview.latency_summary(reader, WINDOW).to_pylist()[0]
    assert (found["counted"], found["good"]) == (len(counted), len(good))
    assert found["dropped"] == sum(row["outcome"] == "dropped" for row in counted) > 0


def test_the_budget_shown_is_the_commonest_and_several_are_counted(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    found = overview.latency_summary(reader, WINDOW).to_pylist()[0]
    assert (found["budget_ms"], found["budgets"]) == (4000.0, 2)
    assert overview.latency_summary(reader, CHAT).to_pylist()[0]["budgets"] == 1


def test_a_window_without_requests_has_n_0_and_no_percentile(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    found = overview.latency_summary(reader, Window(ENDED, ENDED + timedelta(hours=1))).to_pylist()[0]
    assert (found["n"], found["p95_ms"], found["budget_ms"]) == (0, None, None)


def test_heatmap_cells_hold_every_request_once(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    cells = overview.latency_heatmap(reader, WINDOW, bucket_s=20).to_pylist()
    expected = Counter(
        (math.floor(row["started"].timestamp() / 20) * 20, math.floor(math.log10(row["total_ms"]) * 8))
        for row in _shown(seeded, WINDOW)
    )
    found = {(int(cell["t"].timestamp()), round(math.log10(cell["lo_ms"]) * 8)): cell["n"] for cell in cells}
    assert found == expected
    assert all(cell["hi_ms"] / cell["lo_ms"] == pytest.approx(10 ** (1 / 8)) for cell in cells)


def test_stages_come_in_order_and_also_without_time(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    nowhere = Window(ENDED, ENDED + timedelta(hours=1))
    assert stages.stage_percentiles(reader, WINDOW)["stage"].to_pylist() == list(STAGES)
    assert stages.stage_percentiles(reader, nowhere).to_pylist()[0] == {
        "stage": "network", "n": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None,
        "budget_ms": None, "budgets": 0, "used": None, "over_n": 0,
    }  # fmt: skip


@pytest.mark.parametrize("stage", ["retrieval", "tools", "post"])
def test_stage_percentiles_are_over_the_requests_that_have_the_stage(
    data: tuple[ConnectionReader, Seeded], stage: str
) -> None:
    reader, seeded = data
    shown = {row["request_id"] for row in _shown(seeded, WINDOW)}
    rows = [row for row in seeded.rows["stages"] if row["stage"] == stage and row["request_id"] in shown]
    found = next(row for row in stages.stage_percentiles(reader, WINDOW).to_pylist() if row["stage"] == stage)
    times = [row["critical_ms"] for row in rows]
    assert [found[f"p{q}_ms"] for q in (50, 95, 99)] == pytest.approx(np.percentile(times, [50, 95, 99]).tolist())
    assert (found["n"], found["over_n"]) == (len(rows), sum(row["over_ms"] is not None for row in rows))
    budget = rows[0]["budget_ms"]
    assert found["used"] == (None if budget is None else pytest.approx(found["p95_ms"] / budget))


def test_what_can_be_filtered_by_comes_busiest_first(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    found = overview.filter_values(reader, now=ENDED).to_pylist()
    assert [row["value"] for row in found if row["name"] == "route"] == ["/chat", "/summarise"]
    tenants = Counter(row["tenant"] for row in seeded.rows["requests"] if not row["synthetic"])
    assert [(row["value"], row["n"]) for row in found if row["name"] == "tenant"] == tenants.most_common()
    assert len(overview.filter_values(reader, now=ENDED, rows=1)) == 3


def test_alerts_that_are_open_come_first_and_those_of_other_times_not_at_all(
    data: tuple[ConnectionReader, Seeded],
) -> None:
    reader, seeded = data
    found = overview.alerts(reader, Window(ENDED - timedelta(minutes=3), ENDED)).to_pylist()
    assert [row["closed"] is None for row in found] == [True, False]
    assert overview.alerts(reader, Window(seeded.started, seeded.started + timedelta(minutes=1))).num_rows == 0


def test_lag_is_the_wait_of_the_trace_that_was_ripe_first(tmp_path: Path) -> None:
    connection = empty(tmp_path)
    reader = ConnectionReader(connection)
    assert overview.assembly_lag(reader, now=ENDED).to_pylist() == [{"lag_s": None}]
    for number, (silent_s, root_seen) in enumerate([(12, True), (30, False), (5, True), (9, False)]):
        arrival = ENDED - timedelta(seconds=silent_s)
        connection.execute(
            "insert into dirty values (?, ?, ?, ?, null, null)", [f"{number:032x}", arrival, arrival, root_seen]
        )
    assert overview.assembly_lag(reader, now=ENDED).to_pylist() == [{"lag_s": 20.0}]
    connection.close()
