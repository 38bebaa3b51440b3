"""`tailbudget sag test`: the detector behind the sag alerts, run over bins from a Parquet file."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa

from tailbudget.analytics.duck import connect
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.sag import SagSettings, alarms
from tailbudget.instrument.errors import UserError

from .text import iso, to_text

NUMBERS: Final = (
    *("DOUBLE", "FLOAT", "DECIMAL", "HUGEINT", "BIGINT", "INTEGER", "SMALLINT", "TINYINT"),
    *("UBIGINT", "UINTEGER", "USMALLINT", "UTINYINT"),
)
#: Column -> the types that it may have. `streams` may be there too: the detector takes the load from the rest.
COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "series": ("VARCHAR",),
    "t": (
        *("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ_NS"),  # pandas writes nanoseconds
        *("TIMESTAMP", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S"),
    ),
    "tokens": NUMBERS,
    "active_stream_s": NUMBERS,
}
EXPECTED: Final = (
    "expected series VARCHAR, t TIMESTAMPTZ (start of 10 s), tokens DOUBLE, active_stream_s DOUBLE, streams DOUBLE"
)
LOAD: Final = Path(__file__).parent / "sag_bins.sql"
SHOWN: Final = ("series", "opened", "closed", "severity", "slowdown", "cause")


def back_test(path: Path, settings: SagSettings) -> tuple[list[str], pa.Table]:
    """Return the names of all series of the file, and the rows of `alarms`. Raises UserError for another file."""
    with connect() as connection:
        connection.execute("set timezone = 'UTC'")
        try:
            connection.execute("set preserve_insertion_order = false")
            _check(connection, path)
            connection.execute(LOAD.read_text(encoding="utf-8"), {"path": str(path)})
            found = connection.execute(
                "select series, sum(wrong)::bigint from bins group by all order by all"
            ).fetchall()
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{str(path)!r} cannot be read as Parquet ({reason}): {EXPECTED}") from error
        wrong = sum(count for _, count in found)
        if wrong:
            raise UserError(
                f"{str(path)!r} has {wrong} bin(s) with a null, NaN, infinite or negative value: {EXPECTED}"
            )
        names = [str(name) for name, _ in found]
        return names, alarms(ConnectionReader(connection), bins="bins", settings=settings)


def _check(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"no file {str(path)!r}: {EXPECTED}")
    described = connection.execute("describe from read_parquet($path)", {"path": str(path)}).fetchall()
    types = {str(name).lower(): str(kind).partition("(")[0] for name, kind, *_ in described}
    for name, allowed in COLUMNS.items():
        if name not in types:
            raise UserError(f"{str(path)!r} has no column {name!r} (it has {', '.join(types)}): {EXPECTED}")
        if types[name] not in allowed:
            raise UserError(f"column {name!r} of {str(path)!r} is {types[name]}: {EXPECTED}")


def to_json(names: list[str], found: pa.Table) -> str:
    """Return one JSON array: for every series its name and its alarms, opened and closed as ISO 8601 in UTC.

    `slowdown` is the estimate when the alarm opened, so that it does not depend on a later bin either.
    """
    by_series: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found.to_pylist():
        by_series[row["series"]].append(
            {
                "opened": iso(row["opened"]),
                "closed": row["closed"] and iso(row["closed"]),
                "slowdown": row["first_slowdown"],
            }
        )
    return json.dumps([{"series": name, "alarms": by_series[name]} for name in names], indent=1) + "\n"


def report(names: list[str], found: pa.Table) -> str:
    """Return what people read: one line an alarm."""
    series = f"{len(names):,} series" if len(names) != 1 else "1 series"
    if not found.num_rows:
        return f"no alarm in {series}\n"
    hit = len(set(found["series"].to_pylist()))
    return to_text(found.select(list(SHOWN))) + f"alarms in {hit:,} of {series}\n"
