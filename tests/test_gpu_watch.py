"""What the GPU did during a request is on its span: lowest clock, throttle bits, mean use, peak memory."""

from pathlib import Path

import httpx
import pytest
import torch

from tailbudget.gpu_runtime.points import Point
from tailbudget.gpu_runtime.watch import KEPT_SAMPLES, GpuWatch, gpu_of
from tests import runtime_support
from tests.nvml_support import compiled

S = 1_000_000_000


def _tell(
    watch: GpuWatch, metric: str, *values: float, gpu: str = "GPU-1", parent: str = "", every_ns: int = S
) -> None:
    """One value a second from second 10 on."""
    attributes = (("hw.id", gpu), *([("hw.parent", parent)] if parent else []))
    for index, value in enumerate(values):
        watch.add(Point(metric, "1", value, 10 * S + index * every_ns, attributes))


def test_a_request_is_joined_to_the_samples_of_its_time() -> None:
    watch = GpuWatch("GPU-1")
    _tell(watch, "slo.gpu.clock.sm", 900, 1980, 1200, 1980, 600)
    _tell(watch, "slo.gpu.throttle", 0x80, 0x4, 0x40, 0, 0x8)
    _tell(watch, "hw.gpu.utilization", 0, 0.5, 1.0, 0.9, 0)
    _tell(watch, "hw.gpu.memory.usage", 9, 5, 7, 6, 9)
    assert watch.attributes("a", 11 * S, 13 * S) == {
        "slo.gpu.id": "GPU-1",
        "slo.gpu.sm_clock_min": 900,  # still held when the request began
        "slo.gpu.throttle": 0xC4,
        "slo.gpu.util": pytest.approx(0.6),
        "slo.gpu.memory_peak": 9,
    }


def test_a_request_shorter_than_the_interval_has_the_sample_before_it_but_no_stale_one() -> None:
    watch = GpuWatch("GPU-1")
    _tell(watch, "slo.gpu.clock.sm", 1980)
    assert watch.attributes("a", 10 * S + 5, 10 * S + 9)["slo.gpu.sm_clock_min"] == 1980
    assert watch.attributes("a", 13 * S, 14 * S) == {"slo.gpu.id": "GPU-1"}


def test_other_gpus_do_not_count() -> None:
    watch = GpuWatch("GPU-1")
    _tell(watch, "slo.gpu.clock.sm", 600, gpu="GPU-2")
    assert watch.attributes("a", 10 * S, 11 * S) == {"slo.gpu.id": "GPU-1"}


def test_a_mig_device_has_the_clock_of_its_gpu_and_memory_of_its_own() -> None:
    watch = GpuWatch("MIG-a")
    _tell(watch, "slo.gpu.clock.sm", 1500)
    _tell(watch, "hw.gpu.memory.usage", 70)
    _tell(watch, "hw.energy", 5, 6)
    _tell(watch, "hw.gpu.memory.usage", 20, gpu="MIG-a", parent="GPU-1")
    found = watch.attributes("a", 10 * S, 11 * S)
    # The energy of the whole GPU is the neighbours' too: a part has none.
    assert found == {"slo.gpu.id": "MIG-a", "slo.gpu.sm_clock_min": 1500, "slo.gpu.memory_peak": 20}


def test_a_runtime_without_a_gpu_says_nothing() -> None:
    watch = GpuWatch()
    _tell(watch, "slo.gpu.clock.sm", 1980)
    assert watch.attributes("a", 10 * S, 11 * S) == {}
    assert gpu_of(torch.device("cpu")) is None


def test_memory_is_bounded_and_the_newest_samples_stay() -> None:
    watch = GpuWatch("GPU-1")
    _tell(watch, "slo.gpu.clock.sm", *range(2 * KEPT_SAMPLES), every_ns=S // 10)
    end_ns = 10 * S + 2 * KEPT_SAMPLES * S // 10
    assert watch.attributes("a", 0, end_ns)["slo.gpu.sm_clock_min"] == KEPT_SAMPLES


def test_the_runtime_puts_what_its_gpu_did_on_each_requests_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This model runs on the CPU: only which GPU it would be on is said here, all else is as served.
    placed = "from tailbudget.gpu_runtime import host; host.gpu_of = lambda device: 'GPU-second'; "
    monkeypatch.setattr(runtime_support, "RUN", placed + runtime_support.RUN)
    driver = {"LD_LIBRARY_PATH": str(compiled(tmp_path))}
    with runtime_support.receiver() as otlp:
        with runtime_support.server(otlp.endpoint, environment=driver) as (url, _):
            asked = {"model": "tiny", "prompt": "The river", "max_tokens": 20}
            assert httpx.post(f"{url}/v1/completions", json=asked, timeout=120).status_code == 200
        (span,) = [span for span in otlp.spans if span.name == "llm_request"]
    found = {each.key: each.value for each in span.attributes if each.key.startswith("slo.gpu.")}
    assert found["slo.gpu.id"].string_value == "GPU-second"
    assert found["slo.gpu.sm_clock_min"].double_value == 1980
    assert found["slo.gpu.throttle"].int_value == 0x44
    assert found["slo.gpu.util"].double_value == 0.75
    assert found["slo.gpu.memory_peak"].int_value == 20 << 30
    assert found["slo.gpu.energy"].double_value == 0  # the stub's counter stands still


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_the_uuid_of_a_cuda_device_is_one_that_nvml_knows() -> None:
    import pynvml

    pynvml.nvmlInit()
    pynvml.nvmlDeviceGetHandleByUUID(gpu_of(torch.device("cuda")))
