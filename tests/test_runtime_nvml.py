"""GPUs are sampled through the real NVML binding against a small stub of the driver's library."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailbudget.gpu_runtime.points import Point, PointSender
from tailbudget.instrument.vocabulary import GPU_METRICS
from tests.nvml_support import absent, compiled
from tests.runtime_support import Receiver, receiver, server
from tests.support import wait_until

SAMPLE = """
import json, logging, sys, time
logging.basicConfig(level=logging.INFO)
from tailbudget.gpu_runtime.nvml import GpuSampler
points = []
sampler = GpuSampler(points.append, interval_s=0.01)
count = sampler.start()
print(sampler.problem, file=sys.stderr)
enough = eval(sys.argv[1])
deadline = time.monotonic() + 20
while count and not enough(points) and time.monotonic() < deadline:
    time.sleep(0.01)
sampler.stop()
print(json.dumps([count, [[p.name, dict(p.attributes), p.value, p.time_ns, p.counter] for p in points]]))
"""
MANY = "lambda points: len(points) > 800"
Sampled = tuple[str, dict[str, str], float, int, bool]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled stub."""
    return compiled(tmp_path_factory.mktemp("driver"))


@pytest.fixture(scope="module")
def old_driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the stub of an old driver."""
    return compiled(tmp_path_factory.mktemp("old_driver"), "-DOLD_DRIVER")


@pytest.fixture
def otlp() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def _sample(until: str = MANY, **environment: str) -> tuple[int, list[Sampled], str]:
    """Run the sampler in a process of its own: the loader reads LD_LIBRARY_PATH only at its start."""
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE, until],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    count, points = json.loads(done.stdout)
    return count, points, done.stderr


def _last(points: list[Sampled], gpu: str) -> dict[str, float]:
    return {name: value for name, attributes, value, *_ in points if attributes["hw.id"] == gpu}


def _missing(points: list[Sampled], gpu: str) -> str:
    """Return what the last point of `slo.gpu.up` says of the counters that are not there."""
    of = [each for name, each, *_ in points if name == "slo.gpu.up" and each["hw.id"] == gpu]
    return of[-1].get("slo.gpu.missing", "")


def test_every_counter_is_sampled_in_its_unit(driver: Path) -> None:
    count, points, _ = _sample(LD_LIBRARY_PATH=str(driver))
    assert count == 2
    assert _last(points, "GPU-second") == {
        "hw.gpu.utilization": 0.75,
        "hw.gpu.memory.usage": float(20 << 30),
        "hw.gpu.memory.limit": float(80 << 30),
        "hw.gpu.memory.utilization": 0.25,
        "slo.gpu.clock.sm": 1980.0,
        "slo.gpu.clock.mem": 2600.0,
        "hw.power": 350.5,
        "hw.energy": 5000.0,
        "slo.gpu.power.limit": 700.0,
        "hw.temperature": 61.0,
        "slo.gpu.throttle": 68.0,
        "slo.gpu.process.memory": float(18 << 30),
        "slo.gpu.up": 1.0,
    }
    assert {name for name, *_ in points} == {*GPU_METRICS, "slo.gpu.process.memory"}
    assert {name for name, *_, counter in points if counter} == {"hw.energy"}


def test_points_carry_what_the_conventions_ask_of_hardware(driver: Path) -> None:
    _, points, _ = _sample(LD_LIBRARY_PATH=str(driver))
    attributes = next(each for name, each, *_ in points if name == "hw.power" and each["hw.id"] == "GPU-second")
    assert attributes == {
        "host.id": socket.gethostname(),
        "hw.id": "GPU-second",
        "hw.type": "gpu",
        "hw.vendor": "NVIDIA",
        "hw.model": "Stub 80GB",
        "hw.driver_version": "580.1",
    }


def test_a_process_is_told_with_its_memory_and_its_name(driver: Path) -> None:
    _, points, _ = _sample(LD_LIBRARY_PATH=str(driver))
    found = [each for name, each, *_ in points if name == "slo.gpu.process.memory"]
    # The second process of the stub holds what the driver cannot tell: it is left out.
    assert len({each["process.pid"] for each in found}) == 1
    assert found[0]["process.executable.name"].startswith("python")


def test_clocks_come_more_often_than_use_and_use_more_often_than_the_rest(driver: Path) -> None:
    _, points, _ = _sample(LD_LIBRARY_PATH=str(driver))
    times = {
        name: sorted(
            {t for each, attributes, _, t, _ in points if each == name and attributes["hw.id"] == "GPU-second"}
        )
        for name in ("slo.gpu.clock.sm", "hw.gpu.utilization", "hw.temperature")
    }
    first, last = times["hw.temperature"][0], times["hw.temperature"][-1]
    periods = len(times["hw.temperature"]) - 1
    within = {name: sum(first <= t < last for t in found) / periods for name, found in times.items()}
    assert within == {"slo.gpu.clock.sm": 10, "hw.gpu.utilization": 4, "hw.temperature": 1}


def test_what_a_driver_or_a_gpu_lacks_is_left_out_alone_with_the_reason(old_driver: Path) -> None:
    _, points, log = _sample(LD_LIBRARY_PATH=str(old_driver))
    first = _last(points, "GPU-first")
    assert not {"hw.temperature", "hw.energy", "slo.gpu.process.memory"} & first.keys()
    assert (first["hw.power"], first["slo.gpu.throttle"]) == (350.5, 68.0)
    assert "hw.temperature: Not Supported" in _missing(points, "GPU-first")
    assert "hw.energy: Function Not Found" in _missing(points, "GPU-first")
    assert "hw.temperature" not in _missing(points, "GPU-second")
    assert log.count("GPU-first has no hw.temperature") == 1
    assert log.count("GPU-first has no hw.energy") == 1


def test_a_lost_gpu_is_down_and_the_other_goes_on(driver: Path) -> None:
    _, points, log = _sample(LD_LIBRARY_PATH=str(driver), LOST_AFTER="30")
    second = [(name, value) for name, attributes, value, *_ in points if attributes["hw.id"] == "GPU-second"]
    lost = second.index(("slo.gpu.up", 0.0))
    assert {name for name, _ in second[lost:]} == {"slo.gpu.up"}
    assert _last(points, "GPU-first")["slo.gpu.up"] == 1.0
    assert log.count("GPU-second is lost") == 1


def test_a_gpu_that_comes_back_is_sampled_again(driver: Path) -> None:
    back = (
        "lambda points: (lambda ups: 0.0 in ups and ups[-1] == 1.0)"
        "([p.value for p in points if p.name == 'slo.gpu.up' and dict(p.attributes)['hw.id'] == 'GPU-second'] or [1.0])"
    )
    _, points, log = _sample(back, LD_LIBRARY_PATH=str(driver), LOST_AFTER="30", COMES_BACK="1")
    second = [(name, value) for name, attributes, value, *_ in points if attributes["hw.id"] == "GPU-second"]
    down = second.index(("slo.gpu.up", 0.0))
    again = second.index(("slo.gpu.up", 1.0), down)
    # The tick that finds it back reads it before it says so.
    assert [name for name, _ in second[down + 1 : again]].count("hw.power") == 1
    assert log.count("GPU-second is back") == 1


def test_mig_devices_are_sampled_by_their_uuid_and_what_mig_forbids_has_its_reason(driver: Path) -> None:
    count, points, _ = _sample(LD_LIBRARY_PATH=str(driver), DIVIDED=str(driver))
    assert count == 4
    for gpu in ("MIG-a", "MIG-b"):
        assert _last(points, gpu) == {
            "hw.gpu.memory.usage": float(20 << 30),
            "hw.gpu.memory.limit": float(40 << 30),
            "hw.gpu.memory.utilization": 0.5,
            "slo.gpu.process.memory": float(18 << 30),
            "slo.gpu.up": 1.0,
        }
        reasons = dict(each.split(": ") for each in _missing(points, gpu).split("; "))
        assert reasons["hw.energy"] == reasons["hw.gpu.utilization"] == "Not Supported"
        # The driver calls it a wrong argument to ask a part of a GPU for its clock.
        assert reasons["slo.gpu.clock.sm"] == "Invalid Argument"
    assert {each["hw.parent"] for _, each, *_ in points if each["hw.id"] == "MIG-a"} == {"GPU-first"}
    whole = _last(points, "GPU-first")
    assert whole["hw.power"] == 350.5
    assert "hw.gpu.utilization" not in whole


def test_a_mig_device_that_is_removed_is_down_and_then_sampled_no_more(driver: Path, tmp_path: Path) -> None:
    switch = tmp_path / "divided"
    switch.touch()
    removed = (
        f"lambda points: __import__('pathlib').Path({str(switch)!r}).unlink(missing_ok=True) or "
        "any(p.name == 'slo.gpu.up' and not p.value and p.time_ns + 10**9 < points[-1].time_ns for p in points)"
    )
    _, points, log = _sample(removed, LD_LIBRARY_PATH=str(driver), DIVIDED=str(switch))
    part = [(name, value) for name, attributes, value, *_ in points if attributes["hw.id"] == "MIG-b"]
    assert part.index(("slo.gpu.up", 0.0)) == len(part) - 1
    assert log.count("MIG-b is there no more") == 1
    assert _last(points, "GPU-first")["hw.gpu.utilization"] == 0.75


def test_the_readings_of_one_tick_share_one_time(driver: Path) -> None:
    _, points, _ = _sample(LD_LIBRARY_PATH=str(driver))
    first = [(name, time_ns) for name, attributes, _, time_ns, _ in points if attributes["hw.id"] == "GPU-first"]
    start_ns = first[0][1]
    assert {"slo.gpu.clock.sm", "hw.power", "hw.gpu.utilization"} <= {name for name, t in first if t == start_ns}


def test_without_a_driver_one_line_says_so(tmp_path: Path) -> None:
    count, points, log = _sample(LD_LIBRARY_PATH=str(absent(tmp_path)))
    assert (count, points) == (0, [])
    assert log.splitlines() == ["NVML says NVML Shared Library Not Found"]


def test_the_server_sends_gpu_points_with_their_own_times(driver: Path, otlp: Receiver) -> None:
    with server(otlp.endpoint, environment={"LD_LIBRARY_PATH": str(driver)}):
        wait_until(lambda: {"hw.power", "slo.gpu.up"} <= {name for name, _, _ in otlp.points})
        wait_until(lambda: len({p.time_unix_nano for name, _, p in otlp.points if name == "hw.power"}) > 10)
    labels = [labels.keys() for name, labels, _ in otlp.points if name in GPU_METRICS]
    assert all({"host.id", "hw.id", "hw.type"} <= each for each in labels)


def test_points_that_cannot_be_sent_in_time_are_dropped_and_counted(otlp: Receiver) -> None:
    from opentelemetry.sdk.resources import Resource

    from tailbudget.gpu_runtime import points as module

    sender = PointSender(None, resource=Resource({}))
    for index in range(module.KEPT_POINTS + 3):
        sender.add(Point("hw.power", "W", 1.0, index, ()))
    assert sender.dropped == 3


def test_a_counter_is_sent_as_one(otlp: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry.sdk.resources import Resource

    from tailbudget.gpu_runtime.points import otlp_exporter

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", otlp.endpoint)
    sender = PointSender(otlp_exporter(), resource=Resource({}), every_s=0.05)
    sender.start()
    sender.add(Point("hw.energy", "J", 12.5, 7, (("hw.id", "GPU-first"),), counter=True))
    found: list[Any] = wait_until(lambda: [p for name, _, p in otlp.points if name == "hw.energy"])
    sender.stop()
    assert (found[0].as_double, found[0].time_unix_nano) == (12.5, 7)
