"""Objectives say how far they can be trusted: what is sampled weighs more, what runs counts, what is lost shows."""

import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace._sampling_experimental import composable_traceid_ratio_based, composite_sampler
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tailbudget.analytics.objectives import Limit, Objective, burn
from tailbudget.analytics.objectives.words import COLUMNS
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.recognise import PROMOTED
from tailbudget.app.slo import status_report
from tailbudget.collector.alerting import BurnAlerts, ObjectiveFiles
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.decode import decode_traces

from .slo_support import store, write
from .spans import Trace, assemble, database, land, later, rows
from .test_assemble_requests import CALL

NOW = datetime(2026, 3, 20, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
FAST = Objective(name="chat", target=0.9, limits=(Limit("total", 1000.0),))


def status(connection: duckdb.DuckDBPyConnection, objective: Objective = FAST) -> dict[str, Any]:
    (row,) = burn.status(ConnectionReader(connection), objective, now=NOW).to_pylist()
    return dict(row)


def test_a_request_that_an_sdk_sampled_stands_for_as_many_as_its_threshold_says() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=composite_sampler(composable_traceid_ratio_based(0.25)), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("t")
    for _ in range(60):
        with tracer.start_as_current_span("GET /chat") as span:
            span.set_attribute("slo.request", "/chat")  # this sampler forgets those given at the start
    body = encode_spans(exporter.get_finished_spans()).SerializeToString()
    connection = database()
    Landing(connection).land([Body(digest=b"1", batches=decode_traces(body, promoted=PROMOTED))])
    Assembler(connection).tick(datetime.now(UTC) + timedelta(seconds=30))
    weights = [row["weight"] for row in rows(connection, "select weight from requests")]
    assert 3 <= len(weights) <= 30
    assert set(weights) == {4.0}


TRACESTATES = {
    "ot=th:8": 2.0,
    "vendor=a:b,ot=rv:6e6d1a75832a2f;th:c": 4.0,
    "ot=th:0": 1.0,
    "ot=th:ffffffffffffff": 1e6,  # nobody's word makes one request outweigh all others
    "ot=p:3;r:5": 8.0,  # of samplers before the threshold
    "ot=r:5;p:0": 1.0,
    "ot=p:3;th:c": 4.0,
    "ot=p:63": None,  # never sampled, so nobody knows
    "ot=rp:3": None,
    "ot=th:": None,
    "ot=th:xyz": None,
    "foot=th:8": None,
    "vendor=th:8": None,
}


def test_the_threshold_is_read_from_the_field_of_opentelemetry_alone() -> None:
    spans = []
    for number, tracestate in enumerate(TRACESTATES, start=1):
        trace = Trace(number)
        root = trace.add(tracestate, 0, 900, attrs={"slo.request": tracestate, "w3c.tracestate": tracestate})
        trace.add("chat m", 100, 800, under=root, kind="CLIENT", attrs=CALL)
        spans += trace.spans
    connection = database()
    assemble(connection, spans)
    found = rows(connection, "select route, weight from requests")
    assert {row["route"]: row["weight"] for row in found} == TRACESTATES


@pytest.fixture(scope="module")
def shared() -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a store that tests empty before they use it."""
    connection = store()
    yield connection
    connection.close()


events = st.lists(
    st.tuples(st.integers(0, 300), st.booleans(), st.sampled_from((None, 1.0, 2.5, 10 / 3, 64.0))), max_size=40
)


@given(found=events)
@settings(max_examples=12)
def test_shares_and_burn_are_of_what_sampled_requests_stand_for(
    shared: duckdb.DuckDBPyConnection, found: list[tuple[int, bool, float | None]]
) -> None:
    connection = shared
    connection.execute("delete from requests")
    for one_weight in {weight for _, _, weight in found}:
        mine = [(back_min, bad) for back_min, bad, weight in found if weight == one_weight]
        spread = [
            (NOW - back_min * MINUTE - timedelta(seconds=1), 400.0, "error" if bad else "ok") for back_min, bad in mine
        ]
        write(connection, spread, weight=one_weight)
    at = burn.burn(ConnectionReader(connection), FAST, since=NOW, until=NOW).to_pylist()
    hour = [(bad, weight or 1) for back_min, bad, weight in found if back_min < 60]
    for row in at:
        if row["rule"] == "2% in 1h" and hour:
            share = sum(weight for bad, weight in hour if bad) / sum(weight for _, weight in hour)
            assert row["long_burn"] == pytest.approx(share / 0.1, abs=1e-4)
            recent = [(bad, weight or 1) for back_min, bad, weight in found if back_min < 5]
            short = sum(weight for bad, weight in recent if bad) >= 0.9 * sum(weight for _, weight in recent)
            assert row["firing"] is (sum(bad for bad, _ in hour) >= 3 and share >= 0.9 and bool(recent) and short)
    if found:
        one = status(connection)
        weights = [(bad, weight or 1) for _, bad, weight in found]
        assert (one["n"], one["bad"]) == (len(found), sum(bad for bad, _ in weights))
        assert one["requests"] == pytest.approx(sum(weight for _, weight in weights))
        good = sum(weight for bad, weight in weights if not bad) / one["requests"]
        assert one["good_share"] == pytest.approx(good)
        assert (one["margin"] == 0) is (all(weight == 1 for _, weight in weights) or good in (0, 1))


def test_errors_that_a_sampler_keeps_all_of_are_not_half_of_all_requests() -> None:
    connection = store()
    write(connection, [(NOW - (k + 1) * MINUTE, 400.0, "ok") for k in range(0, 40, 2)], weight=50.0)
    write(connection, [(NOW - (k + 1) * MINUTE, 400.0, "error") for k in range(1, 40, 2)], weight=1.0)
    one = status(connection)
    assert (one["n"], one["bad"], one["firing"]) == (40, 20, [])
    assert one["good_share"] == pytest.approx(1 - 20 / 1020)
    connection.execute("update requests set weight = 1")
    assert "half of the last 20" in status(connection)["firing"]


def test_the_margin_holds_the_true_share_19_times_in_20() -> None:
    chance, held = random.Random(5), 0
    connection = store()
    write(connection, [(NOW - timedelta(seconds=k), 400.0, "error" if k % 8 == 0 else "ok") for k in range(1, 1601)])
    connection.execute("create table everybody as select * from requests")
    for _ in range(25):
        connection.execute("delete from requests")
        kept = [k for k in range(1600) if chance.random() < (0.5 if k % 8 == 0 else 0.1)]
        connection.execute("insert into requests select * from everybody where span_id in (select unnest($1))", [kept])
        connection.execute("update requests set weight = if(outcome = 'error', 2, 10)")
        one = status(connection)
        held += abs(one["good_share"] - 0.875) <= one["margin"]
    assert 21 <= held <= 25


def hang(connection: duckdb.DuckDBPyConnection, **said: object) -> None:
    """Store a request that runs: 2 s old when it was last heard of."""
    row = {"age_s": 2.0, "ttft_ms": None, "outcome": None, "tenant": "acme", "route": "/chat", **said}
    connection.execute(
        """insert into live by name select $t as heard, uuid() as trace_id, 1 as span_id, 'hung' as request_id,
           $t::timestamptz - to_milliseconds((1000 * $age_s)::bigint) as started, $route as route, $tenant as tenant,
           $age_s as age_s, $ttft_ms as ttft_ms, $outcome as outcome, false as changed, 1 as resource_id""",
        {"t": NOW - timedelta(seconds=1), **row},
    )


@pytest.mark.parametrize(
    ("limit", "said", "bad"),
    [
        (Limit("total", 1000.0), {}, 1),
        (Limit("total", 3000.0), {}, 0),  # not yet
        (Limit("final", 1000.0), {}, 1),
        (Limit("ttft", 500.0), {}, 1),  # no token so far
        (Limit("ttft", 500.0), {"ttft_ms": 300.0}, 0),
        (Limit("ttft", 500.0), {"ttft_ms": 600.0}, 1),
        (Limit("decode", 500.0), {}, 0),  # a stage's time is told at the end
        (Limit("total", 1000.0), {"outcome": "lost"}, 0),  # it is a row of requests
        (Limit("total", 1000.0), {"route": "/other"}, 0),
    ],
)
def test_a_request_that_still_runs_is_bad_once_it_is_over_a_limit(
    shared: duckdb.DuckDBPyConnection, limit: Limit, said: dict[str, object], bad: int
) -> None:
    connection = shared
    connection.execute("delete from requests; delete from live")
    write(connection, [(NOW - MINUTE, 100.0, "error")])
    hang(connection, **said)
    one = status(connection, Objective(name="x", target=0.9, limits=(limit,), where="route = '/chat'"))
    assert (one["n"], one["bad"], one["running"]) == (1 + bad, 1 + bad, bad)


def test_a_condition_may_name_any_of_its_columns_of_a_request_that_still_runs(
    shared: duckdb.DuckDBPyConnection,
) -> None:
    connection = shared
    connection.execute("delete from requests; delete from live")
    hang(connection)
    unknown = " or ".join(f"{name} is null" for name in COLUMNS)
    late = Objective(name="x", target=0.9, limits=(Limit("total", 1000.0),), where=f"route = '/chat' and ({unknown})")
    assert status(connection, late)["running"] == 1


def test_a_hang_counts_until_its_span_replaces_it(tmp_path: Path) -> None:
    file = tmp_path / "slo.yaml"
    file.write_text("name: chat\ntotal: p90 < 1s\nper: tenant\n")
    connection = open_database(tmp_path / "data")
    alerts = BurnAlerts(connection, ObjectiveFiles([file]))
    for k in range(4):
        hang(connection, age_s=2.0 + k)
    alerts.update(NOW)
    stored = "select part, n, bad, running, firing from slo_status"
    (row,) = rows(connection, stored)
    assert (row["part"], row["n"], row["bad"], row["running"]) == ("acme", 4, 4, 4)
    (page,) = rows(connection, "from alerts where severity = 'page'")
    assert "; 4 still run" in page["summary"]
    connection.execute("delete from live")
    write(connection, [(NOW - timedelta(seconds=4), 900.0, "ok")], tenant="acme")
    alerts.update(NOW + MINUTE / 4)
    assert rows(connection, "select n, bad, running from slo_status") == [{"n": 1, "bad": 0, "running": 0}]


def covered(folder: Path, *, came: int, counted: int, weight: str = "null") -> dict[str, Any]:
    """Judge slow requests of which the service says it ended `counted`; return status and the page's summary."""
    file = folder / "slo.yaml"
    file.write_text("name: chat\nwhere: route = '/chat'\ntotal: p90 < 500ms\n")
    connection = open_database(folder / "data")
    connection.execute("insert into resources values (1, 'shop', 'i1', null, null, '{}')")
    spans = []
    for number in range(1, came + 1):
        trace = Trace(number)
        root = trace.add("GET /chat", 0, 1000, kind="SERVER", attrs={"slo.request": "/chat"})
        trace.add("chat m", 100, 800, under=root, kind="CLIENT", attrs=CALL)
        spans += trace.spans
    land(connection, spans)
    Assembler(connection).tick(later(60))
    connection.execute(f"update requests set weight = {weight}")
    for route, n in (("/chat", counted), ("/other", 1000)):  # of another route, of which nothing came
        connection.execute(
            """insert into metrics_open by name
               select 'slo.requests.ended' as name, 'sum' as kind, 'cumulative' as temporality, true as monotonic,
               $t - interval 1 minute as started, $t as t, $n as value, 1 as resource_id, $attrs as attrs""",
            {"t": later(10), "n": n, "attrs": json.dumps({"route": route, "outcome": "ok"})},
        )
    BurnAlerts(connection, ObjectiveFiles([file])).update(later(60))
    (row,) = rows(connection, "from slo_status")
    (page,) = rows(connection, "from alerts where severity = 'page'")
    return {**row, "summary": page["summary"]}


def test_an_objective_says_so_when_requests_that_ended_did_not_come(tmp_path: Path) -> None:
    row = covered(tmp_path, came=9, counted=10)
    assert row["coverage"] == pytest.approx(0.9)
    assert row["summary"].endswith("only 90.0 % of the requests came")
    shown = status_report([row])
    assert "only 90.0 % of the requests came" in shown


def test_an_objective_whose_requests_all_came_says_nothing(tmp_path: Path) -> None:
    row = covered(tmp_path, came=10, counted=10)
    assert (row["coverage"], row["margin"]) == (1.0, 0.0)
    assert "came" not in row["summary"]


def test_what_a_sampler_left_out_is_not_lost(tmp_path: Path) -> None:
    row = covered(tmp_path, came=10, counted=43, weight="4")  # 40, more or less
    assert row["coverage"] == 1.0
    assert (row["n"], row["requests"]) == (10, 40.0)
