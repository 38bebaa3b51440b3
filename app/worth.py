"""`tailbudget cost` and `tailbudget feedback`: what calls cost and who causes it, and what a second costs."""

import json
from collections.abc import Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from tailbudget.analytics.cost import cost, energy, hedges
from tailbudget.analytics.feedback import abandonment, by_latency
from tailbudget.analytics.reader import Reader
from tailbudget.analytics.window import Window

from .text import to_text

#: What each table says, for people.
HEADS: Final = {
    "cost": "Model calls, the dearest first",
    "hedges": "Hedges, as the guards count them",
    "energy": "Energy of each GPU",
    "by_latency": "By how long the answer took, shares with their 95 % intervals",
    "abandonment": "Of those who still waited, who left before the next mark",
}


def costs(reader: Reader, window: Window, *, by: str) -> dict[str, pa.Table]:
    """Return the tables cost, hedges and energy of `analytics.cost`."""
    return {
        "cost": cost(reader, window, by=by),
        "hedges": hedges(reader, window),
        "energy": energy(reader, window),
    }


def waits(reader: Reader, window: Window) -> dict[str, pa.Table]:
    """Return the tables by_latency and abandonment of `analytics.feedback`."""
    return {"by_latency": by_latency(reader, window), "abandonment": abandonment(reader, window)}


def to_json(found: Mapping[str, pa.Table]) -> str:
    """Return one JSON object: the rows of each table, by its name."""
    return json.dumps({name: table.to_pylist() for name, table in found.items()}, indent=2) + "\n"


def report(found: Mapping[str, pa.Table]) -> str:
    """Return what people read: each table that has rows, without the columns of which nothing is known."""
    parts = [f"{HEADS[name]}\n{to_text(_known(table))}" for name, table in found.items() if table.num_rows]
    paid = found.get("cost")
    if paid is not None and paid.num_rows and not pc.count(paid["cost_usd"]).as_py():
        parts.append("No dollars: `tailbudget collector --prices FILE` knows what tokens cost.\n")
    return "\n".join(parts) or "nothing in this time: widen it with --since\n"


def _known(table: pa.Table) -> pa.Table:
    return table.select([name for name in table.column_names if pc.count(table[name]).as_py()])
