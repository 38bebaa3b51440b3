"""Runs a collector with its three servers until a signal ends it."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tailbudget.instrument.errors import UserError

from .api.http import ApiApp
from .api.snapshots import SnapshotRoute
from .collector import Collector
from .forward import Forwarder
from .giving_way import go_first, take_short_turns
from .lean import become_lean
from .loop import run
from .peers import Peers
from .receive.cors import Cors
from .receive.http import OtlpApp
from .receive.intake import Packed
from .receive.receiver import Receiver
from .receive.room import Room
from .receive.rpc import GrpcPort
from .scrape.scraper import Scraper
from .servers import GRACE_S, bind, server
from .settings import CollectorSettings

log: Final = logging.getLogger(__name__)

FAULT_POLL_S: Final = 0.5
SCRAPE_TAKEN_S: Final = 10.0


def serve(settings: CollectorSettings) -> None:
    """Accept OTLP and answer queries until SIGTERM or SIGINT, then close cleanly within a few seconds.

    To be called in the main thread. Raises UserError before anything is accepted: a port that is taken, a data folder
    that another process has open, that a newer version wrote or that cannot be written. Raises it later when the data
    file fails for good, as DuckDB's does on a disk that fills up during a checkpoint: a new start recovers everything.
    """
    become_lean()
    take_short_turns()
    go_first()
    otlp = bind(settings.host, settings.http_port, setting="--http or TAILBUDGET_HTTP_PORT")
    with otlp, bind(settings.host, settings.api_port, setting="--api or TAILBUDGET_API_PORT") as api:
        rpc = GrpcPort(settings.host, settings.grpc_port, max_body_bytes=settings.max_body_bytes, tls=settings.tls)
        run(_run(settings, Ports(otlp, rpc, api)))


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of a collector, bound."""

    otlp: socket.socket
    rpc: GrpcPort
    api: socket.socket


async def _run(settings: CollectorSettings, ports: Ports) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # they stay ours to the end: a second Ctrl-C breaks no transaction
        loop.add_signal_handler(number, stop.set)
    collector = await asyncio.to_thread(Collector, settings)
    gc.freeze()  # what is there now stays: to look through it again and again took 3 % of the time of landing
    forwarder = Forwarder(
        settings.forward_to,
        headers=settings.forward_fields,
        queue_bytes=settings.forward_queue_bytes,
        counters=collector.counters,
    )
    scraper = _scraper(collector, settings, loop)
    scraper.start()
    try:
        await _serve(collector, forwarder, settings, ports, stop)
    finally:
        gc.unfreeze()  # else the interpreter's end would not take it apart
        await asyncio.to_thread(scraper.close)
        await asyncio.gather(asyncio.to_thread(collector.close), asyncio.to_thread(forwarder.close))


async def _serve(
    collector: Collector, forwarder: Forwarder, settings: CollectorSettings, ports: Ports, stop: asyncio.Event
) -> None:
    receiver = Receiver(
        collector.intake,
        counters=collector.counters,
        room=Room(bodies=settings.max_bodies, nbytes=settings.bodies_bytes),
        max_body_bytes=settings.max_body_bytes,
        pass_on=forwarder.offer,
        peers=Peers(settings.peers, own=settings.peer_self, token=settings.token),
    )
    cors = Cors(settings.cors_origins)
    otlp = server(
        OtlpApp(receiver, counters=collector.counters, token=settings.token, cors=cors),
        tls=settings.tls,
    )
    ports.rpc.start(receiver, counters=collector.counters, token=settings.token)
    reader = server(_api(collector, settings, ready=lambda: otlp.started and not stop.is_set()))
    running = [
        asyncio.create_task(otlp.serve(sockets=[ports.otlp])),
        asyncio.create_task(reader.serve(sockets=[ports.api])),
    ]
    ending = [asyncio.create_task(stop.wait()), asyncio.create_task(_failed(collector))]
    await asyncio.wait([*running, *ending], return_when=asyncio.FIRST_COMPLETED)
    for task in ending:
        task.cancel()
    collector.queries.interrupt()
    collector.snapshots.stop()
    otlp.should_exit = reader.should_exit = True
    await asyncio.gather(*running, ports.rpc.stop(grace_s=GRACE_S))
    if fault := collector.fault:
        raise UserError(
            f"{fault}: see that the disk of {settings.data} has free space, and start again; "
            "everything acknowledged is kept and lands then"
        )


def _scraper(collector: Collector, settings: CollectorSettings, loop: asyncio.AbstractEventLoop) -> Scraper:
    def deliver(body: bytes) -> None:
        taken = collector.intake.accept("metrics", body, Packed(body, "identity"))
        asyncio.run_coroutine_threadsafe(taken, loop).result(SCRAPE_TAKEN_S)

    return Scraper(settings.scrape, every_s=settings.scrape_every_s, deliver=deliver, counters=collector.counters)


def _api(collector: Collector, settings: CollectorSettings, *, ready: Callable[[], bool]) -> ApiApp:
    return ApiApp(
        collector.queries,
        counters=collector.counters,
        ready=ready,
        hosts=settings.hosts,
        token=settings.token,
        erase=collector.erasures.ask,
        fault=lambda: collector.fault,
        snapshot=SnapshotRoute(collector.snapshots, settings.data, free_bytes=settings.free_bytes),
        deeds=collector.duty.routes,
    )


async def _failed(collector: Collector) -> None:
    """Return once nothing more can be taken."""
    while collector.fault is None:  # noqa: ASYNC110 - a thread fails
        await asyncio.sleep(FAULT_POLL_S)
