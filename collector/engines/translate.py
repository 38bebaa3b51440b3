"""Turns a question as DuckDB reads it into the words of another engine."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.simplify import simplify

from tailbudget.analytics import questions
from tailbudget.analytics.reader import QueryError
from tailbudget.analytics.written import written

from .catalog import catalog
from .macros import expanded, refuse
from .words import CLICKHOUSE, SPARK, UNIT_S, filled, parse, said, seconds, words

#: What an instant can be in every engine: ClickHouse's DateTime64 begins in 1900, and with nanoseconds ends in 2262.
FIRST: Final = datetime(1900, 1, 1, tzinfo=UTC)
LAST: Final = datetime(2262, 1, 1, tzinfo=UTC)
INSTANT: Final = {CLICKHOUSE: "CAST(_1 AS Nullable(DateTime64(6, 'UTC')))", SPARK: "CAST(_1 AS TIMESTAMP)"}
LITERAL_INSTANT: Final = {CLICKHOUSE: "toDateTime64(_1, 6, 'UTC')", SPARK: "CAST(_1 AS TIMESTAMP)"}
TRACE_ID: Final = {CLICKHOUSE: "CAST(_1 AS Nullable(UUID))", SPARK: "CAST(_1 AS STRING)"}
#: A row to turn lists into rows of, where a select has no FROM.
ONE: Final = {CLICKHOUSE: "SELECT 1 FROM system.one", SPARK: "SELECT 1 FROM (SELECT 1 AS one) AS one"}
_UUID: Final = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})", re.IGNORECASE)
_LENGTH: Final = re.compile(r"(\d+(?:\.\d+)?) ?([smhdw]|(?:second|minute|hour|day|week)s?)")


def translate(sql: str, params: Mapping[str, object], engine: str) -> str:
    """Return the statement for `engine`, parameters written out; raises QueryError for what it cannot answer."""
    refuse(question_of(sql), engine)
    tree = expanded(_unhidden(parse(written(sql, params).strip().rstrip(";"))), engine)
    for cte in tree.find_all(exp.CTE):
        cte.set("materialized", None)
    for step in (_unnested, _cast, said, _framed):
        tree = step(tree, engine)
    for own in (_named, _ordered, _bits, _neighbours) if engine == CLICKHOUSE else ():
        tree = own(tree)
    return str(tree.sql(dialect=engine, comments=False))


def question_of(sql: str) -> str:
    """Return the name of the question that this text is, empty for a text of one's own."""
    return next((name for name in questions.names() if questions.sql(name) == sql), "")


def asks_catalog(sql: str) -> bool:
    """Return whether the question is about tables and columns themselves, which are the same everywhere."""
    return "duckdb_columns()" in sql or "duckdb_tables()" in sql


def _unhidden(tree: Any) -> Any:
    """Give relations of the question another name where it has a table of theirs too: engines have no schema `main`."""
    hidden = [table for table in tree.find_all(exp.Table) if table.db == "main"]
    names = {table.name for table in hidden}
    for table in tree.find_all(exp.Table):
        if table.name in names and not table.db:
            table.set("alias", table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name)))
            table.set("this", exp.to_identifier(f"own_{table.name}"))
    for cte in tree.find_all(exp.CTE):
        if cte.alias in names:
            cte.args["alias"].set("this", exp.to_identifier(f"own_{cte.alias}"))
    for table in hidden:
        table.set("db", None)
    return tree


def _unnested(tree: Any, engine: str) -> Any:
    """Put lists that a select turns into rows, side by side, into a clause of their own."""
    for select in list(tree.find_all(exp.Select)):
        nodes = [node for one in select.selects if (node := one.find(exp.Explode, exp.Unnest)) is not None]
        if not nodes:
            continue
        names = [f"_item{place}" for place, _ in enumerate(nodes)]
        lists = [(node.expressions[0] if isinstance(node, exp.Unnest) else node.this).copy() for node in nodes]
        for name, node in zip(names, nodes, strict=True):
            node.replace(exp.column(name))
        if not select.args.get("from_"):
            select.set("from_", sqlglot.parse_one(ONE[engine], read=engine).args["from_"])
        listed = [f"_{place}" for place, _ in enumerate(names, start=1)]
        if engine == CLICKHOUSE:
            clause = "ARRAY JOIN " + ", ".join(f"{one} AS {name}" for one, name in zip(listed, names, strict=True))
        else:
            clause = f"LATERAL VIEW inline(arrays_zip({', '.join(listed)})) _items AS {', '.join(names)}"
        made = sqlglot.parse_one(f"SELECT 1 FROM one {clause}", read=engine)  # noqa: S608 - no text of a user
        for column in list(made.find_all(exp.Column)):
            if column.name in listed:
                column.replace(lists[listed.index(column.name)])
        for kind in ("joins", "laterals"):
            select.set(kind, [*select.args.get(kind, []), *made.args.get(kind, [])])
    return tree


def _cast(tree: Any, engine: str) -> Any:
    for cast in reversed(list(tree.find_all(exp.Cast))):
        said_text = isinstance(cast.this, exp.Cast) and cast.this.is_type(*exp.DataType.TEXT_TYPES)
        bare = cast.this.this if said_text else cast.this
        literal = bare.name if isinstance(bare, exp.Literal) and bare.is_string else None
        kind = cast.to.this
        if kind == exp.DataType.Type.TIMESTAMPTZ:
            form, value = (INSTANT, cast.this) if literal is None else (LITERAL_INSTANT, _instant(literal))
            cast.replace(filled(form[engine], engine, value))
        elif kind == exp.DataType.Type.UUID:
            found = _UUID.fullmatch(literal or "")
            value = exp.Literal.string("-".join(found.groups()).lower()) if found else cast.this
            cast.replace(filled(TRACE_ID[engine], engine, value))
        elif kind == exp.DataType.Type.UBIGINT and engine == SPARK:
            cast.set("to", exp.DataType.build("bigint"))
        elif kind == exp.DataType.Type.JSON:
            cast.replace(cast.this)  # JSON is text elsewhere
        elif kind == exp.DataType.Type.INTERVAL and (found := _LENGTH.fullmatch(literal or "")):
            length = exp.Literal.number(float(found[1]) * _unit_s(found[2]))
            cast.replace(exp.Anonymous(this="to_seconds", expressions=[length]))
    return tree


def _unit_s(word: str) -> int:
    return next(length_s for unit, length_s in UNIT_S.items() if unit.startswith(word[0].upper()))


def _instant(text: str) -> Any:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise QueryError(f"{text!r} is no instant: expected ISO 8601 as in 2026-03-01 12:00:00+00:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return exp.Literal.string(f"{min(max(moment, FIRST), LAST).astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}")


def _framed(tree: Any, engine: str) -> Any:
    """Write out the bounds of window frames: ClickHouse wants whole numbers, and of time none but seconds."""
    for spec in tree.find_all(exp.WindowSpec):
        bounds = {side: spec.args[side] for side in ("start", "end") if isinstance(spec.args.get(side), exp.Expr)}
        timed = any(bound.find(exp.Interval) or "seconds" in bound.meta for bound in bounds.values())
        if timed and engine == CLICKHOUSE:
            for one in spec.parent.args["order"].expressions:
                one.set("this", filled(words()["epoch"][engine], engine, one.this))
        for side, bound in bounds.items():
            whole = _whole(seconds(bound) if timed else bound)
            spec.set(side, exp.Interval(this=whole, unit=exp.var("SECOND")) if timed and engine == SPARK else whole)
    return tree


def _whole(bound: Any) -> Any:
    bare = exp.Paren(this=bound.copy())
    for cast in list(bare.find_all(exp.Cast)):
        cast.replace(cast.this)
    value = float(simplify(bare, dialect="duckdb").sql().strip("()"))
    if value != int(value):
        raise QueryError(f"a window of {value:g} s cannot be translated: expected whole seconds")
    return exp.Literal.number(int(value))


def _named(tree: Any) -> Any:
    """Say the name of each column: ClickHouse may call one of a join `table.column`, and loses one of `table.*`."""
    for select in tree.find_all(exp.Select):
        for one in select.selects:
            if isinstance(one, exp.Column) and one.table and not one.is_star:
                one.replace(exp.alias_(one.copy(), one.name))
            elif isinstance(one, exp.Column) and one.table and not select.args.get("joins"):
                one.replace(one.this)
    return tree


def _ordered(tree: Any) -> Any:
    """Say by place what ORDER BY means: ClickHouse takes a name for the table's column, not the answer's."""
    for select in tree.find_all(exp.Select):
        order = select.args.get("order")
        names = [one.alias_or_name for one in select.selects]
        if order is None or any(one.is_star for one in select.selects):
            continue
        for one in order.expressions:
            if isinstance(one.this, exp.Column) and not one.this.table and one.this.name in names:
                one.set("this", exp.Literal.number(names.index(one.this.name) + 1))
    return tree


def _neighbours(tree: Any) -> Any:
    """Let lag and lead be null beyond the first and last row: of what cannot be null ClickHouse says 0 there."""
    tables = catalog().columns().values()
    lists = {name for columns in tables for name, (kind, _) in columns.items() if kind.endswith("[]")}
    for node in list(tree.find_all(exp.Lag, exp.Lead)):
        if node.this.name not in lists:  # null is no list there
            node.set("this", exp.Anonymous(this="toNullable", expressions=[node.this]))
    return tree


def _bits(tree: Any) -> Any:
    for node in list(tree.find_all(exp.BitwiseAnd)):
        node.replace(exp.Anonymous(this="bitAnd", expressions=[node.this, node.expression]))
    return tree
