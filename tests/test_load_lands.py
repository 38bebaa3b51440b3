"""A load run lands in the database under its id: marked, joined to the service's own requests, with its steps."""

import json
import os
import signal
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


def test_the_clients_clock_begins_before_the_services_and_holds_its_stages(run: Run) -> None:
    running, report, _ = run
    rows = running.rows(
        "select planned <= requests.started as before, load_requests.total_ms as sent_ms, late_ms, "
        "load_requests.outcome, retrieval_ms + decode_ms as stages_ms "
        "from load_requests join requests using (run_id, request_id) where run_id = $run",
        {"run": report["run_id"]},
    )
    assert len(rows) == 40
    for row in rows:
        assert row["before"]
        assert row["outcome"] == "ok"
        assert 0 <= row["late_ms"] < row["sent_ms"]
        assert 0 < row["stages_ms"] < row["sent_ms"]


def test_its_step_is_a_row_with_what_the_report_says(run: Run) -> None:
    running, report, _ = run
    (told,) = report["steps"]
    of_run = f"from load_steps where run_id = '{report['run_id']}'"
    (row,) = wait_until(lambda: running.rows(of_run), what="the step's row")
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


def test_a_service_that_reads_no_baggage_is_known_by_the_root_of_its_traces(run: Run, tmp_path: Path) -> None:
    running, _, _ = run
    with service(running, init="foreign") as url:
        report, _ = command(tmp_path, running, f"{url}/ask", "--clients", "2", "--requests", "6")
    assert report["steps"][0]["with_telemetry"] == 6
    rows = running.rows("select run_id, synthetic from requests where service = 'foreign' and run_id <> 'warm-up'")
    assert [tuple(row.values()) for row in rows] == [(report["run_id"], True)] * 6
    assert running.value("select count(*) from requests where not synthetic") == 0


SWEPT = """
objectives:
  - name: ask
    where: route = '/ask'
    total: p90 < 900ms
"""


@pytest.mark.slow
def test_a_sweep_names_the_knee_and_the_stage_that_breaks_first(tmp_path: Path) -> None:
    (tmp_path / "slo.yaml").write_text(SWEPT)
    loads = ("--rate", "5", "--loads", "5,10,15,20,25,30", "--duration", "8s")
    # One search at a time, 60 ms each: more than 16 a second wait for it.
    with collector(tmp_path / "data") as running, service(running, slots=1, find_s=0.06) as url:
        report, done = command(tmp_path, running, f"{url}/ask", "--sweep", *loads)
        counted = "select count(*) from load_steps"
        wait_until(lambda: running.value(counted) == len(report["steps"]), what="a row a step")
        steps = running.rows("from load_steps")
    assert done.returncode == 0, done.stdout + done.stderr
    assert report["knee"]["load"] in (10, 15)
    beyond = next(step for step in report["steps"] if step["offered"] == report["knee"]["beyond"])
    assert beyond["broke"]["stage"] == "retrieval"
    assert {row["offered"]: row["broke_stage"] for row in steps}[30.0] == "retrieval"
    assert f"**Knee:** {report['knee']['load']:g} requests/s" in done.stdout


def test_an_interrupted_run_reports_what_it_sent(tmp_path: Path) -> None:
    with service(None) as url:
        line = [sys.executable, "-m", "tailbudget.app.main", "load", f"{url}/ask", "--rate", "20", "--duration", "1h"]
        command_line = [*line, "--api", "http://127.0.0.1:9", "--out", "cut"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command_line, cwd=tmp_path, text=True, stdout=pipe, stderr=pipe) as process:
            progress = process.stderr
            assert progress is not None
            wait_until(lambda: "running" in progress.readline(), what="the first progress")
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert json.loads((tmp_path / "cut.json").read_text())["steps"][0]["n"] > 0
    assert "| 20 requests/s |" in said


def test_objectives_that_count_nothing_of_the_load_are_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "slo.yaml").write_text(SLO.replace("/ask", "/other"))
    with service(None) as url:
        line = [sys.executable, "-m", "tailbudget.app.main", "load", f"{url}/ask", "--rate", "20", "--requests", "5"]
        done = subprocess.run(
            [*line, "--api", "http://127.0.0.1:9"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert "no objective counts a request of /ask (5 ok)" in done.stderr


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
