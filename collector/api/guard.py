"""Lets through one statement that reads tables, and nothing else."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Final

import duckdb

#: Functions in FROM that read neither files nor settings; the data file's own macros are allowed beside. What a newer
#: DuckDB adds is refused until it stands here.
TABLE_FUNCTIONS: Final = frozenset(
    {
        "range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree", "summary",
        "histogram", "histogram_values", "duckdb_tables", "duckdb_columns", "duckdb_views", "duckdb_types",
        "duckdb_constraints", "duckdb_indexes", "duckdb_functions", "duckdb_schemas",
        "duckdb_memory", "pragma_table_info", "pragma_database_size", "pragma_storage_info",
    }
)  # fmt: skip
#: Scalar functions that tell settings, run text, or take bytes from the statement for an engine's own structures.
REFUSED_FUNCTIONS: Final = frozenset(
    {"current_setting", "getenv", "json_execute_serialized_sql", "json_serialize_plan", "to_aggregate_state",
     "parse_duckdb_log_message"}
)  # fmt: skip
REFUSED_PREFIXES: Final = ("read_", "__internal_")
#: Functions that DuckDB marks as volatile and that change nothing; the other volatile ones are refused.
HARMLESS: Final = frozenset(
    {"random", "uuid", "uuidv4", "uuidv7", "gen_random_uuid", "error", "stats", "vector_type", "current_query",
     "current_query_id", "current_connection_id", "current_transaction_id"}
)  # fmt: skip
#: Views of DuckDB's own that tell settings or places on the disk.
REFUSED_VIEWS: Final = frozenset({"pg_settings", "pragma_database_list", "duckdb_databases", "duckdb_logs"})
SCHEMAS: Final = frozenset({"main", "information_schema", "pg_catalog"})
#: Since 2.0 a CTE may hold INSERT, UPDATE, DELETE and COPY: to the parser all of it is one SELECT.
QUERY_NODES: Final = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
EXPLAIN: Final = re.compile(r"\s*explain\b\s*(?:analyze\b\s*)?(?:\(\s*(?:analyze|format)\b[^()]*\)\s*)?", re.IGNORECASE)
#: Characters of the questions that are kept parsed, each beside its tree of some thirty times as many bytes: all that
#: the dashboard asks are 200,000. To check one took 1 to 12 ms, much of it with Python's lock held.
KEPT_CHARS: Final = 256 * 1024
READS: Final = "expected one SELECT, FROM, WITH, VALUES, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN"
NO_FILES: Final = "the API reads tables, no files"


class RefusedSqlError(Exception):
    """SQL that the API does not run: `str()` is the reason, `position` the character it is about, where known."""

    def __init__(self, reason: str, *, hint: str = "", position: int | None = None) -> None:
        super().__init__(reason)
        self.hint = hint
        self.position = position


class Guard:
    """Checks statements for one database: its own macros in FROM are allowed, its views are not looked into."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        functions = connection.execute(
            "select function_name, function_type, internal, has_side_effects from duckdb_functions()"
        ).fetchall()
        macros = {str(name).lower() for name, kind, internal, _ in functions if kind == "table_macro" and not internal}
        volatile = {str(name).lower() for name, _, _, changes in functions if changes}
        self._in_from = TABLE_FUNCTIONS | macros
        self._refused = REFUSED_FUNCTIONS | (volatile - HARMLESS)
        ((catalog,),) = connection.execute("select current_database()").fetchall()
        self._catalogs = {str(catalog).lower(), "system"}
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, duckdb.Statement] = OrderedDict()  # those that passed, the last asked last
        self._kept_chars = 0

    def check(self, cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
        """Return `sql`, parsed: one statement that only reads tables. Raises RefusedSqlError."""
        with self._lock:
            if sql in self._kept:
                self._kept.move_to_end(sql)
                return self._kept[sql]
        statement, tree = _parsed(cursor, sql)
        for node in _nodes(tree):
            self._check_node(node)
        self._keep(sql, statement)
        return statement

    def _keep(self, sql: str, statement: duckdb.Statement) -> None:
        with self._lock:
            if sql not in self._kept:
                self._kept[sql] = statement
                self._kept_chars += len(sql)
            while self._kept_chars > KEPT_CHARS:
                self._kept_chars -= len(self._kept.popitem(last=False)[0])

    def _check_node(self, node: dict[str, Any]) -> None:
        kind = str(node.get("type", ""))
        if kind.endswith("_NODE") and kind not in QUERY_NODES:
            raise RefusedSqlError(f"{kind.partition('_')[0]} inside a query: {READS}", hint="the API only reads")
        if kind == "TABLE_FUNCTION":
            name = str(node["function"].get("function_name", "")).lower()
            if name not in self._in_from:
                raise RefusedSqlError(f"function {name!r} in FROM is refused", hint=NO_FILES)
        elif "function_name" in node:
            name = str(node["function_name"]).lower()
            if name in self._refused or name.startswith(REFUSED_PREFIXES):
                raise RefusedSqlError(f"function {name!r} is refused", hint="the API only reads tables")
        elif kind == "BASE_TABLE":
            self._check_table(node)

    def _check_table(self, node: dict[str, Any]) -> None:
        """Refuse names that DuckDB may take for a file: 'x.csv' in quotes, and x.csv without."""
        name, schema, catalog = (
            str(node.get(key) or "").lower() for key in ("table_name", "schema_name", "catalog_name")
        )
        qualified = ".".join(part for part in (catalog, schema, name) if part)
        if not re.fullmatch(r"\w+", name) or name in REFUSED_VIEWS:
            raise RefusedSqlError(f"table {qualified!r} is refused", hint=NO_FILES)
        # One word before the table's name is its schema, or its catalog.
        if (schema and schema not in SCHEMAS | self._catalogs) or (catalog and catalog not in self._catalogs):
            raise RefusedSqlError(f"table {qualified!r} is not in this database", hint=NO_FILES)


def _parsed(cursor: duckdb.DuckDBPyConnection, sql: str) -> tuple[duckdb.Statement, dict[str, Any]]:
    """Return the one statement that `sql` is, and the tree of the SELECT that it is or explains."""
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
    if tree.get("error") or len(tree["statements"]) != 1:
        raise RefusedSqlError(f"{tree.get('error_message', 'nothing to explain')}: {READS}", position=position)
    return statement, tree


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
