"""Who reads or lands gives way to what acknowledges, where they want the same CPUs."""

import ctypes
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tailbudget.collector.giving_way import (
    DASHBOARD_STEPS,
    SCHED_ATTR,
    SCHED_SETATTR,
    SLICE_NS,
    STEPS,
    TURN_S,
    give_way,
    go_first,
)

from .collector_support import Collector
from .support import free_port, wait_until
from .test_app_serve import _answers, _start

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
SERVE = """
import sys
from pathlib import Path
from tailbudget.collector import serve, service
from tailbudget.collector.settings import CollectorSettings
service.run = lambda serving: (serving.close(), print(sys.getswitchinterval()))
ports = dict(zip(("http_port", "grpc_port", "api_port"), map(int, sys.argv[2:])))
serve(CollectorSettings(data=Path(sys.argv[1]), **ports))
"""


def own() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def lower(steps: int = STEPS) -> int:
    return min(own() + steps, 19)


def slice_ns(thread: int = 0) -> int:
    """Ask by `sched_getattr`, whose number follows that of `sched_setattr`; 0 before Linux 6.12."""
    found = ctypes.create_string_buffer(SCHED_ATTR.size)
    ctypes.CDLL(None).syscall(SCHED_SETATTR[platform.machine()] + 1, thread, found, SCHED_ATTR.size, 0)
    return int(SCHED_ATTR.unpack(found.raw)[5])


slices = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in SCHED_SETATTR or not slice_ns(),
    reason="threads have slices of their own from Linux 6.12 on",
)


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
def test_of_a_collectors_threads_those_that_land_or_answer_give_way_by_the_same_steps(tmp_path: Path) -> None:
    running = Collector(tmp_path).start()
    assert running.process
    pid = running.process.pid
    try:
        assert running.value("select 1") == 1
        found = by_thread(pid)
        assert found.pop(pid) == own(), "the event loop, which decodes"
        assert sorted(found.values())[-3:] == [own(), lower(), lower()], "the rest, what lands, the question"
    finally:
        running.kill()


@slices
def test_a_thread_that_goes_first_takes_neither_priority_nor_those_that_it_starts_along() -> None:
    def first() -> tuple[int, int, int]:
        go_first()
        with ThreadPoolExecutor(1) as started:
            return slice_ns(), started.submit(slice_ns).result(), own()

    before = slice_ns(), own()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(first).result() == (SLICE_NS, *before)
    assert (slice_ns(), own()) == before


@slices
def test_what_acknowledges_goes_first_and_nothing_else_of_a_collector_does(tmp_path: Path) -> None:
    running = Collector(tmp_path).start()
    assert running.process
    pid = running.process.pid
    try:
        assert running.value("select 1") == 1
        found = {thread: slice_ns(thread) for thread in by_thread(pid)}
        assert found.pop(pid) == SLICE_NS, "the event loop, which decodes"
        assert sorted(found.values())[:2] == [SLICE_NS, slice_ns()], "the journal, the rest"
    finally:
        running.kill()


@linux
def test_a_thread_of_another_policy_keeps_it() -> None:
    def idle() -> int:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        go_first()
        return os.sched_getscheduler(0)

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(idle).result() == os.SCHED_IDLE


@linux
def test_the_dashboard_gives_way(tmp_path: Path) -> None:
    port = free_port()
    process = _start(port, str(tmp_path))
    try:
        wait_until(lambda: _answers(port), what="the dashboard")
        assert own() < lower(DASHBOARD_STEPS)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == lower(DASHBOARD_STEPS)
    finally:
        process.kill()
        process.communicate()


def test_threads_of_a_collector_share_the_interpreter_in_short_turns(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path), *(str(free_port()) for _ in range(3))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert float(done.stdout) == pytest.approx(TURN_S, abs=1e-6), "it is kept in whole microseconds"
