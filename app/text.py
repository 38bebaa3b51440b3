"""What the commands print for people: tables, and how long ago something was."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import pyarrow as pa

from tailbudget.analytics.formats import instant, unique

#: A wider cell is cut in the table for people; --json and --csv never cut.
CELL_WIDTH: Final = 48
#: Hosts differ by less than this without anybody's fault.
CLOCKS_AGREE_S: Final = 10
#: Longest unit first: (seconds in it, its letter).
UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def to_text(table: pa.Table) -> str:
    """Return a table for people: a header, one line a row, the number of rows.

    Instants and dates that are infinite, or outside the years 1 to 9999, are empty, as NULL is.
    """
    names = unique(table.column_names)
    columns = [[name, *map(_cell, _values(column))] for name, column in zip(names, table.itercolumns(), strict=True)]
    widths = [max(map(len, column)) for column in columns]
    numeric = [pa.types.is_floating(field.type) or pa.types.is_integer(field.type) for field in table.schema]
    lines = []
    for cells in zip(*columns, strict=True):
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    rows = "1 row" if table.num_rows == 1 else f"{table.num_rows:,} rows"
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:], rows]) + "\n" if lines else rows


def _values(column: pa.ChunkedArray) -> Iterable[object]:
    if pa.types.is_timestamp(column.type):
        unit, zone = column.type.unit, UTC if column.type.tz else None
        found = (None if count is None else instant(count, unit) for count in column.cast(pa.int64()).to_pylist())
        return (None if moment is None else moment.replace(tzinfo=zone) for moment in found)
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):  # Python's dates do not reach as far as DuckDB's
        return map(_within, column)


def _within(value: pa.Scalar) -> object:
    """Return a value as Python has it, None for each part of it that Python cannot hold."""
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        if isinstance(value, pa.StructScalar):
            return {name: _within(part) for name, part in value.items()}
        if isinstance(value, pa.ListScalar):  # a map is a list of pairs
            return [_within(part) for part in value.values]
        return None


def _cell(value: object) -> str:
    if value is None:
        return ""
    text = f"{value:,.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= CELL_WIDTH else text[: CELL_WIDTH - 1] + "…"


def iso(moment: datetime) -> str:
    """Return an instant with a zone as ISO 8601 in UTC with Z, to the microsecond."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def ago(age: timedelta) -> str:
    """Return a length of time in its largest whole unit: `3 min ago`, `just now`, or `2 h ahead` for a wrong clock."""
    seconds = age.total_seconds()
    word = "ago" if seconds >= 0 else "ahead"
    if seconds < 0 and -seconds < CLOCKS_AGREE_S:
        return "just now"
    return next(
        (f"{abs(seconds) // size:.0f} {unit} {word}" for size, unit in UNITS if abs(seconds) >= size), "just now"
    )
