"""Real guards and a real event loop are diagnosed through a real collector; their healthy twins are not."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .collector_support import collector
from .support import wait_until

SERVICE = """
import asyncio, sys, time
import tailbudget
from tailbudget.guards import BoundedQueue, CircuitBreaker, CircuitOpenError, OutputCache

tailbudget.init(sys.argv[2], endpoint=sys.argv[1])
wrong = sys.argv[2] == "sick"
cache, breaker = OutputCache("answers"), CircuitBreaker("web", failures=3)
queue = BoundedQueue("model", at_once=1, most_waiting=1_200)


async def held(gate):
    async with queue:
        await gate.wait()


async def words():
    for _ in range(5):
        await asyncio.sleep(0.02)
        yield "word "


async def read():
    async for _ in tailbudget.stream(words(), model="large"):
        if wrong:
            await asyncio.sleep(0.1)


def search(broken):
    with tailbudget.stage("tools", "web"), breaker:
        if broken:
            raise ConnectionError("down")


async def main():
    tailbudget.watch_loop()
    gate = asyncio.Event()
    with tailbudget.request("chat"):
        await asyncio.gather(*(read() for _ in range(44)))
        for n in range(110):
            asked = f"question {n if wrong else n % 10}"
            if cache.get(asked) is None:
                cache.put("an answer", asked)
        for _ in range(4):
            try:
                search(wrong)
            except (ConnectionError, CircuitOpenError):
                pass
    waiting = [asyncio.ensure_future(held(gate)) for _ in range(1_100 if wrong else 10)]
    until_s = time.monotonic() + 8
    while time.monotonic() < until_s:
        await asyncio.sleep(0.05)
        if wrong:
            time.sleep(1.6)  # a timer is due within 0.25 s of the last, so this one is late by a second and more
    gate.set()
    await asyncio.gather(*waiting)

asyncio.run(main())
"""
#: A busy machine holds up any loop for 100 ms: here a timer is late from a second on, of which a blocked loop has few.
LATE = "from found_blocked_loop(now() - interval 1 hour, now(), lag_ms := 1000, fewest := 2)"
RULES = ("blocked_loop", "breaker_open", "cache_hit_low", "queue_deep")


def test_what_ails_a_service_is_found_and_what_ails_none_is_not(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    environment["OTEL_METRIC_EXPORT_INTERVAL"] = "500"
    with collector(tmp_path / "data") as running:
        command = [sys.executable, "-c", SERVICE, f"http://127.0.0.1:{running.http_port}"]
        services = [subprocess.Popen([*command, name], env=environment) for name in ("well", "sick")]
        assert [service.wait(timeout=180) for service in services] == [0, 0]

        def found() -> dict[str, list[dict[str, Any]]] | None:
            rows = {rule: running.rows(LATE if rule == "blocked_loop" else f"from diag_{rule}") for rule in RULES}
            blocked = {"timers" in row["evidence"] for row in rows["blocked_loop"]}
            return rows if all(rows.values()) and blocked == {True, False} else None

        diagnosed = wait_until(found, what=f"each of {', '.join(RULES)}")
    assert {row["scope"].get("service") for rule in RULES for row in diagnosed[rule]} == {"sick"}
    (held, *_) = (row["evidence"] for row in diagnosed["blocked_loop"] if "timers" not in row["evidence"])
    assert held["consumer_share"] > 0.5
    (breaker,) = diagnosed["breaker_open"][:1]
    assert breaker["evidence"]["errors"] == ["ConnectionError"]
    (cache,) = diagnosed["cache_hit_low"][:1]
    assert (cache["scope"]["cache"], cache["evidence"]["hits"]) == ("answers", 0)
    (queue,) = diagnosed["queue_deep"][:1]
    assert (queue["scope"]["name"], queue["evidence"]["waiting"]) == ("model", 1_099)
