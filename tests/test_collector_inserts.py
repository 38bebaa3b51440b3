"""What inserts spans is planned once for each set of attributes, and lands what it is given each time, all of it."""

import hashlib
from collections.abc import Iterator, Mapping

import duckdb
import pyarrow as pa
import pytest

from tailbudget.analytics.recognise import PROMOTED
from tailbudget.collector.land import span_inserts
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.batches import EVENTS
from tailbudget.collector.receive.decode import decode_traces
from tailbudget.collector.seal.views import create_views

from .collector_support import trace_request
from .spans import database


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    found = database()
    yield found
    found.close()


def body(seed: int, attributes: Mapping[str, object], *, spans: int = 3, event: bool = False) -> Body:
    request = trace_request(spans, seed=seed, attributes={**attributes, "seed": seed})
    if event:
        exception = request.resource_spans[0].scope_spans[0].spans[0].events.add(name="exception")
        exception.attributes.add(key="exception.type").value.string_value = f"Error{seed}"
    data = request.SerializeToString()
    return Body(digest=hashlib.blake2b(data, digest_size=16).digest(), batches=decode_traces(data, promoted=PROMOTED))


def stored(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    sql = "select (attrs->'seed')::int, route, model, count(*), max(error) from spans group by all order by all"
    return connection.cursor().execute(sql).fetchall()


def test_sets_of_attributes_that_take_turns_land_with_their_own_values(connection: duckdb.DuckDBPyConnection) -> None:
    landing = Landing(connection)
    for seed in range(0, 6, 2):
        landing.land([body(seed, {"http.route": f"/{seed}"})])
        landing.land([body(seed + 1, {"gen_ai.request.model": f"m{seed}"})])
    assert stored(connection) == [
        (0, "/0", None, 3, None),
        (1, None, "m0", 3, None),
        (2, "/2", None, 3, None),
        (3, None, "m2", 3, None),
        (4, "/4", None, 3, None),
        (5, None, "m4", 3, None),
    ]


def test_spans_with_events_and_without_land_by_turns(connection: duckdb.DuckDBPyConnection) -> None:
    landing = Landing(connection)
    for seed in range(4):
        landing.land([body(seed, {}, event=seed % 2 == 1)])
    assert [row[4] for row in stored(connection)] == [None, "Error1", None, "Error3"]


def test_bodies_of_one_transaction_may_have_different_attributes(connection: duckdb.DuckDBPyConnection) -> None:
    Landing(connection).land([body(1, {"http.route": "/a"}), body(2, {"gen_ai.request.model": "m"}), body(3, {})])
    assert stored(connection) == [(1, "/a", None, 3, None), (2, None, "m", 3, None), (3, None, None, 3, None)]


def test_a_plan_made_in_a_transaction_that_failed_lands_what_comes_next(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = Landing(connection)

    def refuse(*_: object) -> None:
        raise duckdb.IOException("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(landing, "_land_bodies", refuse)
        with pytest.raises(duckdb.IOException):
            landing.land([body(1, {"http.route": "/lost"})])
    landing.land([body(2, {"http.route": "/a"})])
    landing.land([body(1, {"http.route": "/again"})])
    assert stored(connection) == [(1, "/again", None, 3, None), (2, "/a", None, 3, None)]


def test_a_plan_outlives_changes_of_the_catalog(connection: duckdb.DuckDBPyConnection) -> None:
    landing = Landing(connection)
    landing.land([body(1, {"http.route": "/1"})])
    create_views(connection)
    landing.land([body(2, {"http.route": "/2"})])
    connection.execute("alter table spans_open add column later BIGINT")
    landing.land([body(3, {"http.route": "/3"})])
    assert [row[1] for row in stored(connection)] == ["/1", "/2", "/3"]


def test_no_more_plans_are_kept_than_may_be(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(span_inserts, "KEPT", 2)
    landing = Landing(connection)
    names = ("http.route", "gen_ai.request.model", "slo.tenant", "http.route")
    for seed, name in enumerate(names):
        landing.land([body(seed, {name: "x"})])
    ((kept,),) = connection.execute("select count(*) from duckdb_prepared_statements()").fetchall()
    assert (kept, sum(int(str(row[3])) for row in stored(connection))) == (2, 12)


def test_rows_that_nobody_gave_are_an_error_and_not_an_empty_table(connection: duckdb.DuckDBPyConnection) -> None:
    connection.register("nothing", span_inserts.Feed(EVENTS))
    with pytest.raises(duckdb.Error):
        connection.execute("select count(*) from nothing").fetchall()


def test_a_transaction_that_reads_other_rows_than_it_was_given_fails(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(schema: pa.Schema, parts: list[pa.Table]) -> pa.RecordBatchReader:
        return streamed(schema, [part.slice(1) for part in parts])

    streamed = span_inserts._streamed
    landing = Landing(connection)
    with monkeypatch.context() as broken:
        broken.setattr(span_inserts, "_streamed", short)
        with pytest.raises(duckdb.InternalException, match="2 spans were inserted of 3"):
            landing.land([body(1, {})])
    assert stored(connection) == []
    landing.land([body(1, {})])
    assert stored(connection) == [(1, None, None, 3, None)]


def test_of_equal_spans_in_one_transaction_the_first_lands(connection: duckdb.DuckDBPyConnection) -> None:
    first, second = body(1, {"http.route": "/first"}, spans=40), body(1, {"http.route": "/second"}, spans=40)
    Landing(connection).land([body(2, {}), first, second])
    assert stored(connection) == [(1, "/first", None, 40, None), (2, None, None, 3, None)]
