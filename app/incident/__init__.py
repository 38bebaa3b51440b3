"""`tailbudget incident`: one folder with a report, the rows that it rests on, and the SQL to ask them again."""

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from tailbudget.analytics import diagnoses
from tailbudget.analytics.blame import Blame, blame_usual
from tailbudget.analytics.duck import connect
from tailbudget.analytics.reader import DATABASE_NAME, ConnectionReader, Reader
from tailbudget.analytics.window import Window
from tailbudget.collector.land.schema import create_or_check
from tailbudget.instrument.errors import UserError

from ..text import iso, to_text
from .pictures import draw

SQL: Final = Path(__file__).parent
#: Table -> which of its rows belong to a stretch of time.
ROWS: Final = {
    **dict.fromkeys(("requests", "calls", "stages", "stage_spans", "violations"), "started {within}"),
    **dict.fromkeys(("marks", "decode_rate", "engine"), "t {within}"),
    "gpu": "sampled_at {within}",
    "slo_minute": "minute {within}",
    "slo_status": "true",
    "alerts": "opened < $to_ts::timestamptz and coalesce(closed, $to_ts::timestamptz) >= $from_ts::timestamptz",
    "spans": "started {within} and trace_id in (select trace_id from ({examples}))",
}
#: What a view shows is stored in a table of another name.
OPEN: Final = {"spans": "spans_open"}
WITHIN: Final = ">= $from_ts::timestamptz and {column} < $to_ts::timestamptz"
#: Heading -> the question under it, in the report's order; all are asked of the folder's own database.
QUESTIONS: Final = {
    "Timeline": "timeline",
    "Budgets": "budgets",
    "Alerts": "alerts",
    "Marks": "marks",
    "GPU": "gpu",
    "Example traces": "examples",
}
BLAMED: Final = ("service", "stage", "operation", "tenant", "model", "version")
#: Suspects shown of each ranking.
SUSPECTS: Final = 5
#: Changes before the incident are its usual suspects: marks are taken from so long before it.
BEFORE: Final = timedelta(hours=1)
STORAGE: Final = "v1.5.0"


def write(reader: Reader, window: Window, out: Path) -> Path:
    """Write the folder and return its report. Raises UserError for a folder in use, QueryError as the reader does.

    `report.md` is for people, with `pictures/`; `tailbudget.duckdb` has the tables of a collector with the rows of the
    window (spans of the example traces alone), which are in `rows/` as Parquet too; `queries.sql` asks the report's
    questions of them.
    """
    if window.from_ts >= window.to_ts:
        raise UserError(f"{iso(window.from_ts)} to {iso(window.to_ts)} is empty: expected --from before --to")
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: name a new folder with --out")
    (out / "rows").mkdir(parents=True, exist_ok=True)
    with connect(out / DATABASE_NAME, config={"storage_compatibility_version": STORAGE}) as connection:
        connection.execute("set timezone = 'UTC'")
        create_or_check(connection, name=str(out / DATABASE_NAME))
        for table, rows in _rows(reader, window):
            pq.write_table(rows, out / "rows" / f"{table}.parquet")
            connection.register("rows_of_it", rows)
            stored = OPEN.get(table, table)
            connection.execute(f"insert into {stored} by name from rows_of_it")
            connection.unregister("rows_of_it")
        own = ConnectionReader(connection)
        pictures = draw(reader, own, window, out / "pictures")
        report = _report(own, reader, window, pictures)
    (out / "queries.sql").write_text(queries(window), encoding="utf-8")
    (out / "report.md").write_text(report, encoding="utf-8")
    return out / "report.md"


def queries(window: Window) -> str:
    """Return the report's questions with the window's instants in place of their parameters."""
    said = [
        f"-- {heading}\n{_bound(_sql(name), window)};\n"
        for heading, name in {"Summary": "summary", **QUESTIONS}.items()
    ]
    return "\n".join(("-- Run: duckdb tailbudget.duckdb < queries.sql", "set timezone = 'UTC';\n", *said))


def _rows(reader: Reader, window: Window) -> Iterator[tuple[str, pa.Table]]:
    for table, condition in ROWS.items():
        column = condition.split(" ", 1)[0]
        where = condition.format(within=WITHIN.format(column=column), examples=_sql("examples"))
        params = {"from_ts": window.from_ts - (BEFORE if table == "marks" else timedelta()), "to_ts": window.to_ts}
        used = {name: value for name, value in params.items() if f"${name}" in where}
        yield table, reader.query(f"from {table} where {where}", used)


def _report(own: Reader, reader: Reader, window: Window, pictures: str) -> str:
    blamed = [blame_usual(reader, window, by=by) for by in BLAMED]
    usual = blamed[0].baseline
    params = {"from_ts": window.from_ts, "to_ts": window.to_ts}
    summary = own.query(_sql("summary"), params)
    rows = (
        f"Rows: `rows/*.parquet` and `{DATABASE_NAME}`. The same questions again: "
        f"`duckdb {DATABASE_NAME} < queries.sql`, or `tailbudget sql ... --data` this folder."
    )
    parts = [
        f"# Incident {window.from_ts:%Y-%m-%d %H:%M} to {window.to_ts:%Y-%m-%d %H:%M} UTC",
        rows,
        _section("Summary", summary),
        f"## Pictures\n\n{pictures}",
        *(_section(heading, own.query(_sql(name), params)) for heading, name in QUESTIONS.items()),
        f"## Diagnoses\n\n{_diagnosed(reader, window)}",
        f"## Blame\n\nAgainst {usual.from_ts:%Y-%m-%d %H:%M} to {usual.to_ts:%H:%M}, {_beside(blamed[0])}.",
        *(_blamed(found, by) for found, by in zip(blamed, BLAMED, strict=True)),
    ]
    return "\n\n".join(parts) + "\n"


def _section(heading: str, rows: pa.Table) -> str:
    return f"## {heading}\n\n{_table(rows) if rows.num_rows else 'Nothing.'}"


def _table(rows: pa.Table) -> str:
    return f"```\n{to_text(rows)}```"


def _beside(found: Blame) -> str:
    """Say how much a baseline is worth, behind its times."""
    if not found.baseline_requests:
        return "when there was no request: more than nothing is all of their time"
    return f"{found.baseline_requests} requests, best suspect first"


def _blamed(found: Blame, by: str) -> str:
    names: Mapping[str, Callable[[Any], Any]] = {
        "suspect": lambda one: one.value or one.operation or one.stage or one.service,
        "service": lambda one: one.service,
        "more_ms": lambda one: round(one.delta_ms, 1),
        "more_p90_ms": lambda one: None if one.p90_delta_ms is None else round(one.p90_delta_ms, 1),
    }
    rows = [{name: read(one) for name, read in names.items()} for one in found.ranking[:SUSPECTS]]
    said = _table(pa.Table.from_pylist(rows)) if rows else f"Nothing ({found.baseline_requests} requests before)."
    return f"### By {by}\n\n{said}"


def _diagnosed(reader: Reader, window: Window) -> str:
    """Return a line a rule and scope that was found: when first and last, and what would mend it."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in reversed(diagnoses.findings(reader, window).to_pylist()):
        found.setdefault((row["rule"], row["scope"]), []).append(row)
    lines = []
    for (rule, scope), rows in found.items():
        about = ", ".join(f"{name} {value}" for name, value in json.loads(scope).items() if value is not None)
        times = " to ".join(dict.fromkeys(f"{row['found_at']:%H:%M}" for row in (rows[0], rows[-1])))
        lines.append(f"- {times} **{rule}** ({about}): {rows[-1]['advice']}")
    return "\n".join(lines) or "Nothing."


def _bound(query: str, window: Window) -> str:
    return query.replace("$from_ts", f"'{iso(window.from_ts)}'").replace("$to_ts", f"'{iso(window.to_ts)}'")


def _sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8").strip()
