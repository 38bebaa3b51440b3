"""Says of a request what its GPU did meanwhile: lowest clock, why it was held down, use, memory, energy."""

import os
import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from operator import itemgetter

import torch

from tailbudget.instrument import vocabulary

from .energy import EnergyAccountant
from .points import Point

#: A value holds until the next: a request shorter than an interval is judged by the sample before it, if so new.
HOLDS_NS = 2_000_000_000
#: A request that ran longer is judged by its last 15 minutes.
KEPT_SAMPLES = 9_000


def _bits(values: Sequence[float]) -> int:
    found = 0
    for value in values:
        found |= int(value)
    return found


#: Attribute of a request's span -> metric of its GPU, and what the samples of the request's time become.
USAGE: dict[str, tuple[str, Callable[[Sequence[float]], float]]] = {
    vocabulary.GPU_SM_CLOCK_MIN: ("slo.gpu.clock.sm", min),
    vocabulary.GPU_THROTTLE: ("slo.gpu.throttle", _bits),
    vocabulary.GPU_UTIL: ("hw.gpu.utilization", lambda values: sum(values) / len(values)),
    vocabulary.GPU_MEMORY_PEAK: ("hw.gpu.memory.usage", lambda values: int(max(values))),
}
METRICS = {metric for metric, _ in USAGE.values()}
#: What a MIG device shares with the others of its GPU, and tells through it alone.
SHARED = {"slo.gpu.clock.sm", "slo.gpu.throttle"}


class GpuWatch:
    """Keeps what the sampler tells of the GPU `gpu` (its UUID, None for no GPU); `energy` is for the engine to call.

    `read` gives the energy counter of a GPU now, so that a request's last step counts when it ends.
    """

    def __init__(self, gpu: str | None = None, *, read: Callable[[str], float | None] | None = None) -> None:
        self.gpu = gpu
        self.energy = EnergyAccountant(lambda: read(self.gpu) if read and self.gpu else None)
        self._parent: str | None = None
        self._lock = threading.Lock()
        #: (GPU, metric) -> (unix nanoseconds, value), in the order of time.
        self._samples: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)

    def add(self, point: Point) -> None:
        """Take in a point of any GPU; the sampler's thread calls it as soon as the point is read."""
        attributes = dict(point.attributes)
        gpu = attributes.get("hw.id", "")
        if gpu == self.gpu:
            self._parent = attributes.get("hw.parent")
            if point.name == "hw.energy":
                self.energy.sampled(point.value)
        if point.name in METRICS:
            with self._lock:
                samples = self._samples[gpu, point.name]
                samples.append((point.time_ns, point.value))
                if len(samples) >= 2 * KEPT_SAMPLES:
                    del samples[:KEPT_SAMPLES]

    def attributes(self, request: str, start_ns: int, end_ns: int) -> dict[str, str | int | float]:
        """Return the `slo.gpu.*` attributes of a request that is over, without what is not known; unix nanoseconds."""
        if self.gpu is None:
            return {}
        found: dict[str, str | int | float] = {vocabulary.GPU_ID: self.gpu}
        for name, (metric, folded) in USAGE.items():
            if values := self._between(metric, start_ns, end_ns):
                found[name] = folded(values)
        if (joules := self.energy.take(request)) is not None:
            found[vocabulary.GPU_ENERGY] = joules
        return found

    def _between(self, metric: str, start_ns: int, end_ns: int) -> Sequence[float]:
        gpus = [self.gpu, self._parent] if metric in SHARED else [self.gpu]
        with self._lock:
            for gpu in gpus:
                samples = self._samples.get((gpu or "", metric), [])
                first = bisect_left(samples, start_ns, key=itemgetter(0))
                if first and samples[first - 1][0] >= start_ns - HOLDS_NS:
                    first -= 1
                if during := samples[first : bisect_right(samples, end_ns, key=itemgetter(0))]:
                    return [value for _, value in during]
        return []


def gpu_of(device: torch.device) -> str | None:
    """Return the UUID of a CUDA device as NVML spells it, a MIG device's where the process sees one; else None."""
    if device.type != "cuda":
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible.startswith("MIG-"):
        return visible
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
