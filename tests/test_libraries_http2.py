"""Over HTTP/2 a request has its phases, its version, and a second one on the same connection reuses it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tailbudget.instrument import hooks
from tests.instrument_support import Certificate, certificate, recording

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]


@asynccontextmanager
async def http2_server(made: Certificate) -> AsyncIterator[int]:
    """Answer every request on HTTP/2 with `hi`; gives the port."""
    connection, config, events = (
        pytest.importorskip(f"h2.{name}", reason="h2 is not installed") for name in ("connection", "config", "events")
    )

    async def answer(reader: Any, writer: Any) -> None:
        state = connection.H2Connection(config.H2Configuration(client_side=False))
        state.initiate_connection()
        writer.write(state.data_to_send())
        while data := await reader.read(65_536):
            for event in state.receive_data(data):
                if isinstance(event, events.RequestReceived):
                    state.send_headers(event.stream_id, [(":status", "200")])
                    state.send_data(event.stream_id, b"hi", end_stream=True)
            writer.write(state.data_to_send())
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.chain, made.key)
    context.set_alpn_protocols(["h2"])
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_phases_and_reuse(tmp_path: Path) -> None:
    made = certificate(tmp_path)
    async with http2_server(made) as port:
        with recording() as recorded:
            hooks.install(only=("httpx",))
            try:
                trusting = ssl.create_default_context(cafile=made.chain)
                async with httpx.AsyncClient(http2=True, verify=trusting) as client:
                    for _ in range(2):
                        assert (await client.get(f"https://localhost:{port}/")).text == "hi"
            finally:
                hooks.uninstall()
        first, second = (dict(span.attributes or {}) for span in recorded.spans)
    opening = {"slo.net.dns", "slo.net.connect", "slo.net.tls"}
    always = {"slo.net.pool_wait", "slo.net.send", "slo.net.wait_headers"}
    assert opening | always <= set(first)
    assert always <= set(second)
    assert not opening & set(second)
    assert (first["slo.net.http_version"], first["slo.net.reused"], second["slo.net.reused"]) == ("2", False, True)
