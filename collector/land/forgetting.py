"""Deletes what belongs to one tenant or one request, from the tables and from the bytes of the data file.

DuckDB marks deleted rows and leaves their bytes: in row groups that hold other rows, and in blocks that became free. So
the row groups that held one are written anew, and what is free then is filled once.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import duckdb

from tailbudget.instrument.errors import UserError

from ..seal.forget import forget_sealed
from .schema import table_statements
from .transaction import transaction

SQL: Final = Path(__file__).parent / "sql"
#: Tables with a key, or about no one: their rows hold ids and times alone, and go with the trace.
KEYED: Final = frozenset({"dirty"})
#: Tables with what was said of a request in no trace, and by what it is known.
TOLD_LATER: Final = {
    "feedback": "feedback.request_id",
    "logs_open": "if(event_name = 'slo.feedback', json_extract_string(logs_open.attrs, '$.\"slo.request.id\"'), null)",
}
TENANT: Final = "(select tenant from forgotten_tenant)"
#: Table -> when a row speaks of the tenant in a column of another name. In JSON it is quoted: no other name holds it.
SPEAKING: Final = {
    "alerts": f"json_extract_string(alerts.labels, '$.tenant') = {TENANT} "
    f"or contains(alerts.evidence::varchar, to_json({TENANT})::varchar)",
    "deliveries": f"contains(deliveries.alert_id, '|tenant=' || {TENANT} || '|') "
    f"or contains(deliveries.content::varchar, to_json({TENANT})::varchar) "
    "or exists (from forgotten_request as gone "
    "where contains(deliveries.content::varchar, 'request=' || url_encode(gone.request_id) || '\"'))",
    "metrics_open": f"json_extract_string(metrics_open.attrs, '$.tenant') = {TENANT}",
    "silences": f"json_extract_string(silences.labels, '$.tenant') = {TENANT}",
    "slo_minute": f"slo_minute.part = {TENANT}",
    "slo_status": f"slo_status.part = {TENANT}",
}
#: Small tables with a key, whose bytes stand in its index too: they are made anew.
INDEXED: Final = frozenset({"alerts", "deliveries", "silences"})
#: 64-bit hashes, which no compression makes smaller, in one block of the file.
HASHES_PER_BLOCK: Final = 32_768
SPARE_BLOCKS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """What to forget: exactly one of the two. Raises UserError otherwise."""

    tenant: str | None = None
    request: str | None = None

    def __post_init__(self) -> None:
        if bool(self.tenant) == bool(self.request):
            raise UserError(f"tenant is {self.tenant!r} and request {self.request!r}: expected one of the two")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many traces, and rows of them a table or view, are gone."""

    traces: int
    rows: dict[str, int]


def forget(connection: duckdb.DuckDBPyConnection, what: Forget, *, data: Path) -> Forgotten:
    """Delete the traces of the tenant or request with all that was made of them, also from the bytes of the files.

    To be called while no other transaction runs and nothing is being sealed. Raises duckdb.Error and OSError: calling
    it again goes on where it ended.
    """
    named = {"tenant": what.tenant, "request": what.request}
    connection.execute(_sql("forget_traces"), named)
    ((traces,),) = connection.execute("select count(*) from forgotten").fetchall()
    connection.execute("create or replace temp table forgotten_tenant as select $1 as tenant", [what.tenant])
    connection.execute(_sql("forget_requests"), named)
    conditions = dict(_conditions(connection))
    rows = Counter(forget_sealed(connection, data, conditions))  # first: who is forgotten stands in the tables
    for table, condition in conditions.items():
        rows[table.removesuffix("_open")] += _forget_rows(connection, table, condition)
    for name in ("forgotten", "forgotten_tenant", "forgotten_request"):
        connection.execute(f"drop table {name}")
    connection.execute("checkpoint")
    _fill_free_blocks(connection)
    return Forgotten(int(traces), {table: n for table, n in sorted(rows.items()) if n})


def _conditions(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, str]]:
    """Yield each table that says whose its rows are, and when a row is to go."""
    rows = connection.execute(
        "select table_name, list(column_name) from duckdb_columns() "
        "where database_name = current_database() and not internal "
        "and table_name in (select table_name from duckdb_tables() where not temporary) group by all"
    ).fetchall()
    for table, columns in sorted(rows):
        tests = [f"{column} in (from forgotten)" for column in ("trace_id", "linked_trace_id") if column in columns]
        if "tenant" in columns:
            tests.append(f"{table}.tenant = {TENANT}")
        if "attrs" in columns and table != "resources":  # a resource is the process that sent for everybody
            tests.append(f"json_extract_string({table}.attrs, '$.\"slo.tenant\"') = {TENANT}")
        if table in SPEAKING:
            tests.append(SPEAKING[table])
        if table in TOLD_LATER:
            tests.append(f"{TOLD_LATER[table]} in (from forgotten_request)")
        if tests:
            yield str(table), "(" + " or ".join(tests) + ")"


def _forget_rows(connection: duckdb.DuckDBPyConnection, table: str, condition: str) -> int:
    n = _left(connection, table, condition)
    if n and table in KEYED:
        connection.execute(f"delete from {table} where {condition}")  # noqa: S608
    if n and table in INDEXED:
        _make_anew(connection, table, condition)
        return n
    left = n
    while left and table not in KEYED:
        connection.execute("checkpoint")  # so that row ids are those of the row groups on disk
        connection.execute(_sql("forget_groups").format(table=table, condition=condition))
        connection.execute("begin")
        try:
            connection.execute(_sql("forget_rows").format(table=table, condition=condition))
            connection.execute("commit")
        except BaseException:
            connection.execute("rollback")
            raise
        before, left = left, _left(connection, table, condition)
        if left >= before:
            raise duckdb.Error(f"{left} rows of {table} are in no row group: they cannot be forgotten")
    return n


def _make_anew(connection: duckdb.DuckDBPyConnection, table: str, condition: str) -> None:
    kept = f"from {table} where not coalesce({condition}, false)"
    connection.execute(f"create or replace temp table kept as {kept}")
    with transaction(connection):
        connection.execute(f"drop table {table}")
        for statement in table_statements(table):
            connection.execute(statement)
        connection.execute(f"insert into {table} by name from kept")
    connection.execute("drop table kept")


def _left(connection: duckdb.DuckDBPyConnection, table: str, condition: str) -> int:
    ((n,),) = connection.execute(f"select count(*) from {table} where {condition}").fetchall()  # noqa: S608
    return int(n)


def _fill_free_blocks(connection: duckdb.DuckDBPyConnection) -> None:
    """Write over what is free in the file: deleted rows stand there until somebody needs the room."""
    ((free,),) = connection.execute("select free_blocks from pragma_database_size()").fetchall()
    connection.execute(
        "create or replace table filler as select hash(range) as filler from range($1)",
        [(int(free) + SPARE_BLOCKS) * HASHES_PER_BLOCK],
    )
    connection.execute("checkpoint")
    connection.execute("drop table filler")
    connection.execute("checkpoint")


@cache
def _sql(name: str) -> str:
    return (SQL / f"{name}.sql").read_text(encoding="utf-8")
