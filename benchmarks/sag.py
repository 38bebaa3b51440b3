"""How well the sag detector does on labelled series from real parts, beside the detectors that it was chosen from.

`python benchmarks/sag.py [FOLDER] [SERIES]` makes SERIES series of six hours a family (default 100) from the parts
below FOLDER (default: `shared/data` beside the checkout): steps, ramps and partial sags, bursts, other mixes, gaps and
no sag at all. An alarm is a hit from a sag's start to 60 s after its end, counts neither way until 15 minutes after it,
and is false anywhere else. Thresholds of the candidates are set on the even seeds; all are judged on the odd ones. Ours
runs as `tailbudget sag test` does, at its default setting.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import numpy as np
import pyarrow as pa
from machine import describe
from sagbench import candidates, parts
from sagbench.judge import Score, judge
from sagbench.series import FAMILIES, Series, make

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.sag import SagSettings, alarms

DEFAULT: Final = Path(__file__).resolve().parents[2] / "shared" / "data"
ONE_LOOK: Final = Path(__file__).parent / "sagbench" / "one_look.sql"
#: Of the detector with one look, as it was.
ONE_LOOK_SETTINGS: Final = {
    "bucket_stream_s": 5, "baseline_s": 3600, "gap_s": 300, "window_s": 300, "min_buckets": 15, "threshold": 0.16
}  # fmt: skip
SPEED_SERIES: Final = 1000
#: The detector was made on smaller seeds.
FIRST_SEED: Final = 10_000

Opened = Mapping[str, Sequence[float]]


def table(series: Sequence[Series], *, copies: int = 1) -> duckdb.DuckDBPyConnection:
    """Return a connection, one thread, whose table `decode_rate` holds the bins."""
    names = np.repeat([one.name for one in series], [len(one.t_s) for one in series])
    columns = {
        "series": names,
        "t_s": np.concatenate([one.t_s for one in series]),
        "tokens": np.concatenate([one.tokens for one in series]),
        "active_stream_s": np.concatenate([one.active_s for one in series]),
    }
    connection = duckdb.connect(config={"threads": 1})
    connection.execute("set timezone = 'UTC'")
    connection.register("given", pa.table(columns))
    connection.execute(
        """create table decode_rate as
           select series || '-' || copy as series, make_timestamptz((t_s * 1e6)::bigint) as t, tokens, active_stream_s
           from given, range($copies) as numbered (copy)""",
        {"copies": copies},
    )
    return connection


def ours(series: Sequence[Series]) -> Opened:
    """Return the alarms of the product's own question."""
    found = defaultdict(list)
    for row in alarms(ConnectionReader(table(series)), settings=SagSettings()).to_pylist():
        found[row["series"].rpartition("-")[0]].append(row["opened"].timestamp())
    return found


def one_look(series: Sequence[Series]) -> Opened:
    """Return the alarms of the form before it."""
    found = defaultdict(list)
    query = ONE_LOOK.read_text(encoding="utf-8")
    for name, opened_s in table(series).execute(query, ONE_LOOK_SETTINGS).fetchall():
        found[str(name).rpartition("-")[0]].append(float(opened_s))
    return found


def by_family(series: Sequence[Series], found: Opened) -> list[Score]:
    """Return a score a family, in their order."""
    return [judge([one for one in series if one.family == family], found) for family in FAMILIES]


def chosen(detector: candidates.Detector, thresholds: Sequence[float], even: Sequence[Series]) -> float:
    """Return the threshold with the best mean F1 over the families."""

    def quality(threshold: float) -> float:
        scores = by_family(even, {one.name: detector(one, threshold) for one in even})
        return sum(score.f1 for score in scores)

    return max(thresholds, key=quality)


def line(name: str, scores: Sequence[Score]) -> str:
    """Return one row of the table."""
    cells = (f"{score.f1:5.2f} {score.false_a_day:6.2f}/d {score.delay_s:5.0f} s" for score in scores)
    return f"{name:28}" + "   ".join(cells)


def main(folder: Path, count: int) -> None:
    """Print the table, then the CPU time of 1,000 series."""
    try:
        real = parts.load(folder)
    except FileNotFoundError as error:
        print(error)
        return
    series = [
        make(real, family=family, seed=seed) for family in FAMILIES for seed in range(FIRST_SEED, FIRST_SEED + count)
    ]
    even, odd = ([one for one in series if int(one.name.rpartition("-")[2]) % 2 == rest] for rest in (0, 1))
    print(describe())
    print(f"{len(odd)} series of six hours on odd seeds, {sum(one.sag is not None for one in odd)} with a sag")
    print(f"{'F1, false alarms, delay':28}" + "   ".join(f"{family:>22}" for family in FAMILIES))
    print(line("tailbudget sag test", by_family(odd, ours(odd))))
    print(line("one look, one window", by_family(odd, one_look(odd))))
    competing = dict(candidates.CANDIDATES)
    if river := candidates.adwin():
        competing["ADWIN"] = river
    else:
        print("ADWIN: river is not installed")
    for name, (detector, thresholds) in competing.items():
        threshold = chosen(detector, thresholds, even)
        found = {one.name: detector(one, threshold) for one in odd}
        print(line(f"{name} ({threshold:g})", by_family(odd, found)))
    copies = -(-SPEED_SERIES // len(odd))
    connection = table(odd[: SPEED_SERIES // copies], copies=copies)
    began = time.process_time()
    alarms(ConnectionReader(connection), settings=SagSettings())
    spent_s = time.process_time() - began
    ((made,),) = connection.execute("select count(distinct series) from decode_rate").fetchall()
    print(f"{spent_s * SPEED_SERIES / made:.1f} CPU-seconds for {SPEED_SERIES:,} series of six hours")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT, int(sys.argv[2]) if len(sys.argv) > 2 else 100)
