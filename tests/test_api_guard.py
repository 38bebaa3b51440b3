"""The API runs one statement that reads tables: a page of hostile ones is refused by their shape, each for a reason."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from tailbudget.collector.api.guard import TABLE_FUNCTIONS, Guard, RefusedSqlError
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.schema import VERSION

from .collector_support import Collector, collector, trace_body
from .support import wait_until

#: Statement -> what it would do. `FILE` stands for a Parquet file that is there.
HOSTILE = {
    # No statement, or more than one.
    "": "nothing to run",
    ";": "nothing to run",
    "-- only a comment": "nothing to run",
    "select 1; select 2": "a second statement behind the one that is looked at",
    "select 1; drop table spans": "a second statement that destroys",
    "pivot spans on kind using count(*)": "creates a type, then selects: several statements",
    # Statements that write, or change what the process is.
    "create table x (a int)": "writes",
    "create temp table x (a int)": "keeps memory beyond the query",
    "create macro m() as table from read_text('/etc/passwd')": "hides a file behind a name that is allowed",
    "create view v as from read_text('/etc/passwd')": "hides a file behind a view",
    "create secret s (type s3)": "gives credentials",
    "insert into spans select * from spans": "doubles spans",
    "delete from spans": "destroys",
    "update meta set schema_version = 9": "makes the file unreadable",
    "merge into spans using spans s on true when matched then delete": "destroys",
    "drop table spans": "destroys",
    "alter table spans add column x int": "changes tables",
    "truncate spans": "destroys",
    "comment on table spans is 'x'": "changes what people read",
    "attach '/tmp/x.db' as x": "opens a file",
    "detach tailbudget": "closes the database",
    "use memory": "moves the connection elsewhere",
    "copy spans to '/tmp/x.csv'": "writes a file",
    "copy (select 1) to '/tmp/x.csv'": "writes a file",
    "copy spans from '/etc/passwd'": "reads a file",
    "export database '/tmp/x'": "writes files",
    "import database '/tmp/x'": "runs a file",
    "install httpfs": "fetches code",
    "load httpfs": "runs code",
    "set memory_limit = '10GB'": "takes the limit away",
    "set enable_external_access = true": "opens the disk",
    "reset memory_limit": "takes the limit away",
    "set variable x = 1": "keeps state",
    "pragma database_list": "tells places on the disk",
    "pragma enable_profiling": "changes the connection",
    "call pragma_database_list()": "tells places on the disk",
    "checkpoint": "stalls landing",
    "vacuum": "stalls landing",
    "analyze": "stalls landing",
    "begin": "leaves a transaction open",
    "commit": "ends the read-only transaction",
    "rollback": "ends the read-only transaction",
    "prepare p as select 1": "keeps state",
    "execute p": "runs text that was not looked at",
    # Writing inside of what the parser calls a SELECT.
    "with x as (delete from spans returning *) from x": "a CTE that destroys",
    "with x as (insert into spans from spans returning *) select count(*) from x": "a CTE that doubles spans",
    "with x as (update spans set name = '' returning *) from x": "a CTE that changes spans",
    "with x as (copy (select 1) to '/tmp/x.csv') from x": "a CTE that writes a file",
    "select * from (with x as (copy spans to '/tmp/x.csv') from x)": "the same in a sub-query",
    "explain analyze delete from spans": "analyze runs it",
    "explain analyze with x as (delete from spans returning *) from x": "analyze runs it",
    "explain copy spans to '/tmp/x.csv'": "explains no SELECT",
    "explain (from 'FILE')": "brackets that are no options",
    "explain (format json) copy spans to '/tmp/x.csv'": "explains no SELECT, behind options",
    # Files by name.
    "from 'FILE'": "a quoted name is a file",
    'from "FILE"': "and so is a quoted identifier",
    "select * from 'journal/0000000001.journal'": "the journal",
    "from 'https://example.com/x.parquet'": "the network",
    "from sealed.parquet": "schema and table read as a file's name",
    "from tailbudget.data.csv": "catalog, schema and table read as a file's name",
    "describe 'FILE'": "tells a file's columns",
    "summarize 'FILE'": "tells a file's values",
    "show sealed.parquet": "tells a file's columns",
    "select (select count(*) from 'FILE')": "in a scalar sub-query",
    "with t as (from 'FILE') from t": "in a CTE",
    "with recursive t as (select 1 a union all select a from t, 'FILE' limit 9) from t": "in a recursive CTE",
    "select 1 union all select a from 'FILE'": "in the second half of a union",
    "pivot 'FILE' on a in (1) using count(*)": "under a pivot",
    "from spans natural join 'FILE'": "in a join",
    # Files by function.
    "from read_text('/etc/passwd')": "reads a file",
    "from READ_BLOB('/etc/passwd')": "reads a file, in capitals",
    "from main.read_csv('/etc/passwd')": "reads a file, with its schema",
    "from system.main.read_csv_auto('/etc/passwd')": "reads a file, with catalog and schema",
    "from read_parquet($f)": "reads a file, named by a parameter",
    "from parquet_scan('FILE')": "another name of read_parquet",
    "from read_json('x.json')": "reads a file",
    "from read_ndjson_objects('x.json')": "reads a file",
    "from read_duckdb('x.db')": "reads a database file",
    "from sniff_csv('/etc/passwd')": "tells a file's first lines",
    "from parquet_metadata('FILE')": "tells a file's least and largest values",
    "from parquet_kv_metadata('FILE')": "tells what is in a file",
    "from parquet_bloom_probe('FILE', 'a', 1)": "tells whether a file has a value",
    "from glob('*')": "lists folders",
    "select (select count(*) from glob('/*'))": "in a scalar sub-query",
    "with t as materialized (from glob('/*')) from t": "in a CTE",
    "select * from spans where exists (from read_text('/etc/passwd'))": "in a condition",
    "select 1 order by (select count(*) from glob('*'))": "in an order",
    "select 1 limit (select count(*) from glob('*'))": "in a limit",
    "select sum(1) filter (1 in (select 1 from glob('*')))": "in an aggregate's filter",
    "select list_transform([1], lambda x: x + (select count(*) from glob('*')))": "in a lambda",
    "select case when true then (select file from glob('*') limit 1) end": "in a case",
    "from spans, lateral (from glob('*'))": "in a lateral join",
    "from spans join glob('*') on true": "in a join",
    "from trace((select file from glob('*') limit 1))": "in a macro's argument",
    "from range((select count(*) from glob('*')))": "in an allowed function's argument",
    "values ((select count(*) from glob('*')))": "in a list of values",
    "explain select * from glob('*')": "explained",
    "explain analyze select * from read_text('/etc/passwd')": "explained and run",
    "describe select * from glob('*')": "described",
    "summarize (from glob('*'))": "summarised",
    # Text that is run as SQL, functions that run others.
    "from query('select 1')": "runs text",
    "from query('fr' || 'om glob(''*'')')": "runs text made on the way",
    "from query_table('spans')": "names a table, or a file, by text",
    "from query_table(['FILE'])": "the same, by a list",
    "from json_execute_serialized_sql(json_serialize_sql('from glob(''*'')'))": "runs a tree",
    "select json_execute_serialized_sql('{}')": "runs a tree",
    "select json_serialize_plan('from read_text(''/etc/passwd'')')": "plans text, which looks at files",
    # Settings, secrets, state.
    "from duckdb_settings()": "tells settings",
    "from pg_catalog.pg_settings": "tells settings through a view",
    "from pg_settings": "the same, without its schema",
    "select current_setting('temp_directory')": "tells a setting",
    "from duckdb_secrets()": "tells credentials",
    "from which_secret('s3://x', 's3')": "tells of credentials",
    "from duckdb_databases()": "tells places on the disk",
    "from pragma_database_list": "the same, through a view",
    "from duckdb_logs()": "tells what others ask",
    "from duckdb_temporary_files()": "tells places on the disk",
    "from duckdb_variables()": "tells state",
    "select getenv('HOME')": "tells the environment",
    "from force_checkpoint()": "stalls landing",
    "from enable_logging()": "begins to keep what others ask",
    "from checkpoint()": "stalls landing",
    "from copy_database('a', 'b')": "writes",
    "select nextval('s')": "writes",
    "select setval('s', 1)": "writes",
    "select setseed(0.5)": "changes the connection",
    "select write_log('x')": "writes",
    "select sleep_ms(60000)": "holds a slot",
    "from test_all_types()": "no table",
    "from repeat_row(1) , arrow_scan(1, 2, 3)": "reads memory by its address",
    "from python_map_function()": "calls into Python",
    "from pandas_scan(1)": "reads memory by its address",
    "select to_aggregate_state('x', 'y')": "makes an engine's structure from text",
    "select __internal_decompress_string(1::hugeint)": "an engine's own function on any bytes",
    # Too deep to be looked through.
    "select " + "(" * 20_000 + "1" + ")" * 20_000: "deep brackets",
    "select " + "1+" * 20_000 + "1": "a long sum",
    "select " + "[" * 2_000 + "]" * 2_000: "deep lists",
}  # fmt: skip

READS = [
    "select 1",
    "  -- a comment\n select 1;",
    "from spans",
    "with a as (select 1 x) select * from a",
    "with a as materialized (select 1 x), b as (from a) select * from b join a using (x)",
    "with recursive t as (select 1 a union all select a + 1 from t where a < 3) from t",
    "select 1 union all select 2 except select 3",
    "values (1)",
    "describe spans",
    "describe select 1",
    "show tables",
    "show all tables",
    "summarize spans",
    "explain select 1",
    "explain analyze select count(*) from spans",
    "explain (format json) select 1",
    "explain (analyze, format json) select 1",
    "table spans",
    "from main.spans",
    "from tailbudget.main.spans",
    "from tailbudget.spans",
    "from information_schema.tables limit 1",
    "from trace('4bf92f3577b34da6a3ce929d0e0e4736')",
    "from req('x')",
    "select since('1h')",
    "select * from range(3)",
    "select unnest([1, 2])",
    "select random() < 2, uuid() is not null",
    "select list_transform([1], lambda x: x + 1)",
    "select count(*) filter (kind = 'SERVER'), quantile_cont(duration_ns, 0.95) from spans group by all",
    "select sum(duration_ns) over (partition by name order by started) from spans",
    "select 'delete from spans; drop table spans'",
    "select 'read_text' as glob, name as \"from 'x.parquet'\" from spans",
    "pivot (select 1 a, 2 b) on a in (1) using sum(b)",
    "from spans s, lateral (select s.name || 'x' as y)",
    "select column_name, comment from duckdb_columns() where table_name = 'requests'",
]


@pytest.fixture(scope="module")
def open_connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection whose engine would run all of it: only the guard stands between."""
    folder = tmp_path_factory.mktemp("guard")
    with open_database(folder):
        pass
    with duckdb.connect(str(folder / "tailbudget.duckdb")) as connection:
        connection.execute(f"copy (select 1 as a) to '{folder / 'there.parquet'}'")
        connection.execute("create schema data; create sequence s")
        yield connection


@pytest.fixture(scope="module")
def file(open_connection: duckdb.DuckDBPyConnection) -> str:
    ((path,),) = open_connection.execute("select path from duckdb_databases() where path is not null").fetchall()
    return str(Path(path).with_name("there.parquet"))


@pytest.mark.parametrize("sql", HOSTILE)
def test_the_shape_alone_is_refused(open_connection: duckdb.DuckDBPyConnection, file: str, sql: str) -> None:
    with pytest.raises(RefusedSqlError):
        Guard(open_connection).check(open_connection.cursor(), sql.replace("FILE", file))


@pytest.mark.parametrize("sql", READS)
def test_what_reads_tables_passes(open_connection: duckdb.DuckDBPyConnection, sql: str) -> None:
    Guard(open_connection).check(open_connection.cursor(), sql)
    open_connection.cursor().execute(sql)


def test_the_page_has_a_reason_a_line() -> None:
    assert len(HOSTILE) > 100
    assert all(HOSTILE.values())


def test_every_function_of_this_duckdb_that_can_stand_in_from_is_refused_or_known_to_be_harmless(
    open_connection: duckdb.DuckDBPyConnection,
) -> None:
    names = open_connection.execute(
        "select distinct function_name from duckdb_functions() where function_type in ('table', 'pragma') and internal"
    ).fetchall()
    guard = Guard(open_connection)
    passed = set()
    for (name,) in names:
        try:
            guard.check(open_connection.cursor(), f'from "{name}"()')
        except RefusedSqlError:
            continue
        passed.add(name)
    assert passed <= TABLE_FUNCTIONS
    reaching = ("read", "parquet", "scan", "glob", "query", "secret", "setting", "log", "execute", "csv", "json_e")
    assert [name for name in passed if any(word in name for word in reaching)] == ["json_each"]


def test_a_view_may_read_what_a_query_may_not(open_connection: duckdb.DuckDBPyConnection, file: str) -> None:
    open_connection.execute(f"create or replace view sealed as from read_parquet('{file}')")
    guard = Guard(open_connection)
    guard.check(open_connection.cursor(), "from sealed")
    with pytest.raises(RefusedSqlError, match="read_parquet"):
        guard.check(open_connection.cursor(), f"from read_parquet('{file}')")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("api") / "data") as found:
        assert found.post("/v1/traces", trace_body(3, seed=31))[0] == 200
        wait_until(lambda: found.value("select count(*) from spans") == 3)
        yield found


def test_a_collector_refuses_all_of_it_and_is_as_it_was(running: Collector, file: str) -> None:
    for sql in HOSTILE:
        status, body = running.ask(sql.replace("FILE", file))
        assert (status, b'"error"' in body) == (400, True), sql[:100]
    assert running.value("select count(*) from spans") == 3
    assert running.value("select schema_version from meta") == VERSION
    assert running.rows("select table_name from duckdb_tables() where table_name = 'x'") == []
