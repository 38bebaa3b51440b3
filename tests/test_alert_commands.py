"""People list, take, silence and try out alerts from the command line, and mark what they did."""

import json
from collections.abc import Iterator

import pytest

from tailbudget.app.cli import run

from .alert_receivers import Receiver, receiver
from .collector_support import Collector, collector, send
from .support import free_port, wait_until
from .test_burn_alerts import slow_requests

Screen = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def hook() -> Iterator[Receiver]:
    with receiver() as found:
        yield found


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, hook: Receiver) -> Iterator[Collector]:
    """Run a collector with a burn alert that a receiver was told of, and a channel that nobody answers."""
    folder = tmp_path_factory.mktemp("alerts")
    file = folder / "slo.yaml"
    file.write_text(
        "objectives:\n- {name: chat, total: p95 < 500ms}\nchannels:\n"
        f"- {{name: oncall, type: webhook, url: '{hook.url}'}}\n"
        f"- {{name: dead, type: webhook, url: 'http://127.0.0.1:{free_port()}'}}\n"
    )
    with collector(folder / "data", slo=[str(file)]) as started:
        assert started.post("/v1/traces", slow_requests(30))[0] == 200
        told = "select alert_id from deliveries where delivered is not null and alert_id like '%|page|%'"
        wait_until(lambda: started.rows(told), what="the alert's delivery")
        yield started


@pytest.fixture
def api(running: Collector) -> str:
    return f"http://127.0.0.1:{running.api_port}"


def test_open_alerts_are_listed_with_who_was_told(api: str, capsys: Screen) -> None:
    assert run(["alerts", "list", "--api", api]) == 0
    shown = capsys.readouterr().out
    assert "firing  page  chat.total burns its budget" in shown
    assert "told oncall" in shown
    assert run(["alerts", "list", "--json", "--api", api]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["kind"], row["severity"]) for row in rows} == {("burn", "page"), ("burn", "ticket")}


def test_an_alert_is_taken_by_the_beginning_of_its_id(api: str, running: Collector, capsys: Screen) -> None:
    assert run(["alerts", "ack", "burn|chat.total|page", "--by", "ada", "--api", api]) == 0
    assert capsys.readouterr().out.endswith("is with ada\n")
    assert running.value("select acknowledged_by from alerts where severity = 'page'") == "ada"
    assert run(["alerts", "list", "--api", api]) == 0
    assert "acknowledged by ada" in capsys.readouterr().out
    assert run(["alerts", "ack", "burn|chat.total", "--by", "bob", "--api", api]) == 0
    assert capsys.readouterr().out.count("is with bob\n") == 2
    assert running.value("select count(*) from alerts where acknowledged_by = 'bob'") == 2
    assert run(["alerts", "ack", "burn|chat.tot", "--api", api]) == 1
    said = capsys.readouterr().err
    assert "no open alert is called 'burn|chat.tot'" in said
    assert "JSON" not in said


def test_a_silence_is_kept_with_its_labels(api: str, running: Collector, capsys: Screen) -> None:
    assert run(["alerts", "silence", "rule=other", "owner=us", "--for", "30m", "--by", "ada", "--api", api]) == 0
    (row,) = running.rows("select labels, created_by, until > now() + interval 25 minute as later from silences")
    assert row == {"labels": {"rule": "other", "owner": "us"}, "created_by": "ada", "later": True}
    assert run(["alerts", "silence", "rule", "--api", api]) == 1
    assert "expected NAME=VALUE" in capsys.readouterr().err


def test_every_channel_is_tried_out(api: str, hook: Receiver, capsys: Screen) -> None:
    assert run(["alerts", "test", "--channel", "oncall", "--api", api]) == 0
    assert capsys.readouterr().out == "oncall: ok\n"
    assert "nothing is wrong" in hook.received[-1].body["text"]
    assert run(["alerts", "test", "--api", api]) == 1
    shown = capsys.readouterr()
    assert "oncall: ok\ndead: no receiver answers" in shown.out
    assert "1 of 2 channels did not take the message: dead" in shown.err


def test_a_mark_is_kept(api: str, running: Collector) -> None:
    assert run(["mark", "rolled the index back", "--service", "shop", "--by", "ada", "--api", api]) == 0
    (row,) = running.rows("select kind, label, service, created_by from marks where kind = 'note'")
    assert row == {"kind": "note", "label": "rolled the index back", "service": "shop", "created_by": "ada"}


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/marks", b"{}", "text is None: expected a text"),
        ("/v1/marks", b"[]", "the body is no JSON object"),
        ("/v1/marks", b"{", "Expecting property name"),
        ("/v1/marks", b'{"text": "x", "t": "noon"}', "expected an instant"),
        ("/v1/alerts/silence", b'{"labels": {}}', "labels is {}"),
        ("/v1/alerts/silence", b'{"labels": {"a": "b"}, "until": "2020-01-01T00:00:00Z"}', "that is not over"),
        ("/v1/alerts/ack", b'{"alert": "none"}', "no open alert is called 'none'"),
        ("/v1/alerts/test", b'{"channel": "none"}', "no channel 'none' is set"),
    ],
)
def test_what_cannot_be_done_is_answered_with_the_reason(path: str, body: bytes, said: str, running: Collector) -> None:
    status, _, answer = send(running.api_port, "POST", path, body, {})
    assert status == 400
    assert said in json.loads(answer)["error"]
