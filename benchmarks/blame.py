"""How often blame names the culprit of real incidents first, and among the first three, beside the largest stage.

`python benchmarks/blame.py [FOLDER]` reads cases.json and the one Parquet beside it, by default in `shared/data/nezha`
beside the checkout: 36 faults injected into a shop of ten services, each with its two minutes of spans and a normal
window. Another system's incidents in that form are ranked alike. "Largest" is what a person does who sorts services by
the time that they take now. The seconds are of one question about one incident, one thread.
"""

import json
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb

from tailbudget.analytics.blame import blame
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from machine import describe
from tests.spans import SCHEMA

ROOT: Final = Path(__file__).resolve().parents[1]
DEFAULT: Final = ROOT.parent / "shared" / "data" / "nezha"
BASELINE: Final = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 2, tzinfo=UTC))
WINDOW: Final = Window(BASELINE.from_ts + timedelta(days=1), BASELINE.to_ts + timedelta(days=1))
LAND: Final = Path(__file__).with_name("nezha.sql")
LARGEST: Final = Path(__file__).with_name("largest.sql")


def main(folder: Path) -> None:
    """Print both rankings' scores."""
    cases, traces = folder / "cases.json", sorted(folder.glob("*.parquet"))
    if not cases.is_file() or len(traces) != 1:
        print(f"{folder} has no cases.json with one Parquet beside it: name such a folder as the first argument")
        return
    ranks: dict[str, list[int]] = {"blame": [], "largest": []}
    cpu_s, spans = [], []
    for case in json.loads(cases.read_text()):
        with landed(traces[0], case) as connection:
            spans.append(
                connection.execute("select count(*) from spans where started >= $1", [WINDOW.from_ts]).fetchall()
            )
            began = time.process_time()
            found = blame(ConnectionReader(connection), WINDOW, baseline=BASELINE)
            cpu_s.append(time.process_time() - began)
            named = [str(one.service) for one in found.ranking]
            sizes = connection.execute(LARGEST.read_text(encoding="utf-8"), {"from_ts": WINDOW.from_ts}).fetchall()
            ranks["blame"].append(rank(named, case["culprit"]))
            ranks["largest"].append(rank([name for (name,) in sizes], case["culprit"]))
    print(describe())
    for name, found_at in ranks.items():
        hits = {limit: sum(at <= limit for at in found_at) for limit in (1, 3)}
        shares = "  ".join(f"A@{limit} {count / len(found_at):.3f}" for limit, count in hits.items())
        print(f"{name:8} {shares}  of {len(found_at)} incidents")
    count = statistics.median(rows[0][0] for rows in spans)
    print(
        f"CPU-seconds an incident: median {statistics.median(cpu_s):.3f}, worst {max(cpu_s):.3f} ({count:,.0f} spans)"
    )


def landed(path: Path, case: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """Return a data file in memory with the spans of an incident and of its baseline, a day apart."""
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("set timezone = 'UTC'")
    connection.execute(SCHEMA.read_text(encoding="utf-8"))
    start_ns = int(BASELINE.from_ts.timestamp()) * 1_000_000_000
    windows = {"incident": case["case_id"], "baseline": case["baseline"]}
    connection.execute(LAND.read_text(encoding="utf-8"), {"path": str(path), "start_ns": start_ns, **windows})
    return connection


def rank(names: Sequence[str], culprit: str) -> int:
    """Return the place of the culprit, one behind the last if it is not there."""
    return names.index(culprit) + 1 if culprit in names else len(names) + 1


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT)
