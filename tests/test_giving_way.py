"""Who reads or lands gives way to what acknowledges, where they want the same CPUs."""

import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tailbudget.collector import giving_way
from tailbudget.collector.giving_way import (
    DASHBOARD_STEPS,
    PRIORITY,
    SCHED_ATTR,
    SCHED_SETATTR,
    SLICE_NS,
    STEPS,
    TURN_S,
    give_way,
    go_first,
    may_interrupt,
    thread_cpu_s,
)

from .collector_support import PROGRAM, Collector
from .support import free_port, wait_until
from .test_app_serve import _answers, _start

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own")
#: Of the slowest clock that Linux is built with.
TICK_S = 0.01
#: Nobody but root, and who has a limit of his own, may have real-time priority.
UNPRIVILEGED = """
import ctypes, resource
resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0))
header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert ctypes.CDLL(None).capget(header, held) == 0
held[0] &= ~(1 << 23)  # CAP_SYS_NICE
assert ctypes.CDLL(None).capset(header, held) == 0
"""
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


interrupting = pytest.mark.skipif(not may_interrupt(), reason="this user may not have real-time priority")


def threads(process: int) -> list[int]:
    return [int(one.name) for one in Path(f"/proc/{process}/task").iterdir()]


@pytest.fixture
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    """The process of a collector that has answered, which has the right to real-time priority or has not."""
    collector = Collector(tmp_path, program=PROGRAM if request.param else UNPRIVILEGED + PROGRAM).start()
    try:
        assert collector.value("select 1") == 1
        assert collector.process
        yield collector.process.pid
    finally:
        collector.kill()


@pytest.fixture
def nobody_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "may_interrupt", lambda: False)


@linux
@pytest.mark.usefixtures("nobody_interrupts")
def test_a_thread_that_gives_way_takes_nobody_else_along() -> None:
    expected, before = lower(), own()
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        found = pool.submit(own).result()
    assert (found, own()) == (expected, before)


@interrupting
def test_nobody_gives_way_where_those_that_go_first_interrupt() -> None:
    with ThreadPoolExecutor(1, initializer=give_way) as pool:
        assert pool.submit(own).result() == own()


@linux
@pytest.mark.parametrize("running", [False], ids=["may not"], indirect=True)
def test_of_a_collectors_threads_those_that_land_or_answer_give_way_by_the_same_steps(running: int) -> None:
    found = {thread: os.getpriority(os.PRIO_PROCESS, thread) for thread in threads(running)}
    assert found.pop(running) == own(), "the event loop, which decodes"
    assert sorted(found.values())[-3:] == [own(), lower(), lower()], "the rest, what lands, the question"


@interrupting
def test_a_thread_that_goes_first_interrupts_and_those_that_it_starts_do_not() -> None:
    def first() -> tuple[int, int, int]:
        go_first()
        with ThreadPoolExecutor(1) as started:
            of_started = started.submit(os.sched_getscheduler, 0).result()
        return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, os.sched_getparam(0).sched_priority, of_started

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(first).result() == (os.SCHED_RR, PRIORITY, os.SCHED_OTHER)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@slices
@pytest.mark.usefixtures("nobody_interrupts")
def test_a_thread_that_goes_first_in_turns_takes_neither_priority_nor_those_that_it_starts_along() -> None:
    def first() -> tuple[int, int, int]:
        go_first()
        with ThreadPoolExecutor(1) as started:
            return slice_ns(), started.submit(slice_ns).result(), own()

    before = slice_ns(), own()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(first).result() == (SLICE_NS, *before)
    assert (slice_ns(), own()) == before


@interrupting
@pytest.mark.parametrize("running", [True], ids=["may interrupt"], indirect=True)
def test_what_acknowledges_interrupts_and_nothing_else_of_a_collector_does(running: int) -> None:
    found = {thread: os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK for thread in threads(running)}
    assert found.pop(running) == os.SCHED_RR, "the event loop, which decodes"
    assert sorted(found.values(), reverse=True)[:2] == [os.SCHED_RR, os.SCHED_OTHER], "the journal, the rest"
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads(running)} == {own()}


@slices
@pytest.mark.parametrize("running", [False], ids=["may not"], indirect=True)
def test_what_acknowledges_goes_first_and_nothing_else_of_a_collector_does(running: int) -> None:
    found = {thread: slice_ns(thread) for thread in threads(running)}
    assert found.pop(running) == SLICE_NS, "the event loop, which decodes"
    assert sorted(found.values())[:2] == [SLICE_NS, slice_ns()], "the journal, the rest"


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


def test_a_threads_cpu_time_is_its_own_and_grows_with_its_work() -> None:
    def work(seconds: float) -> float:
        began_s, until_s = thread_cpu_s(), time.thread_time() + seconds
        while time.thread_time() < until_s:
            pass
        return thread_cpu_s() - began_s

    with ThreadPoolExecutor(1) as other:
        busy = other.submit(work, 0.2)
        own_s = work(0.02)
        assert busy.result() == pytest.approx(0.2, abs=2 * TICK_S)
    assert own_s == pytest.approx(0.02, abs=2 * TICK_S)
