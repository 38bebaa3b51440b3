"""Finds the GPUs and their MIG devices through NVML, and says what is read of each and how often."""

import logging
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pynvml

logger = logging.getLogger(__name__)

#: What NVML answers when it will never give a counter of this device.
LACKS = (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported, pynvml.NVMLError_NoPermission)
#: And when the device does not answer at all.
GONE = (pynvml.NVMLError_GpuIsLost, pynvml.NVMLError_ResetRequired, pynvml.NVMLError_Uninitialized)
# In ticks of half an interval: 10, 4 and 1 times a second at the default interval of 0.1 s.
FAST, MIDDLE, SLOW = 2, 5, 20


@dataclass(frozen=True)
class Reading:
    """One counter of a GPU: its metric, how to read it, and on every how many ticks."""

    metric: str
    unit: str
    every: int
    read: Callable[[Any], float]
    counter: bool = False


READINGS: tuple[Reading, ...] = (
    Reading("slo.gpu.clock.sm", "MHz", FAST, lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM)),
    Reading("slo.gpu.clock.mem", "MHz", FAST, lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM)),
    Reading("slo.gpu.throttle", "1", FAST, lambda gpu: _throttle(gpu)),
    Reading("hw.power", "W", FAST, lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3),
    Reading("hw.energy", "J", FAST, lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3, counter=True),
    Reading("hw.gpu.utilization", "1", MIDDLE, lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
    Reading("hw.gpu.memory.utilization", "1", MIDDLE, lambda gpu: _memory_share(gpu)),
    Reading("hw.gpu.memory.usage", "By", MIDDLE, lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
    Reading("hw.gpu.memory.limit", "By", SLOW, lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total),
    Reading(
        "hw.temperature", "Cel", SLOW, lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)
    ),
    Reading("slo.gpu.power.limit", "W", SLOW, lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3),
)
ENERGY = next(reading for reading in READINGS if reading.metric == "hw.energy")
#: Memory of each process; its points carry `process.pid` and, where it can be told, `process.executable.name`.
PROCESS_MEMORY = "slo.gpu.process.memory"


@dataclass
class Gpu:
    """A GPU or a MIG device: its handle, what its points carry, and what it does not tell, with NVML's reason."""

    handle: Any
    id: str
    attributes: tuple[tuple[str, str], ...]
    mig: bool = False
    divided: bool = False
    lost: bool = False
    missing: dict[str, str] = field(default_factory=dict)

    def lacks(self, error: Exception) -> bool:
        """Whether `error` says that the counter will never be there; drivers call what MIG forbids a wrong argument."""
        return isinstance(error, LACKS) or (self.mig and isinstance(error, pynvml.NVMLError_InvalidArgument))


def find() -> list[Gpu]:
    """Return the GPUs of an opened driver, each followed by its MIG devices. NVMLError when the driver does not answer.

    A GPU that cannot be opened is left out, with one line in the log.
    """
    found: list[Gpu] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            gpu = _gpu(pynvml.nvmlDeviceGetHandleByIndex(index), default=str(index))
        except pynvml.NVMLError as error:
            logger.warning("GPU number %d cannot be opened: %s", index, error)
        else:
            parts = list(_slices(gpu))
            gpu.divided = bool(parts)
            found += [gpu, *parts]
    return found


def processes(handle: Any) -> Iterator[tuple[Mapping[str, str], int]]:
    """Return the attributes and the bytes of each computing process whose memory the driver tells.

    NVMLError as any counter; the binding's name without a version raises no NVMLError where the symbol is missing.
    """
    for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle):
        if process.usedGpuMemory is not None:
            yield {"process.pid": str(process.pid)} | _executable(process.pid), process.usedGpuMemory


def _executable(pid: int) -> dict[str, str]:
    try:
        return {"process.executable.name": Path(f"/proc/{pid}/comm").read_text().strip()}
    except OSError:  # gone by now, or of another namespace
        return {}


def _gpu(handle: Any, *, default: str, parent: str = "") -> Gpu:
    identity = _text(pynvml.nvmlDeviceGetUUID, handle) or default
    described = {
        "host.id": socket.gethostname(),
        "hw.id": identity,
        "hw.type": "gpu",
        "hw.vendor": "NVIDIA",
        "hw.model": _text(pynvml.nvmlDeviceGetName, handle),
        "hw.driver_version": _text(pynvml.nvmlSystemGetDriverVersion),
        "hw.parent": parent,
    }
    return Gpu(handle, identity, tuple((key, value) for key, value in described.items() if value), mig=bool(parent))


def _slices(gpu: Gpu) -> Iterator[Gpu]:
    """Return the MIG devices of a GPU: none where it is not divided, or the driver knows nothing of it."""
    try:
        divided = pynvml.nvmlDeviceGetMigMode(gpu.handle)[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        places = pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle) if divided else 0
    except pynvml.NVMLError:
        return
    for place in range(places):
        try:
            handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu.handle, place)
        except pynvml.NVMLError:  # an empty place
            continue
        yield _gpu(handle, default=f"{gpu.id}/{place}", parent=gpu.id)


def _text(ask: Callable[..., Any], *arguments: Any) -> str:
    try:
        found = ask(*arguments)
    except pynvml.NVMLError:
        return ""
    return found.decode() if isinstance(found, bytes) else str(found)


def _memory_share(gpu: Any) -> float:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return float(memory.used / memory.total) if memory.total else 0.0


def _throttle(gpu: Any) -> float:
    """Return the bits of why the clock is held down, under the symbol's new name or its old one."""
    try:
        return float(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
    except pynvml.NVMLError_FunctionNotFound:
        return float(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))
