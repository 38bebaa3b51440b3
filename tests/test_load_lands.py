"""A load run lands in the database under its id: marked, joined to the service's own requests, with its steps."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .collector_support import Collector, collector
from .load_support import command, service
from .support import wait_until

SLO = """
objectives:
  - name: loose
    where: route = '/ask'
    total: p95 < 60s
    success: 50%
  - name: tight
    where: route = '/ask'
    retrieval: p50 < 1ms
"""


Run = tuple[Collector, dict[str, Any], subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Collector, dict[str, Any], subprocess.CompletedProcess[str]]]:
    folder = tmp_path_factory.mktemp("load")
    (folder / "slo.yaml").write_text(SLO)
    arguments = ("--rate", "20", "--requests", "40", "--slo", "slo.yaml", "--tenants", "2")
    with collector(folder / "data") as running, service(running) as url:
        yield running, *command(folder, running, f"{url}/ask", *arguments)


def test_its_requests_are_synthetic_and_carry_the_run(run: Run) -> None:
    running, report, _ = run
    found = running.rows(
        "select count(*) as n, bool_and(synthetic) as marked, count(distinct tenant) as tenants, min(route) as route, "
        "median(retrieval_ms) >= 5 as retrieved from requests where run_id = $run",
        {"run": report["run_id"]},
    )
    assert found == [{"n": 40, "marked": True, "tenants": 2, "route": "/ask", "retrieved": True}]
    assert running.value("select count(*) from requests where not synthetic") == 0


def test_the_client_measured_no_less_than_its_service(run: Run) -> None:
    running, report, _ = run
    rows = running.rows(
        "select load_requests.total_ms as sent_ms, requests.total_ms as served_ms, late_ms, load_requests.outcome "
        "from load_requests join requests using (run_id, request_id) where run_id = $run", {"run": report["run_id"]}
    )  # fmt: skip
    assert len(rows) == 40
    for row in rows:
        assert row["sent_ms"] >= row["served_ms"] - 0.1
        assert 0 <= row["late_ms"] < row["sent_ms"]
        assert row["outcome"] == "ok"


def test_its_step_is_a_row_with_what_the_report_says(run: Run) -> None:
    running, report, _ = run
    (told,) = report["steps"]
    rows = wait_until(lambda: running.rows("from load_steps"), what="the step's row")
    (row,) = rows
    assert (row["run_id"], row["n"], row["offered"], row["unit"]) == (report["run_id"], 40, 20.0, "requests/s")
    assert row["p95_ms"] == told["total_ms"]["p95"]
    assert row["goodput_per_s"] == told["goodput_per_s"]
    assert row["holds"] is told["holds"] is False
    assert row["broke_stage"] == "retrieval"


def test_an_objective_that_does_not_hold_is_named_with_its_stage_and_fails_the_command(run: Run) -> None:
    _, report, done = run
    (step,) = report["steps"]
    assert done.returncode == 3
    assert {one["objective"]: one["holds"] for one in step["objectives"]} == {
        "loose.total": True, "loose.success": True, "tight.retrieval": False,
    }  # fmt: skip
    assert step["broke"]["objectives"] == ["tight.retrieval"]
    assert "retrieval broke first" in done.stdout
    assert step["with_telemetry"] == 40


def test_a_service_that_reads_no_baggage_is_known_by_the_root_of_its_traces(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running, service(running, init="foreign") as url:
        report, _ = command(tmp_path, running, f"{url}/ask", "--clients", "2", "--requests", "6")
        rows = running.rows("select run_id, synthetic, service from requests where run_id <> 'warm-up'")
        users = running.value("select count(*) from requests where not synthetic")
    assert users == 0
    assert {tuple(row.values()) for row in rows} == {(report["run_id"], True, "foreign")}
    assert len(rows) == 6


def test_without_a_collector_the_run_is_in_its_report_alone(tmp_path: Path) -> None:
    environment = {**os.environ, "TAILBUDGET_API": "http://127.0.0.1:9"}
    with service(None) as url:
        done = subprocess.run(
            [sys.executable, "-m", "tailbudget.app.main", "load", f"{url}/ask", "--clients", "1", "--requests", "3"],
            env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no collector at http://127.0.0.1:9" in done.stderr
    assert "no stage was told by the service" in done.stdout
