"""A body that is sent again is stored once, whether it landed, waits in the journal, or lands at that moment."""

import random
import threading
import time
from pathlib import Path

from .collector_support import Collector, collector, trace_body
from .support import wait_until

BODIES = 40
SPANS = 300


def test_a_body_that_was_stored_is_acknowledged_again_and_skipped_also_after_a_restart(tmp_path: Path) -> None:
    body = trace_body(20, seed=1)
    with collector(tmp_path / "data", free_bytes=0) as running:
        assert running.post("/v1/traces", body)[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") == 20)
        assert running.post("/v1/traces", body)[0] == 200
        running.kill()
        running.start()
        assert running.post("/v1/traces", body)[0] == 200
        counted = "select coalesce(sum(n), 0)::int from ingest_health where reason = 'repeated_body'"
        wait_until(lambda: running.value(counted) >= 1)
        assert running.value("select count(*) from spans") == 20


def test_retries_that_arrive_while_the_journal_replays_are_stored_once_over_kills_during_replay(tmp_path: Path) -> None:
    chance = random.Random(7)
    bodies = [trace_body(SPANS, seed=seed) for seed in range(BODIES)]
    running = Collector(tmp_path / "data", {"free_bytes": 0}).start()
    senders = [
        threading.Thread(target=lambda some=bodies[at::4]: [running.post("/v1/traces", body) for body in some])
        for at in range(4)
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    running.kill()
    for _ in range(4):
        running.launch()
        time.sleep(chance.uniform(0.4, 1.0))  # the instant of the kill is the subject: it opens, recovers or replays
        running.kill()
    running.start()
    try:
        for body in bodies:
            assert running.post("/v1/traces", body)[0] == 200
        wait_until(lambda: running.value("select count(*) from spans") >= BODIES * SPANS)
        wait_until(lambda: b"tailbudget_queue_bodies 0.0" in running.get("/metrics")[1])
        assert running.value("select count(*) from spans") == BODIES * SPANS
        assert running.value("select count(distinct span_id) from spans") == BODIES * SPANS
    finally:
        running.kill()
