"""A wall clock that jumps, back or forth, loses and doubles nothing."""

import time
from pathlib import Path

import pytest

from .clock_support import Clock
from .collector_support import Collector, trace_body
from .support import wait_until

HOUR_S = 3600


@pytest.mark.parametrize(
    "jumps_s", [(0, -2 * HOUR_S), pytest.param((0, 20 * HOUR_S, -1 * HOUR_S), marks=pytest.mark.slow)]
)
def test_a_clock_that_jumps_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jumps_s: tuple[int, ...]
) -> None:
    clock = Clock(tmp_path)
    running = Collector(tmp_path / "data", {"free_bytes": 0})
    bodies: list[bytes] = []

    def accepted(body: bytes) -> bool:
        return running.post("/v1/traces", body)[0] == 200

    def begin() -> None:
        with monkeypatch.context() as preloading:
            for name, value in clock.environment.items():
                preloading.setenv(name, value)
            running.start()

    begin()
    try:
        for number, jump_s in enumerate(jumps_s):
            clock.turn(jump_s)
            seen = running.value("select epoch(now())::bigint")
            assert abs(seen - (time.time() + jump_s)) < 60, "the clock of the process has moved"
            bodies.append(trace_body(10, seed=number))
            assert all(accepted(body) for body in bodies), "what came before the jump comes again"
            wait_until(lambda: running.value("select count(*) from spans") == 10 * len(bodies))
            running.kill()
            begin()
            assert all(accepted(body) for body in bodies)
        assert running.post("/v1/traces", trace_body(10, seed=99))[0] == 200
        bodies.append(b"")
        wait_until(lambda: running.value("select count(*) from spans") >= 10 * len(bodies))
        assert running.value("select count(*) from spans") == 10 * len(bodies)
        assert running.value("select count(distinct span_id) from spans") == 10 * len(bodies)
    finally:
        running.kill()
