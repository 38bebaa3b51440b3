"""Who reads gives way to what lands, where both want the same CPUs."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tailbudget.collector.giving_way import STEPS, give_way

from .collector_support import Collector
from .support import free_port, wait_until
from .test_app_serve import _answers, _start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def lower() -> int:
    return min(own() + STEPS, 19)


def by_thread(process: int) -> dict[int, int]:
    threads = [int(one.name) for one in Path(f"/proc/{process}/task").iterdir()]
    return {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads}


def test_a_thread_that_gives_way_takes_nobody_else_along() -> None:
    expected, before = lower(), own()
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        found = pool.submit(own).result()
    assert (found, own()) == (expected, before)


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
