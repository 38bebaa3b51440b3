"""The sag alert: the detector run over the recent bins, its alarms kept as rows of `alerts`."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import duckdb

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.sag import REPACKED, SagSettings, alarms, likely_cause, scopes

#: A bin is judged this long after its end: senders export every 5 s, landing takes less than one more. What comes later
#: changes a bin's tokens and stream-seconds alike, so its rate hardly moves.
GRACE_S: Final = 6
BIN_S: Final = 10
#: Series judged at once: each takes about 12 ms, in which nothing lands.
AT_ONCE: Final = 50
#: How the summary says what the detector reads from the time per token against load; null says nothing.
CAUSES: Final = {
    "unknown": None,
    "engine": "provider or engine pacing",
    "contention": "contention between streams",
    "load": "more streams of our own",
}


@dataclass(frozen=True, slots=True)
class AlertChange:
    """One alert that was opened, or closed where `closed` is not null."""

    alert_id: str
    series: str
    opened: datetime
    closed: datetime | None


@cache
def _sql(name: str) -> str:
    return (Path(__file__).parent / f"{name}.sql").read_text(encoding="utf-8")


class SagAlerts:
    """Judges all series in turn, AT_ONCE at a time; `update` is a chore of the thread that owns the data file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, settings: SagSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._part, self._parts = 0, 1

    def update(self, now: datetime) -> list[AlertChange]:
        """Judge the series whose turn it is; return the alerts that this opened or closed."""
        if self._part == 0:
            (row,) = _rows(self._connection, _sql("series_now"), now=now)
            self._parts = max(math.ceil(row["series"] / AT_ONCE), 1)
        part, parts = self._part, self._parts
        self._part = (part + 1) % parts
        return update_sag_alerts(self._connection, now=now, settings=self._settings, part=part, parts=parts)


def update_sag_alerts(
    connection: duckdb.DuckDBPyConnection, *, now: datetime, settings: SagSettings, part: int = 0, parts: int = 1
) -> list[AlertChange]:
    """Judge the bins that ended GRACE_S before `now` or earlier; return the alerts that this opened or closed.

    Of several `parts`, into which series fall by their hash, only one is judged.

    A series has at most one open alert; those that sag together name the same scope. While it is open its value,
    severity and summary follow the worst seen so far; it closes when its rate is back, or when the series has had no
    bin for as long as the detector looks back.
    """
    found = _alarms(connection, now=now, settings=settings, part=part, parts=parts)
    known = _rows(connection, _sql("open_sags"), part=part, parts=parts)
    open_now = {str(row["series"]): row for row in known if row["mine"]}
    changes = [_close(connection, row, found.get(series), now=now) for series, row in open_now.items()]
    slow = {series: alarm for series, alarm in found.items() if alarm["closed"] is None}
    reader, lately = ConnectionReader(connection), now - timedelta(seconds=2 * settings.window_s)
    others = {str(row["series"]) for row in known if not row["mine"]}
    together = scopes(reader, slow.keys() | others, since=lately) if slow else {}
    for series, alarm in slow.items():
        alarm["scope"] = together.get(series)
        alarm["cause"] = likely_cause(reader, series, opened=alarm["opened"], settings=settings) or alarm["cause"]
        if alarm["cause"] == REPACKED:
            continue
        changes.append(_open(connection, alarm, open_now.get(series), settings=settings))
    return [change for change in changes if change is not None]


def _alarms(
    connection: duckdb.DuckDBPyConnection, *, now: datetime, settings: SagSettings, part: int, parts: int
) -> dict[str, dict[str, Any]]:
    """Return the last alarm of each series that has one."""
    since = (now - timedelta(seconds=settings.horizon_s)).replace(minute=0, second=0, microsecond=0)
    until = now - timedelta(seconds=GRACE_S + BIN_S) + timedelta(microseconds=1)
    table = alarms(ConnectionReader(connection), settings=settings, since=since, until=until, part=part, parts=parts)
    return {str(row["series"]): row for row in table.to_pylist()}


def _close(
    connection: duckdb.DuckDBPyConnection, row: dict[str, Any], alarm: dict[str, Any] | None, *, now: datetime
) -> AlertChange | None:
    if alarm is not None and alarm["closed"] is None:
        return None
    ended = alarm["closed"] if alarm is not None and alarm["closed"] > row["opened"] else now
    connection.execute(_sql("close_alert"), {"alert_id": row["alert_id"], "closed": ended})
    return AlertChange(str(row["alert_id"]), str(row["series"]), row["opened"], ended)


def _open(
    connection: duckdb.DuckDBPyConnection, alarm: dict[str, Any], row: dict[str, Any] | None, *, settings: SagSettings
) -> AlertChange | None:
    series, opened = str(alarm["series"]), row["opened"] if row else alarm["opened"]
    alert_id = f"sag|{series}|{opened:%Y-%m-%dT%H:%M:%SZ}"
    connection.execute(
        _sql("open_sag"),
        {
            "alert_id": alert_id,
            "series": series,
            "severity": alarm["severity"],
            "opened": opened,
            "value": alarm["slowdown"],
            "threshold": math.exp(settings.threshold),
            "cause": CAUSES.get(alarm["cause"], alarm["cause"]),
            "scope": alarm["scope"],
        },
    )
    return None if row else AlertChange(alert_id, series, opened, None)


def _rows(connection: duckdb.DuckDBPyConnection, query: str, **params: object) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = ConnectionReader(connection).query(query, params).to_pylist()
    return rows
