"""Marks of what changed by itself: a new version, prompt, flag or model, found in what lands."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import duckdb

from tailbudget.analytics.reader import ConnectionReader

from . import book

#: At a start what was seen so long before is known; a value that was not seen for so long is a change when it comes.
KNOWN: Final = timedelta(days=1)
#: Requests are assembled so long after they began, at most: what was looked at is looked at again.
LATE: Final = timedelta(minutes=2)


@dataclass(slots=True)
class Changes:
    """Watches the values of what people change; `update` is a chore of the thread that owns the data file."""

    connection: duckdb.DuckDBPyConnection
    _known: dict[tuple[str, str, str], dict[str, datetime]] = field(default_factory=dict)  # values, when seen last
    _upto: datetime | None = None

    def update(self, now: datetime) -> None:
        """Write a mark for every value that another one of its kind was before."""
        if self._upto is None:
            self._upto = now - LATE
            for row in self._seen(now - KNOWN, self._upto):
                self._values(row)[row["value"]] = row["last"]
        for row in self._seen(self._upto - LATE, now):
            values = self._values(row)
            before = values.get(row["value"])
            if values and (before is None or row["first"] - before > KNOWN):
                self._mark(row, old=max(values, key=lambda value: values[value]))
            values[row["value"]] = max(row["last"], before or row["last"])
        self._upto = now

    def _values(self, row: dict[str, Any]) -> dict[str, datetime]:
        return self._known.setdefault((row["kind"], row["service"] or "", row["name"] or ""), {})

    def _seen(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        query = book.statement("values_seen")
        rows: list[dict[str, Any]] = (
            ConnectionReader(self.connection).query(query, {"since": since, "until": until}).to_pylist()
        )
        return rows

    def _mark(self, row: dict[str, Any], *, old: str) -> None:
        what = " ".join(filter(None, (row["kind"], row["name"])))
        params = {
            "mark_id": uuid4().hex[:12],
            "t": row["first"],
            "kind": row["kind"],
            "service": row["service"],
            "label": f"{row['service'] or 'somebody'}: {what} {old} -> {row['value']}",
            "old_value": old,
            "new_value": row["value"],
        }
        self.connection.execute(book.statement("mark_change"), params)
