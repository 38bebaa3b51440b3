"""`tailbudget slo`: what a file of objectives says, how its budgets stand, what it would have fired."""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics.objectives import Channel, Objective, Watched, burn
from tailbudget.analytics.reader import Reader
from tailbudget.analytics.suggest import Shares

from .text import to_text

Row = dict[str, Any]

STORED: Final = "from slo_status order by budget_left, objective, part"
#: Columns of `slo status` for people.
SHOWN: Final = ("objective", "part", "n", "bad", "good_%", "left_%", "hours_left", "burn_1h", "burn_6h", "state")


def described(watched: Watched) -> str:
    """Return a line an objective (name, promise, period, and what its burn rules cannot reach) and a line a channel."""
    lines = [line for one in watched.objectives for line in _described(one)]
    return "".join(f"{line}\n" for line in (*lines, *map(_channel, watched.delivery.channels)))


def _channel(one: Channel) -> str:
    owners = f", alerts of {', '.join(one.owners)}" if one.owners else ""
    severities = f", only {', '.join(one.severities)}" if one.severities else ""
    return f"channel {one.name}: {one.type}{owners}{severities}{', by default' if one.default else ''}"


def _described(one: Objective) -> Iterator[str]:
    kept = f", a budget a {one.per}" if one.per else ""
    yield f"{one.name}: {one} over {one.period}{_sliced(one)}{kept}{f' where {one.where}' if one.where else ''}"
    yield from (f"  note: {sentence}" for sentence in burn.unreachable(one))


def _sliced(one: Objective) -> str:
    good = {"timeslices": f", good at {one.slice_target * 100:g} %", "ratio_timeslices": ", by their mean"}
    return f", in slices of {one.slice_s} s{good[one.method]}" if one.method in good else ""


def status(reader: Reader, objectives: Sequence[Objective], *, now: datetime) -> list[Row]:
    """Return one row an objective and part, as `slo_status` has it; counted anew where objectives are given."""
    if not objectives:
        return list(reader.query(STORED).to_pylist())
    rows: list[Row] = []
    for one in objectives:
        last_event, blind = burn.blind(reader, one, now=now)
        told = {
            "objective": one.name,
            "blind_since": last_event if blind else None,
            "coverage": burn.coverage(reader, one, now=now),
        }
        rows += [{**told, **row} for row in burn.status(reader, one, now=now).to_pylist()]
    return rows


def status_report(rows: Sequence[Row], objectives: Sequence[Objective] = ()) -> str:
    """Return what people read of `status`."""
    counted = {row["objective"] for row in rows}
    notes = [f"{row['objective']}: {note}\n" for row in rows for note in burn.unsure(row)]
    notes += [f"{one.name}: no event in its {one.period}\n" for one in objectives if one.name not in counted]
    if not rows:
        return "".join(notes) or "no objective has counted an event: name a file, or start the collector with --slo\n"
    return to_text(pa.table({name: [_shown(row)[name] for row in rows] for name in SHOWN})) + "".join(notes)


def _state(row: Row) -> str:
    if row["blind_since"] is not None:
        return "blind"
    return ", ".join(row["firing"]) or ("overspent" if row["budget_left"] < 0 else "ok")


def _shown(row: Row) -> Row:
    rounded = {
        name: None if row[name] is None else round(row[name], 1) for name in ("hours_left", "burn_1h", "burn_6h")
    }
    percent = {"good_%": round(row["good_share"] * 100, 3), "left_%": round(row["budget_left"] * 100, 1)}
    return {**row, **rounded, **percent, "state": _state(row)}


def fired(reader: Reader, objectives: Sequence[Objective], *, since: datetime, until: datetime) -> list[Row]:
    """Return one row an alarm that the objectives would have raised: objective and the columns of `burn.alarms`."""
    return [
        {"objective": one.name, **row}
        for one in objectives
        for row in burn.alarms(reader, one, since=since, until=until).to_pylist()
    ]


def unseen(reader: Reader, objectives: Sequence[Objective], *, now: datetime) -> list[str]:
    """Return the names of objectives without an event in their period, as those whose condition has a slip."""
    return [one.name for one in objectives if not burn.status(reader, one, now=now).num_rows]


def fired_report(rows: Sequence[Row], objectives: Sequence[Objective], *, unseen: Sequence[str] = ()) -> str:
    """Return what people read: a line an alarm, and how many pages and tickets each objective would have been."""
    lines = []
    for row in rows:
        name = f"{row['objective']} ({row['part']})" if row["part"] else row["objective"]
        ended = (
            "still firing"
            if row["closed"] is None
            else f"for {(row['closed'] - row['opened']).total_seconds() / 60:.0f} min"
        )
        lines.append(
            f"{row['opened']:%Y-%m-%d %H:%M}Z  {row['severity']:6}  {name}  {row['rule']}, {row['burn']:.1f}x, "
            f"{row['bad']} of {row['n']} bad, {ended}"
        )
    for one in objectives:
        mine = [row["severity"] for row in rows if row["objective"] == one.name]
        nothing = f"; no event in its {one.period}" if one.name in unseen else ""
        lines.append(f"{one.name}: {mine.count('page')} pages, {mine.count('ticket')} tickets{nothing}")
    return "".join(f"{line}\n" for line in lines)


def to_json(rows: Sequence[Row]) -> str:
    """Return one JSON array, instants as ISO 8601 in UTC with Z."""
    return json.dumps(rows, indent=2, default=_plain) + "\n"


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds").replace("+00:00", "Z")
    return float(str(value))  # a decimal


def suggested(shares: Shares, *, total: str, route: str | None) -> str:
    """Return a short form of objectives with the stages' budgets, ready for a file."""
    where = [f"    where: route = '{route}'"] if route else []
    rank = f"{shares.rank * 100:g}"
    lines = [
        f"# From {shares.requests} requests: the stages' p{rank} sum to the total at most; the rest is shared out.",
        "objectives:",
        f"  - name: {(route or 'all').strip('/').replace('/', '-') or 'all'}",
        *where,
        f"    total: {total}",
        *(f"    {stage}: {total.split('<')[0].strip()} < {round(ms)}ms" for stage, ms in shares.budgets_ms.items()),
    ]
    return "\n".join(lines) + "\n"
