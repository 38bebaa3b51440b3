"""Who is told of which alert, when, and until they took it: the state machine between `alerts` and `deliveries`."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any, Final

import duckdb

from tailbudget.analytics.objectives import Channel, Delivery, Diagnosed, Objective
from tailbudget.analytics.reader import ConnectionReader

from . import book, facts, text
from .courier import Courier, Message, Outcome
from .objectives import ObjectiveFiles

log: Final = logging.getLogger(__name__)

#: After a failed attempt; doubled by each further one, up to the longest.
RETRY_S: Final = 2.0
LONGEST_RETRY_S: Final = 300.0
#: Alerts of which it is decided at once who is told.
AT_ONCE: Final = 20
#: A receiver that is away for longer has lost the message; the table and the log say so.
GIVE_UP: Final = timedelta(days=1)
#: Of an alert that ended while its receiver was away, people are still told so long after.
STILL_NEWS: Final = timedelta(days=2)
Row = Mapping[str, Any]


class Notifier:
    """Decides what channels are told and keeps trying; `update` is a chore of the thread that owns the data file."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, files: ObjectiveFiles) -> None:
        self._connection = connection
        self._reader = ConnectionReader(connection)
        self._files = files
        self.courier = Courier()

    @property
    def delivery(self) -> Delivery:
        """Who is told, as the files say it now."""
        return self._files.watched.delivery

    def update(self, now: datetime) -> None:
        """Write down what became of messages, decide on new ones, and hand over those that are due."""
        for outcome in self.courier.outcomes():
            self._tried(outcome, now)
        if self.delivery.channels:
            self._decide(now)
        self._hand_over(now)

    def close(self) -> None:
        """Wait for what is under way and write down what became of it; the thread that lands must have ended."""
        self.courier.close()
        for outcome in self.courier.outcomes():
            self._tried(outcome, datetime.now(UTC))

    def _decide(self, now: datetime) -> None:
        rows = self._rows("told", since=now - STILL_NEWS)
        quiet = [json.loads(row["labels"]) for row in self._rows("silences", now=now)] if rows else []
        quiet += [window.labels for window in self.delivery.maintenance if window.holds(now)]
        objectives = {one.name: one for one in self._files.watched.objectives}
        left = AT_ONCE
        for alert in rows:
            if alert["fires"] is not None and alert["fires"] > now:
                continue
            objective = objectives.get(alert["rule"])
            silent = any(_matches(labels, facts.labels(alert)) for labels in quiet)
            decided = list(self._transitions(alert, objective, silent=silent, now=now))
            if decided:
                self._tell(alert, objective, decided, now)
                left -= 1
            if not left:  # the others in a second: asking who is hit takes about 10 ms an alert
                return

    def _transitions(
        self, alert: Row, objective: Objective | None, *, silent: bool, now: datetime
    ) -> Iterator[tuple[str, str]]:
        """Yield channel and transition of what is to be said now."""
        last = {
            channel: (transition, told, waits)
            for channel, transition, told, waits in zip(
                alert["channels"], alert["transitions"], alert["times"], alert["waiting"], strict=True
            )
        }
        if alert["closed"] is not None:  # whoever was told that it fires is told that it ended
            known = {one.name: one for one in self.delivery.channels}
            for name, (transition, _, _) in last.items():
                if transition != "resolved" and (name not in known or known[name].resolved):
                    yield name, "resolved"
            return
        told_of = [one for one in self.delivery.channels if last.get(one.name, ("resolved",))[0] != "resolved"]
        for channel in [] if silent else self._route(alert, objective, told_of):
            transition, told, waits = last.get(channel.name, ("resolved", now, False))
            if transition == "resolved":
                yield channel.name, "firing"
            elif not waits and alert["acknowledged"] is None and now - told >= timedelta(seconds=channel.repeat_s):
                yield channel.name, "repeat"

    def _route(self, alert: Row, objective: Objective | None, told_of: Sequence[Channel]) -> Sequence[Channel]:
        """Return who was told, and who is to be told at the severity of now."""
        owner = alert["owner"]
        if alert["kind"] == "diagnosis":
            said = self.delivery.diagnoses.get(alert["rule"], Diagnosed())
            wanted = self.delivery.route(
                notify=said.notify, owner=owner, severity=alert["severity"], by_default=said.severity == "page"
            )
            return [*told_of, *(one for one in wanted if one not in told_of)]
        if owner is None and self.delivery.stages:  # the stage's owner, where the objective has none
            if told_of:
                return told_of
            found = facts.hit(self._connection, alert, objective, now=alert["opened"])
            owner = facts.details(alert, objective, self.delivery, found)["owner"]
        notify = objective.notify if objective else ()
        wanted = self.delivery.route(notify=notify, owner=owner, severity=alert["severity"])
        return [*told_of, *(one for one in wanted if one not in told_of)]

    def _tell(self, alert: Row, objective: Objective | None, decided: Sequence[tuple[str, str]], now: datetime) -> None:
        grouped_by = f"{alert['kind']}|{alert['scope'] or alert['rule']}"
        said = self._said(alert, objective, now)
        for channel, transition in decided:
            told = f"{alert['alert_id']}|{channel}|{transition}|{now.isoformat()}"
            content = {
                **said,
                "delivery_id": told,
                "transition": transition,
                "channel": channel,
                "grouped_by": grouped_by,
            }
            content["status"] = "resolved" if transition == "resolved" else "firing"
            params = {
                "delivery_id": told,
                "message_id": f"{channel}|{grouped_by}|{now.isoformat()}",
                "alert_id": alert["alert_id"],
                "transition": transition,
                "channel": channel,
                "grouped_by": grouped_by,
                "created": now,
                "content": json.dumps(content, ensure_ascii=False),
            }
            self._connection.execute(book.statement("tell"), params)

    def _said(self, alert: Row, objective: Objective | None, now: datetime) -> dict[str, Any]:
        found = facts.hit(self._connection, alert, objective, now=now)
        traces = [facts.trace_url(self.delivery.dashboard, name) for name in found.pop("traces", None) or ()]
        said: dict[str, Any] = {
            **{name: alert[name] for name in ("alert_id", "kind", "rule", "severity", "summary", "value", "threshold")},
            **facts.details(alert, objective, self.delivery, found),
            "labels": facts.labels(alert),
            "opened": _instant(alert["opened"]),
            "closed": alert["closed"] and _instant(alert["closed"]),
            "told": _instant(now),
            "sql": found.pop("sql", ""),
            "traces": traces,
            "dashboard": self.delivery.dashboard,
            "facts": {**facts.budget(self._connection, alert, objective), **found},
        }
        return {**said, "text": text.body(said)}

    def _hand_over(self, now: datetime) -> None:
        channels = {one.name: one for one in self.delivery.channels}
        for message_id, rows in groupby(self._rows("due", now=now), key=lambda row: str(row["message_id"])):
            if self.courier.carries(message_id):
                continue
            told = list(rows)
            first, contents = told[0], [json.loads(row["content"]) for row in told]
            channel = channels.get(first["channel"], Channel(name=first["channel"], type=""))
            message = Message(message_id, channel, first["grouped_by"], contents, first["attempts"])
            if not channel.type:
                self._tried(Outcome(message, "no file of objectives has this channel any more", final=True), now)
            elif now - first["created"] > GIVE_UP and first["attempts"]:
                self._tried(Outcome(message, "given up: the receiver was away for too long", final=True), now)
            else:
                self.courier.send(message)

    def _tried(self, outcome: Outcome, now: datetime) -> None:
        message = outcome.message
        again = outcome.error is not None and not outcome.final
        pause_s = min(RETRY_S * 2**message.attempts, LONGEST_RETRY_S)
        params = {
            "message_id": message.message_id,
            "next_attempt": now + timedelta(seconds=pause_s) if again else None,
            "delivered": now if outcome.error is None else None,
            "error": outcome.error,
        }
        self._connection.execute(book.statement("tried"), params)
        if outcome.final:
            log.error("%s is not told of %s: %s", message.channel.name, message.grouped_by, outcome.error)

    def _rows(self, name: str, **params: object) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self._reader.query(book.statement(name), params).to_pylist()
        return rows


def _matches(labels: Mapping[str, str], found: Mapping[str, str]) -> bool:
    return all(found.get(name) == value for name, value in labels.items())


def _instant(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
