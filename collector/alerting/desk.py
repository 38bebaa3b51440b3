"""What people do about alerts: acknowledge, silence, try channels out, and mark what they did."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import duckdb

from tailbudget.instrument.errors import UserError

from ..errands import Errands
from . import book
from .courier import Message
from .notify import Notifier

#: A text of people's, at most.
LONGEST: Final = 500
Fields = Mapping[str, Any]
Route = Callable[[Fields], Awaitable[dict[str, Any]]]


class Desk:
    """Answers the API's routes about alerts and marks. They raise UserError for what they cannot do."""

    def __init__(self, errands: Errands, notifier: Notifier) -> None:
        self._errands = errands
        self._notifier = notifier
        self.routes: Final[dict[str, Route]] = {
            "/v1/alerts/ack": self.acknowledge,
            "/v1/alerts/silence": self.silence,
            "/v1/alerts/test": self.test,
            "/v1/marks": self.mark,
        }

    async def acknowledge(self, fields: Fields) -> dict[str, Any]:
        """Take an open alert, or all whose ids begin with the names given; nobody is told of them again."""
        _only(fields, ("alert", "by"))
        params = {"alert": _text(fields, "alert"), "by": _text(fields, "by", missing="somebody")}

        def work(connection: duckdb.DuckDBPyConnection, now: datetime) -> dict[str, Any]:
            found = connection.execute(book.statement("open_like"), {"alert": params["alert"]}).fetchall()
            if not found:
                raise UserError(f"no open alert is called {params['alert']!r}: see `tailbudget alerts list`")
            taken = [str(alert_id) for (alert_id,) in found]
            connection.execute(book.statement("acknowledge"), {"taken": taken, "by": params["by"], "now": now})
            return {"alert_ids": taken, "acknowledged_by": params["by"]}

        return await self._do(work)

    async def silence(self, fields: Fields) -> dict[str, Any]:
        """Tell nobody of alerts with these labels until then."""
        _only(fields, ("labels", "until", "by", "comment"))
        labels = fields.get("labels")
        if not isinstance(labels, dict) or not labels or not all(isinstance(value, str) for value in labels.values()):
            raise UserError(f"labels is {labels!r}: expected names and values, as in objective and chat.total")
        until = _instant(fields, "until")
        row = {
            "silence_id": uuid4().hex[:12],
            "until": until,
            "labels": json.dumps(labels, sort_keys=True),
            "created_by": _text(fields, "by", missing="somebody"),
            "comment": _text(fields, "comment", missing=""),
        }

        def work(connection: duckdb.DuckDBPyConnection, now: datetime) -> dict[str, Any]:
            if until <= now:
                raise UserError(f"until is {until.isoformat()}: expected an instant that is not over")
            connection.execute(book.statement("silence"), {**row, "created": now})
            return {"silence_id": row["silence_id"], "until": until.isoformat()}

        return await self._do(work)

    async def test(self, fields: Fields) -> dict[str, Any]:
        """Tell every channel, or the one named, that this is a test; return what each answered."""
        _only(fields, ("channel",))
        name = _text(fields, "channel", missing="")
        channels = [one for one in self._notifier.delivery.channels if name in ("", one.name)]
        if not channels:
            raise UserError(f"no channel {name!r} is set: name one under `channels:` in the file of objectives")
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        tried = [self._notifier.courier.try_out(_trial(one, now)) for one in channels]
        outcomes = await asyncio.gather(*map(asyncio.wrap_future, tried))
        return {"channels": {one.message.channel.name: one.error or "ok" for one in outcomes}}

    async def mark(self, fields: Fields) -> dict[str, Any]:
        """Write down what was done, and when."""
        _only(fields, ("text", "t", "service", "by"))
        row = {
            "mark_id": uuid4().hex[:12],
            "label": _text(fields, "text"),
            "t": _instant(fields, "t") if fields.get("t") else None,
            "service": _text(fields, "service", missing="") or None,
            "created_by": _text(fields, "by", missing="") or None,
        }

        def work(connection: duckdb.DuckDBPyConnection, now: datetime) -> dict[str, Any]:
            connection.execute(book.statement("mark"), {**row, "now": now})
            return {"mark_id": row["mark_id"]}

        return await self._do(work)

    async def _do(self, work: Callable[[duckdb.DuckDBPyConnection, datetime], dict[str, Any]]) -> dict[str, Any]:
        asked: Future[dict[str, Any]] = self._errands.ask(work)
        return await asyncio.wrap_future(asked)


def _trial(channel: Any, now: str) -> Message:
    alert = {
        "alert_id": f"test|{channel.name}|{now}",
        "delivery_id": f"test|{channel.name}|{now}",
        "kind": "test",
        "rule": "test",
        "severity": "ticket",
        "summary": f"tailbudget tries the channel {channel.name} out: nothing is wrong",
        "status": "resolved" if channel.type == "pagerduty" else "firing",  # so that nobody is woken
        "transition": "firing",
        "labels": {"kind": "test"},
        "text": "Sent by `tailbudget alerts test`.",
        "channel": channel.name,
        "grouped_by": "test",
        "dashboard": "",
        "opened": now,
        "closed": None,
        "told": now,
        "value": None,
        "threshold": None,
        "sql": "",
        "traces": [],
        "facts": {},
        **dict.fromkeys(("owner", "runbook", "degrade_first")),
    }
    return Message(alert["alert_id"], channel, "test", [alert])


def _only(fields: Fields, allowed: tuple[str, ...]) -> None:
    for name in fields:
        if name not in allowed:
            raise UserError(f"unknown field {name!r}: expected {', '.join(allowed)}")


def _text(fields: Fields, name: str, *, missing: str | None = None) -> str:
    value = fields.get(name)
    value = missing if value is None else value
    if not isinstance(value, str) or len(value) > LONGEST or (missing is None and not value.strip()):
        raise UserError(f"{name} is {value!r}: expected a text of 1 to {LONGEST} characters")
    return value.strip()


def _instant(fields: Fields, name: str) -> datetime:
    given = str(fields.get(name))
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise UserError(f"{name} is {given!r}: expected an instant such as 2026-03-20T22:00:00Z")
    return found
