"""A data file of every older version opens, keeps its rows and gains what is new."""

from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.reader import DATABASE_NAME
from tailbudget.collector.land import schema
from tailbudget.collector.land.database import open_database

SCHEMAS = sorted((Path(__file__).parent / "schemas").glob("*.sql"))

SPAN = """
    insert into spans by name
    select
        uuid() as trace_id, 7 as span_id, 'work' as name, 'SERVER' as kind,
        '2026-01-01 00:00:00Z'::timestamptz as started,
        1767225600000000000 as start_ns, 1767225601000000000 as end_ns, 1000000000 as duration_ns, 'OK' as status,
        1 as resource_id, 'stage' as role, 'slo.stage' as rule, '{}'::json as attrs
"""


def _columns(connection: duckdb.DuckDBPyConnection) -> set[tuple[str, ...]]:
    query = "select table_name, column_name, data_type, comment from duckdb_columns() where not internal"
    return {tuple(map(str, row)) for row in connection.execute(query).fetchall()}


@pytest.mark.parametrize("old", SCHEMAS, ids=lambda path: f"version {path.stem}")
def test_a_file_of_an_older_version_opens_with_its_rows_and_all_that_is_new(old: Path, tmp_path: Path) -> None:
    with duckdb.connect(str(tmp_path / DATABASE_NAME)) as connection:
        for statement in schema.statements(old):
            connection.execute(statement)
        connection.execute("insert into meta values ($1, 3, 77)", [int(old.stem)])
        connection.execute("insert into resources values (1, 'assistant', null, null, null, '{}')")
        connection.execute(SPAN)
        connection.execute(
            "insert into span_links by name select trace_id, span_id, trace_id as linked_trace_id, "
            "span_id as linked_span_id, attrs from spans"
        )
    (tmp_path / "new").mkdir()
    with open_database(tmp_path) as upgraded, open_database(tmp_path / "new") as new:
        assert _columns(upgraded) == _columns(new)
        meta = "select schema_version, journal_segment, journal_offset, length(collector_id) from meta"
        assert upgraded.execute(meta).fetchall() == [(schema.VERSION, 3, 77, 8)]
        assert upgraded.execute("select name, epoch(started)::int from spans").fetchall() == [("work", 1_767_225_600)]
        assert upgraded.execute("select epoch(started)::int from span_links").fetchall() == [(1_767_225_600,)]
        assert upgraded.execute("select service from resources").fetchall() == [("assistant",)]


def test_every_older_version_is_kept() -> None:
    assert [int(path.stem) for path in SCHEMAS] == list(range(1, schema.VERSION))
