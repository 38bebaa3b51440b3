"""Findings of diagnoses as alerts: opened once, followed while they are found, closed when they are not any more."""

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb

from tailbudget.analytics.diagnoses import STAGE_OF, findings
from tailbudget.analytics.objectives import Diagnosed, Objective
from tailbudget.analytics.reader import ConnectionReader, QueryError
from tailbudget.analytics.window import Window
from tailbudget.instrument.errors import UserError

from ..land.transaction import transaction
from . import book
from .book import Alarm, Change
from .objectives import ObjectiveFiles

KINDS: Final = ("diagnosis",)
#: What rules compare five minutes with.
LOOK_BACK: Final = timedelta(hours=1)
#: Five minutes are judged at once: what was found in the last whole ones, or since, is wrong now.
NOW: Final = timedelta(minutes=10)
DETAILS: Final = ("owner", "runbook", "degrade_first")


class DiagnosisAlerts:
    """Judges by all rules; `update` is a chore of the thread that owns the data file.

    A finding is a ticket unless the file says `page`; whose it is, the file says of the rule, of the stage that the
    rule is about, or of an objective that speaks of the requests of its route.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, files: ObjectiveFiles) -> None:
        self._connection = connection
        self._reader = ConnectionReader(connection)
        self._files = files

    def update(self, now: datetime) -> list[Change]:
        """Make the open alerts those of what is found now; return what this opened or closed."""
        try:
            alarms = list(self._alarms(now))
        except (QueryError, UserError) as error:  # of a threshold that a rule does not have
            summary = f"diagnoses are not judged: {str(error).splitlines()[0]}"
            alarms = [Alarm(kind="diagnosis", rule="settings", severity="ticket", opened=now, summary=summary)]
        with transaction(self._connection):
            return book.write(self._connection, alarms, kinds=KINDS, now=now)

    def _alarms(self, now: datetime) -> Iterator[Alarm]:
        said = self._files.watched.delivery.diagnoses
        settings = {rule: one.settings for rule, one in said.items()}
        found = findings(self._reader, Window(now - LOOK_BACK, now), settings=settings).to_pylist()
        for row in reversed(found):  # of one rule and scope the newest speaks
            wanted = said.get(row["rule"], Diagnosed())
            if wanted.severity != "off" and row["found_at"] >= now - NOW:
                yield self._alarm(row, wanted, now)

    def _alarm(self, row: Mapping[str, Any], wanted: Diagnosed, now: datetime) -> Alarm:
        scope = {name: str(value) for name, value in json.loads(row["scope"]).items() if value is not None}
        about = ", ".join(f"{name} {value}" for name, value in scope.items())
        details = self._details(row["rule"], scope, wanted, now)
        return Alarm(
            kind="diagnosis",
            rule=row["rule"],
            severity=wanted.severity,
            opened=min(row["found_at"], now),
            summary=f"{row['rule']} ({about}): {row['advice']}" if about else f"{row['rule']}: {row['advice']}",
            labels=scope,
            evidence=row["evidence"],
            owner=details["owner"],
            runbook=details["runbook"],
            degrade_first=details["degrade_first"],
        )

    def _details(self, rule: str, scope: Mapping[str, str], wanted: Diagnosed, now: datetime) -> dict[str, str | None]:
        """Return owner, runbook and degrade_first, each from the first that has it."""
        stage = self._files.watched.delivery.stages.get(STAGE_OF.get(rule, ""), {})
        details = {name: wanted.details.get(name) or stage.get(name) for name in DETAILS}
        if details["owner"] is None and "route" in scope and (objective := self._speaker(scope, now)):
            details = {name: value or getattr(objective, name) or None for name, value in details.items()}
        return details

    def _speaker(self, scope: Mapping[str, str], now: datetime) -> Objective | None:
        """Return the first objective with an owner that speaks of requests of this route."""
        params = {"now": now, "route": scope["route"], "service": scope.get("service")}
        for objective in self._files.watched.objectives:
            if objective.owner:
                query = book.statement("scope_owner").format(where=objective.where or "true")
                try:
                    (row,) = self._reader.query(query, params).to_pylist()
                except QueryError:  # a condition that no row answers has an alert of its own
                    continue
                if row["speaks"]:
                    return objective
        return None
