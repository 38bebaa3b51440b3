"""The drill finds the value that makes requests bad, and seldom finds one where nothing does."""

from datetime import timedelta

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from tailbudget.analytics.drill import Finding, adjusted, drill, fisher
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window

from .spans import Row, database, later

WINDOW = Window(later(0), later(3600))
FILL = """
insert into requests by name
select 'r' || n as request_id, uuid() as trace_id, n as span_id, t as started, tenant, model, region, version,
    'chat' as route, prompt_bucket, 'ok' as outcome, total_ms, 1000 as budget_ms, 0 as network_ms, 0 as queue_ms,
    0 as retrieval_ms, 0 as prompt_ms, 0 as prefill_ms, total_ms as decode_ms, 0 as tools_ms, 0 as post_ms,
    0 as other_ms, 1 as calls, 0 as tool_rounds, false as synthetic
from given
"""


def requests(seed: int, *, slow_tenant: str = "", slow_share: float = 0.0) -> duckdb.DuckDBPyConnection:
    """Return 1,500 requests of 30 tenants, of which 5 % are over their budget, and `slow_share` of one tenant's."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for n in range(1500):
        tenant = f"t{rng.integers(30)}"
        share = slow_share if tenant == slow_tenant else 0.05
        rows.append(
            {
                "n": n,
                "t": later(2 * n),
                "tenant": tenant,
                "model": f"m{rng.integers(3)}",
                "region": f"r{rng.integers(4)}",
                "version": f"v{rng.integers(2)}",
                "prompt_bucket": int(2 ** rng.integers(6, 12)),
                "total_ms": 1500.0 if rng.random() < share else 500.0,
            }
        )
    connection = database()
    connection.register("given", pa.Table.from_pylist(rows))
    connection.execute(FILL)
    return connection


def found(connection: duckdb.DuckDBPyConnection, *, slower_than_ms: float | None = None) -> list[Finding]:
    whole = drill(ConnectionReader(connection), WINDOW, slower_than_ms=slower_than_ms)
    return [one for one in whole if one.found]


def test_the_value_that_makes_requests_bad_is_found_with_how_many() -> None:
    connection = requests(1, slow_tenant="t7", slow_share=0.6)
    (first,) = found(connection)
    assert (first.dimension, first.value) == ("tenant", "t7")
    assert first.share == pytest.approx(0.6, abs=0.15)
    assert first.rest_share == pytest.approx(0.05, abs=0.02)
    assert first.extra == pytest.approx(first.n * (first.share - first.rest_share))


def test_nothing_is_found_where_nothing_differs_but_one_time_in_twenty() -> None:
    connection, wrong = requests(1), 0
    for seed in range(100):
        connection.execute("update requests set total_ms = if(hash(request_id, $1) % 20 = 0, 1500, 500)", [seed])
        wrong += bool(found(connection))
    assert wrong <= 10


def test_without_a_budget_a_limit_says_what_is_bad() -> None:
    connection = requests(2, slow_tenant="t3", slow_share=0.6)
    connection.execute("update requests set budget_ms = null")
    assert found(connection) == []
    assert [one.value for one in found(connection, slower_than_ms=1000)] == ["t3"]


def test_the_instance_that_answered_is_a_dimension() -> None:
    connection = requests(3)
    connection.execute(
        """insert into calls by name
           select trace_id, span_id, request_id, started, 'ok' as outcome, total_ms, 'none' as split,
               [span_id] as spans,
               '10.0.0.' || if(total_ms > 1000 and n % 3 > 0, 9, n % 3) || ':8000' as server_address
           from (select *, row_number() over () as n from requests)"""
    )
    (first, *_) = found(connection)
    assert (first.dimension, first.value) == ("instance", "10.0.0.9:8000")


def test_a_window_without_requests_finds_nothing() -> None:
    later_on = Window(WINDOW.from_ts + timedelta(days=1), WINDOW.to_ts + timedelta(days=1))
    assert drill(ConnectionReader(requests(1)), later_on) == []


def test_fishers_tail_and_the_correction_are_those_of_the_books() -> None:
    # A lady tasting tea: all four of four right, then at least three.
    assert fisher(4, 4, 4, 8) == pytest.approx(1 / 70)
    assert fisher(3, 4, 4, 8) == pytest.approx(17 / 70)
    assert fisher(0, 4, 4, 8) == pytest.approx(1)
    assert adjusted([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
