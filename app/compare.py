"""`tailbudget compare`: what changed from one side to the other, as JSON and as a table."""

import dataclasses
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from tailbudget.analytics.compare import Change, Side
from tailbudget.analytics.window import Window
from tailbudget.instrument.errors import UserError

from .text import to_text


def sides(words: Sequence[str], *, since: timedelta, now: datetime) -> list[Side]:
    """Return both sides of `BY A B` over the time before now; raises UserError for any other words."""
    if len(words) != 3:
        raise UserError(
            f"{' '.join(words)!r} is nothing to compare: expected BY A B, as in version 1.4.0 1.5.0, or --from and --to"
        )
    return [Side(Window(now - since, now), by=words[0], value=value) for value in words[1:]]


def to_json(found: Sequence[Change]) -> str:
    """Return one JSON array, an object a measure; what too few requests tell is null."""
    return json.dumps([_row(one) for one in found], indent=1) + "\n"


def report(found: Sequence[Change]) -> str:
    """Return what people read: a line a measure that both sides have enough of."""
    rows = [_row(one) for one in found if one.difference is not None]
    if not rows:
        few = ", ".join(f"{side} has {getattr(found[0], f'{side}_n'):,}" for side in ("a", "b"))
        return f"too few requests to compare ({few}): widen the time\n"
    return (
        to_text(pa.Table.from_pylist(rows)) + "change: a ratio less one for ms and cost, a difference for rates; 95 %\n"
    )


def _row(one: Change) -> dict[str, Any]:
    names = ("a", "b", "change", "low", "high")
    told = dataclasses.asdict(one.difference) if one.difference else dict.fromkeys(names)
    changed = one.difference.changed if one.difference else None
    return {"measure": one.measure, "a_n": one.a_n, "b_n": one.b_n, **told, "changed": changed}
