"""Lets through one statement that reads tables, and nothing else."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import duckdb

#: Functions in FROM that read neither files nor settings that matter; the data file's own macros are allowed beside.
TABLE_FUNCTIONS: Final = frozenset(
    {
        "range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree", "summary",
        "histogram", "histogram_values", "duckdb_tables", "duckdb_columns", "duckdb_views", "duckdb_types",
        "duckdb_constraints", "duckdb_indexes", "duckdb_functions", "duckdb_databases", "duckdb_schemas",
        "duckdb_memory", "pragma_table_info", "pragma_database_size", "pragma_storage_info",
    }
)  # fmt: skip
#: Functions that change or wait for something, although they stand in a SELECT.
REFUSED_FUNCTIONS: Final = frozenset(
    {"nextval", "setseed", "write_log", "parse_duckdb_log_message", "sleep_ms", "sleep", "getenv"}
)
EXPLAIN: Final = re.compile(r"\s*explain\s+(?:analyze\b\s*)?(?:\([^)]*\)\s*)?", re.IGNORECASE)
READS: Final = "expected one SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"


class RefusedSqlError(Exception):
    """SQL that the API does not run: `str()` is the reason, `position` the character it is about, where known."""

    def __init__(self, reason: str, *, hint: str = "", position: int | None = None) -> None:
        super().__init__(reason)
        self.hint = hint
        self.position = position


def check(cursor: duckdb.DuckDBPyConnection, sql: str, *, macros: frozenset[str]) -> None:
    """Return when `sql` is one statement that only reads tables and `macros`. Raises RefusedSqlError."""
    try:
        statements = cursor.extract_statements(sql)
    except duckdb.Error as error:
        raise RefusedSqlError(str(error), position=_tree(cursor, sql)[1]) from error
    if len(statements) != 1:
        raise RefusedSqlError(
            f"{len(statements)} statements: {READS}", hint="send them one by one; pivot with IN (...)"
        )
    statement = statements[0]
    query = statement.query
    if statement.type == duckdb.StatementType.EXPLAIN:
        query = EXPLAIN.sub("", query, count=1)
    elif statement.type != duckdb.StatementType.SELECT:
        raise RefusedSqlError(f"a {statement.type.name} statement: {READS}", hint="the API only reads")
    tree, position = _tree(cursor, query)
    if tree.get("error"):
        raise RefusedSqlError(f"{tree.get('error_message')}: {READS}", position=position)
    for node in _nodes(tree):
        _check_node(node, macros)


def _tree(cursor: duckdb.DuckDBPyConnection, sql: str) -> tuple[dict[str, Any], int | None]:
    rows = cursor.execute("select json_serialize_sql($1)", [sql]).fetchall()
    try:
        tree: dict[str, Any] = json.loads(rows[0][0])
    except RecursionError as error:
        raise RefusedSqlError("the statement is nested too deeply") from error
    position = tree.get("position")
    return tree, int(position) if position is not None else None


def _nodes(tree: object) -> Iterator[dict[str, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _check_node(node: dict[str, Any], macros: frozenset[str]) -> None:
    kind = node.get("type")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in TABLE_FUNCTIONS and name not in macros:
            raise RefusedSqlError(f"function {name!r} in FROM is refused", hint="the API reads tables, no files")
    elif kind == "FUNCTION":
        name = str(node.get("function_name", "")).lower()
        if name in REFUSED_FUNCTIONS or name.startswith("read_"):
            raise RefusedSqlError(f"function {name!r} is refused", hint="the API only reads tables")
    elif kind == "BASE_TABLE":
        name = str(node.get("table_name", ""))
        if not re.fullmatch(r"\w+", name):
            raise RefusedSqlError(f"table {name!r} is refused", hint="the API reads tables, no files")
