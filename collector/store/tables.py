"""The tables of a shared store, made from the schema of a data file."""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from ..engines.catalog import catalog

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
    """A table of the store: what its rows are sorted by, the column of its time, and how many days it is kept."""

    name: str
    key: tuple[str, ...]
    time: str | None
    keep_d: int | None

    @property
    def kept(self) -> str:
        """Return the name of the table behind the view that questions read."""
        return f"{self.name}_kept"


@cache
def tables() -> Mapping[str, Stored]:
    """Return every table of the store by its name."""
    with Path(__file__).with_name("stored.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["table"]: Stored(
                row["table"],
                tuple(row["key"].split(",")),
                row["time"] or None,
                int(row["keep_d"]) if row["keep_d"] else None,
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


def definitions(*, expire: bool = True) -> Iterator[str]:
    """Yield ClickHouse's statements that make what is missing: a table of each kind, and the view that readers see.

    The key of a row is where it is sorted, whose it is, and its hash: writing it again changes nothing, and what is no
    more is ended by a row with a higher `_version` and `_gone`. Without `expire` rows are kept for ever.
    """
    for name, columns in catalog().columns().items():
        if (one := tables().get(name)) is None:
            continue
        declared = ", ".join(
            f"`{column}` {clickhouse_type(kind, nullable=nullable)}" for column, (kind, nullable) in columns.items()
        )
        key = ", ".join([*(f"`{column}`" for column in one.key), "_collector", "_hash"])
        timed = one.time if one.time and not columns[one.time][1] else None
        month = f"PARTITION BY toYYYYMM(`{timed}`) " if timed else ""
        ends = f"TTL toDateTime(`{timed}`) + INTERVAL {one.keep_d} DAY " if timed and expire else ""
        yield (
            f"CREATE TABLE IF NOT EXISTS {one.kept} "
            f"({declared}, _collector String, _version UInt64, _gone UInt8, _hash UInt64) "
            f"ENGINE = ReplacingMergeTree(_version, _gone) {month}ORDER BY ({key}) {ends}"
            "SETTINGS allow_nullable_key = 1"
        )
        shown = ", ".join(f"`{column}`" for column in columns)
        yield f"CREATE VIEW IF NOT EXISTS {name} AS SELECT {shown} FROM {one.kept} FINAL"  # noqa: S608 - of the schema
