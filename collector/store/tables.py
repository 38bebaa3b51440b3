"""The tables of a shared store, made from the schema of a data file."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Final

from ..engines.catalog import catalog
from ..seal.retention import RETENTION, Keep, Kept

#: A table is cut by days, which end whole; one whose rows are kept longer by months, so that its parts stay few.
BY_DAY: Final = timedelta(days=60)
#: For rows without a time, of files of earlier versions: they are kept.
NEVER: Final = "toDateTime64('2100-01-01 00:00:00', 6, 'UTC')"
#: DuckDB's type -> ClickHouse's.
TYPES: Final = {
    "VARCHAR": "String",
    "JSON": "String",
    "UUID": "UUID",
    "BOOLEAN": "Bool",
    "INTEGER": "Int32",
    "UINTEGER": "UInt32",
    "BIGINT": "Int64",
    "UBIGINT": "UInt64",
    "DOUBLE": "Float64",
    "TIMESTAMP WITH TIME ZONE": "DateTime64(6, 'UTC')",
    "MAP(VARCHAR, DOUBLE)": "Map(String, Float64)",
}


@dataclass(frozen=True)
class Stored:
    """A table of the store: what its rows are sorted by, the time by which they are compared, and what ends them."""

    name: str
    key: tuple[str, ...]
    time: str | None
    kept: Kept | None

    @property
    def table(self) -> str:
        """Return the name of the table behind the view that questions read."""
        return f"{self.name}_kept"


@cache
def tables() -> Mapping[str, Stored]:
    """Return every table of the store by its name."""
    ends = {kept.relation: kept for kept in RETENTION}
    with Path(__file__).with_name("stored.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["table"]: Stored(
                row["table"], tuple(row["key"].split(",")), row["time"] or None, ends.get(row["table"])
            )
            for row in csv.DictReader(file)
        }


def clickhouse_type(kind: str, *, nullable: bool) -> str:
    """Return ClickHouse's type for one of DuckDB's; lists and maps have no null, an empty one stands for it."""
    if kind.endswith("[]"):
        return f"Array({clickhouse_type(kind.removesuffix('[]'), nullable=False)})"
    if found := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", kind):
        plain = f"Decimal({found[1]}, {found[2]})"
    else:
        plain = TYPES[kind]
    return f"Nullable({plain})" if nullable and not plain.startswith("Map") else plain


def definitions(keep: Keep) -> Iterator[str]:
    """Yield ClickHouse's statements that make what is missing: a table of each kind, and the view that readers see.

    The key of a row is where it is sorted, whose it is, and its hash: writing it again changes nothing, and what is no
    more is ended by a row with a higher `_version` and `_gone`.
    """
    for name, columns in catalog().columns().items():
        if (one := tables().get(name)) is None:
            continue
        declared = ", ".join(
            f"`{column}` {clickhouse_type(kind, nullable=nullable)} CODEC(ZSTD(1))"
            for column, (kind, nullable) in columns.items()
        )
        key = ", ".join([*(f"`{column}`" for column in one.key), "_collector", "_hash"])
        yield (
            f"CREATE TABLE IF NOT EXISTS {one.table} "
            f"({declared}, _collector String, _version UInt64, _gone UInt8, _hash UInt64) "
            f"ENGINE = ReplacingMergeTree(_version, _gone) ORDER BY ({key}) {_ending(one, keep)}"
        )
        shown = ", ".join(f"`{column}`" for column in columns)
        yield f"CREATE VIEW IF NOT EXISTS {name} AS SELECT {shown} FROM {one.table} FINAL"  # noqa: S608 - of the schema


def _ending(one: Stored, keep: Keep) -> str:
    """Return how a table is cut into parts and when their rows end: days end whole, without being written anew."""
    settings = "SETTINGS allow_nullable_key = 1"
    if one.kept is None:
        return settings
    days = one.kept.length(keep) <= BY_DAY
    cut = f"PARTITION BY {'toDate' if days else 'toYYYYMM'}({_moment(one.kept)})"
    return f"{cut} {ttl(one.kept, one.kept.length(keep))} {settings}, ttl_only_drop_parts = {int(days)}"


def ttl(kept: Kept, length: timedelta) -> str:
    """Return the clause that ends rows after a length of time."""
    return f"TTL toDateTime({_moment(kept)}) + INTERVAL {int(length.total_seconds())} SECOND"


def _moment(kept: Kept) -> str:
    _, nullable = catalog().columns()[kept.relation][kept.time]
    return f"coalesce(`{kept.time}`, {NEVER})" if nullable else f"`{kept.time}`"
