"""How each type of channel is spoken to: one call delivers one message, or raises SendError."""

import http.client
import json
import smtplib
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from email.message import EmailMessage
from hashlib import sha256
from typing import Any, Final

from .text import headline, message_text

TIMEOUT_S: Final = 8.0
#: Answers of a receiver that may be another one later.
PASSING: Final = frozenset({408, 425, 429})
PAGERDUTY: Final = "https://events.pagerduty.com/v2/enqueue"
PAGERDUTY_SEVERITY: Final = {"page": "critical", "ticket": "warning"}
#: Alertmanager ends an alert that nobody repeats: later than the longest pause between two of our messages.
ALERTMANAGER_KEEPS: Final = timedelta(days=31)
#: Slack cuts a section's text at 3,000 characters.
SLACK_MOST: Final = 2_900

Alert = Mapping[str, Any]


class SendError(Exception):
    """A message that was not taken; `final` when trying again would not help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


def _webhook(fields: Mapping[str, Any], alerts: Sequence[Alert]) -> None:
    body = {"version": "1", "status": _status(alerts), "text": message_text(alerts), "alerts": list(alerts)}
    _post(fields["url"], body, headers=fields.get("headers", {}), key=_key(alerts))


def _alertmanager(fields: Mapping[str, Any], alerts: Sequence[Alert]) -> None:
    if fields.get("api"):
        url = f"{fields['url'].rstrip('/')}/api/v2/alerts"
        body: Any = [_posted(alert) for alert in alerts]
    else:
        url, body = fields["url"], webhook_v4(alerts)
    _post(url, body, headers=fields.get("headers", {}), key=_key(alerts))


def webhook_v4(alerts: Sequence[Alert]) -> dict[str, Any]:
    """Return the body that Alertmanager's webhook receivers expect (version 4)."""
    told = [
        {**_prometheus(alert), "status": alert["status"], "fingerprint": _digest(alert["alert_id"])[:16]}
        for alert in alerts
    ]
    return {
        "version": "4",
        "groupKey": alerts[0]["grouped_by"],
        "truncatedAlerts": 0,
        "status": _status(alerts),
        "receiver": alerts[0]["channel"],
        "groupLabels": {"group": alerts[0]["grouped_by"]},
        "commonLabels": _common([alert["labels"] for alert in told]),
        "commonAnnotations": _common([alert["annotations"] for alert in told]),
        "externalURL": alerts[0]["dashboard"],
        "alerts": told,
    }


def _prometheus(alert: Alert) -> dict[str, Any]:
    names = {name: str(value) for name, value in alert["labels"].items() if value is not None}
    labels = {**names, "alertname": f"{alert['kind']}:{alert['rule']}", "severity": alert["severity"]}
    notes = {"summary": alert["summary"], "description": alert["text"], "runbook_url": alert["runbook"]}
    return {
        "labels": labels,
        "annotations": {name: value for name, value in notes.items() if value},
        "startsAt": alert["opened"],
        "endsAt": alert["closed"] or "0001-01-01T00:00:00Z",
        "generatorURL": alert["traces"][0] if alert["traces"] else alert["dashboard"],
    }


def _posted(alert: Alert) -> dict[str, Any]:
    ends = alert["closed"] or (datetime.fromisoformat(alert["told"]) + ALERTMANAGER_KEEPS).isoformat()
    return {**_prometheus(alert), "endsAt": ends}


def _slack(fields: Mapping[str, Any], alerts: Sequence[Alert]) -> None:
    _post(fields["url"], {"text": message_text(alerts)[:SLACK_MOST]}, key=_key(alerts))


def _pagerduty(fields: Mapping[str, Any], alerts: Sequence[Alert]) -> None:
    for alert in alerts:
        event: dict[str, Any] = {
            "routing_key": fields["routing_key"],
            "event_action": "resolve" if alert["status"] == "resolved" else "trigger",
            "dedup_key": _digest(alert["alert_id"]),
        }
        if alert["status"] != "resolved":
            event["payload"] = {
                "summary": headline(alert)[:1024],
                "source": alert["labels"].get("instance") or alert["rule"],
                "severity": PAGERDUTY_SEVERITY.get(alert["severity"], "warning"),
                "timestamp": alert["opened"],
                "custom_details": {**alert["facts"], "text": alert["text"], "sql": alert["sql"]},
            }
            event["links"] = [{"href": url, "text": "trace"} for url in alert["traces"]]
        _post(fields.get("url", PAGERDUTY), event, key=alert["delivery_id"])


def _email(fields: Mapping[str, Any], alerts: Sequence[Alert]) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"] = fields["from"], ", ".join(fields["to"])
    mail["Subject"] = headline(alerts[0])[:200].replace("\n", " ")
    mail["Message-ID"] = f"<{_key(alerts)}@tailbudget>"  # mail boxes know a repeat by it
    mail.set_content(message_text(alerts))
    try:
        with _mail_server(fields) as server:
            if fields.get("starttls"):
                server.starttls(context=ssl.create_default_context())
            if fields.get("user"):
                server.login(fields["user"], fields.get("password", ""))
            server.send_message(mail)
    except smtplib.SMTPException as error:
        raise SendError(f"the mail server refused: {error}") from error
    except OSError as error:
        raise SendError(f"no mail server answers: {error}") from error


def _mail_server(fields: Mapping[str, Any]) -> smtplib.SMTP:
    if fields.get("tls"):
        context = ssl.create_default_context()
        return smtplib.SMTP_SSL(fields["host"], fields.get("port", 465), timeout=TIMEOUT_S, context=context)
    return smtplib.SMTP(fields["host"], fields.get("port", 25), timeout=TIMEOUT_S)


def _stdout(_fields: Mapping[str, Any], alerts: Sequence[Alert]) -> None:
    sys.stdout.write(f"{message_text(alerts)}\n")
    sys.stdout.flush()


SENDERS: Final[dict[str, Callable[[Mapping[str, Any], Sequence[Alert]], None]]] = {
    "webhook": _webhook,
    "alertmanager": _alertmanager,
    "slack": _slack,
    "pagerduty": _pagerduty,
    "email": _email,
    "stdout": _stdout,
}


def _post(url: str, body: Any, *, headers: Mapping[str, str] = {}, key: str) -> None:
    fields = {"Content-Type": "application/json", "User-Agent": "tailbudget", "Idempotency-Key": key, **headers}
    call(url, json.dumps(body).encode(), headers=fields)


def call(url: str, body: bytes | None = None, *, headers: Mapping[str, str] = {}) -> None:
    """POST a body, or GET without one. Raises SendError unless the answer is 2xx; its text has no address."""
    try:
        request = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - checked to be http when it was read
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            answer.read(65_536)
    except urllib.error.HTTPError as error:
        said = error.read(200).decode(errors="replace").strip()
        final = 400 <= error.code < 500 and error.code not in PASSING
        raise SendError(f"the receiver answered {error.code}{f': {said}' if said else ''}", final=final) from error
    except (OSError, http.client.HTTPException) as error:
        raise SendError(f"no receiver answers: {getattr(error, 'reason', error)}") from error
    except ValueError as error:
        raise SendError("the address of the channel is none", final=True) from error


def _status(alerts: Sequence[Alert]) -> str:
    return "firing" if any(alert["status"] == "firing" for alert in alerts) else "resolved"


def _key(alerts: Sequence[Alert]) -> str:
    return _digest("|".join(sorted(alert["delivery_id"] for alert in alerts)))


def _common(found: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {name: value for name, value in found[0].items() if all(one.get(name) == value for one in found)}


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()
