"""Requests that run longer than they should are told of while they run, and a killed worker falls silent."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from tailbudget import request, stage
from tailbudget.instrument import hooks, providers, running
from tailbudget.instrument.request import RequestScope, current_request
from tailbudget.instrument.running import MAX_WATCHED, Registry, beat, registry
from tests.instrument_support import ModelServer, Recorded, Sink, recording, serve, sink
from tests.support import wait_until

S_NS = 1_000_000_000


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def told(recorded: Recorded) -> list[dict[str, Any]]:
    return [dict(log.log_record.attributes or {}) for log in recorded.logs]


def test_a_record_says_who_runs_since_when_and_in_which_stage(recorded: Recorded) -> None:
    began_s = time.time()
    with request("chat", budgets_ms={"ttft": 500}, tenant="acme", request_id="r-1") as span, stage("tools", "search"):
        beat(time.perf_counter_ns() + S_NS)
        (log,) = recorded.logs
    assert log.log_record.event_name == "slo.request.running"
    context = span.get_span_context()
    assert (log.log_record.trace_id, log.log_record.span_id) == (context.trace_id, context.span_id)
    attributes = told(recorded)[0]
    age_s, started_s = attributes.pop("slo.request.age"), attributes.pop("slo.request.started")
    assert attributes == {
        "slo.request.id": "r-1",
        "slo.request": "chat",
        "slo.tenant": "acme",
        "slo.stage": "tools",
    }
    assert 1.0 <= age_s < 60
    assert began_s - 60 < started_s < time.time()


def test_a_request_without_an_id_goes_by_its_span(recorded: Recorded) -> None:
    with request("chat") as span:
        beat(time.perf_counter_ns() + 6 * S_NS)
    assert told(recorded)[0]["slo.request.id"] == f"{span.get_span_context().span_id:016x}"


@pytest.mark.parametrize(("budgets_ms", "patience_s"), [({"ttft": 800.0}, 0.8), ({}, 5.0), ({"total": 60_000.0}, 5.0)])
def test_it_is_told_of_from_its_first_token_budget_on_once_in_5_s(
    recorded: Recorded, budgets_ms: dict[str, float], patience_s: float
) -> None:
    with request("chat", budgets_ms=budgets_ms):
        state = current_request()
        assert state is not None
        for after_s, records in ((-0.01, 0), (0.0, 1), (4.99, 1), (5.0, 2), (9.9, 2), (10.0, 3)):
            beat(state.started_ns + int((patience_s + after_s) * S_NS))
            assert len(recorded.logs) == records, after_s
    beat(time.perf_counter_ns() + 60 * S_NS)
    assert len(recorded.logs) == 3


def test_of_requests_inside_of_each_other_the_outermost_is_told_of_with_the_stage_inside(recorded: Recorded) -> None:
    with request("agent"), request("turn"), stage("retrieval"):
        beat(time.perf_counter_ns() + 6 * S_NS)
    assert [(each["slo.request"], each["slo.stage"]) for each in told(recorded)] == [("agent", "retrieval")]


def test_a_request_that_is_not_sampled_is_counted_but_not_told_of(recorded: Recorded) -> None:
    providers.use(TracerProvider(sampler=ALWAYS_OFF), recorded.meter_provider, recorded.logger_provider)
    with request("unsampled"):
        beat(time.perf_counter_ns() + 60 * S_NS)
        assert ({"route": "unsampled"}, 1) in recorded.points("slo.requests.active")
        (age_s,) = [age for labels, age in recorded.points("slo.requests.oldest_age") if labels["route"] == "unsampled"]
        assert age_s > 0
    assert not recorded.logs
    assert ({"route": "unsampled"}, 0.0) in recorded.points("slo.requests.oldest_age")


def test_the_stage_of_a_model_call_is_prefill_and_from_its_first_token_on_decode(recorded: Recorded) -> None:
    async def ask(url: str) -> list[str]:
        stages: list[str] = []
        client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with request("chat"):
            state = current_request()
            assert state is not None
            stages.append(state.stage_now())
            pending = asyncio.ensure_future(
                client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}], stream=True)
            )
            await asyncio.sleep(0)
            stages.append(state.stage_now())
            async for chunk in await pending:
                if chunk.choices and chunk.choices[0].delta.content:
                    stages.append(state.stage_now())
                    break
        await client.close()
        return stages

    hooks.install()
    try:
        with serve(ModelServer(["one ", "two."], delay_s=0.05).app()) as url:
            assert asyncio.run(ask(url)) == ["other", "prefill", "decode"]
    finally:
        hooks.uninstall()


def test_the_registry_is_bounded_and_counts_those_without_a_place(recorded: Recorded) -> None:
    with request("chat"):
        state = current_request()
        assert state is not None
    bounded = Registry()
    states = [type("Request", (), dict(vars(state)))() for _ in range(MAX_WATCHED + 3)]
    for each in states:
        bounded.enter(each)
    assert len(bounded.running()) == MAX_WATCHED
    assert bounded.unwatched == 3
    bounded.leave(states[0])
    bounded.enter(states[-1])
    assert bounded.unwatched == 3


def test_a_request_that_nobody_holds_any_more_is_forgotten(recorded: Recorded) -> None:
    def abandon() -> None:
        scope = RequestScope("abandoned", {}, None, None)
        run = scope._enter()
        assert run.activation is not None
        run.activation.restore()

    abandon()
    gc.collect()
    assert "abandoned" not in [each.route for each in registry.running()]


def test_a_hundred_threads_leave_nothing_behind(recorded: Recorded) -> None:
    def work() -> None:
        for _ in range(20):
            with request("threads"), stage("tools"):
                registry.running()

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "threads" not in [each.route for each in registry.running()]


SERVICE = """
import sys, time, os
import tailbudget
tailbudget.init("worker", endpoint=sys.argv[1])
if len(sys.argv) > 2 and os.fork():
    os.wait()
    sys.exit()
with tailbudget.request("hang", budgets_ms={"ttft": 100}, request_id="r-9"), tailbudget.stage("retrieval"):
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def collector() -> Iterator[Sink]:
    with sink() as received:
        yield received


@pytest.mark.parametrize("arguments", [[], ["forked"]])
def test_a_hang_is_visible_while_it_hangs_and_a_killed_worker_falls_silent(
    collector: Sink, arguments: list[str]
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "-W", "ignore", "-c", SERVICE, collector.url, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        assert worker.stdout is not None
        pid = int(worker.stdout.readline())
        try:
            (record,) = wait_until(collector.log_records, what="a record of the hanging request")
        finally:
            os.kill(pid, signal.SIGKILL)
    said = {a.key: a.value.string_value or a.value.double_value for a in record.attributes}
    assert record.event_name == "slo.request.running"
    assert len(record.trace_id) == 16
    assert len(record.span_id) == 8
    assert (said["slo.request.id"], said["slo.request"], said["slo.stage"]) == ("r-9", "hang", "retrieval")
    assert 0.1 <= said["slo.request.age"] < 20
    assert "hang" not in collector.span_names()
    resource = collector.logs[0].resource_logs[0].resource
    assert "worker" in [a.value.string_value for a in resource.attributes if a.key == "service.name"]


ENDING = """
import sys, threading
import tailbudget
tailbudget.init("worker", endpoint=sys.argv[1])
begun = threading.Event()
def work():
    with tailbudget.request("unfinished", request_id="r-9"):
        begun.set()
        threading.Event().wait()
threading.Thread(target=work, daemon=True).start()
begun.wait()
"""


def test_a_process_that_ends_tells_of_the_requests_that_it_leaves_however_young(collector: Sink) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", ENDING, collector.url], check=True, timeout=120)
    (record,) = collector.log_records()
    assert {a.key: a.value.string_value for a in record.attributes}["slo.request.id"] == "r-9"


def test_a_forked_child_does_not_tell_of_its_parents_requests(recorded: Recorded) -> None:
    watch = running.Watch(tick_s=60)
    try:
        with request("parents"):
            assert "parents" in [each.route for each in registry.running()]
            watch._forked()
            assert not registry.running()
    finally:
        watch.stop()


def test_the_watch_outlives_an_error_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[int] = []

    def failing(now_ns: int) -> None:
        ticks.append(now_ns)
        raise ValueError("no")

    watch = running.Watch(failing, tick_s=0.01)
    try:
        wait_until(lambda: len(ticks) > 2, what="three ticks")
    finally:
        watch.stop()
    assert not watch._thread.is_alive()
