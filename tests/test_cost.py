"""What calls cost is counted by who caused it, with what was wasted on answers that nobody read."""

import hashlib
from pathlib import Path

import duckdb
import pytest

from tailbudget.analytics.breakdown import breakdown
from tailbudget.analytics.cost import cost, energy, hedges
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.app.report import compile_report, report
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.decode import decode_metrics

from .collector_support import counter, gauge, metrics_body
from .spans import EPOCH_NS, Trace, database, land, later
from .test_assemble_cost import OPENAI, prices

MINUTE = Window(later(0), later(60))
#: 1,000 tokens in at 2 and 100 out at 8 dollars a million.
LARGE_USD = 0.0028


@pytest.fixture
def reader(tmp_path: Path) -> ConnectionReader:
    """Two tenants; the second one's request also embeds, and loses a hedge that it had 40 tokens of."""
    first, second = Trace(1), Trace(2)
    root = first.add("ask", 0, 1000, attrs={"slo.request": "ask", "slo.tenant": "a"})
    first.add("chat", 0, 900, under=root, attrs={**OPENAI, "slo.net.attempts": 3, "slo.net.backoff": 0.25})
    root = second.add("ask", 0, 1000, attrs={"slo.request": "ask", "slo.tenant": "b"})
    search = second.add("search", 0, 90, under=root, attrs={"slo.stage": "retrieval"})
    second.add("rewrite", 0, 80, under=search, attrs=OPENAI)
    second.add("chat", 100, 900, under=root, attrs={**OPENAI, "slo.hedged": True})
    lost = {**OPENAI, "slo.hedged": True, "gen_ai.usage.output_tokens": 40, "slo.stream.end": "cancelled"}
    second.add("chat", 300, 900, under=root, attrs=lost)
    connection = database()
    land(connection, [*first.spans, *second.spans])
    Assembler(connection, prices=prices(tmp_path)).tick(later(60))
    return ConnectionReader(connection)


def test_a_tenant_pays_for_its_calls_and_for_what_nobody_read(reader: ConnectionReader) -> None:
    b, a = cost(reader, MINUTE, by="tenant").to_pylist()
    assert (a["value"], a["calls"], a["cost_usd"], a["wasted_usd"]) == ("a", 1, pytest.approx(LARGE_USD), None)
    assert (a["retries"], a["retries_ms"]) == (2, 250)
    assert (b["value"], b["calls"], b["requests"], b["hedged_calls"]) == ("b", 3, 1, 2)
    assert (b["wasted_tokens"], b["wasted_usd"]) == (40, pytest.approx(0.00232))
    assert b["hedging_usd"] == b["wasted_usd"]
    assert b["cost_usd_a_request"] == b["cost_usd"] == pytest.approx(2 * LARGE_USD + 0.00232)


def test_a_call_within_a_stage_is_paid_by_the_stage(reader: ConnectionReader) -> None:
    found = {row["value"]: row["cost_usd"] for row in cost(reader, MINUTE, by="stage").to_pylist()}
    assert found == {"model": pytest.approx(2 * LARGE_USD + 0.00232), "retrieval": pytest.approx(LARGE_USD)}


def test_what_costs_nothing_known_is_counted_and_not_free() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 1000, attrs={"slo.request": "ask"})
    trace.add("chat", 0, 900, under=root, attrs=OPENAI)
    connection = database()
    land(connection, trace.spans)
    Assembler(connection).tick(later(60))
    (row,) = cost(ConnectionReader(connection), MINUTE, by="model").to_pylist()
    assert (row["cost_usd"], row["unpriced_calls"], row["output_tokens"]) == (None, 1, 100)


def test_dollars_are_a_measure_of_a_report(reader: ConnectionReader) -> None:
    rows = breakdown(reader, MINUTE, by="tenant", measure="cost_usd").to_pylist()
    assert [(row["value"], row["n"]) for row in rows] == [("a", 1), ("b", 1)]
    assert rows[0]["p50_usd"] == pytest.approx(LARGE_USD)
    (row,) = breakdown(reader, MINUTE, by="provider", measure="cost_usd").to_pylist()
    assert (row["value"], row["n"]) == ("openai", 4)
    text = report(compile_report(reader, MINUTE, by=["tenant"], measure="cost_usd"))
    assert "cost_usd of requests by tenant" in text
    assert "p95_usd" in text


@pytest.mark.parametrize(
    ("by", "values"),
    [
        ("slo.net.attempts", {"3": 1, None: 3}),  # of the call's span
        ("slo.tenant", {"a": 1, "b": 3}),  # of the request's
        ("outcome", {"ok": 3, "stopped": 1}),
        ("output_bucket", {"128": 3, "64": 1}),
        ("day", {None: 4}),
    ],
)
def test_calls_are_summed_by_any_segment_and_attribute(
    reader: ConnectionReader, by: str, values: dict[str | None, int]
) -> None:
    assert {row["value"]: row["calls"] for row in cost(reader, MINUTE, by=by).to_pylist()} == values


def landed(*metrics: object) -> duckdb.DuckDBPyConnection:
    connection = database()
    body = metrics_body(*metrics)  # type: ignore[arg-type]
    digest = hashlib.blake2b(body, digest_size=16).digest()
    Landing(connection).land([Body(digest=digest, batches=decode_metrics(body))], now=later(0))
    return connection


def test_a_hedge_tells_what_its_losers_wasted() -> None:
    points = [
        counter(f"slo.hedge.{name}", value, {"slo.guard": "index"}, start_ns=EPOCH_NS, t_ns=EPOCH_NS + n * 10**9)
        for n in (5, 10)
        for name, value in (("sent", 3), ("won", 1), ("wasted_tokens", 20))
    ]
    (row,) = hedges(ConnectionReader(landed(*points)), MINUTE).to_pylist()
    assert row == {"service": "shop", "hedge": "index", "sent": 6, "won": 2, "wasted_tokens": 40}


def test_joules_are_those_of_the_gpus_counter_across_its_restarts() -> None:
    at = {"host.id": "h", "hw.id": "0"}
    points = [gauge("hw.energy", j, at, t_ns=EPOCH_NS + n * 10**9) for n, j in enumerate((100, 160, 10, 50))]
    (row,) = energy(ConnectionReader(landed(*points)), MINUTE).to_pylist()
    assert row == {"host": "h", "gpu": "0", "joules": 100, "joules_a_token": None}
