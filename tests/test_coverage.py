"""What a service's telemetry can tell is counted a service, and what is missing comes with the line that adds it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tailbudget.collector.assemble import Assembler
from tailbudget.collector.land.database import open_database

from .spans import EPOCH_NS, Row, Trace, database, land, later, one, rows
from .test_assemble_requests import CALL, ENGINE

COVERAGE = "from coverage_over('3000 days')"
STREAMED = {
    **CALL, "slo.time_to_first_token": 0.1, "slo.stream.end": "complete", "gen_ai.usage.input_tokens": 9,
    "gen_ai.usage.output_tokens": 5,
}  # fmt: skip


def covered(*traces: Trace, counted: float | None = None, cumulative: bool = False) -> dict[str | None, Row]:
    """Return the rows of the view by service; `counted` is what the service `shop` says it ended."""
    connection = database()
    for trace in traces:
        land(connection, trace.spans)
    Assembler(connection).tick(later(60))
    if counted is not None:
        count_ended(connection, counted, cumulative=cumulative)
    return {row["service"]: row for row in rows(connection, COVERAGE)}


def count_ended(connection: duckdb.DuckDBPyConnection, n: float, *, cumulative: bool) -> None:
    """Store two points of the service's own count, 5 s apart, that say `n` in all."""
    connection.execute("insert into resources values (1, 'shop', 'i1', null, null, '{}')")
    # As SDKs do with counters that are read: the first point begins when it was read.
    for started_s, at_s, value in ((5, 5, n - 1), (5, 10, n if cumulative else 1)):
        point(connection, value, started=later(started_s), t=later(at_s), cumulative=cumulative)


def point(
    connection: duckdb.DuckDBPyConnection, value: float, *, started: datetime, t: datetime, cumulative: bool
) -> None:
    """Store one point of what `shop` says it ended."""
    connection.execute(
        """insert into metrics_open by name
           select 'slo.requests.ended' as name, 'sum' as kind, $temporality as temporality, true as monotonic,
           $started as started, $t as t, $value as value, 1 as resource_id, '{}' as attrs""",
        {"temporality": "cumulative" if cumulative else "delta", "started": started, "t": t, "value": value},
    )


def holes(row: Row) -> dict[str, str]:
    return {hole["what"]: hole["add"] for hole in row["missing"]}


def request(trace: int, attrs: dict[str, Any], call: dict[str, Any] | None, **more: Any) -> Trace:
    """Return a request of 1 s with one model call."""
    built = Trace(trace)
    root = built.add("GET /chat", 0, 1000, kind="SERVER", attrs={"http.route": "/chat", **attrs}, **more)
    if call is not None:
        built.add("chat m", 10, 900, under=root, kind="CLIENT", attrs=call, **more)
    return built


def test_shares_are_of_the_calls_and_requests_of_each_service() -> None:
    marked = {"slo.request": "/chat", "slo.budget.total": 2.5}
    found = covered(
        request(1, marked, STREAMED, scope="tailbudget"),
        request(2, {"slo.request": "/chat"}, {**STREAMED, "slo.time_to_first_token": None}, scope="tailbudget"),
        request(3, {}, {**CALL, "gen_ai.request.stream": False}, service="other", scope="openinference.x"),
    )
    shop, other = found["shop"], found["other"]
    assert (shop["calls"], shop["ttft_share"], shop["tokens_share"], shop["server_share"]) == (2, 0.5, 1.0, 0.0)
    assert (shop["requests"], shop["budget_share"], shop["dialects"]) == (2, 0.5, ["tailbudget"])
    assert (other["calls"], other["ttft_share"], other["tokens_share"], other["budget_share"]) == (1, None, 0.0, 0.0)
    assert other["dialects"] == ["OpenInference"]


def test_sampled_requests_are_told_from_those_that_they_stand_for() -> None:
    shares = {1: "ot=th:c", 2: "ot=th:8", 3: None}
    found = covered(
        *(
            request(number, {"slo.request": "/chat", "w3c.tracestate": state}, STREAMED)
            for number, state in shares.items()
        )
    )
    assert (found["shop"]["requests"], found["shop"]["stands_for"]) == (3, 4 + 2 + 1)


def test_what_is_missing_comes_with_the_line_that_adds_it() -> None:
    (row,) = covered(request(1, {}, {**CALL, "gen_ai.provider.name": "openai"})).values()
    assert set(holes(row)) == {"ttft", "tokens", "server stages", "budgets, count of requests"}
    assert holes(row)["ttft"] == 'tailbudget.init("shop")'
    assert holes(row)["budgets, count of requests"] == (
        'app = tailbudget.ASGIMiddleware(app, budgets_ms={"/chat": {"total": 2500}})'
    )


def test_a_hosted_provider_is_not_asked_for_its_engine() -> None:
    (row,) = covered(request(1, {}, {**STREAMED, "server.address": "api.openai.com"})).values()
    assert "server stages" not in holes(row)


def test_an_engine_is_not_asked_for_what_its_callers_know() -> None:
    trace = Trace()
    trace.add("llm_request", 0, 760, kind="SERVER", service="engine", attrs=ENGINE, scope="vllm.llm_engine")
    (row,) = covered(trace).values()
    assert (row["dialects"], row["server_share"], row["missing"]) == (["vLLM"], 1.0, [])


def test_a_route_with_quotes_stays_one_line_of_code() -> None:
    trace = Trace()
    trace.add('say "hi"', 0, 100, attrs=CALL)
    (row,) = covered(trace).values()
    assert holes(row)["budgets, count of requests"] == (
        'with tailbudget.request("say \\"hi\\"", budgets_ms={"total": 2500}): ...'
    )


def test_a_sender_without_a_name_is_told_how_to_give_one() -> None:
    (row,) = covered(request(1, {}, None, service=None)).values()
    assert (row["service"], holes(row)) == (None, {"name of the service": "OTEL_SERVICE_NAME=..."})


@pytest.mark.parametrize("cumulative", [False, True])
def test_assembled_requests_are_held_against_what_the_service_counted(*, cumulative: bool) -> None:
    marked = {"slo.request": "/chat", "slo.budget.total": 2.5}
    traces = [request(number, marked, STREAMED, scope="tailbudget") for number in (1, 2, 3)]
    row = covered(*traces, counted=3, cumulative=cumulative)["shop"]
    assert (row["ended"], row["assembled"], row["assembled_share"]) == (3, 3, 1.0)
    assert "requests" not in holes(row)
    row = covered(*traces, counted=4, cumulative=cumulative)["shop"]
    assert (row["ended"], row["assembled"], row["assembled_share"]) == (4, 3, 0.75)
    assert holes(row)["requests"].startswith("OTEL_BSP_MAX_QUEUE_SIZE=")


@pytest.mark.parametrize("cumulative", [False, True])
def test_a_count_that_began_before_the_window_counts_what_ended_in_it(*, cumulative: bool) -> None:
    marked = {"slo.request": "/chat", "slo.budget.total": 2.5}
    connection = database()
    connection.execute("insert into resources values (1, 'shop', 'i1', null, null, '{}')")
    for number in (1, 2):
        land(connection, request(number, marked, STREAMED, scope="tailbudget").spans)
    Assembler(connection).tick(later(60))
    begun = later(-100)  # of the two requests, which end at 1 s, one point at -50 s knows nothing
    point(connection, 40, started=begun, t=later(-50), cumulative=cumulative)
    point(
        connection,
        42 if cumulative else 2,
        started=begun if cumulative else later(-50),
        t=later(5),
        cumulative=cumulative,
    )
    row = one(connection, "from coverage_over('20 seconds')")
    assert (row["ended"], row["assembled"]) == ((2, 2) if cumulative else (0, 0))  # a delta over the edge is left out
    row = one(connection, "from coverage_over('60 seconds')")
    assert (row["ended"], row["assembled"]) == (2, 2)


def test_requests_of_the_last_seconds_may_still_be_on_their_way() -> None:
    now = datetime.now(UTC)
    connection = database()
    land(connection, request(1, {"slo.request": "/chat"}, STREAMED, scope="tailbudget").spans)
    Assembler(connection).tick(later(60))
    connection.execute("insert into resources values (1, 'shop', 'i1', null, null, '{}')")
    point(connection, 5, started=now, t=now, cumulative=False)
    (row,) = rows(connection, COVERAGE)
    assert (row["ended"], row["assembled_share"]) == (0, None)
    assert "requests" not in holes(row)


def test_the_view_speaks_of_the_last_day_before_the_newest_span() -> None:
    connection = database()
    old, new = request(1, {}, CALL, service="old"), request(2, {}, CALL, service="new")
    land(connection, old.spans)
    connection.execute("update spans_open set started = started - interval 25 hour")
    land(connection, new.spans)
    assert [row["service"] for row in rows(connection, "from coverage")] == ["new"]
    assert one(connection, "select epoch_ns(last_span) as ns from coverage")["ns"] == EPOCH_NS + 10_000_000


def test_a_file_of_an_earlier_version_gets_the_views_when_it_is_opened(tmp_path: Path) -> None:
    with open_database(tmp_path) as connection:
        connection.execute("drop view coverage")
    with open_database(tmp_path) as connection:
        row = one(connection, "select comment from duckdb_views() where view_name = 'coverage'")
        assert row["comment"].startswith("One row a service")
        columns = rows(connection, "select column_name, comment from duckdb_columns() where table_name = 'coverage'")
        assert [column["column_name"] for column in columns if not column["comment"]] == []
