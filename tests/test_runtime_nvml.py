"""GPUs are sampled through the real NVML binding against a small stub of the driver's library."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tailbudget.gpu_runtime.points import Point, PointSender
from tailbudget.instrument.vocabulary import GPU_METRICS
from tests.runtime_support import Receiver, receiver, server
from tests.support import wait_until

STUB = Path(__file__).with_name("nvml_stub.c")
SAMPLE = """
import json, logging, sys, time
logging.basicConfig(level=logging.INFO)
from tailbudget.gpu_runtime.nvml import GpuSampler
points = []
sampler = GpuSampler(points.append, tick_s=0.005)
count = sampler.start()
deadline = time.monotonic() + 20
while count and len(points) < 800 and time.monotonic() < deadline:
    time.sleep(0.01)
sampler.stop()
print(json.dumps([count, [[p.name, dict(p.attributes), p.value, p.time_ns] for p in points]]))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the compiled stub."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler, which is not on this machine")
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(STUB)], check=True)
    return folder


@pytest.fixture
def otlp() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


def _sample(**environment: str) -> tuple[int, list[tuple[str, dict[str, str], float, int]], str]:
    """Run the sampler in a process of its own: the loader reads LD_LIBRARY_PATH only at its start."""
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    count, points = json.loads(done.stdout)
    return count, points, done.stderr


def _last(points: list[tuple[str, dict[str, str], float, int]], gpu: str) -> dict[str, float]:
    return {name: value for name, attributes, value, _ in points if attributes["hw.id"] == gpu}


def test_every_counter_is_sampled_in_its_unit(driver: Path) -> None:
    count, points, _ = _sample(LD_LIBRARY_PATH=str(driver))
    assert count == 2
    assert _last(points, "GPU-second") == {
        "hw.gpu.utilization": 0.75,
        "hw.gpu.memory.usage": float(20 << 30),
        "hw.gpu.memory.utilization": 0.25,
        "slo.gpu.clock.sm": 1980.0,
        "slo.gpu.clock.mem": 2600.0,
        "hw.power": 350.5,
        "slo.gpu.power.limit": 700.0,
        "hw.temperature": 61.0,
        "slo.gpu.throttle": 68.0,
        "slo.gpu.up": 1.0,
    }
    assert {name for name, *_ in points} <= GPU_METRICS.keys()
    assert all(attributes.keys() == {"host.id", "hw.id"} for _, attributes, _, _ in points)


def test_what_a_driver_or_a_gpu_lacks_is_left_out_alone(driver: Path) -> None:
    _, points, log = _sample(LD_LIBRARY_PATH=str(driver))
    first = _last(points, "GPU-first")
    assert "hw.temperature" not in first
    assert "hw.energy" not in first
    assert first["hw.power"] == 350.5
    assert log.count("GPU-first has no hw.temperature") == 1
    assert log.count("GPU-first has no hw.energy") == 1


def test_a_lost_gpu_is_down_and_the_other_goes_on(driver: Path) -> None:
    _, points, log = _sample(LD_LIBRARY_PATH=str(driver), LOST_AFTER="30")
    second = [(name, value) for name, attributes, value, _ in points if attributes["hw.id"] == "GPU-second"]
    lost = second.index(("slo.gpu.up", 0.0))
    assert {name for name, _ in second[lost:]} == {"slo.gpu.up"}
    assert _last(points, "GPU-first")["slo.gpu.up"] == 1.0
    assert log.count("GPU-second is lost") == 1


def test_the_readings_of_one_tick_share_one_time(driver: Path) -> None:
    _, points, _ = _sample(LD_LIBRARY_PATH=str(driver))
    first = [(name, time_ns) for name, attributes, _, time_ns in points if attributes["hw.id"] == "GPU-first"]
    start_ns = first[0][1]
    assert {"slo.gpu.clock.sm", "hw.power", "hw.gpu.utilization"} <= {name for name, t in first if t == start_ns}


def test_without_a_driver_one_line_says_so() -> None:
    count, points, log = _sample(LD_LIBRARY_PATH="")
    assert (count, points) == (0, [])
    assert log.count("no GPU is sampled") == 1
    assert len(log.splitlines()) == 1


def test_the_server_sends_gpu_points_with_their_own_times(driver: Path, otlp: Receiver) -> None:
    with server(otlp.endpoint, environment={"LD_LIBRARY_PATH": str(driver)}):
        wait_until(lambda: {"hw.power", "slo.gpu.up"} <= {name for name, _, _ in otlp.points}, timeout_s=20)
        wait_until(lambda: len({p.time_unix_nano for name, _, p in otlp.points if name == "hw.power"}) > 10)
    labels = {tuple(sorted(labels)) for name, labels, _ in otlp.points if name in GPU_METRICS}
    assert labels == {("host.id", "hw.id")}


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
    found: list[Any] = wait_until(lambda: [p for name, _, p in otlp.points if name == "hw.energy"], timeout_s=10)
    sender.stop()
    assert (found[0].as_double, found[0].time_unix_nano) == (12.5, 7)
