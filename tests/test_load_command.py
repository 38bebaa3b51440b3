"""The command refuses what cannot be sent, in one line with the way out, before anything is."""

from pathlib import Path

import pytest

from tailbudget.app.cli import run

SERVICE = "http://127.0.0.1:9/chat"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAILBUDGET_API", "http://127.0.0.1:9")
    (tmp_path / "old.json").write_text('{"steps": [{"unit": "requests/s", "offered": 2.0, "samples": {}}]}')


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere", "--rate", "1"], "'nowhere' is no address: expected as in http://127.0.0.1:8000/v1"),
        ([SERVICE], "expected one of --rate (open loop) and --clients (closed loop)"),
        ([SERVICE, "--rate", "1", "--clients", "2"], "expected one of --rate"),
        ([SERVICE, "--rate", "1", "--arrivals", "replay"], "--arrivals replay needs a --trace"),
        ([SERVICE, "--rate", "1", "--trace", "sharegpt", "--arrivals", "replay"], "has no times to replay"),
        ([SERVICE, "--rate", "1", "--trace", "nothing"], "no trace 'nothing': expected a file, or one of azure-"),
        ([SERVICE, "--rate", "1", "--in", "long"], "'long' is no length"),
        ([SERVICE, "--rate", "1", "--sweep"], "name a file of them with --slo"),
        ([SERVICE, "--rate", "1", "--slo", "absent.yaml"], "absent.yaml"),
        ([SERVICE, "--rate", "1", "--body", "{"], "is no JSON"),
        ([SERVICE, "--rate", "1", "--body", "@absent"], "cannot be read"),
        ([SERVICE, "--rate", "1", "--header", "Token"], "'Token' is no header"),
        ([SERVICE, "--rate", "1", "--baseline", "absent.json"], "name an earlier run's JSON report"),
        ([SERVICE, "--rate", "1", "--baseline", "old.json"], "taken at 2.0 requests/s, this run at none of them"),
        ([SERVICE, "--rate", "1", "--client", "speed=2"], "expected NAME=VALUE of share"),
        ([SERVICE, "--rate", "1", "--preset", "restart"], "--break 'what stops the part' and --mend"),
        ([SERVICE, "--rate", "1", "--out", "absent/run"], "its folder does not exist"),
        ([SERVICE, "--rate", "1", "--break", "true"], "needs two commands"),
        (["http://127.0.0.1:9/v1", "--rate", "1"], "name it with --model"),
        (
            [SERVICE, "--rate", "1"],
            "nothing answers at http://127.0.0.1:9/chat (ClientConnectorError): start the service",
        ),
    ],
)
def test_what_cannot_be_sent_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], told: str) -> None:
    assert run(["load", *arguments]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert told in errors[-1]
    assert [line for line in errors[:-1] if not line.startswith("no collector at")] == []
