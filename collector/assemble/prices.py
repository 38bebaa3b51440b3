"""What tokens, an engine's time and energy cost, from a file of the user's: no price is known by itself."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from tailbudget.instrument.errors import UserError

COLUMNS: Final = ("provider", "model", "input", "output", "cached")
#: What models of one's own cost: columns that a file may have behind the others.
HARDWARE: Final = ("gpu_hour", "kwh")
SCHEMA: Final = pa.schema(
    [("place", pa.int64()), ("provider", pa.string()), ("model", pa.string())]
    + [(name, pa.float64()) for name in (*COLUMNS[2:], *HARDWARE)]
)


@dataclass(frozen=True, slots=True)
class Price:
    """Dollars a million tokens of the models that match: `*` stands for any characters, letter case does not count.

    `gpu_hour` is dollars an hour of its engine's time, `kwh` dollars a kilowatt-hour.
    """

    provider: str
    model: str
    input: float
    output: float
    cached: float
    gpu_hour: float = 0.0
    kwh: float = 0.0


def read_prices(file: Path) -> tuple[Price, ...]:
    """Return the rows of a CSV file with the columns provider, model, input, output, cached, in its order.

    Columns gpu_hour and kwh may follow. An empty provider is any; an empty cached costs as input does; empty hardware
    costs nothing. The first row that matches a call is its price.
    Raises UserError, naming the line, for a file that cannot be read or holds anything else.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the prices in {file} cannot be read ({error}): expected a CSV file") from error
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    given = tuple(reader.fieldnames or ())
    if given not in (COLUMNS, (*COLUMNS, *HARDWARE)):
        raise UserError(
            f"{file} begins with {','.join(given)!r}: expected {','.join(COLUMNS)!r}, and {','.join(HARDWARE)!r} "
            "behind it for models of your own"
        )
    return tuple(_price(file, reader.line_num, row) for row in reader)


def _price(file: Path, line: int, row: dict[str, str | None]) -> Price:
    if None in row or None in row.values() or not (row["model"] or "").strip():
        raise UserError(f"{file}, line {line}: expected {len(row)} values and a model, * for any")
    provider, model, *texts = ((row[name] or "").strip() for name in COLUMNS)
    paid, out, cached = (_dollars(file, line, text) for text in (texts[0], texts[1], texts[2] or texts[0]))
    gpu_hour, kwh = (_dollars(file, line, (row.get(name) or "").strip() or "0") for name in HARDWARE)
    return Price((provider or "*").lower(), model.lower(), paid, out, cached, gpu_hour, kwh)


def _dollars(file: Path, line: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise UserError(f"{file}, line {line}: {text!r} is no price: expected dollars, such as 2.5")
    return value


def price_table(prices: tuple[Price, ...]) -> pa.Table:
    """Return one row a price, numbered in order."""
    rows = [
        {"place": place, **{name: getattr(price, name) for name in (*COLUMNS, *HARDWARE)}}
        for place, price in enumerate(prices)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)
