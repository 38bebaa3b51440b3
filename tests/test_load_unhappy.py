"""Clients and parts that misbehave do what they are told to, and it shows where a user would look for it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tailbudget.app.load import presets
from tailbudget.app.load.behaviour import Behaviour
from tailbudget.app.load.command import make_disruption
from tailbudget.app.load.disruption import phases
from tailbudget.app.load.results import Result
from tailbudget.instrument.errors import UserError

from .collector_support import Collector, collector
from .load_support import command, model, route, scripted, send, service, told, traffic
from .support import wait_until


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with scripted() as url:
        yield url


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("unhappy") / "data") as one:
        yield one


def test_clients_that_leave_amid_the_stream_are_gone_for_the_server_too(server: str) -> None:
    leaves = Behaviour(leaves_after_chunks=2)
    session, stepped = send(model(server), traffic(tokens_out="500", crowd=[leaves]), clients=2, requests=6)
    assert stepped.figures["outcomes"] == {"left": 6}
    assert all(2 <= one.chunks < 500 for one in stepped.results)
    mine = {f"{session.run_id}-{one.number}" for one in stepped.results}
    wait_until(lambda: mine <= set(told(server)["gone"]), what="the server noticing")
    assert stepped.figures["healthy_after"] is True


def test_clients_that_leave_before_the_stream_have_no_first_token(server: str) -> None:
    leaves = Behaviour(leaves_after_s=0.15)
    target = route(server, sse=1, delay_ms=60_000)
    _, stepped = send(target, traffic(crowd=[leaves]), clients=3, requests=3, timeout_s=1)
    assert stepped.figures["outcomes"] == {"left": 3}
    assert all(one.ttft_ms is None and one.total_ms >= 150 for one in stepped.results)
    assert stepped.figures["healthy_after"] is False  # the patient client waits in vain too: this server is that slow


def test_a_slow_reader_tells_how_long_it_sat_on_what_it_had(server: str) -> None:
    slow = Behaviour(reads_s=0.02)
    _, stepped = send(model(server), traffic(tokens_out="5", crowd=[slow]), clients=1, requests=2)
    assert all(one.consumer_ms >= 0.02 * one.chunks * 1e3 > 0 for one in stepped.results)


def test_clients_come_back_after_what_retry_after_says(server: str) -> None:
    stubborn = Behaviour(retries=3)
    _, stepped = send(route(server, refuse=2), traffic(crowd=[stubborn]), clients=1, requests=2)
    assert [(one.outcome, one.attempts) for one in stepped.results] == [("ok", 3)] * 2
    assert all(one.waited_ms == pytest.approx(100) and one.total_ms >= 100 for one in stepped.results)
    _, refused = send(route(server, refuse=9), traffic(crowd=[stubborn]), clients=1, requests=1)
    assert [(one.outcome, one.attempts) for one in refused.results] == [("shed", 4)]


def test_a_client_may_be_written_out_and_a_wrong_one_is_refused() -> None:
    assert presets.client("share=0.1,leaves_after_s=2,tenant=x") == Behaviour(0.1, leaves_after_s=2.0, tenant="x")
    for text in ("speed=9", "share=lots", "share=0", "burst=0", "retries", ""):
        with pytest.raises(UserError, match="--client"):
            presets.client(text)


def test_the_command_offers_every_preset() -> None:
    from tailbudget.app.commands import load

    assert set(load.PRESETS) == set(presets.PRESETS)


def test_phases_tell_the_thirds_of_a_step_apart() -> None:
    found = [
        Result(n, 1, n * 1_000_000_000, total_ms=1.0, outcome="error" if 10 <= n < 20 else "ok") for n in range(30)
    ]
    told_phases = phases(found, lasts_s=30)
    counts = {name: (one["n"], one["failed"]) for name, one in told_phases.items()}
    assert counts == {"before": (10, 0), "during": (10, 10), "after": (10, 0)}


#: Preset -> a condition on the requests of its run that those of its share meet.
SHOWS = {
    "leave-before": "outcome = 'dropped'",
    "leave-amid": "outcome = 'dropped' and left_in_stage is not null",
    "slow-retrieval": "retrieval_ms >= 800 and over_stage = 'retrieval'",
    "failing-retrieval": "outcome = 'error'",
    "slow-tools": "tools_ms >= 800 and over_stage = 'tools'",
    "failing-tools": "outcome = 'error'",
    "noisy-tenant": "tenant = 'noisy'",
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", SHOWS)
def test_a_preset_shows_in_the_services_own_requests_and_leaves_it_well(
    preset: str, running: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILBUDGET_FAULTS", "1")
    with service(running) as url:
        arguments = ("--rate", "10", "--requests", "40", "--preset", preset)
        report, done = command(tmp_path, running, f"{url}/ask", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    (step,) = report["steps"]
    assert step["healthy_after"] is True
    counts = f"select count(*) as n, count(*) filter ({SHOWS[preset]}) as shown from requests where run_id = $run"
    shown = running.rows(counts, {"run": report["run_id"]})[0]
    assert shown["n"] == step["n"]
    assert 0.3 * presets.CROWDS[preset].share < shown["shown"] / shown["n"] < 1
    assert running.get("/readyz")[0] == 200


def test_faults_are_heeded_only_by_services_that_want_them() -> None:
    asks = Behaviour(fault="retrieval=fail")
    with service(None) as url:
        target = replace(route(url), url=f"{url}/ask")
        _, stepped = send(target, traffic(crowd=[asks]), clients=2, requests=6)
    assert stepped.figures["outcomes"] == {"ok": 6}


@pytest.mark.slow
def test_an_outage_of_the_collector_costs_the_service_nothing_and_the_rows_come_afterwards(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as one, service(one) as url:
        assert one.process is not None
        arguments = ("--rate", "5", "--duration", "12s", "--preset", "exporter-outage")
        commands = ("--break", f"kill -STOP {one.process.pid}", "--mend", f"kill -CONT {one.process.pid}")
        report, done = command(tmp_path, one, f"{url}/ask", *arguments, *commands)
        assert done.returncode == 0, done.stdout + done.stderr
        (step,) = report["steps"]
        assert step["outcomes"] == {"ok": step["n"]}
        assert [phase["failed"] for phase in step["phases"].values()] == [0, 0, 0]
        counted = f"select count(*) from requests where run_id = '{report['run_id']}'"
        wait_until(lambda: one.value(counted) == step["n"], what="the rows of the outage")


def test_a_disruption_without_its_commands_is_refused() -> None:
    class Wanted:
        presets, breaks, mends = ("restart",), "", ""

    with pytest.raises(UserError, match="--preset restart needs two commands"):
        make_disruption(Wanted())  # type: ignore[arg-type]
