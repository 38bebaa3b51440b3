"""Exported objectives are rules that Prometheus takes and that fire as they should, over counters of the collector."""

import json
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from tailbudget.analytics.objectives import Limit, Objective, burn, export, load
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.app.cli import run

from .collector_support import collector
from .slo_support import store, write
from .support import wait_until
from .test_burn import NOW
from .test_burn_alerts import slow_requests

TEXT = """
objectives:
- {name: chat, total: p99 < 1s, success: 99%, owner: us, runbook: "https://runbooks.test/chat"}
- {name: low, total: p80 < 1s, per: tenant, window: 7d}
"""


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool (Debian: apt-get install prometheus)")
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slo.yaml"
    path.write_text(TEXT)
    return path


def test_prometheus_takes_the_rules(file: Path, promtool: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["slo", "export", "prometheus", str(file)]) == 0
    rules = file.with_name("rules.yaml")
    rules.write_text(capsys.readouterr().out)
    done = subprocess.run([promtool, "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "36 rules found" in done.stdout


def test_the_rules_fire_when_the_budget_burns_and_name_owner_and_runbook(file: Path, promtool: str) -> None:
    file.with_name("rules.yaml").write_text(export.prometheus(load([file])))
    labels = '{objective="chat.total", part=""}'
    calm, bad = "0+10x59", "600+10x119"
    case = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"{export.EVENTS}{labels}", "values": f"{calm} {bad}"},
                    {"series": f"{export.BAD}{labels}", "values": "0x59 0+5x119"},
                ],
                "promql_expr_test": [
                    {
                        "expr": 'slo:error_ratio:rate5m{objective="chat.total"}',
                        "eval_time": "2h",
                        "exp_samples": [{"labels": 'slo:error_ratio:rate5m{objective="chat.total"}', "value": 0.5}],
                    },
                    {"expr": 'count(ALERTS{severity="page"})', "eval_time": "55m", "exp_samples": []},
                    {
                        "expr": 'count(ALERTS{severity="page", owner="us"})',
                        "eval_time": "2h",
                        "exp_samples": [{"labels": "{}", "value": 2}],
                    },
                ],
            }
        ],
    }
    path = file.with_name("case.yaml")
    path.write_text(yaml.safe_dump(case))
    done = subprocess.run([promtool, "test", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("bad", "paged"), [("0x29 1x29 2x299 3x29", False), ("0x29 1x29 4x299 5x29", True)])
def test_few_bad_ones_of_few_do_not_page_in_prometheus_either(
    tmp_path: Path, promtool: str, bad: str, *, paged: bool
) -> None:
    one = Objective(name="chat", target=0.98)
    (tmp_path / "rules.yaml").write_text(export.prometheus([one]))
    labels = '{objective="chat", part=""}'
    once = {"expr": 'count(ALERTS{rule="5% in 6h"})', "eval_time": "375m"}
    case = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"{export.EVENTS}{labels}", "values": " ".join(f"{n}x14" for n in range(27))},
                    {"series": f"{export.BAD}{labels}", "values": bad},
                ],
                "promql_expr_test": [{**once, "exp_samples": [{"labels": "{}", "value": 1}] if paged else []}],
            }
        ],
    }
    (tmp_path / "case.yaml").write_text(yaml.safe_dump(case))
    command = [promtool, "test", "rules", str(tmp_path / "case.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_exported_thresholds_are_those_of_the_collector() -> None:
    connection = store()
    write(connection, [(NOW - timedelta(minutes=1), 2000.0, "ok")])
    one = Objective(name="chat", target=0.99, limits=(Limit("total", 1000.0),))
    rows = burn.burn(ConnectionReader(connection), one, since=NOW, until=NOW).to_pylist()
    factors = {row["rule"]: (row["severity"], row["factor"]) for row in rows}
    for rule in burn.RULES:
        severity, factor = factors[rule.name]
        assert severity == rule.severity
        assert export.threshold(one, rule) == pytest.approx(factor * 0.01)


def test_every_expression_of_the_dashboard_is_one_that_prometheus_reads(
    file: Path, promtool: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["slo", "export", "grafana", str(file)]) == 0
    board = json.loads(capsys.readouterr().out)
    expressions = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    assert len(board["panels"]) == 6
    assert len({panel["id"] for panel in board["panels"]}) == 6
    rules = [{"record": f"r{number}", "expr": text} for number, text in enumerate(expressions)]
    path = file.with_name("rules.yaml")
    path.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_collector_counts_events_of_objectives_for_prometheus(tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text("name: chat\ntotal: p95 < 500ms\n")

    def counted(*, what: str) -> bool:
        lines = running.get("/metrics")[1].decode().splitlines()
        return f'tailbudget_slo_{what}_total{{objective="chat.total",part=""}} 30.0' in lines

    with collector(tmp_path / "data", slo=[str(file)]) as running:
        ran = 'tailbudget_work_seconds_count{work="objectives"} 0.0'
        wait_until(lambda: ran not in running.get("/metrics")[1].decode(), what="the first evaluation")
        assert running.post("/v1/traces", slow_requests(30))[0] == 200
        wait_until(lambda: counted(what="events") and counted(what="bad"), what="the counters")
