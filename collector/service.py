"""Runs a collector with its two servers until a signal ends it."""

import asyncio
import logging
import signal
import socket
from typing import Final

import pyarrow as pa

from tailbudget.instrument.errors import UserError

from .api.http import ApiApp
from .collector import Collector
from .receive.http import OtlpApp
from .servers import bind, server
from .settings import CollectorSettings

log: Final = logging.getLogger(__name__)

FAULT_POLL_S: Final = 0.5


def serve(settings: CollectorSettings) -> None:
    """Accept OTLP and answer queries until SIGTERM or SIGINT, then close cleanly within a few seconds.

    To be called in the main thread. Raises UserError before anything is accepted: a port that is taken, a data folder
    that another process has open, that a newer version wrote or that cannot be written. Raises it later when the data
    file fails for good, as DuckDB's does on a disk that fills up during a checkpoint: a new start recovers everything.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # gives back what landing frees: 290 MiB at full speed, not 330
    otlp = bind(settings.host, settings.http_port, setting="--http or TAILBUDGET_HTTP_PORT")
    with otlp, bind(settings.host, settings.api_port, setting="--api or TAILBUDGET_API_PORT") as api:
        asyncio.run(_run(settings, otlp=otlp, api=api))


async def _run(settings: CollectorSettings, *, otlp: socket.socket, api: socket.socket) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # they stay ours to the end: a second Ctrl-C breaks no transaction
        loop.add_signal_handler(number, stop.set)
    collector = await asyncio.to_thread(Collector, settings)
    try:
        await _serve(collector, settings, stop, otlp=otlp, api=api)
    finally:
        await asyncio.to_thread(collector.close)


async def _serve(
    collector: Collector, settings: CollectorSettings, stop: asyncio.Event, *, otlp: socket.socket, api: socket.socket
) -> None:
    counters = collector.counters
    receiver = server(OtlpApp(collector.intake, counters=counters, max_body_bytes=settings.max_body_bytes))

    def ready() -> bool:
        return receiver.started and not stop.is_set()

    api_app = ApiApp(
        collector.queries, counters=counters, ready=ready, hosts=settings.hosts, fault=lambda: collector.fault
    )
    reader = server(api_app)
    running = [asyncio.create_task(receiver.serve(sockets=[otlp])), asyncio.create_task(reader.serve(sockets=[api]))]
    ending = [asyncio.create_task(stop.wait()), asyncio.create_task(_failed(collector))]
    await asyncio.wait([*running, *ending], return_when=asyncio.FIRST_COMPLETED)
    for task in ending:
        task.cancel()
    collector.queries.interrupt()
    receiver.should_exit = reader.should_exit = True
    await asyncio.gather(*running)
    if fault := collector.fault:
        raise UserError(
            f"{fault}: see that the disk of {settings.data} has free space, and start again; "
            "everything acknowledged is kept and lands then"
        )


async def _failed(collector: Collector) -> None:
    """Return once nothing more can be taken."""
    while collector.fault is None:  # noqa: ASYNC110 - a thread fails
        await asyncio.sleep(FAULT_POLL_S)
