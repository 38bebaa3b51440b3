"""How long the roll-up takes to answer for 50 M requests, and what packing an hour of it costs.

`python benchmarks/rollup.py [MILLIONS]` (default 50) writes a roll-up of 35 days of so many requests, two services by
two routes by two models by three tenants, into a folder of its own, and prints the time of p50, p95 and p99 over all.
"""

import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import describe

from tailbudget.analytics.questions import sql
from tailbudget.collector.assemble import pack_rollup
from tailbudget.collector.land.database import open_database

ROLLED = Path(__file__).with_name("rolled.sql").read_text(encoding="utf-8")
SINCE, DAYS = datetime(2026, 3, 1, tzinfo=UTC), 35
NONE = dict.fromkeys(("service", "route", "model", "tenant", "outcome"))


def write(connection: duckdb.DuckDBPyConnection, *, millions: int) -> None:
    """Write the roll-up a day at a time, as packing leaves it."""
    for day in range(DAYS):
        params = {"since": SINCE + timedelta(days=day), "hourly": millions * 1e6 / DAYS / 24}
        connection.execute(ROLLED, params).fetchall()
    connection.execute("checkpoint")


def ask_ms(connection: duckdb.DuckDBPyConnection, **where: str) -> list[float]:
    """Return the wall milliseconds of five answers over all days."""
    params = {"from_ts": SINCE, "to_ts": SINCE + timedelta(days=DAYS), "measure": "total_ms", **NONE, **where}
    took = []
    for _ in range(5):
        began = time.perf_counter()
        answer = connection.cursor().sql(sql("rollup_percentiles"), params=params).to_arrow_table()
        took.append((time.perf_counter() - began) * 1000)
        assert answer.to_pylist()[0]["n"] > 0
    return took


def main() -> None:
    """Print the figures."""
    millions = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    print(describe())
    with tempfile.TemporaryDirectory() as folder:
        connection = open_database(Path(folder))
        write(connection, millions=millions)
        ((rows, requests),) = connection.execute(
            "select count(*), sum(n) filter (where measure = 'total_ms')::bigint from rollup_minute"
        ).fetchall()
        for name, where in (("all", {}), ("one route", {"route": "/1"})):
            took = ask_ms(connection, **where)
            print(
                f"rollup {name}: {statistics.median(took):.0f} ms (worst {max(took):.0f}) for {DAYS} days of "
                f"{requests / 1e6:.0f} M requests, {rows / 1e6:.1f} M rows"
            )
        began = time.process_time()
        pack_rollup(connection, SINCE + timedelta(days=DAYS, hours=2))
        print(f"rollup packing: {time.process_time() - began:.2f} CPU-s an hour")
        connection.close()


if __name__ == "__main__":
    main()
