"""What was acknowledged is stored exactly once, although the collector is killed at random instants."""

import random
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path

import pytest

from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.landing import Landing

from .collector_support import PROGRAM, Collector, span_ids, trace_request
from .support import wait_until
from .test_seal import traces

CLIENTS = 8
#: Long enough ago that what is stored is sealed at once.
AGO_NS = 3 * 3600 * 1_000_000_000


#: Row groups so small that nearly every transaction ends amid a body.
CUTTING = f"""
from tailbudget.collector.land import portion
portion.ROW_GROUP_ROWS = 130
{PROGRAM}
"""
#: Lets go of the write-ahead log as a collector does when it has grown.
CHECKPOINT = """
import pathlib, sys
from tailbudget.collector.land.database import open_database
connection = open_database(pathlib.Path(sys.argv[1]))
print("begins", flush=True)
connection.execute("checkpoint")
"""


class Client(threading.Thread):
    """Sends one body after the other, each until it is answered 200, from its own seeds."""

    def __init__(self, number: int, running: Collector, *, spans: int, bodies: int) -> None:
        super().__init__()
        self._number = number
        self._running = running
        self._spans = spans
        self._bodies = bodies
        self.stopping = threading.Event()
        self.acknowledged: list[tuple[str, int]] = []
        self.retries = 0

    def run(self) -> None:
        for number in range(self._bodies):
            if self.stopping.is_set():
                return
            seed = self._number * 1_000_000 + number
            body = trace_request(self._spans, seed=seed, start_ns=time.time_ns() - AGO_NS).SerializeToString()
            while not self._accepted(body):
                self.retries += 1
                time.sleep(0.02)
            self.acknowledged += span_ids(body)

    def _accepted(self, body: bytes) -> bool:
        try:
            return self._running.post("/v1/traces", body)[0] == 200
        except (OSError, HTTPException):
            return False


def storm(data: Path, *, kills: int, spans: int, bodies: int, program: str = PROGRAM) -> tuple[int, int]:
    """Kill the collector at random instants while clients send, then compare; return (spans, sealed files)."""
    rng = random.Random(20_260_101)
    running = Collector(data, {"free_bytes": 0}, program=program).start()
    clients = [Client(number, running, spans=spans, bodies=bodies) for number in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        for _ in range(kills):
            time.sleep(rng.uniform(0.2, 2.5))  # the instant of the kill is the subject here, no condition to wait for
            running.kill()
            if rng.random() < 0.3:  # and again, while it recovers
                running.launch()
                time.sleep(rng.uniform(0.3, 1.2))
                running.kill()
            running.start()
    finally:
        for client in clients:
            if bodies > 1000:
                client.stopping.set()
            client.join()
    try:
        sent = Counter(pair for client in clients for pair in client.acknowledged)
        assert sum(client.retries for client in clients) > 0
        wait_until(lambda: running.value("select count(*) from spans") >= len(sent))
        wait_until(lambda: b"tailbudget_queue_bodies 0.0" in running.get("/metrics")[1])
        query = "select replace(trace_id::varchar, '-', '') as t, span_id from spans"
        assert Counter((row["t"], row["span_id"]) for row in running.rows(query)) == sent
        return len(sent), running.value("select count(*) from sealed_files")
    finally:
        running.kill()


def test_ids_acknowledged_are_ids_stored_none_twice_over_five_kills(tmp_path: Path) -> None:
    data = tmp_path / "data"
    sent, _ = storm(data, kills=5, spans=20, bodies=1_000_000, program=CUTTING)
    assert sent > 1000
    with open_database(data) as connection:
        ((cut,),) = connection.execute("select count(*) from bodies where spans % 20 > 0").fetchall()
    assert cut > 10


@pytest.mark.slow
def test_a_kill_during_a_checkpoint_loses_and_doubles_nothing(tmp_path: Path) -> None:
    chance = random.Random(3)
    with open_database(tmp_path / "data") as connection:
        expected = 0
        for round_ in range(8):
            Landing(connection).land([traces(800, seed=round_)])
            expected += 800
        copy = tmp_path / "open"
        shutil.copytree(tmp_path / "data", copy)  # with a write-ahead log
    for number in range(5):
        folder = tmp_path / str(number)
        shutil.copytree(copy, folder)
        with subprocess.Popen([sys.executable, "-c", CHECKPOINT, str(folder)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"begins\n"
            time.sleep(chance.uniform(0, 0.06))  # the instant of the kill is the subject
            process.kill()
        with open_database(folder) as connection:
            query = "select count(*), count(distinct (trace_id, span_id)) from spans"
            assert connection.execute(query).fetchall() == [(expected, expected)]


@pytest.mark.slow
def test_half_a_million_spans_over_twenty_kills_are_stored_once_each_sealed_or_not(tmp_path: Path) -> None:
    sent, sealed = storm(tmp_path / "data", kills=20, spans=500, bodies=125)
    assert sent == 500_000
    assert sealed > 0
