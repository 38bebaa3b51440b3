"""What was acknowledged is stored exactly once, although the collector is killed at random instants."""

import random
import threading
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path

from .collector_support import Collector, span_ids, trace_body
from .support import wait_until

CLIENTS = 8
KILLS = 5
SPANS = 20


class Client(threading.Thread):
    """Sends one body after the other, each until it is answered 200, from its own seeds."""

    def __init__(self, number: int, running: Collector, stop: threading.Event) -> None:
        super().__init__()
        self._number = number
        self._running = running
        self._stopping = stop
        self.acknowledged: list[tuple[str, int]] = []
        self.retries = 0

    def run(self) -> None:
        body_number = 0
        while not self._stopping.is_set():
            body = trace_body(SPANS, seed=self._number * 1_000_000 + body_number)
            while not self._accepted(body):
                self.retries += 1
                time.sleep(0.02)
            self.acknowledged += span_ids(body)
            body_number += 1

    def _accepted(self, body: bytes) -> bool:
        try:
            return self._running.post("/v1/traces", body)[0] == 200
        except (OSError, HTTPException):
            return False


def test_ids_acknowledged_are_ids_stored_none_twice_over_five_kills(tmp_path: Path) -> None:
    rng = random.Random(20_260_101)
    running = Collector(tmp_path / "data").start()
    stop = threading.Event()
    clients = [Client(number, running, stop) for number in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        for _ in range(KILLS):
            time.sleep(rng.uniform(0.2, 2.5))  # the instant of the kill is the subject here, no condition to wait for
            running.kill()
            running.start()
    finally:
        stop.set()
        for client in clients:
            client.join()
    try:
        sent = Counter(pair for client in clients for pair in client.acknowledged)
        assert sum(client.retries for client in clients) > 0
        assert len(sent) > 1000
        wait_until(lambda: running.value("select count(*) from spans") >= len(sent))
        wait_until(lambda: b"tailbudget_queue_bodies 0.0" in running.get("/metrics")[1])
        stored = running.rows("select replace(trace_id::varchar, '-', '') as t, span_id from spans")
        assert Counter((row["t"], row["span_id"]) for row in stored) == sent
    finally:
        running.kill()
