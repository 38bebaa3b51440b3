"""Who reads gives way to what lands, where both want the same CPUs."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tailbudget.collector.giving_way import STEPS, TURN_S, give_way

from .collector_support import Collector
from .support import free_port, wait_until
from .test_app_serve import _answers, _start

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
SERVE = """
import asyncio, sys
from pathlib import Path
from tailbudget.collector import serve
from tailbudget.collector.settings import CollectorSettings
asyncio.run = lambda serving: (serving.close(), print(sys.getswitchinterval()))
ports = dict(zip(("http_port", "grpc_port", "api_port"), map(int, sys.argv[2:])))
serve(CollectorSettings(data=Path(sys.argv[1]), **ports))
"""


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def lower() -> int:
    return min(own() + STEPS, 19)


def by_thread(process: int) -> dict[int, int]:
    threads = [int(one.name) for one in Path(f"/proc/{process}/task").iterdir()]
    return {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}


@linux
def test_a_thread_that_gives_way_takes_nobody_else_along() -> None:
    expected, before = lower(), own()
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        found = pool.submit(own).result()
    assert (found, own()) == (expected, before)


@linux
def test_questions_give_way_to_landing_and_nothing_else_of_a_collector_does(tmp_path: Path) -> None:
    running = Collector(tmp_path).start()
    assert running.process
    pid = running.process.pid
    try:
        before = by_thread(pid)
        assert running.value("select 1") == 1
        after = by_thread(pid)
        assert {after[thread] for thread in before if thread in after} == {own()}
        assert lower() in {nice for thread, nice in after.items() if thread not in before}
    finally:
        running.kill()


@linux
def test_the_dashboard_gives_way(tmp_path: Path) -> None:
    port = free_port()
    process = _start(port, str(tmp_path))
    try:
        wait_until(lambda: _answers(port), what="the dashboard")
        assert own() < lower()
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == lower()
    finally:
        process.kill()
        process.communicate()


def test_threads_of_a_collector_share_the_interpreter_in_short_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path), *(str(free_port()) for _ in range(3))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == (f"{TURN_S}\n", "")
