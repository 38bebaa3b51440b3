"""Objectives that a collector watches open alerts when their budgets burn, which close when it is over."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tailbudget.analytics.objectives import burn
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.app.cli import run
from tailbudget.collector.alerting import BurnAlerts, ObjectiveFiles
from tailbudget.collector.land.database import open_database

from .collector_support import S, collector, trace_request
from .slo_support import write
from .spans import database
from .support import wait_until

NOW = datetime(2026, 3, 20, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CHAT = "name: chat\ntotal: p95 < 1s\nowner: answers\nrunbook: https://runbooks.test/chat\n"


class Watch:
    """Objectives over a database, in memory unless it is given; times are minutes from NOW."""

    def __init__(self, folder: Path, text: str, connection: duckdb.DuckDBPyConnection | None = None) -> None:
        self.file = folder / "slo.yaml"
        self.file.write_text(text)
        self.connection = connection or database()
        self.alerts = BurnAlerts(self.connection, ObjectiveFiles([self.file]))

    def requests(self, total_ms: float, *, since: int, until: int, tenant: str | None = None) -> None:
        """Write one request every 20 s."""
        times = [NOW + since * MINUTE + timedelta(seconds=20 * n) for n in range(3 * (until - since))]
        write(self.connection, [(t, total_ms, "ok") for t in times], tenant=tenant)

    def judge(self, minute: int = 0) -> list[dict[str, Any]]:
        """Judge at a minute and return the alerts, closed ones included."""
        self.alerts.update(NOW + minute * MINUTE)
        return self.rows("select * exclude (model, provider, instance, scope) from alerts order by opened, alert_id")

    def rows(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.connection.cursor().sql(query).to_arrow_table().to_pylist()
        return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_a_burning_budget_opens_one_alert_a_severity_and_closes_it_when_all_is_well_again(folder: Path) -> None:
    watch = Watch(folder, CHAT)
    watch.requests(200, since=-600, until=-40)
    assert watch.judge(-40) == []

    watch.requests(4000, since=-40, until=0)
    first = watch.judge(0)
    assert {row["severity"] for row in first} == {"page", "ticket"}
    (page,) = (row for row in first if row["severity"] == "page")
    assert (page["kind"], page["rule"], page["closed"], page["owner"]) == ("burn", "chat.total", None, "answers")
    assert json.loads(page["labels"]) == {"objective": "chat.total"}
    assert page["summary"].startswith("chat.total burns its budget ")
    assert page["opened"] <= NOW
    assert page["runbook"] == "https://runbooks.test/chat"

    watch.requests(4000, since=0, until=2)
    again = watch.judge(2)
    assert [row["alert_id"] for row in again] == [row["alert_id"] for row in first]
    assert all(row["closed"] is None for row in again)

    watch.requests(200, since=2, until=120)
    ended = watch.judge(120)
    (page,) = (row for row in ended if row["severity"] == "page")
    assert NOW < page["closed"] <= NOW + 120 * MINUTE
    assert len(ended) == len(first)


def test_each_part_that_burns_has_an_alert_of_its_own(folder: Path) -> None:
    watch = Watch(folder, CHAT + "per: tenant\n")
    watch.requests(4000, since=-20, until=0, tenant="acme")
    watch.requests(200, since=-20, until=0, tenant="globex")
    labels = {row["labels"] for row in watch.judge() if row["severity"] == "page"}
    assert [json.loads(text) for text in labels] == [{"objective": "chat.total", "tenant": "acme"}]
    assert {row["part"]: row["bad"] for row in watch.rows("from slo_status")} == {"acme": 60, "globex": 0}


def test_each_objective_has_the_percentiles_of_what_it_is_about(folder: Path) -> None:
    watch = Watch(folder, CHAT + "where: route = '/chat'\nper: tenant\n")
    watch.requests(4000, since=-20, until=0, tenant="o'hara")
    watch.requests(200, since=-20, until=-10, tenant="globex")
    watch.requests(600, since=-10, until=0, tenant="globex")
    watch.connection.execute("update requests set route = '/chat'")
    watch.judge()
    watch.connection.execute(
        "update requests set route = '/other' where total_ms = 600 and started >= $1", [NOW - MINUTE]
    )
    budgets = watch.rows("from slo_status order by part")
    reader = ConnectionReader(watch.connection)
    globex, ohara = burn.percentiles(reader, Window(NOW - 15 * MINUTE, NOW), budgets)
    assert [budgets[0]["part"], budgets[1]["part"], budgets[0]["limit_ms"]] == ["globex", "o'hara", 1000.0]
    assert (globex["n"], globex["p50_ms"], globex["p99_ms"]) == (15 + 27, 600.0, 600.0)
    assert (ohara["n"], ohara["p95_ms"]) == (45, 4000.0)
    nothing, all_of_it = burn.percentiles(reader, Window(NOW - 15 * MINUTE, NOW, tenant="o'hara"), budgets)
    assert (nothing["n"], nothing["p95_ms"], all_of_it["n"]) == (0, None, 45)


def test_a_changed_file_takes_effect_and_an_objective_that_is_gone_closes_its_alerts(folder: Path) -> None:
    watch = Watch(folder, CHAT)
    watch.requests(4000, since=-30, until=0)
    assert watch.judge()[0]["closed"] is None
    watch.file.write_text("name: other\nttft: p95 < 1s\n")
    assert all(row["closed"] == NOW for row in watch.judge())
    assert watch.rows("select distinct objective from slo_minute") == []
    watch.file.write_text("name: other\ntotal: p95 < 3s\n")
    assert {row["rule"] for row in watch.judge(1) if row["closed"] is None} == {"other.total"}


def test_a_broken_file_keeps_the_old_objectives_and_says_so_until_it_is_mended(folder: Path) -> None:
    watch = Watch(folder, CHAT)
    watch.requests(4000, since=-30, until=0)
    watch.judge()
    watch.file.write_text("name: chat\ntotal: p95 <\n")
    found = {row["kind"]: row for row in watch.judge(1) if row["closed"] is None}
    assert set(found) == {"burn", "objectives"}
    assert f"{watch.file}:2: " in found["objectives"]["summary"]
    assert watch.rows("select objective from slo_status") == [{"objective": "chat.total"}]
    watch.file.write_text(CHAT)
    (mended,) = (row for row in watch.judge(2) if row["kind"] == "objectives")
    assert mended["closed"] == NOW + 2 * MINUTE


@pytest.mark.parametrize("where", ["tenant > 5", "total_ms = 'slow'", "lower(calls) = 'x'"])
def test_a_condition_that_cannot_be_judged_alerts_and_stops_no_other(where: str, folder: Path) -> None:
    watch = Watch(
        folder, f"objectives:\n- name: odd\n  where: {where}\n  total: p95 < 1s\n- name: chat\n  total: p95 < 1s"
    )
    watch.requests(4000, since=-30, until=0, tenant="acme")
    found = {(row["kind"], row["rule"]): row for row in watch.judge()}
    assert ("burn", "chat.total") in found
    assert "cannot be judged" in found["objectives", "odd.total"]["summary"]
    assert found["objectives", "odd.total"]["severity"] == "page"


def test_silence_where_requests_were_expected_pages_until_one_comes(folder: Path) -> None:
    watch = Watch(folder, CHAT)
    day = 24 * 60
    watch.requests(200, since=-day - 60, until=-day + 60)
    watch.requests(200, since=-120, until=-30)
    (blind,) = watch.judge()
    assert (blind["kind"], blind["severity"], blind["closed"]) == ("blind", "page", None)
    assert "no event for 30 min" in blind["summary"]
    watch.requests(200, since=0, until=1)
    (seen,) = watch.judge(1)
    assert seen["closed"] == NOW + MINUTE


def test_an_objective_that_is_blind_stays_so_when_its_period_begins_anew(folder: Path) -> None:
    watch = Watch(folder, f"{CHAT}window: day\n")
    watch.requests(200, since=-24 * 60, until=11 * 60)
    for minute in (11 * 60 + 45, 12 * 60 + 1):  # 23:45 and 00:01
        (blind,) = watch.judge(minute)
        assert (blind["kind"], blind["closed"]) == ("blind", None)


def test_a_late_change_of_a_request_changes_what_was_counted(folder: Path) -> None:
    watch = Watch(folder, CHAT)
    watch.requests(200, since=-30, until=0)
    watch.judge()
    watch.connection.execute("update requests set outcome = 'lost' where started >= $1", [NOW - 5 * MINUTE])
    watch.judge(1)
    assert watch.rows("select n, bad from slo_status") == [{"n": 90, "bad": 15}]


def test_after_a_start_open_alerts_go_on(folder: Path) -> None:
    watch = Watch(folder, CHAT, open_database(folder / "data"))
    watch.requests(4000, since=-30, until=0)
    before = watch.judge()
    watch.connection.close()
    watch.connection = open_database(folder / "data")
    watch.alerts = BurnAlerts(watch.connection, ObjectiveFiles([watch.file]))
    assert [(row["alert_id"], row["closed"]) for row in watch.judge(1)] == [(row["alert_id"], None) for row in before]


def slow_requests(n: int) -> bytes:
    """Return requests of one second each that began 5 s ago."""
    start_ns = int((datetime.now(UTC) - timedelta(seconds=5)).timestamp()) * S
    return trace_request(n, start_ns=start_ns, attributes={"slo.request": "chat"}).SerializeToString()


def testslow_requests_that_a_service_sends_raise_an_alert_that_the_command_line_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text("name: chat\nwhere: route = 'chat'\ntotal: p95 < 500ms\n")
    with collector(tmp_path / "data", slo=[str(file)]) as running:
        assert running.post("/v1/traces", slow_requests(30))[0] == 200
        (alert,) = wait_until(lambda: running.rows("from alerts where severity = 'page'"), what="the alert")
        api = ("--api", f"http://127.0.0.1:{running.api_port}")
        assert (alert["kind"], alert["rule"], alert["closed"]) == ("burn", "chat.total", None)
        assert run(["slo", "status", *api]) == 0
        shown = capsys.readouterr().out
        assert run(["slo", "status", "--json", *api]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert run(["slo", "status", str(file), "--json", *api]) == 0
        (anew,) = json.loads(capsys.readouterr().out)
        assert run(["slo", "test", str(file), *api]) == 0
        fired = capsys.readouterr().out
        assert run(["slo", "test", str(file), "--json", "--fail-on", "page", *api]) == 1
        answer = capsys.readouterr()
    assert "chat.total" in shown
    assert "2% in 1h" in shown
    assert (row["objective"], row["n"], row["bad"], row["good_share"]) == ("chat.total", 30, 30, 0.0)
    assert {name: anew[name] for name in ("n", "bad", "budget_left", "firing")} == {
        name: row[name] for name in ("n", "bad", "budget_left", "firing")
    }
    assert "chat.total: 1 pages, 1 tickets" in fired
    assert {alarm["severity"] for alarm in json.loads(answer.out)} == {"page", "ticket"}
    assert "--fail-on page" in answer.err
