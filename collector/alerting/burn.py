"""Error budgets on a timer: what objectives have counted, what of it fires, and which of them see nothing any more."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb

from tailbudget.analytics.objectives import Objective, burn
from tailbudget.analytics.reader import ConnectionReader, QueryError

from ..counters import Counters
from . import book, words
from .book import Alarm, Change
from .objectives import ObjectiveFiles

KINDS: Final = ("burn", "blind", "objectives")
#: A late span may change a request for so long; what is older is counted anew once an hour.
LATE: Final = timedelta(minutes=15)
RECOUNT_EVERY: Final = timedelta(hours=1)
RECOUNT: Final = timedelta(days=1)
COVERAGE_EVERY: Final = timedelta(minutes=1)
#: Alarms are judged over so long, so that one whose rules pause for a minute goes on.
LOOK_BACK: Final = timedelta(minutes=2 * burn.QUIET_MIN)


class BurnAlerts:
    """Keeps `slo_minute`, `slo_status` and the alerts of objectives up to date."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, files: ObjectiveFiles, counters: Counters | None = None
    ) -> None:
        self._counters = counters
        self._totals: dict[tuple[str, str], tuple[float, float]] | None = None
        self._connection = connection
        self._reader = ConnectionReader(connection)
        self._files = files
        self.judged: datetime | None = None  # when all was judged last
        self._counted: dict[Objective, datetime] = {}  # what is counted, up to when
        self._recounted: datetime | None = None
        self._covered: dict[Objective, tuple[datetime, float | None]] = {}  # when it was asked, and the answer

    def update(self, now: datetime) -> list[Change]:
        """Count, judge and write; return the alerts that this opened or closed."""
        objectives = self._files.refresh()
        since = self._since(objectives, now)
        alarms = list(self._broken_file(now))
        statuses: list[dict[str, object]] = []
        counted: dict[Objective, datetime] = {}
        for objective in objectives:
            try:
                self._count(objective, since=since[objective], now=now)
                last_event, unseen = burn.blind(self._reader, objective, now=now, stored=True)
                blind_since = last_event if unseen else None
                budgets = self._statuses(objective, now, blind_since)
                statuses += budgets
                alarms += self._alarms(objective, budgets, now)
                if blind_since is not None:  # also where the period, just begun, has counted nothing yet
                    alarms.append(words.blind(objective, since=blind_since, now=now))
                counted[objective] = now
            except (duckdb.ProgrammingError, duckdb.DataError, QueryError) as error:  # a condition that no row answers
                alarms.append(words.unjudged(objective, str(error).splitlines()[0], now=now))
        self._counted = counted
        with self._transaction():
            self._connection.execute(book.statement("clear_status"))
            self._connection.execute(book.statement("forget_minutes"), {"names": [one.name for one in objectives]})
            for row in statuses:
                self._connection.execute(book.statement("write_status"), row)
            changes = book.write(self._connection, alarms, kinds=KINDS, now=now)
        self._count_up()
        self.judged = now
        return changes

    def _count_up(self) -> None:
        """Count what is new since this start for `/metrics`; a recount that takes away adds nothing."""
        if self._counters is None:
            return
        rows = self._reader.query(book.statement("slo_totals")).to_pylist()
        totals = {(row["objective"], row["part"]): (row["n"], row["bad"]) for row in rows}
        for labels, (n, bad) in totals.items():
            old_n, old_bad = (n, bad) if self._totals is None else self._totals.get(labels, (0, 0))
            self._counters.slo_events.labels(*labels).inc(max(n - old_n, 0))
            self._counters.slo_bad.labels(*labels).inc(max(bad - old_bad, 0))
        self._totals = totals

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("begin")
        try:
            yield
        except BaseException:
            self._connection.execute("rollback")
            raise
        self._connection.execute("commit")

    def _since(self, objectives: tuple[Objective, ...], now: datetime) -> dict[Objective, datetime]:
        """Return from when each objective is counted anew: all of its period when it is new or was changed."""
        recount = self._recounted is None or now - self._recounted >= RECOUNT_EVERY
        if recount:
            self._recounted = now
        since = {}
        for one in objectives:
            begin = min(burn.period_start(one.period, now), now - burn.LONGEST)
            if one in self._counted:
                begin = max(begin, min(self._counted[one], now) - (RECOUNT if recount else LATE))
            day = begin.replace(hour=0, minute=0, second=0, microsecond=0)
            since[one] = day + (begin - day) // timedelta(seconds=one.slice_s) * timedelta(seconds=one.slice_s)
        return since

    def _count(self, objective: Objective, *, since: datetime, now: datetime) -> None:
        with self._transaction():  # ends before anything is read: readers have a transaction of their own
            self._connection.execute(book.statement("refresh_minutes"), {"objective": objective.name, "since": since})
            params = burn.counts_params(objective, since=since, until=now)
            self._connection.execute(burn.count_sql(objective), {**params, "objective": objective.name})

    def _statuses(self, objective: Objective, now: datetime, blind_since: datetime | None) -> list[dict[str, object]]:
        rows = burn.status(self._reader, objective, now=now, stored=True).to_pylist()
        coverage = self._coverage(objective, now)
        return [words.status(objective, row, now=now, blind_since=blind_since, coverage=coverage) for row in rows]

    def _coverage(self, objective: Objective, now: datetime) -> float | None:
        """Return how much of the objective's requests came, asked anew every minute."""
        asked, share = self._covered.get(objective, (None, None))
        if asked is None or now - asked >= COVERAGE_EVERY:
            share = burn.coverage(self._reader, objective, now=now)
            self._covered[objective] = now, share
        return share

    def _alarms(self, objective: Objective, statuses: Sequence[Mapping[str, Any]], now: datetime) -> Iterator[Alarm]:
        budgets = {row["part"]: row for row in statuses}
        found = burn.alarms(self._reader, objective, since=now - LOOK_BACK, until=now, stored=True)
        for alarm in found.to_pylist():
            if alarm["closed"] is None:
                opened = min(alarm["opened"], now)  # its minute may not be over
                yield words.burning(objective, {**alarm, "opened": opened}, budgets.get(alarm["part"], {}))

    def _broken_file(self, now: datetime) -> Iterator[Alarm]:
        if self._files.error:
            summary = f"the objectives of before hold on: {self._files.error}"
            yield Alarm(kind="objectives", rule="file", severity="ticket", opened=now, summary=summary)
