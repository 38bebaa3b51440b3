"""Pages of the burn rules where requests are few: false ones a month, incidents found; and the time for a month.

The goal of false pages is one of a service that is well and spends half its budget; beside it stands one that just
keeps its objective, which nobody can tell from one that just does not.
"""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
from machine import describe

from tailbudget.analytics.objectives import Objective, burn
from tailbudget.analytics.reader import ConnectionReader

SCHEMA: Final = Path(__file__).resolve().parents[1] / "collector" / "land" / "schema.sql"
SINCE: Final = datetime(2026, 1, 1, tzinfo=UTC)
MONTH: Final = timedelta(days=30)
MONTHS: Final = 16
TARGETS: Final = (0.95, 0.99, 0.999)
RATES_PER_HOUR: Final = (5, 30)
#: Of the budget, while all is well: the worst that is no incident is a service that just keeps its objective.
SPENT: Final = (0.5, 1.0)
INCIDENT: Final = timedelta(hours=2)
EVERY: Final = timedelta(hours=18)
#: Share of requests that are bad in an incident.
SHARES_BAD: Final = (0.5, 0.8, 1.0)
#: A page this long after its end still tells of it.
GRACE: Final = timedelta(minutes=5)
MOST_FALSE: Final = 0.2
LEAST_FOUND: Final = 0.9


def month(
    chance: random.Random, *, per_hour: float, bad: float, incident: float = 0.0
) -> Iterator[tuple[datetime, bool]]:
    """Yield when requests start and whether they are bad; with `incident` two hours of every eighteen are that bad."""
    t = SINCE - burn.LONGEST
    while (t := t + timedelta(hours=chance.expovariate(per_hour))) < SINCE + MONTH:
        in_incident = t >= SINCE and (t - SINCE) % EVERY >= EVERY - INCIDENT
        yield t, chance.random() < (incident if incident and in_incident else bad)


def store(events: Iterator[tuple[datetime, bool]]) -> duckdb.DuckDBPyConnection:
    """Return a database in memory that holds the events as requests."""
    connection = duckdb.connect(":memory:")
    connection.execute("set timezone = 'UTC'; set threads = 1")
    connection.execute(SCHEMA.read_text(encoding="utf-8"))
    started, bad = zip(*events, strict=True)
    table = pa.table({"started": pa.array(started, pa.timestamp("us", "UTC")), "bad": pa.array(bad)})
    connection.register("events", table)
    connection.execute(Path(__file__).with_name("fill_events.sql").read_text(encoding="utf-8"))
    return connection


def pages(connection: duckdb.DuckDBPyConnection, target: float) -> list[datetime]:
    """Return when the rules would have paged."""
    objective = Objective(name="slo", target=target)
    found = burn.alarms(ConnectionReader(connection), objective, since=SINCE, until=SINCE + MONTH)
    return [row["opened"] for row in found.to_pylist() if row["severity"] == "page"]


def false_pages(target: float, *, per_hour: float, spent: float) -> float:
    """Return pages a month of a service that is well."""
    chance = random.Random(f"{target} {per_hour} {spent}")
    bad = spent * (1 - target)
    months = [pages(store(month(chance, per_hour=per_hour, bad=bad)), target) for _ in range(MONTHS)]
    return sum(map(len, months)) / MONTHS


def found(target: float, *, per_hour: float, share: float) -> float:
    """Return the share of incidents of which a page tells before they end."""
    chance = random.Random(f"{target} {per_hour} {share}")
    hits = total = 0
    for _ in range(MONTHS // 8):
        bad = 0.25 * (1 - target)
        opened = pages(store(month(chance, per_hour=per_hour, bad=bad, incident=share)), target)
        ends = [SINCE + n * EVERY for n in range(1, MONTH // EVERY + 1)]
        total += len(ends)
        hits += sum(any(end - INCIDENT <= page <= end + GRACE for page in opened) for end in ends)
    return hits / total


def seconds_a_month() -> float:
    """Return how long the rules take over a month of one request a minute, every minute counted before."""
    minutes = int((MONTH + burn.LONGEST) / timedelta(minutes=1))
    events = ((SINCE - burn.LONGEST + timedelta(minutes=n), n % 200 == 0) for n in range(minutes))
    connection, objective = store(events), Objective(name="slo", target=0.99)
    params = burn.counts_params(objective, since=SINCE - burn.LONGEST, until=SINCE + MONTH)
    connection.execute(burn.count_sql(objective), {**params, "objective": objective.name})
    began = time.perf_counter()
    burn.alarms(ConnectionReader(connection), objective, since=SINCE, until=SINCE + MONTH, stored=True)
    return time.perf_counter() - began


def main() -> None:
    """Print one line a target, rate and state of the service."""
    print(describe())
    for target in TARGETS:
        for per_hour in RATES_PER_HOUR:
            quiet = [f"{false_pages(target, per_hour=per_hour, spent=spent):.2f}" for spent in SPENT]
            seen = [f"{found(target, per_hour=per_hour, share=share):.2f}" for share in SHARES_BAD]
            print(
                f"{target * 100:g} %, {per_hour} requests an hour: false pages a month {' / '.join(quiet)} "
                f"(at {' / '.join(f'{spent:g}' for spent in SPENT)} of the budget); two-hour incidents found "
                f"{' / '.join(seen)} (of {' / '.join(f'{share * 100:g} %' for share in SHARES_BAD)} bad)"
            )
    print(f"goals: at most {MOST_FALSE} false pages, at least {LEAST_FOUND} of incidents found")
    print(f"30 days at one-minute resolution: {seconds_a_month():.2f} s (goal: under 1)")


if __name__ == "__main__":
    main()
