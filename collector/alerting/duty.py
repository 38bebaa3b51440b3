"""All that watches and tells: its chores, its answers to people, and its end."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import duckdb

from ..counters import Counters
from ..errands import Errands
from ..land.lander import Chore
from .burn import BurnAlerts
from .desk import Desk
from .diagnoses import DiagnosisAlerts
from .heartbeat import Watchdog
from .marks import Changes
from .notify import Notifier
from .objectives import ObjectiveFiles

OBJECTIVES_EVERY_S: Final = 15.0
NOTIFY_EVERY_S: Final = 1.0
ERRANDS_EVERY_S: Final = 0.5
DIAGNOSES_EVERY_S: Final = 60.0
MARKS_EVERY_S: Final = 30.0
WATCH_EVERY_S: Final = 1.0
#: Four evaluations missed, or so much that waits to land: then the heartbeat stops.
STALE: Final = timedelta(seconds=4 * OBJECTIVES_EVERY_S)
LAG_S: Final = 60.0


class Duty:
    """The alerting of one collector. `routes` are its answers for the API."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, files: ObjectiveFiles, counters: Counters) -> None:
        self._counters = counters
        self._errands = Errands(connection)
        self._burning = BurnAlerts(connection, files, counters)
        self._diagnosing = DiagnosisAlerts(connection, files)
        self._changes = Changes(connection)
        self._notifier = Notifier(connection, files)
        self._watchdog = Watchdog(files, self._notifier.courier, unwell=self._unwell)
        self.routes = Desk(self._errands, self._notifier).routes

    def chores(self) -> Sequence[Chore]:
        """Return the work for the thread that owns the data file."""
        return [
            Chore("errands", ERRANDS_EVERY_S, self._errands.run),
            Chore("objectives", OBJECTIVES_EVERY_S, self._burning.update, share=0.1),
            Chore("diagnoses", DIAGNOSES_EVERY_S, self._diagnosing.update, share=0.05),
            Chore("marks", MARKS_EVERY_S, self._changes.update, share=0.05),
            Chore("notifications", NOTIFY_EVERY_S, self._notifier.update, share=0.1),
            Chore("heartbeat", WATCH_EVERY_S, self._watchdog.update),
        ]

    def close(self) -> None:
        """Wait for messages that are under way and write down what became of them; the lander must have ended."""
        self._notifier.close()

    def _unwell(self, now: datetime) -> str | None:
        judged = self._burning.judged
        if judged is None or now - judged > STALE:
            return "objectives are not evaluated"
        lag_s = self._counters.lag()
        return f"what was received {lag_s:.0f} s ago has not landed" if lag_s > LAG_S else None
