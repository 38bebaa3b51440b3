"""Pages of the burn rules where requests are few: false ones a month, incidents found; and the time for a month.

False pages are those of a service that is well and spends half its budget; beside it stands one that just keeps its
objective, which nobody can tell from one that just does not. Beside the incidents found stands the most that any test
could find with as few false pages (Neyman and Pearson).
"""

import math
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from machine import describe

from tailbudget.analytics.objectives import Objective, burn
from tailbudget.analytics.reader import ConnectionReader

SCHEMA: Final = Path(__file__).resolve().parents[1] / "collector" / "land" / "schema.sql"
SINCE: Final = datetime(2026, 1, 1, tzinfo=UTC)
MONTH: Final = timedelta(days=30)
TARGETS: Final = (0.95, 0.98, 0.99, 0.999)
#: And how many services have an incident every EVERY for a month.
RATES_PER_HOUR: Final = {5: 24, 30: 8}
#: Of the budget, while all is well: the worst that is no incident is a service that just keeps its objective.
#: How many services are watched for a month each, and how many at a time, for memory.
SPENT: Final = {0.5: 96, 1.0: 32}
AT_ONCE: Final = 32
INCIDENT: Final = timedelta(hours=2)
EVERY: Final = timedelta(hours=18)
#: Share of requests that are bad in an incident.
SHARES_BAD: Final = (0.3, 0.5, 0.75, 1.0)
#: A page this long after its end still tells of it.
GRACE: Final = timedelta(minutes=5)
#: False pages are promised of services that spend so much of their budget.
WELL: Final = min(SPENT)
MOST_FALSE: Final = 0.2
LEAST_FOUND: Final = 0.9


def months(seed: str, count: int, *, per_hour: float, bad: float, incident: float = 0.0) -> pa.Table:
    """Return a month of requests of each service; with `incident` two hours of every eighteen are that bad."""
    chance = np.random.default_rng(list(seed.encode()))
    span_s = (burn.LONGEST + MONTH).total_seconds()
    requests = chance.poisson(per_hour * span_s / 3600, count)
    at_s = chance.uniform(-burn.LONGEST.total_seconds(), MONTH.total_seconds(), requests.sum())
    ill = (at_s >= 0) & (at_s % EVERY.total_seconds() >= (EVERY - INCIDENT).total_seconds()) & (incident > 0)
    started = pa.array((SINCE.timestamp() * 1e6 + at_s * 1e6).astype("int64")).cast(pa.timestamp("us", "UTC"))
    is_bad = chance.uniform(size=len(at_s)) < np.where(ill, incident, bad)
    return pa.table({"tenant": np.repeat(np.arange(count), requests).astype(str), "started": started, "bad": is_bad})


def store(events: pa.Table) -> duckdb.DuckDBPyConnection:
    """Return a database in memory that holds the events as requests of tenants."""
    connection = duckdb.connect(":memory:")
    connection.execute("set timezone = 'UTC'; set threads = 1")
    connection.execute(SCHEMA.read_text(encoding="utf-8"))
    connection.register("events", events)
    connection.execute(Path(__file__).with_name("fill_events.sql").read_text(encoding="utf-8"))
    return connection


def pages(connection: duckdb.DuckDBPyConnection, target: float) -> list[tuple[str, datetime]]:
    """Return whom the rules would have paged for, and when."""
    objective = Objective(name="slo", target=target, per="tenant")
    found = burn.alarms(ConnectionReader(connection), objective, since=SINCE, until=SINCE + MONTH)
    return [(row["part"], row["opened"]) for row in found.to_pylist() if row["severity"] == "page"]


def false_pages(target: float, *, per_hour: float, spent: float) -> float:
    """Return pages a month of a service that is well."""
    found = 0
    for part in range(SPENT[spent] // AT_ONCE):
        events = months(f"{target} {per_hour} {spent} {part}", AT_ONCE, per_hour=per_hour, bad=spent * (1 - target))
        found += len(pages(store(events), target))
    return found / SPENT[spent]


def found(target: float, *, per_hour: int, share: float) -> float:
    """Return the share of incidents of which a page tells before they end."""
    bad, stricken = 0.25 * (1 - target), RATES_PER_HOUR[per_hour]
    events = months(f"{target} {per_hour} {share}", stricken, per_hour=per_hour, bad=bad, incident=share)
    ends = [SINCE + n * EVERY for n in range(1, MONTH // EVERY + 1)]
    hits = {
        (service, end)
        for service, page in pages(store(events), target)
        for end in ends
        if end - INCIDENT <= page <= end + GRACE
    }
    return len(hits) / (len(ends) * stricken)


def most_found(target: float, *, per_hour: float, share: float) -> float:
    """Return the most incidents that any test finds which pages MOST_FALSE times a month at half the budget.

    It opens a page within an incident's time with some probability also when there is none, and a month has room for so
    many incidents, each with its grace: so that this probability is at most MOST_FALSE / room. Of all tests that do so
    the likelihood ratio's finds most (Neyman and Pearson), told when the incident begins, and reading it to its end.
    """
    expected, size = per_hour * (INCIDENT / timedelta(hours=1)), MOST_FALSE / (MONTH / (INCIDENT + GRACE))
    well, ill = (
        np.outer(_poisson(expected * bad), _poisson(expected * (1 - bad))).ravel()
        for bad in (WELL * (1 - target), share)
    )
    order = np.argsort(well / np.maximum(ill, 1e-300))
    alarms, power = np.cumsum(well[order]), np.cumsum(ill[order])
    return float(np.interp(size, np.concatenate([[0], alarms]), np.concatenate([[0], power])))  # random on the border


def _poisson(expected: float, most: int = 150) -> np.typing.NDArray[np.float64]:
    """Return the probabilities of 0 to `most` events."""
    logs = [n * math.log(expected) - expected - math.lgamma(n + 1) if expected else -math.inf * n for n in range(most)]
    return np.asarray(np.exp(np.nan_to_num(np.array(logs), nan=0.0)))


def seconds_a_month() -> float:
    """Return the CPU time of the rules over a month of one request a minute, every minute counted before."""
    minutes = int((MONTH + burn.LONGEST) / timedelta(minutes=1))
    started = [SINCE - burn.LONGEST + timedelta(minutes=n) for n in range(minutes)]
    columns = {"tenant": [""] * minutes, "started": started, "bad": [n % 200 == 0 for n in range(minutes)]}
    connection, objective = store(pa.table(columns)), Objective(name="slo", target=0.99)
    params = burn.counts_params(objective, since=SINCE - burn.LONGEST, until=SINCE + MONTH)
    connection.execute(burn.count_sql(objective), {**params, "objective": objective.name})
    began = time.process_time()
    burn.alarms(ConnectionReader(connection), objective, since=SINCE, until=SINCE + MONTH, stored=True)
    return time.process_time() - began


def least_share(target: float, *, per_hour: int) -> float:
    """Return from which share of bad requests on, in steps of 5 %, LEAST_FOUND of all incidents are found."""
    steps = (step / 20 for step in range(1, 21))
    return next(share for share in steps if found(target, per_hour=per_hour, share=share) >= LEAST_FOUND)


def main() -> None:
    """Print one line a target and rate, then how long a month takes."""
    print(describe())
    shares = " / ".join(f"{share * 100:g}" for share in SHARES_BAD)
    print(
        f"false pages a month at {' / '.join(f'{spent:g}' for spent in SPENT)} of the budget; two-hour incidents found"
    )
    print(f"of {shares} % bad (the most that any test finds with {MOST_FALSE} false pages)")
    for target in TARGETS:
        for per_hour in RATES_PER_HOUR:
            quiet = [f"{false_pages(target, per_hour=per_hour, spent=spent):.2f}" for spent in SPENT]
            seen = [
                f"{found(target, per_hour=per_hour, share=share):.2f} "
                f"({most_found(target, per_hour=per_hour, share=share):.2f})"
                for share in SHARES_BAD
            ]
            print(
                f"{target * 100:g} %, {per_hour} requests an hour: {' / '.join(quiet)}; {' / '.join(seen)}", flush=True
            )
    for target in TARGETS:
        share = least_share(target, per_hour=min(RATES_PER_HOUR))
        print(f"{target * 100:g} %: {LEAST_FOUND} of incidents are found from {share:.0%} bad on", flush=True)
    print(f"goals: at most {MOST_FALSE} false pages at {WELL:g} of the budget, at least {LEAST_FOUND} found")
    print(f"30 days at one-minute resolution: {seconds_a_month():.2f} CPU-seconds (goal: under 1)")


if __name__ == "__main__":
    main()
