"""Error budgets: what an objective has counted, how fast its budget burns, and what would have fired."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import pyarrow as pa

from ..reader import Reader
from ..window import Window
from .model import CLOCKS, DAY_S, Limit, Objective, Period, stages_of

SQL: Final = Path(__file__).with_name("sql")
#: Requests that are bad however fast they were; `left` is judged by its clocks, `rejected` is the caller's own doing.
BAD_OUTCOMES: Final = ("error", "timeout", "dropped", "shed", "lost")
#: Measured: 11 false pages a month become 0.1 at 5 to 30 requests an hour and 99.9 %.
LEAST_BAD: Final = 3
#: What pages is so many times as likely at the share that is bad as at SPENT of the budget. Measured with services that
#: spend half of it: 0.25 false pages a month become 0.10 at 5 requests an hour and 98 %.
LIKELIER: Final = 1100
SPENT: Final = 0.5
#: Two hours with at most so many requests page on that alone, until they hold evidence of less than UNLIKELY, or until
#: WELL_AGAIN good ones came in a row: by chance once in a million times where half of the requests are bad.
FEW: Final = 40
UNLIKELY: Final = 20
WELL_AGAIN: Final = 20
#: A rule that even nothing but bad events could not fire, as 14.4x below a target of 93.06 %, fires at this share.
CAP: Final = 0.9
#: An alarm is over when its rules were silent for so long.
QUIET_MIN: Final = 5
LONGEST: Final = timedelta(days=3)


@dataclass(frozen=True, slots=True)
class Rule:
    """A burn rule: it fires when the long and the short window spend `share` of the period's budget in the long one."""

    name: str
    severity: str
    share: float
    long: str
    long_s: int
    short: str

    def factor(self, period_s: int) -> float:
        """Return how many times too fast the budget burns when the rule fires."""
        return self.share * period_s / self.long_s


#: Google's SRE workbook, chapter 5; `burn.sql` has the same.
RULES: Final = (
    Rule("2% in 1h", "page", 0.02, "1h", 3600, "5m"),
    Rule("5% in 6h", "page", 0.05, "6h", 6 * 3600, "30m"),
    Rule("10% in 1d", "ticket", 0.10, "1d", DAY_S, "2h"),
    Rule("10% in 3d", "ticket", 0.10, "3d", 3 * DAY_S, "6h"),
)
#: Spans of the last seconds are on their way.
LANDING: Final = timedelta(seconds=15)
#: With less of its requests than this an objective says so.
COVERED: Final = 0.99
#: The least silence that makes an objective blind.
BLIND_S: Final = 600
#: The slowest call's, since a request has no such clock of its own.
TPOT: Final = "(select max(tpot_ms) from calls where (trace_id, request_id) = (requests.trace_id, requests.request_id))"


def status(reader: Reader, objective: Objective, *, now: datetime, stored: bool = False) -> pa.Table:
    """Return one row a part that had events in the period, the least budget left first.

    Columns: part (empty when all share one budget), n, bad, good_share, budget_left (1 is all of it, negative is
    overspent), hours_left (at the last hour's burn; null while nothing burns), burn_1h, burn_6h, burn_1d, burn_3d,
    firing (names of rules), paging, requests (what the events stand for; shares are of these), margin (of good_share at
    95 %, for sampling; 0 where nothing is sampled), running (of bad: requests that have not ended). With `stored` the
    period is read from `slo_minute`, as a collector counted it.
    """
    since = period_start(objective.period, now)
    counted = f"{_counted(objective, stored=stored)}, late as ({_running(objective)})"
    query = f"{counted}, {_sql('burn')}, {_sql('status')}"
    params = _params(objective, now, now, stored=stored)
    params["events_from"] = _needed(reader, objective, since=now) if stored else min(since, now - LONGEST)
    return reader.query(query, {**params, "since": since})


def alarms(reader: Reader, objective: Objective, *, since: datetime, until: datetime, stored: bool = False) -> pa.Table:
    """Return one row an alarm that the objective's burn rules raise on what is stored from `since` to `until`.

    Columns: part, severity (page or ticket), rule, opened, closed (null while it lasts), burn (the highest), bad, n.
    """
    query = f"{_counted(objective, stored=stored)}, {_sql('burn')}, {_sql('alarms')}"
    params = _params(objective, since, until, stored=stored)
    if stored:
        params["events_from"] = _needed(reader, objective, since=since)
    return reader.query(query, {**params, "quiet_min": QUIET_MIN})


def _needed(reader: Reader, objective: Objective, *, since: datetime) -> datetime:
    """Return from when on events are needed that the minutes counted do not tell: the last 20 of each part.

    At 58 requests a second those are of the last seconds, where three days of them would take seconds to read.
    """
    params = {"objective": objective.name, "from_ts": since, "events_from": since - LONGEST}
    (row,) = reader.query(_sql("needed"), params).to_pylist()
    found: datetime = row["since"]
    return found


def burn(reader: Reader, objective: Objective, *, since: datetime, until: datetime) -> pa.Table:
    """Return one row a part, minute and rule.

    Columns: part, minute, rule, severity, factor, n, bad, long_burn, short_burn, firing.
    """
    query = f"{_counted(objective)}, {_sql('burn')} {_sql('all')}"
    return reader.query(query, _params(objective, since, until))


def count_sql(objective: Objective) -> str:
    """Return the statement that counts events into `slo_minute`; it binds `objective` and `counts_params`."""
    return f"{_sql('count')} {_counted(objective)} {_sql('counts')}"


def counts_params(objective: Objective, *, since: datetime, until: datetime) -> dict[str, object]:
    """Return the parameters of the minutes with events from `since` to `until`."""
    return {**_slices(objective), "events_from": since, "to_ts": until}


def blind(reader: Reader, objective: Objective, *, now: datetime, stored: bool = False) -> tuple[datetime | None, bool]:
    """Return when the last event of the objective was, and whether some were expected since: then nobody sees it.

    With `stored` it is looked for from the last minute on that a collector has counted.
    """
    lately = now - timedelta(days=8)
    if stored:
        (row,) = reader.query(_sql("last_minute"), {"objective": objective.name}).to_pylist()
        lately = max(row["minute"] or lately, lately)
    events = _events(objective)
    bounds = {"week": now - timedelta(days=7), "day": now - timedelta(days=1)}
    words = {name: events.replace("$events_from", f"${name}_from").replace("$to_ts", f"${name}_to") for name in bounds}
    params: dict[str, object] = {"events_from": lately, "to_ts": now, "least_s": BLIND_S}
    for name, middle in bounds.items():  # three short stretches: eight days of a busy service take seconds to read
        params |= {f"{name}_from": middle - timedelta(minutes=30), f"{name}_to": middle + timedelta(minutes=30)}
    (row,) = reader.query(_sql("blind").format(lately=events, **words), params).to_pylist()
    return row["last_event"], bool(row["blind"])


def coverage(reader: Reader, objective: Objective, *, now: datetime) -> float | None:
    """Return the share of the last hour's requests of the objective's services and routes that came (0 to 1).

    They count every request that ends, sampled or not (`slo.requests.ended`); null where none of them does. Where
    traces are sampled it is the most that the share may be, at 95 %.
    """
    query = _sql("coverage").format(**conditions(objective))
    until = now - LANDING
    (row,) = reader.query(query, {"from_ts": until - timedelta(hours=1), "to_ts": until}).to_pylist()
    share: float | None = row["share"]
    return share


def unsure(budget: Mapping[str, Any]) -> Iterator[str]:
    """Yield what makes the figures of a row of `status`, with its `coverage`, less than exact.

    Requests that did not come, that still run, or that were sampled.
    """
    coverage = budget.get("coverage")
    if coverage is not None and coverage < COVERED:
        yield f"only {coverage * 100:.1f} % of the requests came"
    if budget.get("running"):
        yield f"{budget['running']} still run"
    if budget.get("margin"):
        yield f"sampled, good share +-{budget['margin'] * 100:.2g} %"


def unreachable(objective: Objective) -> tuple[str, ...]:
    """Return a sentence for each burn rule that could never fire with this target and fires at CAP instead."""
    period_s = objective.period.days * DAY_S
    factors = {rule.name: rule.factor(period_s) for rule in RULES}
    return tuple(
        f"the rule {name!r} needs {factor:.3g} x the budget, beyond what a target of {objective.target * 100:g} % "
        f"allows: it fires at {CAP * 100:g} % bad instead"
        for name, factor in factors.items()
        if factor * (1 - objective.target) > CAP
    )


def period_start(period: Period, now: datetime) -> datetime:
    """Return when the period that holds `now` began."""
    if not period.calendar:
        return now - timedelta(days=period.days)
    zone = ZoneInfo(period.zone)
    day = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    first = {
        "day": day,
        "week": day - timedelta(days=day.weekday()),
        "month": day.replace(day=1),
        "quarter": day.replace(month=day.month - (day.month - 1) % 3, day=1),
        "year": day.replace(month=1, day=1),
    }
    return first[period.calendar]


def _counted(objective: Objective, *, stored: bool = False) -> str:
    """Return the two relations that every question about an objective begins with: `events` and `minutes`."""
    aggregate = _sql("stored_minutes" if stored else "minutes" if objective.method == "occurrences" else "slices")
    return f"with events as ({_events(objective)}), minutes as ({aggregate})"


def _events(objective: Objective) -> str:
    return _sql("events").format(**conditions(objective), running=_running(objective))


def _running(objective: Objective) -> str:
    return _sql("running").format(**conditions(objective))


def conditions(objective: Objective) -> dict[str, str]:
    """Return SQL expressions over `requests`: part, where, bad, and counts (whether it is an event at all).

    `late` is over requests that still run: whether they are bad already.
    """
    bad_outcomes = BAD_OUTCOMES if objective.degraded_good else (*BAD_OUTCOMES, "degraded")
    failed = "outcome in (" + ", ".join(f"'{outcome}'" for outcome in bad_outcomes) + ")"
    over = [f"coalesce({_over(limit)}, false)" for limit in objective.limits]
    measured = " or ".join([failed, *(f"{_measure(limit.measure)} is not null" for limit in objective.limits)])
    counts = f"outcome <> 'rejected' and ({measured})" if objective.limits else "outcome <> 'rejected'"
    return {
        "part": objective.per or "null",
        "where": objective.where or "true",
        "bad": f"not coalesce({objective.good}, false)" if objective.good else " or ".join([failed, *over]),
        "counts": "true" if objective.good else counts,
        "late": " or ".join(map(_late, objective.limits)) or "false",
    }


def _late(limit: Limit) -> str:
    """Return whether a request that still runs is over the limit already, as far as `live` can tell; stages cannot."""
    beyond = f"{'>' if limit.inclusive else '>='} {limit.below_ms!r}"
    return {
        "total": f"age_ms {beyond}",
        "final": f"age_ms {beyond}",
        "ttft": f"coalesce(ttft_ms, age_ms) {beyond}",
    }.get(limit.measure, "false")


def slice_of(objective: Objective, part: str) -> dict[str, object]:
    """Return what one part is about: slice (an SQL condition over requests), measure (ms, an expression), limit_ms."""
    found = conditions(objective)
    value = part.replace("'", "''")
    own = f"coalesce(({found['part']})::varchar, '') = '{value}' and " if objective.per else ""
    first = objective.limits[0] if objective.limits else None
    return {
        "slice": f"{own}({found['where']}) and ({found['counts']})",
        "measure": _measure(first.measure) if first else "total_ms",
        "limit_ms": first.below_ms if first else None,
    }


def percentiles(reader: Reader, window: Window, budgets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each row of `slo_status` what its measure was in the window, in their order.

    Keys: n, p50_ms, p95_ms, p99_ms (exact, null without requests).
    """
    known = [(place, row) for place, row in enumerate(budgets) if row["slice"]]
    one = _sql("percentiles")
    parts = [one.format(place=place, slice=row["slice"], measure=row["measure"]) for place, row in known]
    found = reader.query(" union all ".join(parts), window.params()).to_pylist() if parts else []
    by_place = {row.pop("place"): row for row in found}
    nothing = {"n": 0, "p50_ms": None, "p95_ms": None, "p99_ms": None}
    return [by_place.get(place, nothing) for place in range(len(budgets))]


def _over(limit: Limit) -> str:
    return f"{_measure(limit.measure)} {'>' if limit.inclusive else '>='} {limit.below_ms!r}"


def _measure(measure: str) -> str:
    if measure == "tpot":
        return TPOT
    columns = (measure,) if measure in CLOCKS else stages_of(measure)
    return "(" + " + ".join(f"{column}_ms" for column in columns) + ")"


def _params(objective: Objective, since: datetime, until: datetime, *, stored: bool = False) -> dict[str, object]:
    counted: dict[str, object] = {"objective": objective.name} if stored else _slices(objective)
    return {
        "events_from": since - LONGEST,
        "from_ts": since,
        "to_ts": until,
        "target": objective.target,
        "period_s": objective.period.days * DAY_S,
        "cap": CAP,
        "least_bad": LEAST_BAD,
        "likelier": LIKELIER,
        "unlikely": UNLIKELY,
        "spent": SPENT,
        "few": FEW,
        "well_again": WELL_AGAIN,
        **counted,
    }


def _slices(objective: Objective) -> dict[str, object]:
    if objective.method == "occurrences":
        return {}
    target = objective.slice_target if objective.method == "timeslices" else None
    return {"slice_s": objective.slice_s, "slice_target": target}


@cache
def _sql(name: str) -> str:
    return "\n".join(
        line for line in (SQL / f"{name}.sql").read_text(encoding="utf-8").splitlines() if not line.startswith("--")
    )
