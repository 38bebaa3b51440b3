"""TCP proxies between real clients and real servers: one that is far away."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .support import wait_until


@contextmanager
def forwarding(to_port: int, *, delay_s: float = 0.0) -> Iterator[int]:
    """Forward a loopback port to another, each piece `delay_s` later in either direction; gives the port.

    The connection itself is made at once, as through a sidecar: only what is said through it goes all the way.
    """
    opened: list[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(1 << 16):
                await asyncio.sleep(delay_s)
                writer.write(piece)
        except ConnectionError:
            pass
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", to_port)
        await asyncio.gather(pump(reader, to_writer), pump(to_reader, writer))

    async def serve() -> None:
        async with await asyncio.start_server(forward, "127.0.0.1", 0) as server:
            stop = asyncio.Event()
            opened.append((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), stop))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    try:
        yield wait_until(lambda: opened, what="the proxy")[0][0]
    finally:
        for _, loop, stop in opened:
            loop.call_soon_threadsafe(stop.set)
        thread.join(10)
