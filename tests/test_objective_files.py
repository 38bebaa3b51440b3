"""A file of objectives says in few words what is promised, and a mistake in it is named by its line."""

import re
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.objectives import Limit, Objective, ObjectivesError, Period, load, read
from tailbudget.analytics.objectives.delivery import TYPES
from tailbudget.analytics.objectives.words import COLUMNS

from .seed import SCHEMA


def _load(folder: Path, text: str) -> dict[str, Objective]:
    file = folder / "slo.yaml"
    file.write_text(text)
    return {one.name: one for one in load([file])}


def test_the_short_form_gives_an_objective_a_line(tmp_path: Path) -> None:
    found = _load(
        tmp_path,
        "objectives:\n  - name: chat\n    where: route = '/chat'\n    service: assistant\n    total: p95 < 2.5s\n"
        "    ttft: 99% <= 500ms\n    model: p99.9 < 1.6s\n    tools+post: p95 < 300ms\n    success: 99.5%\n"
        "    owner: search\n    runbook: https://wiki.example/slow\n    notify: [oncall, chat]\n    window: month\n",
    )
    assert set(found) == {"chat.total", "chat.ttft", "chat.model", "chat.tools+post", "chat.success"}
    total = found["chat.total"]
    assert (total.target, total.limits) == (0.95, (Limit("total", 2500.0),))
    assert total.where == "(route = '/chat') and service = 'assistant'"
    assert (total.owner, total.notify, total.period) == (
        "search",
        ("oncall", "chat"),
        Period(days=31, calendar="month"),
    )
    assert found["chat.ttft"].limits == (Limit("ttft", 500.0, inclusive=True),)
    assert (found["chat.model"].target, found["chat.success"].limits) == (0.999, ())


def test_a_goodput_objective_joins_several_limits(tmp_path: Path) -> None:
    (one,) = _load(tmp_path, "goodput: 95% of total < 4s, ttft < 1s, retrieval <= 300ms\n").values()
    assert one.name == "slo.goodput"
    assert one.limits == (Limit("total", 4000.0), Limit("ttft", 1000.0), Limit("retrieval", 300.0, inclusive=True))


def test_a_preset_is_a_start_that_lines_of_the_file_change(tmp_path: Path) -> None:
    found = _load(tmp_path, "preset: chat-2.5s\nretrieval: p90 < 200ms\n")
    stages_ms = {name: one.limits[0].below_ms for name, one in found.items() if name != "slo.total"}
    assert sum(stages_ms.values()) == 2500.0 - 100.0
    assert found["slo.retrieval"].target == 0.9
    assert found["slo.tools+post"].limits == (Limit("tools+post", 300.0),)


def test_every_preset_reads(tmp_path: Path) -> None:
    from tailbudget.analytics.objectives.short import presets

    for name in presets():
        assert _load(tmp_path, f"preset: {name}\n")
    assert "mlperf-llama2-70b" in presets()


OPENSLO = """
apiVersion: openslo/v1
kind: SLI
metadata: {name: first-token}
spec:
  thresholdMetric:
    metricSource: {type: duckdb, spec: {signal: ttft, filter: "route = '/chat'"}}
---
apiVersion: openslo/v1
kind: SLO
metadata:
  name: chat
  annotations: {tailbudget/owner: search, tailbudget/per: tenant}
spec:
  service: assistant
  indicatorRef: first-token
  timeWindow:
    - duration: 1M
      calendar: {startTime: 2026-01-01 00:00:00, timeZone: Europe/Berlin}
  budgetingMethod: Timeslices
  objectives:
    - {op: lte, value: 500, targetPercent: 99, timeSliceTarget: 0.95, timeSliceWindow: 5m}
"""
V2ALPHA = """
apiVersion: openslo.com/v2alpha
kind: SLO
metadata: {name: answers}
spec:
  service: assistant
  sli:
    metadata: {name: ok}
    spec:
      ratioMetric:
        good: {dataSourceRef: here, spec: {filter: "outcome = 'ok'"}}
        total: {dataSourceRef: here, spec: {filter: "route = '/chat'"}}
  timeWindow: [{duration: 4w, isRolling: true}]
  budgetingMethod: Occurrences
  objectives:
    - {target: 0.98}
    - {target: 0.999}
"""


def test_openslo_v1_is_read(tmp_path: Path) -> None:
    (one,) = _load(tmp_path, OPENSLO).values()
    assert (one.name, one.target, one.limits) == ("chat", 0.99, (Limit("ttft", 500.0, inclusive=True),))
    assert (one.where, one.owner, one.per) == ("(route = '/chat')", "search", "tenant")
    assert one.period == Period(days=31, calendar="month", zone="Europe/Berlin")
    assert (one.method, one.slice_s, one.slice_target) == ("timeslices", 300, 0.95)


def test_ratio_slices_are_not_slices_that_are_good_or_bad(tmp_path: Path) -> None:
    (one,) = _load(tmp_path, OPENSLO.replace("Timeslices", "RatioTimeslices")).values()
    assert (one.method, one.slice_s) == ("ratio_timeslices", 300)


def test_openslo_v2alpha_is_read(tmp_path: Path) -> None:
    first, second = _load(tmp_path, V2ALPHA).values()
    assert (first.name, first.target, second.name, second.target) == ("answers.1", 0.98, "answers.2", 0.999)
    assert (first.where, first.good, first.period) == ("(route = '/chat')", "(outcome = 'ok')", Period(days=28))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("total: p95 < 2sec\n", 1, "'p95 < 2sec' is no limit"),
        ("name: x\ntotl: p95 < 2s\n", 2, "unknown key 'totl'"),
        ("total: p95 < 2s\nwhere: routee = 'x'\n", 2, "no column 'routee'"),
        ("total: p95 < 2s\nwhere: route = (select 1)\n", 2, "is refused here"),
        ("total: p95 < 2s\nwhere: read_text('/etc/passwd') = ''\n", 2, "'read_text' is refused here"),
        ("total: p95 < 2s\nwhere: route = 'a') or (1 = 1\n", 2, "is no SQL condition"),
        ("total: p95 < 2s\nwhere: 'true then true end; drop table requests --'\n", 2, "condition"),
        ("total: p95 < 2s\nper: user\n", 2, "'user' is not known here"),
        ("total: p95 < 2s\nwindow: 5m\n", 2, "expected whole days"),
        ("total: p95 < 2s\ntotal: p99 < 3s\n", 2, "'total' is here twice"),
        ("name: x\n", 1, "no limit is set"),
        ("goodput: 95% of totl < 2s\n", 1, "'totl' is no measure"),
        ("preset: chat\n", 1, "'chat' is not known here: expected one of chat-2.5s"),
        ("total: p95 < 2s\nslice: 7m at 95%\n", 2, "does not divide a day"),
        ("total: [\n", 2, "no YAML"),
        (OPENSLO.replace("signal: ttft", "signal: tftt"), 7, "'tftt' is not known here"),
        (OPENSLO.replace("duckdb", "prometheus"), 7, "'prometheus' is another store"),
        (OPENSLO.replace("targetPercent: 99", "targetPercent: 100"), 22, "is no number from 0 to 99.9999"),
        (OPENSLO.replace("filter:", "filtre:"), 7, "unknown key 'filtre': expected one of signal, filter"),
        (OPENSLO.replace("budgetingMethod", "budgetingMetod"), 20, "unknown key 'budgetingMetod'"),
        (OPENSLO.replace("Timeslices", "Slices"), 20, "expected one of Occurrences, Timeslices, RatioTimeslices"),
        (V2ALPHA.replace("{target: 0.98}", "{target: 0.98, targt: 1}"), 16, "unknown key 'targt'"),
        (V2ALPHA.replace("sli:", "slis:"), 7, "unknown key 'slis'"),
        (V2ALPHA.replace("v2alpha", "v3"), 2, "'openslo.com/v3' is not known here"),
    ],
)
def test_a_mistake_is_named_by_file_line_and_what_was_expected(text: str, line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectivesError) as caught:
        _load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'slo.yaml'}:{line}: ")
    assert said in str(caught.value)


def test_one_name_twice_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ObjectivesError, match=r"slo.yaml:2: 'a.total' is set at .*slo.yaml:1 already"):
        _load(tmp_path, "- {name: a, total: p95 < 2s}\n- {name: a, total: p95 < 3s}\n")


def test_a_condition_may_name_every_column_of_requests_but_ids_and_instants() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(SCHEMA.read_text(encoding="utf-8"))
        rows = connection.execute("select column_name from duckdb_columns() where table_name = 'requests'").fetchall()
    beside = {
        "request_id", "trace_id", "span_id", "started", "synthetic", "usable_source", "left_after_ms", "budget_ms",
        "over_stage", "over_by", "skew_ms", "run_id", "ttft_budget_ms", "weight",
    }  # fmt: skip
    assert {str(name) for (name,) in rows} - beside == set(COLUMNS)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("channels:\n- {name: a, type: pager}\n", 2, "expected one of webhook, alertmanager, slack, pagerduty"),
        ("channels:\n- {name: a, type: slack}\n", 2, "'url' is missing"),
        ("channels:\n- {name: a, type: slack, url: 'hooks.test'}\n", 2, "this is no address"),
        ("channels:\n- name: a\n  type: slack\n  url: http://x\n  routing_key: y\n", 5, "unknown key 'routing_key'"),
        ("channels:\n- {name: a, type: stdout}\n- {name: a, type: stdout}\n", 3, "'a' is set already"),
        ("name: x\ntotal: p95 < 1s\nnotify: b\n---\nchannels:\n- {name: a, type: stdout}\n", 2, "no channel 'b'"),
        ("maintenance:\n- from: 2026-03-20T22:00:00Z\n  to: noon\n", 3, "'noon' is no instant"),
        ("stages:\n  retrieve: {owner: us}\n", 2, "'retrieve' is no stage"),
        ("heartbeat:\n  url: http://x\n  every: often\n", 3, "'often' is no length of time"),
        ("heartbeat: http://x every day\n", 1, "'day' is no length of time"),
        ("heartbeat: every 1m\n", 1, "this is no address"),
        ("channels: []\ntotal: p95 < 1s\n", 2, "unknown key 'total'"),
    ],
)
def test_a_mistake_about_delivery_is_named_by_file_and_line(text: str, line: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(ObjectivesError) as caught:
        _load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'slo.yaml'}:{line}: ")
    assert said in str(caught.value)


@pytest.mark.parametrize("number", range(3))
def test_what_the_page_about_objectives_shows_is_read(number: int, tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "objectives.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    file = tmp_path / "slo.yaml"
    file.write_text(blocks[number])
    found = read([file])
    assert len(found.objectives) == (11, 1, 0)[number]
    if number == 2:
        assert {channel.type for channel in found.delivery.channels} == set(TYPES)
