"""People are told of alerts: by every channel, at least once, in order, once a group, unless silenced."""

import json
import logging
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tailbudget.collector.alerting import BurnAlerts, Notifier, ObjectiveFiles, book
from tailbudget.collector.land.database import open_database

from .alert_receivers import mail_box, receiver
from .collector_support import collector, send
from .instrument_support import certificate
from .slo_support import write
from .spans import database
from .support import free_port, wait_until
from .test_burn_alerts import slow_requests

NOW = datetime(2026, 3, 20, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
OBJECTIVE = """
objectives:
- name: chat
  total: p95 < 1s
  owner: answers
  runbook: https://runbooks.test/chat
  degrade_first: rerank
"""


class Office:
    """A database with alerts, in memory unless `stored`, and a notifier that has the channels of a file."""

    def __init__(self, folder: Path, text: str, *, stored: bool = False) -> None:
        self.file = folder / "slo.yaml"
        self.file.write_text(text)
        self.folder = folder / "data"
        self.connection = open_database(self.folder) if stored else database()
        self.files = ObjectiveFiles([self.file])
        self.notifier = Notifier(self.connection, self.files)

    def burn(self, *, stage: str = "retrieval") -> None:
        """Write half an hour of slow requests of two tenants, and judge them."""
        times = [NOW - timedelta(seconds=20 * n) for n in range(90)]
        write(self.connection, [(t, 4000.0, "ok") for t in times[:60]], tenant="acme", stage=stage)
        write(self.connection, [(t, 4000.0, "ok") for t in times[60:]], tenant="globex", stage=stage)
        BurnAlerts(self.connection, self.files).update(NOW)

    def alarms(self, *rules: str, minute: float = 0, **more: Any) -> None:
        """Make these the open alerts."""
        now = NOW + minute * MINUTE
        found = [
            book.Alarm(kind="burn", rule=rule, severity="page", opened=now, summary=f"{rule} burns", **more)
            for rule in rules
        ]
        book.write(self.connection, found, kinds=("burn",), now=now)

    def tell(self, minute: float = 0) -> list[dict[str, Any]]:
        """Let the notifier do its work at a minute until nothing is under way; return the deliveries."""
        now = NOW + minute * MINUTE
        self.notifier.update(now)
        wait_until(lambda: not self.notifier.courier.under_way, what="the courier to come back")
        self.notifier.update(now)
        return self.rows("from deliveries order by created, delivery_id")

    def rows(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.connection.cursor().sql(query).to_arrow_table().to_pylist()
        return found


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Any]:
    """Return a function that opens an Office with the text of a file."""
    opened: list[Office] = []

    def make(text: str, *, stored: bool = False) -> Office:
        opened.append(Office(tmp_path, text, stored=stored))
        return opened[-1]

    yield make
    for one in opened:
        one.notifier.close()
        one.connection.close()


def _channel(url: str, *, kind: str = "webhook", more: str = "") -> str:
    return f"channels:\n- name: oncall\n  type: {kind}\n  url: {url}\n{more}"


def test_a_message_says_all_that_the_one_on_call_needs(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url) + "dashboard: https://board.test\n")
        here.burn()
        here.tell()
        (came,) = hook.received
    page = next(alert for alert in came.body["alerts"] if alert["severity"] == "page")
    assert (page["owner"], page["runbook"]) == ("answers", "https://runbooks.test/chat")
    assert page["degrade_first"] == "rerank"
    facts = page["facts"]
    assert (facts["requests"], facts["tenants"], facts["worst_stage"], facts["worst_tenant"]) == (
        90,
        2,
        "retrieval",
        "acme",
    )
    assert facts["budget"] == "overspent"
    assert [url.startswith("https://board.test/trace?request=r") for url in page["traces"]] == [True] * 3
    assert here.rows(
        page["sql"].replace("from requests", "select count(*) as n from requests").partition(" order by")[0]
    ) == [{"n": 90}]
    for words in (
        "chat.total burns its budget", "Promise: 95 % of requests: total < 1 s over 30d", "90 requests of 2 tenants",
        "worst stage retrieval, tenant acme", "Owner: answers", "Runbook: https://runbooks.test/chat",
        "Do without first: rerank",
    ):  # fmt: skip
        assert words in came.body["text"]


def test_a_message_says_how_long_what_is_left_lasts(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url))
        good = [(NOW - timedelta(days=10, seconds=20 * n), 200.0, "ok") for n in range(8910)]
        write(here.connection, good, tenant="acme")
        here.burn()  # 90 of 9000 bad: a fifth of 5 %; now 20 times too fast
        here.tell()
        (came,) = hook.received
    assert "Budget: 80 % left, spent in 28.9 h at this rate." in came.body["text"]  # 0.802 x 30 d / 20


def test_alertmanagers_webhook_body_is_version_4(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url, kind="alertmanager"))
        here.alarms("chat.total", labels={"objective": "chat.total"})
        here.tell()
        here.alarms(minute=5)
        here.tell(6)
        firing, resolved = (came.body for came in hook.received)
    assert (firing["version"], firing["status"], firing["receiver"]) == ("4", "firing", "oncall")
    (alert,) = firing["alerts"]
    assert alert["labels"]["alertname"] == "burn:chat.total"
    assert alert["labels"] == firing["commonLabels"]
    assert (alert["startsAt"], alert["endsAt"]) == ("2026-03-20T12:00:30Z", "0001-01-01T00:00:00Z")
    assert alert["annotations"]["summary"] == "chat.total burns"
    assert resolved["status"] == "resolved"
    assert resolved["alerts"][0]["endsAt"] == "2026-03-20T12:05:30Z"
    assert resolved["alerts"][0]["fingerprint"] == alert["fingerprint"]


def test_alertmanagers_own_api_gets_labels_and_an_end(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url.removesuffix("/hook"), kind="alertmanager", more="  api: v2\n"))
        here.alarms("chat.total")
        here.tell()
        (came,) = hook.received
    assert came.path == "/api/v2/alerts"
    (alert,) = came.body
    assert alert["labels"]["severity"] == "page"
    assert alert["endsAt"] > "2026-04-10"


def test_slack_gets_a_text(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url, kind="slack"))
        here.alarms("chat.total", owner="answers")
        here.tell()
        (came,) = hook.received
    assert came.body["text"].startswith("[FIRING] page: chat.total burns\nPromise: 95 % of requests")
    assert "Owner: answers" in came.body["text"]


def test_pagerduty_triggers_and_resolves_one_incident(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url, kind="pagerduty", more="  routing_key: r0\n"))
        here.alarms("chat.total")
        here.tell()
        here.alarms(minute=5)
        here.tell(6)
        trigger, resolve = (came.body for came in hook.received)
    assert (trigger["event_action"], trigger["routing_key"]) == ("trigger", "r0")
    assert trigger["payload"]["summary"] == "[FIRING] page: chat.total burns"
    assert (trigger["payload"]["severity"], trigger["payload"]["source"]) == ("critical", "chat.total")
    assert len(trigger["dedup_key"]) <= 255
    assert (resolve["event_action"], resolve["dedup_key"]) == ("resolve", trigger["dedup_key"])


def _mailing(port: int) -> str:
    return (
        f"channels:\n- name: mail\n  type: email\n  host: 127.0.0.1\n  port: {port}\n  from: slo@here.test\n"
        "  to: [oncall@here.test, boss@here.test]\n"
    )


def test_a_mail_is_sent_and_sent_again_when_the_server_refused_it(office: Any) -> None:
    with mail_box() as box:
        here = office(OBJECTIVE + _mailing(box.port))
        box.answer = "451 later"
        here.alarms("chat.total")
        (row,) = here.tell()
        assert row["delivered"] is None
        assert "451" in row["error"]
        box.answer = "250 taken"
        here.tell(1)
        (mail,) = box.mails
    assert mail["Subject"] == "[FIRING] page: chat.total burns"
    assert mail["To"] == "oncall@here.test, boss@here.test"
    assert mail["Message-ID"].endswith("@tailbudget>")


def test_a_mail_server_behind_tls_is_spoken_to(office: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", tls.chain)
    with mail_box(tls=tls) as box:
        here = office(OBJECTIVE + _mailing(box.port) + "  tls: true\n")
        here.alarms("chat.total")
        (row,) = here.tell()
        assert row["error"] is None
    assert [mail["Subject"] for mail in box.mails] == ["[FIRING] page: chat.total burns"]


def test_standard_output_is_a_channel(office: Any, capsys: pytest.CaptureFixture[str]) -> None:
    here = office(OBJECTIVE + "channels:\n- {name: here, type: stdout}\n")
    here.alarms("chat.total")
    here.tell()
    assert capsys.readouterr().out.startswith("[FIRING] page: chat.total burns\nPromise: 95 % of requests")


def test_after_an_outage_each_transition_arrives_in_order_and_the_wait_grows(office: Any) -> None:
    port = free_port()
    here = office(OBJECTIVE + _channel(f"http://127.0.0.1:{port}/hook"))
    here.alarms("chat.total")
    (row,) = here.tell()
    waits = []
    for minute in (1, 10, 30):
        here.tell(minute)
        (row,) = here.rows("from deliveries")
        waits.append((row["next_attempt"] - NOW - minute * MINUTE).total_seconds())
    assert waits == sorted(waits)
    assert waits[0] < waits[-1]
    assert "no receiver answers" in row["error"]
    here.alarms(minute=40)
    assert [row["delivered"] for row in here.tell(50)] == [None, None]
    with receiver(port, status=503) as hook:
        here.tell(70)
        assert {came.body["status"] for came in hook.received} == {"firing"}  # the end waits for the beginning
        refused = len(hook.received)
        hook.status = 200
        here.tell(90)
        here.tell(110)
        assert [came.body["status"] for came in hook.received[refused:]] == ["firing", "resolved"]
        assert len({came.headers["idempotency-key"] for came in hook.received}) == 2
    assert all(
        row["delivered"] and row["error"] is None and row["content"] is None for row in here.rows("from deliveries")
    )


def test_what_a_receiver_will_never_take_is_given_up_and_said(office: Any, caplog: pytest.LogCaptureFixture) -> None:
    with receiver(status=404) as hook, caplog.at_level(logging.ERROR):
        here = office(OBJECTIVE + _channel(hook.url))
        here.alarms("chat.total")
        here.tell()
        (row,) = here.tell(60)
        assert len(hook.received) == 1
    assert (row["attempts"], row["next_attempt"], row["delivered"]) == (1, None, None)
    assert "404" in row["error"]
    assert "oncall is not told" in caplog.text


def test_alerts_of_one_group_are_one_message(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url))
        rules = [("chat.total", {"tenant": "acme"}), ("chat.total", {"tenant": "globex"}), ("other.total", {})]
        found = [
            book.Alarm(kind="burn", rule=rule, severity="page", opened=NOW, summary="burns", labels=labels)
            for rule, labels in rules
        ]
        book.write(here.connection, found, kinds=("burn",), now=NOW)
        assert len(here.tell()) == 3
        assert sorted(len(came.body["alerts"]) for came in hook.received) == [1, 2]


def test_a_firing_alert_is_told_again_until_somebody_takes_it(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url, more="  repeat: 1h\n"))
        here.alarms("chat.total")
        for minute in (0, 30, 61, 90, 122):
            here.tell(minute)
        told = [came.body["alerts"][0]["transition"] for came in hook.received]
        assert told == ["firing", "repeat", "repeat"]
        here.connection.execute("update alerts set acknowledged = $1", [NOW])
        here.tell(300)
        assert len(hook.received) == 3
        here.alarms(minute=301)
        here.tell(302)
        assert hook.received[-1].body["status"] == "resolved"


def test_an_alert_that_opens_again_is_told_again(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url))
        here.alarms("chat.total")
        here.tell()
        here.alarms(minute=5)
        here.tell(6)
        here.connection.execute("update alerts set closed = null")
        here.tell(7)
        assert [came.body["status"] for came in hook.received] == ["firing", "resolved", "firing"]


@pytest.mark.parametrize(("labels", "heard"), [({"rule": "chat.total"}, False), ({"owner": "others"}, True)])
def test_a_silence_mutes_what_has_its_labels_until_it_ends(labels: dict[str, str], heard: bool, office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url))
        params = {"silence_id": "s", "until": NOW + 60 * MINUTE, "labels": json.dumps(labels), "created": NOW - MINUTE}
        here.connection.execute(book.statement("silence"), {**params, "created_by": "me", "comment": ""})
        here.alarms("chat.total", owner="answers")
        here.tell()
        assert bool(hook.received) == heard
        here.tell(61)
        assert len(hook.received) == 1


def test_maintenance_mutes_and_comes_back_each_week(office: Any) -> None:
    window = "maintenance:\n- {from: 2026-03-13T12:00:00Z, to: 2026-03-13T13:00:00Z, every: 1w}\n"
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url) + window)
        here.alarms("chat.total")
        here.tell()
        assert hook.received == []
        here.tell(61)
        assert len(hook.received) == 1


def test_an_alert_that_ends_before_its_time_is_up_was_none(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url))
        here.alarms("chat.total", for_s=300)
        here.tell(4)
        here.alarms(minute=4.5)
        here.tell(6)
        assert (hook.received, here.rows("from alerts")) == ([], [])
        here.alarms("chat.total", minute=10, for_s=300)
        here.tell(14)
        assert hook.received == []
        here.tell(15)
        assert len(hook.received) == 1


def test_alerts_go_to_those_named_else_to_their_owner_else_to_the_default(office: Any) -> None:
    text = (
        "objectives:\n- {name: a, total: p95 < 1s, notify: [b]}\n- {name: c, total: p95 < 1s, owner: us}\n"
        "- {name: d, total: p95 < 1s}\nchannels:\n- {name: b, type: stdout}\n"
        "- {name: ours, type: stdout, owners: [us]}\n"
        "- {name: all, type: stdout, default: true}\n"
        "- {name: night, type: stdout, owners: [us], severities: [ticket]}\n"
    )
    here = office(text)
    for name, owner in (("a.total", "us"), ("c.total", "us"), ("d.total", None)):
        alarm = book.Alarm(kind="burn", rule=name, severity="page", opened=NOW, summary=name, owner=owner)
        book.write(here.connection, [alarm], kinds=(name,), now=NOW)
    told = {row["alert_id"].split("|")[1]: row["channel"] for row in here.tell()}
    assert told == {"a.total": "b", "c.total": "ours", "d.total": "all"}


def test_a_stage_that_is_worst_brings_its_owner_and_runbook(office: Any) -> None:
    stages = "stages:\n  retrieval: {owner: search, runbook: https://runbooks.test/search}\n"
    with receiver() as hook:
        here = office("name: chat\ntotal: p95 < 1s\n---\n" + stages + _channel(hook.url, more="  owners: [search]\n"))
        here.burn(stage="retrieval")
        here.tell()
        (came,) = hook.received
    assert {(alert["owner"], alert["runbook"]) for alert in came.body["alerts"]} == {
        ("search", "https://runbooks.test/search")
    }


def test_a_sag_alert_goes_the_same_way(office: Any) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel(hook.url))
        here.connection.execute(
            "insert into alerts by name select 'sag|s|1' as alert_id, 'sag' as kind, 's' as rule, 'page' as severity, "
            "$1::timestamptz as opened, 'm' as model, 2.0 as value, 1.2 as threshold, 'm is slow' as summary",
            [NOW],
        )
        here.tell()
        here.connection.execute("update alerts set closed = $1", [NOW + MINUTE])
        here.tell(2)
        told = [came.body["alerts"][0] for came in hook.received]
        assert [alert["kind"] for alert in told] == ["sag", "sag"]
        assert told[0]["facts"]["since"] == "11:55Z"  # five minutes before it was sure
        assert told[0]["sql"].startswith("from requests where (model = 'm') and started >= '2026-03-20T11:55:30Z'")
        assert [came.body["status"] for came in hook.received] == ["firing", "resolved"]


def test_an_alert_that_grows_worse_wakes_those_who_only_want_pages(office: Any) -> None:
    text = (
        "channels:\n- {name: all, type: stdout, default: true}\n"
        "- {name: night, type: stdout, default: true, severities: [page]}\n"
    )
    here = office(OBJECTIVE + text)
    here.connection.execute(
        "insert into alerts by name select 'sag|s|1' as alert_id, 'sag' as kind, 's' as rule, 'ticket' as severity, "
        "$1::timestamptz as opened, 'm is slow' as summary",
        [NOW],
    )
    assert [row["channel"] for row in here.tell()] == ["all"]
    here.connection.execute("update alerts set severity = 'page'")
    assert [row["channel"] for row in here.tell(1)] == ["all", "night"]


def test_a_receiver_that_hangs_holds_up_neither_the_others_nor_the_end(office: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, receiver() as hook:
        port = silent.getsockname()[1]
        more = f"- {{name: silent, type: webhook, url: 'http://127.0.0.1:{port}'}}\n"
        here = office(
            OBJECTIVE.replace("  owner", "  notify: [oncall, silent]\n  owner") + _channel(hook.url, more=more)
        )
        here.alarms("chat.total")
        here.notifier.update(NOW)
        wait_until(lambda: hook.received, what="the message")
        closing = threading.Thread(target=here.notifier.close, daemon=True)
        closing.start()
        closing.join(60)  # the receiver would hang for ever
        assert not closing.is_alive()
        (row,) = here.rows("from deliveries where channel = 'silent'")
        assert row["delivered"] is None


def test_secrets_come_from_the_environment_and_are_stored_and_shown_nowhere(
    office: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    monkeypatch.setenv("HOOK_SECRET", "s3cr3t-token")
    here = office(OBJECTIVE + _channel(f"http://127.0.0.1:{port}/${{HOOK_SECRET}}"), stored=True)
    with caplog.at_level(logging.DEBUG):
        here.alarms("chat.total")
        here.tell()
        with receiver(port, status=400) as hook:
            here.tell(5)
            assert hook.received[0].path == "/s3cr3t-token"
        assert "s3cr3t" not in repr(here.files.watched)
        here.connection.execute("checkpoint")
    assert "s3cr3t" not in caplog.text
    files = [file for file in here.folder.rglob("*") if file.is_file()]
    assert files
    assert all(b"s3cr3t" not in file.read_bytes() for file in files)


def test_a_variable_that_is_not_set_is_named_and_waited_for(office: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with receiver() as hook:
        here = office(OBJECTIVE + _channel("${HOOK_URL}"))
        here.alarms("chat.total")
        (row,) = here.tell()
        assert "HOOK_URL" in row["error"]
        monkeypatch.setenv("HOOK_URL", hook.url)
        here.tell(1)
        assert len(hook.received) == 1


def test_what_was_not_delivered_survives_a_kill(tmp_path: Path) -> None:
    file, port = tmp_path / "slo.yaml", free_port()
    url = f"http://127.0.0.1:{port}/hook"
    file.write_text(f"objectives:\n- {{name: chat, total: p95 < 500ms}}\n{_channel(url)}")
    with collector(tmp_path / "data", slo=[str(file)]) as running:
        assert running.post("/v1/traces", slow_requests(30))[0] == 200
        waiting = "select attempts from deliveries where delivered is null and attempts > 0"
        wait_until(lambda: running.rows(waiting), what="an attempt that failed")
        running.kill()
        with receiver(port) as hook:
            running.start()
            wait_until(lambda: hook.received, what="the message")
            wait_until(lambda: not running.rows("from deliveries where delivered is null"), what="its outcome")
            answer = send(running.api_port, "POST", "/v1/alerts/test", b"{}", {})
            assert json.loads(answer[2]) == {"channels": {"oncall": "ok"}}
    assert {alert["rule"] for alert in hook.received[0].body["alerts"]} == {"chat.total"}
