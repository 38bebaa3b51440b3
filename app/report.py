"""`tailbudget report`: percentiles of a stretch of time, by stage and by any segment."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from tailbudget.analytics.breakdown import breakdown, population
from tailbudget.analytics.overview import latency_summary
from tailbudget.analytics.reader import Reader
from tailbudget.analytics.stages import stage_percentiles
from tailbudget.analytics.window import Window

from .text import to_text

Row = dict[str, Any]

STAGE: Final = "stage"
#: Of the columns of stage_percentiles, what the table for people shows.
STAGE_COLUMNS: Final = ("stage", "n", "p50_ms", "p95_ms", "p99_ms", "budget_ms", "over_n")


def compile_report(reader: Reader, window: Window, *, by: Sequence[str], measure: str) -> Row:
    """Return from, to, measure, all (one row of latency_summary) and breakdowns: by, of, rows for each name of `by`.

    `stage` gives the nine stages, time on the critical path; every other name is one of `breakdown`.
    """
    return {
        "from": window.from_ts,
        "to": window.to_ts,
        "measure": measure,
        "all": latency_summary(reader, window).to_pylist()[0],
        "breakdowns": [_part(reader, window, name, measure) for name in by],
    }


def _part(reader: Reader, window: Window, by: str, measure: str) -> Row:
    if by == STAGE:
        return {"by": by, "of": "stages", "rows": stage_percentiles(reader, window).to_pylist()}
    rows = breakdown(reader, window, by=by, measure=measure).to_pylist()
    return {"by": by, "of": population(by=by, measure=measure), "rows": rows}


def to_json(found: Row) -> str:
    """Return one JSON object, instants as ISO 8601 in UTC with Z."""
    instants = {name: found[name].isoformat(timespec="microseconds").replace("+00:00", "Z") for name in ("from", "to")}
    return json.dumps({**found, **instants}, indent=2) + "\n"


def report(found: Row) -> str:
    """Return what people read: a line of all requests, then a table a breakdown."""
    return "\n\n".join(_parts(found)) + "\n"


def _parts(found: Row) -> Iterator[str]:
    total = found["all"]
    if not total["n"]:
        times = " to ".join(f"{found[name]:%Y-%m-%d %H:%M:%S}" for name in ("from", "to"))
        yield f"no requests from {times} UTC, load tests aside: widen it with --since"
        return
    figures = ", ".join(f"{name} {total[f'{name}_ms']:,.0f} ms" for name in ("p50", "p95", "p99"))
    kept = "" if not total["counted"] else f"; {total['good']} of {total['counted']} within their budget"
    yield f"{total['n']:,} requests: total {figures}; {total['dropped']} dropped, {total['failed']} failed{kept}"
    if round(total["stands_for"]) > total["n"]:
        yield f"sampled: they stand for about {total['stands_for']:,.0f}; the figures are of what came"
    for part in found["breakdowns"]:
        yield _table(part, found["measure"])


def _table(part: Row, measure: str) -> str:
    if part["by"] == STAGE:
        rows = [{name: row[name] for name in STAGE_COLUMNS} for row in part["rows"]]
        return f"by stage, ms on the critical path\n{to_text(pa.Table.from_pylist(rows)).rstrip()}"
    title = f"{measure} of {part['of']} by {part['by']}"
    if not part["rows"]:
        return f"{title}\nnone has it"
    rows = [{part["by"]: "(not told)" if row["value"] is None else row["value"], **_rest(row)} for row in part["rows"]]
    return f"{title}\n{to_text(pa.Table.from_pylist(rows)).rstrip()}"


def _rest(row: Row) -> Row:
    return {name: value for name, value in row.items() if name != "value"}
