"""What diagnoses find is an alert: one a rule and scope, closed when that is gone, told to its owner, no page."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tailbudget.analytics.objectives import ObjectivesError, read
from tailbudget.collector.alerting import DiagnosisAlerts, Notifier, ObjectiveFiles
from tailbudget.collector.land.database import open_database

from .alert_receivers import receiver
from .collector_support import collector
from .diagnosed import stored, traffic
from .slo_support import write
from .spans import later
from .support import wait_until

Row = dict[str, Any]


class Clinic:
    """The traffic of one rule's trouble, judged under a file; times are seconds after it began."""

    def __init__(self, folder: Path, rule: str, text: str = "objectives: []\n") -> None:
        self.file = folder / "slo.yaml"
        self.file.write_text(text)
        self.files = ObjectiveFiles([self.file])
        self.connection = stored(traffic(rule, wrong=True))
        self.alerts = DiagnosisAlerts(self.connection, self.files)
        self.rule = rule

    def judge(self, at_s: float) -> list[Row]:
        """Judge and return the alerts of the rule."""
        self.alerts.update(later(at_s))
        return self.rows(f"from alerts where rule = '{self.rule}' order by opened, alert_id")

    def rows(self, query: str) -> list[Row]:
        found: list[Row] = self.connection.cursor().sql(query).to_arrow_table().to_pylist()
        return found

    def told(self, at_s: float) -> list[tuple[str, str]]:
        """Let a notifier decide; return channel and transition of all deliveries."""
        notifier = Notifier(self.connection, self.files)
        notifier.update(later(at_s))
        wait_until(lambda: not notifier.courier.under_way, what="the courier to come back")
        notifier.close()
        return [(row["channel"], row["transition"]) for row in self.rows("from deliveries order by created, channel")]


def test_a_finding_opens_one_alert_that_follows_it_and_closes_when_it_is_gone(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, "no_pooling")
    (alert,) = clinic.judge(240)
    assert (alert["kind"], alert["severity"], alert["closed"], alert["owner"]) == ("diagnosis", "ticket", None, None)
    assert json.loads(alert["labels"]) == {"service": "shop", "peer": "engine:8000"}
    assert alert["summary"].startswith("no_pooling (service shop, peer engine:8000): make one client")
    assert json.loads(alert["evidence"])["n"] == 30
    (again,) = clinic.judge(500)
    assert (again["alert_id"], again["opened"], again["closed"]) == (alert["alert_id"], alert["opened"], None)
    (gone,) = clinic.judge(1000)
    assert gone["closed"] == later(1000)


CHANNELS = """
channels:
- {name: everybody, type: stdout, default: true}
- {name: network-team, type: stdout, owners: [net]}
- {name: third, type: stdout}
"""


@pytest.mark.parametrize(
    ("said", "channels"),
    [
        ("", []),  # written down, and nobody is told
        ("stages: {network: {owner: net}}\n", ["network-team"]),
        ("diagnoses: {no_pooling: {owner: net, runbook: https://w.test/n}}\n", ["network-team"]),
        ("diagnoses: {no_pooling: {notify: [third]}}\n", ["third"]),
        ("diagnoses: {no_pooling: page}\n", ["everybody"]),
    ],
)
def test_who_is_told_depends_on_whose_it_is_and_a_page_must_be_wanted(
    said: str, channels: list[str], tmp_path: Path
) -> None:
    clinic = Clinic(tmp_path, "no_pooling", CHANNELS + said)
    (alert,) = clinic.judge(240)
    assert alert["severity"] == ("page" if "page" in said.split() or "page}" in said else "ticket")
    assert clinic.told(241) == [(name, "firing") for name in channels]
    clinic.judge(1000)
    assert clinic.told(1001) == [(name, kind) for kind in ("firing", "resolved") for name in channels]


def test_an_objective_that_speaks_of_the_route_says_whose_it_is(tmp_path: Path) -> None:
    text = """
objectives:
- {name: other, where: "route = '/other'", total: p95 < 1s, owner: nobody}
- {name: nameless, where: "route = '/chat'", total: p95 < 1s}
- {name: chat, where: "route = '/chat'", total: p95 < 1s, owner: answers, runbook: https://w.test/chat}
"""
    (alert,) = Clinic(tmp_path, "dropped", text).judge(240)
    assert (alert["owner"], alert["runbook"], alert["severity"]) == ("answers", "https://w.test/chat", "ticket")


def test_a_rule_can_be_off_and_its_thresholds_can_be_the_files(tmp_path: Path) -> None:
    assert Clinic(tmp_path, "no_pooling", "diagnoses: {no_pooling: off}\n").judge(240) == []
    clinic = Clinic(tmp_path, "no_pooling", "diagnoses: {no_pooling: {fewest: 31}}\n")
    assert clinic.judge(240) == []
    clinic.file.write_text("diagnoses: {no_pooling: {fewest: 30}}\n")
    clinic.files.refresh()
    assert len(clinic.judge(241)) == 1


def test_a_threshold_that_a_rule_does_not_have_is_said_and_mended(tmp_path: Path) -> None:
    clinic = Clinic(tmp_path, "no_pooling", "diagnoses: {no_pooling: {few: 30}}\n")
    clinic.judge(240)
    (said,) = clinic.rows("from alerts")
    assert (said["kind"], said["rule"], said["closed"]) == ("diagnosis", "settings", None)
    assert "no_pooling" in said["summary"]
    clinic.file.write_text("objectives: []\n")
    clinic.files.refresh()
    clinic.judge(241)
    assert clinic.rows("select closed from alerts where rule = 'settings'") == [{"closed": later(241)}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("diagnoses:\n  nonsense: page\n", ":2: 'nonsense' is no diagnosis: expected one of agent_loop"),
        ("diagnoses:\n  dropped: loud\n", ":2: 'loud' is not known here: expected one of page, ticket, off"),
        ("diagnoses:\n  dropped: {most_share: much}\n", ":2: 'much' is no number"),
        ("channels: [{name: a, type: stdout}]\ndiagnoses:\n  dropped: {notify: [b]}\n", ":3: no channel 'b'"),
    ],
)
def test_a_mistake_is_named_by_its_line(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text(text)
    with pytest.raises(ObjectivesError) as error:
        read([file])
    assert said in str(error.value)


def test_a_collector_tells_a_receiver_what_was_found_on_which_figures(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    with open_database(tmp_path / "data") as connection:
        times = [now - timedelta(seconds=10 + n / 10) for n in range(100)]
        write(connection, [(t, 900.0, "dropped" if n % 2 else "ok") for n, t in enumerate(times)])
    file = tmp_path / "slo.yaml"
    with receiver() as hook:
        file.write_text(
            f"channels: [{{name: team, type: webhook, url: {hook.url}}}]\ndiagnoses: {{dropped: {{notify: [team]}}}}\n"
        )
        with collector(tmp_path / "data", slo=[str(file)]):
            wait_until(lambda: hook.taken, what="the message")
    (alert,) = hook.taken[0].body["alerts"]
    assert (alert["kind"], alert["rule"], alert["severity"]) == ("diagnosis", "dropped", "ticket")
    assert alert["facts"]["evidence"]["n"] >= 50
    assert alert["sql"] == "from diag_dropped"
    assert "Figures: n " in alert["text"]
