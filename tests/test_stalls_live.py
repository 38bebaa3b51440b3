"""A stream that stalls is told of while it stalls, and what it will come to is held against its budget."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailbudget import request, stream
from tailbudget.instrument.request import current_request
from tailbudget.instrument.running import beat
from tests.collector_support import collector
from tests.instrument_support import Recorded, recording
from tests.support import wait_until

S_NS = 1_000_000_000


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def told(recorded: Recorded) -> list[dict[str, Any]]:
    return [dict(log.log_record.attributes or {}) for log in recorded.logs]


def test_a_young_request_whose_stream_stalls_is_told_of_at_once_and_then_every_5_s(recorded: Recorded) -> None:
    seen: list[int] = []

    def words() -> Iterator[str]:
        yield from ("one ", "two ", "three ")
        now_ns = time.perf_counter_ns()
        for after_s in (0.9, 1.5, 2.5, 6.4, 6.6):
            beat(now_ns + int(after_s * S_NS))
            seen.append(len(recorded.logs))
        yield "four"

    with request("chat", budgets_ms={"ttft": 60_000, "total": 90_000}):
        assert list(stream(words(), model="m")) == ["one ", "two ", "three ", "four"]
    assert seen == [0, 1, 1, 1, 2]
    said = told(recorded)[0]
    assert (said["slo.stage"], said["gen_ai.request.model"], said["slo.budget.total"]) == ("decode", "m", 90.0)
    assert (said["slo.stream.chunks"], said["slo.stream.stalls"]) == (3, 1)
    assert said["slo.stream.silence"] == pytest.approx(1.5, abs=0.4)
    assert said["slo.stream.usual_gap"] < 0.4 < said["slo.stream.stall_time"] < 1.5
    assert 0 < said["slo.time_to_first_token"] < said["slo.request.age"]


def test_a_caller_that_sits_on_a_chunk_stalls_nothing(recorded: Recorded) -> None:
    with request("chat", budgets_ms={"ttft": 60_000}):
        chunks = stream(iter(("one ", "two ", "three ")), model="m")
        next(chunks), next(chunks)
        beat(time.perf_counter_ns() + 30 * S_NS)
        chunks.close()
    assert told(recorded) == []


def test_a_stream_that_was_slow_from_the_start_stalls_only_beyond_eight_times_its_gaps(recorded: Recorded) -> None:
    with request("chat", budgets_ms={"ttft": 60_000}):
        state = current_request()
        assert state is not None

        def words() -> Iterator[str]:
            yield "one "
            time.sleep(0.3)
            yield "two "
            now_ns = time.perf_counter_ns()
            beat(now_ns + 2 * S_NS)  # more than a second, less than 8 x 0.3
            assert recorded.logs == []
            beat(now_ns + 60 * S_NS)
            yield "three"

        list(stream(words(), model="m"))
        assert state.work.stream_now() is None
    assert [said["slo.stream.stalls"] for said in told(recorded)] == [1]


def test_after_the_stream_the_first_token_is_still_known_and_nothing_flows(recorded: Recorded) -> None:
    with request("chat"):
        list(stream(iter(("one ", "two ")), model="m"))
        beat(time.perf_counter_ns() + 6 * S_NS)
    (said,) = told(recorded)
    assert said["slo.time_to_first_token"] > 0
    assert "slo.stream.chunks" not in said


def test_a_span_of_ones_own_flows_too_and_is_let_go_of(recorded: Recorded) -> None:
    with request("chat"):
        state = current_request()
        assert state is not None
        span = recorded.tracer_provider.get_tracer("mine").start_span("mine")
        chunks = stream(iter(("one ", "two ")), model="m", span=span)
        next(chunks)
        assert state.work.stream_now() is not None
        del chunks  # abandoned
        assert state.work.stream_now() is None


SERVICE = """
import sys, time
import tailbudget
tailbudget.init("worker", endpoint=sys.argv[1])
def words(n, hang=None):
    for place in range(n):
        if place == hang:
            sys.stdin.readline()
        time.sleep(0.02)
        yield "word "
def answer(name, n, hang=None):
    with tailbudget.request("chat", budgets_ms={"ttft": 60_000, "total": 900}, request_id=name):
        for _ in tailbudget.stream(words(n, hang), model="m", provider="p"):
            pass
for index in range(6):
    answer(f"r-{index}", 40)
answer("hung", 40, hang=10)
"""
HUNG = "from live_streams where request_id = 'hung' and stalled and like_it = 6"


def test_a_stall_of_a_real_service_is_live_with_what_it_will_come_to(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    with collector(tmp_path / "data") as running:
        endpoint = f"http://127.0.0.1:{running.http_port}"
        with subprocess.Popen(
            [sys.executable, "-c", SERVICE, endpoint], stdin=subprocess.PIPE, text=True, env=environment
        ) as worker:
            (hung,) = wait_until(lambda: running.rows(HUNG), what="the stall with its projection")
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.close()
        (ended,) = wait_until(lambda: running.rows("from requests where request_id = 'hung'"), what="the answer's end")
        wait_until(lambda: not running.rows("from live_streams"), what="nothing that runs")
    assert (hung["route"], hung["model"], hung["stage"], hung["chunks"]) == ("chat", "m", "decode", 10)
    assert (hung["like_it"], hung["chunks_left"], hung["stalls"], hung["budget_ms"]) == (6, 30, 1, 900.0)
    assert hung["silence_ms"] > 1000
    at_its_pace_ms = hung["age_ms"] + 30 * hung["pace_ms"]
    assert at_its_pace_ms - 1 < hung["projected_ms"] < at_its_pace_ms + 2000  # with what comes after the last token
    assert hung["over_ms"] == pytest.approx(hung["projected_ms"] - 900)
    assert ended["outcome"] == "ok"
