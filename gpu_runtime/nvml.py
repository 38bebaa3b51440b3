"""Samples every GPU through NVML: use, memory, clocks, power, energy, temperature, throttle reasons, processes."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pynvml

from .devices import ENERGY, GONE, PROCESS_MEMORY, READINGS, SLOW, Gpu, Reading, find, processes
from .points import Point

logger = logging.getLogger(__name__)
INTERVAL_S = 0.1
UP = "slo.gpu.up"
#: On the points of UP: the counters that this GPU does not tell, each with NVML's reason.
MISSING = "slo.gpu.missing"
#: A driver that is opened anew holds up the other GPUs' samples: 10 s at the default interval.
LOOK_EVERY = 10 * SLOW


class GpuSampler:
    """Samples from a thread of its own into each of `sinks`; without a driver or a GPU it does nothing.

    Clocks, throttle reasons, power and energy are read every `interval_s`, use and memory every 2.5 intervals (NVML
    renews them 4 to 6 times a second), temperature, limits and processes every 10.
    """

    def __init__(self, *sinks: Callable[[Point], None], interval_s: float = INTERVAL_S) -> None:
        self.problem = ""
        self.sinks = list(sinks)
        self._tick_s = interval_s / 2
        self._gpus: dict[str, Gpu] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Start sampling; returns the number of GPUs, MIG devices included. When it is 0 `problem` says why."""
        try:
            pynvml.nvmlInit()
            self._gpus = {gpu.id: gpu for gpu in find()}
            self.problem = "" if self._gpus else "the driver is there but finds none"
        except pynvml.NVMLError as error:
            self.problem = f"NVML says {error}"
        if not self.problem:
            self._thread = threading.Thread(target=self._run, name="tailbudget-nvml", daemon=True)
            self._thread.start()
        return len(self._gpus)

    def stop(self) -> None:
        """End the thread and let go of the driver."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
            pynvml.nvmlShutdown()

    def energy_j(self, gpu_id: str) -> float | None:
        """Read the energy counter of a GPU now, from any thread; None where it has none or does not answer."""
        gpu = self._gpus.get(gpu_id)
        if gpu is None or gpu.lost or ENERGY.metric in gpu.missing:
            return None
        try:
            return float(ENERGY.read(gpu.handle))
        except pynvml.NVMLError:
            return None

    def _run(self) -> None:
        tick, due_s = 0, time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            if tick % LOOK_EVERY == LOOK_EVERY - 1:
                self._look_again()
            for gpu in self._gpus.values():
                # All of a tick carry one time, so that they meet in one row.
                self._sample(gpu, tick, time.time_ns())
            tick += 1
            # After a hold-up the rhythm goes on from now: samples in a burst would be worth nothing.
            due_s = max(due_s + self._tick_s, time.monotonic())

    def _look_again(self) -> None:
        """Take in what MIG devices there are now; a lost GPU comes back only to a driver that is opened anew."""
        try:
            if any(gpu.lost for gpu in self._gpus.values()):
                pynvml.nvmlShutdown()
                pynvml.nvmlInit()
            found = {gpu.id: gpu for gpu in find()}
        except pynvml.NVMLError as error:
            logger.debug("NVML does not open: %s", error)
            return
        for known in self._gpus.values():
            if now := found.get(known.id):
                # Still down until it answers: an opened handle is no proof. After a change it may tell more, or less.
                now.lost = known.lost
                now.missing = known.missing if not known.lost and now.divided == known.divided else {}
            elif known.mig:
                known.lost = True
                self._tell_up(known, time.time_ns())
                logger.info("MIG device %s is there no more", known.id)
            else:
                known.lost = True
                found[known.id] = known
        self._gpus = found

    def _sample(self, gpu: Gpu, tick: int, now_ns: int) -> None:
        was_lost = gpu.lost
        if gpu.lost and tick % SLOW == 0:
            self._probe(gpu)
        for reading in READINGS:
            if tick % reading.every == 0 and not gpu.lost and reading.metric not in gpu.missing:
                self._read(gpu, reading, now_ns)
        if tick % SLOW == 0 and not gpu.lost and PROCESS_MEMORY not in gpu.missing:
            self._guard(gpu, PROCESS_MEMORY, lambda: self._add_processes(gpu, now_ns))
        if tick % SLOW == 0 or gpu.lost != was_lost:
            self._tell_up(gpu, now_ns)

    def _tell_up(self, gpu: Gpu, now_ns: int) -> None:
        missing = "; ".join(f"{metric}: {reason}" for metric, reason in gpu.missing.items())
        self._add(gpu, Point(UP, "1", float(not gpu.lost), now_ns, ((MISSING, missing),) if missing else ()))

    def _probe(self, gpu: Gpu) -> None:
        """Take a lost GPU for back when it tells its memory, which every device can."""
        try:
            pynvml.nvmlDeviceGetMemoryInfo(gpu.handle)
        except pynvml.NVMLError:
            return
        gpu.lost = False
        logger.warning("GPU %s is back", gpu.id)

    def _read(self, gpu: Gpu, reading: Reading, now_ns: int) -> None:
        def read() -> None:
            value = float(reading.read(gpu.handle))
            self._add(gpu, Point(reading.metric, reading.unit, value, now_ns, (), reading.counter))

        self._guard(gpu, reading.metric, read)

    def _add_processes(self, gpu: Gpu, now_ns: int) -> None:
        for attributes, used_bytes in processes(gpu.handle):
            self._add(gpu, Point(PROCESS_MEMORY, "By", float(used_bytes), now_ns, tuple(attributes.items())))

    def _guard(self, gpu: Gpu, metric: str, read: Callable[[], None]) -> None:
        try:
            read()
        except GONE:
            gpu.lost = True
            logger.error("GPU %s is lost: it is reported as down until it answers again", gpu.id)
        except pynvml.NVMLError as error:
            if gpu.lacks(error):
                gpu.missing[metric] = str(error)
                logger.info("GPU %s has no %s (%s): left out", gpu.id, metric, error)
            else:
                logger.debug("GPU %s, %s: %s", gpu.id, metric, error)

    def _add(self, gpu: Gpu, point: Point) -> None:
        whole = replace(point, attributes=gpu.attributes + point.attributes)
        for sink in self.sinks:
            sink(whole)
