"""The open rows of table `alerts`: opened once, followed while they last, closed once."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb

from tailbudget.analytics.reader import ConnectionReader

SQL: Final = Path(__file__).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """What is wrong now; `kind`, `rule`, `severity` and `labels` tell it from others."""

    kind: str
    rule: str
    severity: str
    opened: datetime
    summary: str
    value: float | None = None
    threshold: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    owner: str | None = None
    runbook: str | None = None
    degrade_first: str | None = None
    evidence: str | None = None  # figures, as JSON
    for_s: int = 0  # how long it must last before anybody is told

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same while it lasts."""
        return self.kind, self.rule, self.severity, json.dumps(dict(self.labels), sort_keys=True)


@dataclass(frozen=True, slots=True)
class Change:
    """An alert that was opened, or closed where `closed` is not null."""

    alert_id: str
    opened: datetime
    closed: datetime | None


def write(
    connection: duckdb.DuckDBPyConnection, alarms: Iterable[Alarm], *, kinds: tuple[str, ...], now: datetime
) -> list[Change]:
    """Make the open alerts of these kinds those of `alarms`; return what this opened or closed.

    One that ends while it is pending never was an alert: its row goes.
    """
    table = ConnectionReader(connection).query(statement("open_alerts"), {"kinds": list(kinds)})
    before = {_key(row): row for row in table.to_pylist()}
    changes: list[Change] = []
    wanted = {alarm.key: alarm for alarm in alarms}
    for key, row in before.items():
        if key not in wanted:
            if row["fires"] is not None and row["fires"] > now:
                connection.execute(statement("drop_alert"), {"alert_id": row["alert_id"]})
                continue
            connection.execute(statement("close_alert"), {"alert_id": row["alert_id"], "closed": now})
            changes.append(Change(row["alert_id"], row["opened"], now))
    for key, alarm in wanted.items():
        known = before.get(key)
        opened = known["opened"] if known else alarm.opened
        alert_id = known["alert_id"] if known else _id(alarm)
        connection.execute(statement("open_alert"), _params(alarm, alert_id=alert_id, opened=opened))
        if known is None:
            changes.append(Change(alert_id, opened, None))
    return changes


@cache
def statement(name: str) -> str:
    """Return the statement of `<name>.sql` in this folder."""
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")


def _key(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    return row["kind"], row["rule"], row["severity"], json.dumps(json.loads(row["labels"] or "{}"), sort_keys=True)


def _id(alarm: Alarm) -> str:
    labels = "|".join(f"{name}={value}" for name, value in sorted(alarm.labels.items()))
    return "|".join(
        filter(None, (alarm.kind, alarm.rule, alarm.severity, labels, f"{alarm.opened:%Y-%m-%dT%H:%M:%SZ}"))
    )


def _params(alarm: Alarm, *, alert_id: str, opened: datetime) -> dict[str, object]:
    return {
        "alert_id": alert_id,
        "kind": alarm.kind,
        "rule": alarm.rule,
        "severity": alarm.severity,
        "opened": opened,
        "value": alarm.value,
        "threshold": alarm.threshold,
        "summary": alarm.summary,
        "labels": json.dumps(dict(alarm.labels), sort_keys=True),
        "owner": alarm.owner,
        "runbook": alarm.runbook,
        "degrade_first": alarm.degrade_first,
        "evidence": alarm.evidence,
        "fires": opened + timedelta(seconds=alarm.for_s) if alarm.for_s else None,
    }


def loaded(text: str | None) -> dict[str, Any]:
    """Return an alert's labels."""
    found: dict[str, Any] = json.loads(text or "{}")
    return found
