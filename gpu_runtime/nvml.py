"""Samples every GPU through NVML: use, memory, clocks, power, energy, temperature, throttle reasons."""

import logging
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pynvml

from .points import Point

logger = logging.getLogger(__name__)
TICK_S = 0.1
UP_EVERY = 10
UP = "slo.gpu.up"


@dataclass(frozen=True)
class Reading:
    """One counter of a GPU: its metric, how to read it, and on every how many ticks of 0.1 s."""

    metric: str
    unit: str
    every: int
    read: Callable[[Any], float]
    counter: bool = False


#: Clocks, throttle reasons, power and energy 10 times a second; NVML renews utilisation about 4 to 6 times a second.
READINGS: tuple[Reading, ...] = (
    Reading("slo.gpu.clock.sm", "MHz", 1, lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM)),
    Reading("slo.gpu.clock.mem", "MHz", 1, lambda gpu: pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM)),
    Reading("slo.gpu.throttle", "1", 1, lambda gpu: _throttle(gpu)),
    Reading("hw.power", "W", 1, lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1e3),
    Reading("hw.energy", "J", 1, lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3, counter=True),
    Reading("hw.gpu.utilization", "1", 5, lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100),
    Reading("hw.gpu.memory.utilization", "1", 5, lambda gpu: _memory_share(gpu)),
    Reading("hw.gpu.memory.usage", "By", 5, lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used),
    Reading("hw.temperature", "Cel", 10, lambda gpu: pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)),
    Reading("slo.gpu.power.limit", "W", 10, lambda gpu: pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1e3),
)


def _memory_share(gpu: Any) -> float:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return float(memory.used / memory.total) if memory.total else 0.0


def _throttle(gpu: Any) -> float:
    """Return the bits of why the clock is held down, under the symbol's new name or its old one."""
    try:
        return float(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))
    except pynvml.NVMLError_FunctionNotFound:
        return float(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))


@dataclass
class _Gpu:
    handle: Any
    name: str
    readings: list[Reading] = field(default_factory=lambda: list(READINGS))
    lost: bool = False

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        """What every point of this GPU carries."""
        return (("host.id", socket.gethostname()), ("hw.id", self.name))


class GpuSampler:
    """Samples from a thread of its own into `add`. Without a driver or a GPU it says so once and does nothing."""

    def __init__(self, add: Callable[[Point], None], *, tick_s: float = TICK_S) -> None:
        self._add = add
        self._tick_s = tick_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Start sampling; returns the number of GPUs."""
        gpus = _gpus()
        if gpus:
            self._thread = threading.Thread(target=self._run, args=(gpus,), name="tailbudget-nvml", daemon=True)
            self._thread.start()
        return len(gpus)

    def stop(self) -> None:
        """End the thread and let go of the driver."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
            pynvml.nvmlShutdown()

    def _run(self, gpus: list[_Gpu]) -> None:
        tick = 0
        while not self._stopping.wait(self._tick_s):
            for gpu in gpus:
                # All of a tick carry one time, so that they meet in one row.
                self._sample(gpu, tick, time.time_ns())
            tick += 1

    def _sample(self, gpu: _Gpu, tick: int, now_ns: int) -> None:
        was_lost = gpu.lost
        for reading in list(gpu.readings):
            if tick % reading.every == 0 and not gpu.lost:
                self._read(gpu, reading, now_ns)
        if tick % UP_EVERY == 0 or gpu.lost != was_lost:
            self._add(Point(UP, "1", 0.0 if gpu.lost else 1.0, now_ns, gpu.attributes))

    def _read(self, gpu: _Gpu, reading: Reading, now_ns: int) -> None:
        try:
            value = float(reading.read(gpu.handle))
        except (pynvml.NVMLError_FunctionNotFound, pynvml.NVMLError_NotSupported) as error:
            gpu.readings.remove(reading)
            logger.info("GPU %s has no %s (%s): left out", gpu.name, reading.metric, error)
        except pynvml.NVMLError_GpuIsLost:
            gpu.lost = True
            logger.error("GPU %s is lost: it is reported as down from now on", gpu.name)
        except pynvml.NVMLError as error:
            logger.debug("GPU %s, %s: %s", gpu.name, reading.metric, error)
        else:
            self._add(Point(reading.metric, reading.unit, value, now_ns, gpu.attributes, reading.counter))


def _gpus() -> list[_Gpu]:
    """Open the driver; returns its GPUs, none with one line in the log when there is no driver or no GPU."""
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        logger.info("no GPU is sampled: NVML says %s", error)
        return []
    if not count:
        logger.info("no GPU is sampled: the driver is there but finds none")
    return [_opened(index) for index in range(count)]


def _opened(index: int) -> _Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    try:
        name = pynvml.nvmlDeviceGetUUID(handle)
    except pynvml.NVMLError:
        name = str(index)
    return _Gpu(handle, name.decode() if isinstance(name, bytes) else str(name))
