"""A map of more spans than it looks at rests on whole traces, and says what all of them would within their spread."""

from collections.abc import Iterator
from datetime import UTC, datetime
from math import sqrt

import duckdb
import numpy as np
import pytest

from tailbudget.analytics import service_map
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.recognise import span_select
from tailbudget.collector.assemble import Assembler

from .spans import Row, Trace, database, land, later, promoted, rows
from .test_assemble_conformance import CASES, decoded
from .test_assemble_requests import CALL
from .test_map import seen, shop

ALL = 10**9
#: Spans of the crowd, of which a day has 14,000, that make it a fourth.
MOST = 4000
#: Of each trace stored, so many copies under other ids; odd ones three days older, each hop takes its own time.
COPIES = 64
MANY = """
    create temp table copy as select range as k, interval 3 day * (range % 2) as ago from range($copies);
    create temp table original as from {table};
    delete from {table};
    insert into {table} by name
    select original.* replace ({values}) from original cross join copy;
    drop table original;
    drop table copy
"""
TRACE = "md5(trace_id::varchar || k)::uuid as trace_id, started - ago as started"
IDS = f"{TRACE}, hash(span_id, k) as span_id"
SLOWER = "(1 + hash(span_id, k, 1) % 1000 / 1000)"
COPIED = {
    "spans_open": f"""{IDS}, if(parent_span_id is null, null, hash(parent_span_id, k)) as parent_span_id,
        start_ns + (duration_ns * {SLOWER})::bigint as end_ns, (duration_ns * {SLOWER})::bigint as duration_ns""",
    "calls": f"{IDS}, list_transform(spans, lambda id: hash(id, k)) as spans, total_ms * {SLOWER} as total_ms",
    "stage_spans": IDS,
    "requests": IDS,
}


def crowd(connection: duckdb.DuckDBPyConnection, *, copies: int = COPIES) -> duckdb.DuckDBPyConnection:
    """Put many traces in the place of each."""
    for table, values in COPIED.items():
        for statement in MANY.format(table=table, values=values).split(";\n"):
            connection.execute(statement, {"copies": copies} if "$copies" in statement else {})
    return connection


@pytest.fixture(scope="module")
def captured() -> Iterator[duckdb.DuckDBPyConnection]:
    """Give the captured telemetry of all sources, 64 times."""
    connection, known = database(), set[bytes]()
    for source, file in CASES:
        spans = decoded(source, file).spans
        traces = set(spans["trace_id"].to_pylist())
        if not traces & known:  # some bodies tell of the traces of others
            connection.register("batch_spans", spans)
            connection.register("batch_events", decoded(source, file).events)
            connection.execute(f"insert into spans_open by name {span_select(promoted(spans))}")
        known |= traces
    connection.execute("insert into dirty select distinct trace_id, now(), now(), true, null, null from spans")
    Assembler(connection).tick(datetime.now(UTC))
    yield crowd(connection)
    connection.close()


def edges(connection: duckdb.DuckDBPyConnection, most: int) -> dict[tuple[str, str], Row]:
    found = rows(connection, "from map_edges_of($most::bigint)", {"most": most})
    return {(row["from_node"], row["to_node"]): row for row in found}


def test_the_hops_looked_at_are_those_of_every_fourth_trace_as_they_are_among_all(
    captured: duckdb.DuckDBPyConnection,
) -> None:
    hops = "select * exclude (one_in) from hops_over('8 days', {})"
    picked, found = f"{hops.format(ALL)} where hash(trace_id) % 4::ubigint = 0", hops.format(MOST)
    assert rows(captured, f"select distinct one_in from hops_over('8 days', {MOST})") == [{"one_in": 4}]
    assert rows(captured, f"select count(*) > 1000 as many from ({picked})") == [{"many": True}]
    for one, other in ((picked, found), (found, picked)):
        assert rows(captured, f"from ({one}) except all from ({other})") == []


def test_percentiles_of_a_sample_are_those_of_all_within_their_spread(captured: duckdb.DuckDBPyConnection) -> None:
    exact, sampled = edges(captured, ALL), edges(captured, MOST)
    all_ms = {
        (row["from_node"], row["to_node"]): np.array(row["ms"])
        for row in rows(
            captured,
            f"""select
                    'service:' || service as from_node, if(kind = 'engine', 'service', kind) || ':' || name as to_node,
                    list(ms) as ms
                from hops_over('8 days', {ALL}) where recent group by all""",
        )
    }
    often = {edge for edge, row in exact.items() if row["n"] >= 200}
    assert len(often) >= 5
    assert often <= sampled.keys()
    for edge in often:
        row, hops = sampled[edge], exact[edge]
        assert (hops["one_in"], hops["hops"], row["one_in"]) == (1, hops["n"], 4)
        assert hops["p95_ms"] == pytest.approx(np.quantile(all_ms[edge], 0.95))
        assert row["hops"] == pytest.approx(hops["hops"], rel=4 * sqrt(3 / row["traces"]))
        assert row["calls_per_request"] == pytest.approx(hops["calls_per_request"], rel=0.5)
        for q, name in ((0.5, "p50_ms"), (0.95, "p95_ms")):
            spread = 4 * sqrt(q * (1 - q) / row["traces"])
            low, high = np.quantile(all_ms[edge], [max(q - spread, 0), min(q + spread, 1)])
            assert low <= row[name] <= high, (edge, name)


def call(trace: int, *, to: str) -> Trace:
    """Return a trace of one model call."""
    built = Trace(trace)
    built.add("chat m", 0, 100, kind="CLIENT", attrs={**CALL, "server.address": to})
    return built


def test_a_rare_hop_that_a_sample_lacks_on_one_side_is_neither_new_nor_gone() -> None:
    connection = crowd(seen([shop(1)]))
    picked = "hash(lpad(hex(range), 32, '0')::uuid) % 64::ubigint = 0"
    rare, former = (row["range"] for row in rows(connection, f"from range(9000, 9999) where {picked} limit 2"))
    often = [call(trace, to="often.example") for trace in range(5000, 5100)]
    for trace in (call(rare, to="rare.example"), call(former, to="former.example"), *often):
        land(connection, trace.spans)
    Assembler(connection).tick(later(60))
    for table in ("spans_open", "calls"):
        connection.execute(
            f"update {table} set started = started - interval 3 day where trace_id = $1",
            [call(former, to="").spans[0].trace_id],
        )
    changes = {
        most: {to: row["change"] for (_, to), row in edges(connection, most).items() if row["change"] or row["n"] == 1}
        for most in (ALL, 100)
    }
    often_new = {"provider:often.example": "new"}
    assert changes[ALL] == {**often_new, "provider:rare.example": "new", "provider:former.example": "gone"}
    assert changes[100] == {**often_new, "provider:rare.example": None}
    connection.close()


def test_the_pages_nodes_are_those_of_the_view(captured: duckdb.DuckDBPyConnection) -> None:
    reader = ConnectionReader(captured)
    found = service_map.nodes(service_map.services(reader), service_map.edges(reader)).to_pylist()
    names = ", ".join(found[0])
    assert found == rows(captured, f"select {names} from map_nodes order by kind, name")
    assert {row["kind"] for row in found} > {"service", "provider"}
