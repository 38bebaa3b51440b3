"""`tailbudget alerts list`: what is open or ended lately, and who was told."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from tailbudget.analytics.reader import Reader

from .slo import Row, to_json

__all__ = ["listed", "report", "to_json"]

QUERY: Final = Path(__file__).with_name("alerts.sql")


def listed(reader: Reader, *, since: datetime) -> list[Row]:
    """Return one row an alert: see alerts.sql."""
    return list(reader.query(QUERY.read_text(encoding="utf-8"), {"since": since}).to_pylist())


def report(rows: Sequence[Row]) -> str:
    """Return what people read: two lines an alert."""
    return "".join(f"{_head(row)}\n    {row['alert_id']}\n" for row in rows) or "no alert is open\n"


def _head(row: Row) -> str:
    told = f"; told {', '.join(row['told'])}" if row["told"] else ""
    waiting = f"; not yet told {', '.join(row['waiting'])}" if row["waiting"] else ""
    taken = f" by {row['acknowledged_by']}" if row["state"] == "acknowledged" else ""
    owner = f" ({row['owner']})" if row["owner"] else ""
    state = f"{row['state']}{taken}  {row['severity']}{owner}"
    return f"{row['opened']:%Y-%m-%d %H:%M}Z  {state}  {row['summary']}{told}{waiting}"
