"""The map shows who calls what in traces, how often, how fast, over which connections, and what has changed."""

from collections.abc import Iterable
from typing import Any

import duckdb
import pytest

from tailbudget.collector.assemble import Assembler

from .spans import Row, Trace, database, land, later, rows
from .test_assemble_requests import CALL, ENGINE

Edges = dict[tuple[str, str], Row]


def seen(traces: Iterable[Trace], *, before: Iterable[Trace] = ()) -> duckdb.DuckDBPyConnection:
    """Return a database with the traces, and with others that are three days older."""
    connection = database()
    for trace in before:
        land(connection, trace.spans)
    Assembler(connection).tick(later(60))
    for table in ("spans_open", "requests", "calls", "stages", "stage_spans"):
        connection.execute(f"update {table} set started = started - interval 3 day")
    for trace in traces:
        land(connection, trace.spans)
    Assembler(connection).tick(later(60))
    return connection


def edges(connection: duckdb.DuckDBPyConnection) -> Edges:
    return {(row["from_node"], row["to_node"]): row for row in rows(connection, "from map_edges")}


def nodes(connection: duckdb.DuckDBPyConnection) -> dict[str, Row]:
    return {row["node"]: row for row in rows(connection, "from map_nodes")}


def shop(trace: int, *, call_ms: float = 500, calls: int = 1, **net: Any) -> Trace:
    """Return a request of `shop` with a store, a tool, another service and model calls."""
    built = Trace(trace)
    root = built.add("ask", 0, 2000, kind="SERVER", attrs={"slo.request": "ask"})
    built.add(
        "query docs", 0, 50, under=root, kind="CLIENT", attrs={"slo.stage": "retrieval", "db.system.name": "qdrant"}
    )
    built.add("execute_tool find", 50, 90, under=root, attrs={"slo.stage": "tools", "gen_ai.tool.name": "find"})
    to_billing = {"http.request.method": "GET", "server.address": "billing", "server.port": 80}
    client = built.add("GET", 100, 120, under=root, kind="CLIENT", attrs=to_billing)
    built.add("GET /price", 105, 180, under=client, kind="SERVER", service="billing")
    for at in range(calls):
        attrs = {**CALL, "server.address": "api.example", **{f"slo.net.{key}": value for key, value in net.items()}}
        built.add("chat m", 200 + at, 200 + at + call_ms, under=root, kind="CLIENT", attrs=attrs)
    return built


def test_services_providers_stores_tools_and_engines_are_nodes() -> None:
    engine = Trace(9)
    call = engine.add("chat m", 0, 900, kind="CLIENT", attrs={**CALL, "server.address": "gpu-1:8000"})
    engine.add("llm_request", 5, 760, under=call, kind="SERVER", service="vllm", attrs=ENGINE)
    found = nodes(seen([shop(1), engine]))
    assert {name: row["kind"] for name, row in found.items()} == {
        "service:shop": "service", "service:billing": "service", "service:vllm": "engine", "store:qdrant": "store",
        "tool:find": "tool", "provider:api.example": "provider",
    }  # fmt: skip
    assert (found["service:shop"]["requests"], found["service:vllm"]["requests"]) == (2, 0)


def test_a_hop_to_a_service_ends_with_that_services_answer_and_not_at_the_headers() -> None:
    row = edges(seen([shop(1)]))["service:shop", "service:billing"]
    assert (row["hops"], row["p50_ms"]) == (1, 80.0)


def test_calls_a_request_count_each_request_once() -> None:
    row = edges(seen([shop(1, calls=3), shop(2)]))["service:shop", "provider:api.example"]
    assert (row["hops"], row["calls_per_request"], row["p95_ms"]) == (4, 2.0, 500.0)


def test_the_round_trip_and_new_connections_come_from_the_network_phases() -> None:
    measured = [shop(1, connect=0.03, reused=False), shop(2, reused=True), shop(3, connect=0.05, reused=False)]
    row = edges(seen([*measured, shop(4)]))["service:shop", "provider:api.example"]
    assert row["connect_ms"] == 40.0
    assert row["new_share"] == pytest.approx(2 / 3)


def test_without_network_phases_the_connection_is_unknown_and_not_zero() -> None:
    row = edges(seen([shop(1)]))["service:shop", "provider:api.example"]
    assert (row["connect_ms"], row["new_share"], row["to_region"]) == (None, None, None)


def test_http_below_a_call_is_no_hop_of_its_own() -> None:
    trace = Trace()
    call = trace.add("chat m", 0, 900, kind="CLIENT", attrs={**CALL, "server.address": "api.example"})
    trace.add(
        "POST", 5, 300, under=call, kind="CLIENT", attrs={"http.request.method": "POST", "server.address": "proxy"}
    )
    assert list(edges(seen([trace]))) == [("service:shop", "provider:api.example")]


def test_http_in_a_trace_without_model_calls_is_a_hop_to_a_peer() -> None:
    trace = Trace()
    root = trace.add("job", 0, 100)
    trace.add("GET", 5, 30, under=root, kind="CLIENT", attrs={"http.request.method": "GET", "server.address": "cdn"})
    assert list(edges(seen([trace]))) == [("service:shop", "peer:cdn")]


def test_a_call_through_a_gateway_is_a_hop_to_the_gateways_service() -> None:
    trace = Trace()
    call = trace.add("chat m", 0, 900, kind="CLIENT", attrs=CALL)
    gate = trace.add("POST /v1/chat", 10, 890, under=call, kind="SERVER", service="gateway")
    trace.add(
        "chat m", 20, 880, under=gate, kind="CLIENT", service="gateway", attrs={**CALL, "server.address": "api.example"}
    )
    assert ("service:shop", "service:gateway") in edges(seen([trace]))


def test_regions_are_those_of_the_services() -> None:
    connection = seen([shop(1)])
    connection.execute(
        "insert into resources values (1, 'shop', null, null, 'eu-1', '{}'), (2, 'billing', null, null, 'us-1', '{}')"
    )
    row = edges(connection)["service:shop", "service:billing"]
    assert (row["from_region"], row["to_region"]) == ("eu-1", "us-1")
    assert nodes(connection)["service:shop"]["region"] == "eu-1"


def test_nothing_has_changed_where_there_is_no_history() -> None:
    connection = seen([shop(1)])
    assert {row["change"] for row in edges(connection).values()} == {None}
    assert {row["change"] for row in nodes(connection).values()} == {None}


def test_a_slower_provider_and_more_calls_are_changes_against_last_week() -> None:
    past = [shop(trace) for trace in range(1, 41)]
    connection = seen([shop(trace, calls=2, call_ms=900) for trace in range(101, 141)], before=past)
    row = edges(connection)["service:shop", "provider:api.example"]
    assert (row["p95_ms_before"], row["calls_per_request_before"]) == (500.0, 1.0)
    assert row["change"] == "slower, more calls"
    assert edges(connection)["service:shop", "store:qdrant"]["change"] is None


def test_what_appeared_and_what_is_gone_are_changes_too() -> None:
    other = Trace(50)
    other.add("chat m", 0, 100, kind="CLIENT", attrs={**CALL, "server.address": "old.example"})
    connection = seen([shop(1)], before=[other])
    found = edges(connection)
    assert found["service:shop", "provider:old.example"]["change"] == "gone"
    assert found["service:shop", "provider:old.example"]["hops"] == 0
    assert found["service:shop", "provider:api.example"]["change"] == "new"
    assert nodes(connection)["provider:old.example"]["change"] == "gone"
    assert nodes(connection)["service:billing"]["change"] == "new"
    assert nodes(connection)["service:shop"]["change"] is None
