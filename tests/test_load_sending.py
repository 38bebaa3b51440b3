"""Load is sent when it was planned, whatever the server does, and each request is measured from that instant."""

import asyncio
from collections.abc import Iterator
from multiprocessing import get_context

import duckdb
import httpx
import numpy as np
import pytest

from tailbudget.analytics.objectives import Limit, Objective
from tailbudget.app.load import runner
from tailbudget.app.load.arrivals import drawn
from tailbudget.app.load.results import percentiles
from tailbudget.app.load.runner import Step
from tailbudget.app.load.session import Session, Stepped

from .load_support import independent, model, route, scripted, send, told, traffic
from .support import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with scripted() as url:
        yield url


def _stands_still(url: str) -> bool:
    try:
        httpx.get(f"{url}/v1/models", timeout=0.7)
    except httpx.ReadTimeout:
        return True
    return False


def test_requests_planned_while_the_server_stands_still_wait_for_it_in_the_figures(server: str) -> None:
    async def run() -> Stepped:
        session = Session(route(server, delay_ms=0), traffic(arrivals="steady"))
        stall = asyncio.create_task(
            asyncio.to_thread(httpx.post, f"{server}/route", json={"stall_ms": 8000}, timeout=120)
        )
        await asyncio.to_thread(wait_until, lambda: _stands_still(server), what="the stall")
        stepped = await session.run(Step(1, "requests/s", 50.0, 60.0, 20))
        await stall
        return stepped

    results = asyncio.run(run()).results
    # Planned every 20 ms for a server that stands still all the while: a closed loop would have seen one slow request.
    assert len(results) == 20
    assert min(one.planned_ns + one.total_ms * 1e6 for one in results) > max(one.planned_ns for one in results)


def test_the_times_of_an_open_loop_do_not_depend_on_the_answers(server: str) -> None:
    plans = []
    for delay_ms in (0, 150):
        _, stepped = send(route(server, delay_ms=delay_ms), traffic(seed=3), rate=100, requests=50)
        results = sorted(stepped.results, key=lambda one: one.number)
        plans.append([(one.planned_ns - results[0].planned_ns) / 1e9 for one in results])
    assert plans[0] == pytest.approx(plans[1], abs=1e-6)
    first = [at for _, at in zip(range(50), drawn("poisson", rate=100, seed=3), strict=False)]
    assert plans[0] == pytest.approx([at - first[0] for at in first], abs=1e-6)


def test_a_closed_loop_never_has_more_requests_at_once_than_clients(server: str) -> None:
    _, stepped = send(route(server, delay_ms=30), traffic(), clients=3, requests=30)
    edges = sorted(
        edge
        for one in stepped.results
        for edge in ((one.planned_ns, 1), (one.planned_ns + int(one.total_ms * 1e6), -1))
    )
    assert max(np.cumsum([change for _, change in edges])) == 3
    assert len(stepped.results) == 30


def test_lateness_is_the_time_from_plan_to_sending(server: str) -> None:
    _, stepped = send(route(server, delay_ms=0), traffic(), rate=100, requests=30)
    for one in stepped.results:
        assert 0 <= one.late_ms <= one.total_ms
    assert stepped.figures["late_ms"]["n"] == 30


def test_a_stream_is_stamped_at_its_first_token_not_its_first_chunk(server: str) -> None:
    target = model(server)
    asked = traffic(tokens_out="6")
    # The server's first chunk carries a role alone; words follow after each gap.
    _, stepped = send(target, asked, clients=1, requests=5)
    one = stepped.results[0]
    assert one.ttft_ms is not None
    assert one.chunks == 6  # six parts, of which the first has no token, and the last word
    assert (one.output_tokens, one.outcome) == (6, "ok")
    assert one.ttft_ms <= one.total_ms
    assert one.tpot_ms == pytest.approx((one.total_ms - one.ttft_ms) / 5)


@pytest.mark.parametrize(
    ("body", "outcome"), [({"status": 500}, "error"), ({"status": 404}, "rejected"), ({"refuse": 9}, "shed")]
)
def test_an_answer_that_is_none_has_the_outcome_that_its_status_says(
    server: str, body: dict[str, int], outcome: str
) -> None:
    _, stepped = send(route(server, **body), traffic(), clients=1, requests=3)
    assert stepped.figures["outcomes"] == {outcome: 3}
    assert stepped.figures["total_ms"] == {"n": 0}


def test_a_server_that_is_too_slow_or_not_there_is_an_outcome_too(server: str) -> None:
    _, slow = send(route(server, delay_ms=5000), traffic(), clients=1, requests=2, timeout_s=0.2)
    assert slow.figures["outcomes"] == {"timeout": 2}
    nobody = route("http://127.0.0.1:9", delay_ms=0)
    _, absent = send(nobody, traffic(), rate=100, requests=5)
    assert absent.figures["outcomes"] == {"error": 5}


def test_what_is_too_much_at_once_is_not_sent_and_counts_as_bad(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MOST_AT_ONCE", 3)
    limit = Objective(name="total", target=0.9, limits=(Limit("total", 60_000),))
    _, stepped = send(route(server, delay_ms=1500), traffic(), rate=100, requests=20, objectives=[limit])
    outcomes = stepped.figures["outcomes"]
    assert outcomes["unsent"] + outcomes["ok"] == 20
    assert outcomes["unsent"] > 0
    assert [(one.n, one.bad) for one in stepped.kept] == [(20, outcomes["unsent"])]


def test_a_plan_that_the_client_cannot_keep_is_sent_all_the_same_and_late(server: str) -> None:
    _, stepped = send(route(server, delay_ms=0), traffic(arrivals="steady"), rate=1e6, requests=50)
    assert stepped.figures["outcomes"] == {"ok": 50}
    assert stepped.figures["late_ms"]["p50"] > 0


def test_requests_say_that_they_are_synthetic_and_whose_they_are(server: str) -> None:
    session, _ = send(route(server, delay_ms=0), traffic(tenants=("acme",)), clients=1, requests=2)
    mine = [one["headers"] for one in told(server)["seen"] if session.run_id in one["headers"].get("x-request-id", "")]
    assert [headers["x-request-id"] for headers in mine] == [f"{session.run_id}-1", f"{session.run_id}-2"]
    said = dict(part.split("=") for part in mine[0]["baggage"].split(","))
    assert said == {
        "slo.synthetic": "true",
        "slo.run.id": session.run_id,
        "slo.request.id": f"{session.run_id}-1",
        "slo.tenant": "acme",
    }


def test_percentiles_are_those_that_duckdb_calls_exact() -> None:
    values = list(np.random.default_rng(1).lognormal(4, 1, 501))
    found = percentiles([*values, None])
    for rank, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
        exact = duckdb.execute("select quantile_cont(v, $1) from (select unnest($2::double[]) as v)", [share, values])
        assert found[rank] == pytest.approx((exact.fetchone() or (0,))[0], abs=1e-3)
    assert found["n"] == 501


def _agree(server: str) -> bool:
    asked = {"sse": 1, "parts": 2, "gap_ms": 20}
    with get_context("spawn").Pool(1) as other:
        theirs_ms = other.apply_async(independent, (server, asked, 60))
        _, stepped = send(route(server, **asked, spread="{n}"), traffic(), clients=1, requests=60)
        theirs = theirs_ms.get(300)
    ours = [one.total_ms for one in stepped.results]
    pairs = ((float(np.percentile(values, rank)) for values in (ours, theirs)) for rank in (50, 95, 99))
    return all(abs(a - b) <= max(2.0, 0.02 * b) for a, b in pairs)


@pytest.mark.slow
def test_percentiles_agree_with_an_independent_client(server: str) -> None:
    """Both send the same requests at the same time; where a busy machine held up one of them, they begin again."""
    assert any(_agree(server) for _ in range(4))
