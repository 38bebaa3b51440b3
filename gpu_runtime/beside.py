"""`tailbudget gpu`: the sampler by itself, beside any other server, sending to a collector until it is stopped."""

import logging
import signal
import threading

from opentelemetry.sdk.resources import Resource

from tailbudget.instrument.errors import UserError

from .nvml import INTERVAL_S, GpuSampler
from .points import PointSender, otlp_exporter

logger = logging.getLogger(__name__)
SERVICE = "tailbudget-gpu"


def sample(*, endpoint: str | None = None, interval_s: float = INTERVAL_S) -> None:
    """Sample every GPU of this host until SIGTERM or SIGINT, sending once a second; further signals have no effect.

    `endpoint` is the collector's base URL, else OTEL_EXPORTER_OTLP_* say. UserError without a driver or a GPU.
    """
    points = PointSender(otlp_exporter(endpoint), resource=Resource.create({"service.name": SERVICE}))
    sampler = GpuSampler(points.add, interval_s=interval_s)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    count = sampler.start()
    if not count:
        raise UserError(
            f"no GPU to sample: {sampler.problem}. Run it on the GPU's host; in a container give it the GPUs "
            "(docker: --gpus all, with the capability utility)"
        )
    points.start()
    logger.info("sampling %d GPU%s every %g s; Ctrl-C ends it", count, "" if count == 1 else "s", interval_s)
    stop.wait()
    sampler.stop()
    points.stop()
    if points.dropped:
        logger.warning("%d samples were dropped: the collector could not be reached", points.dropped)
