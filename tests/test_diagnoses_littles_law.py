"""Requests in flight that contradict the spans: streams that never end, and spans that a gateway loses, are found."""

import asyncio
from itertools import count
from pathlib import Path
from typing import Final

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .clinic import ask, service
from .collector_support import Collector, collector
from .instrument_support import ModelServer, serve
from .support import wait_until

RULES: Final = ("littles_law",)
#: So many requests are in flight all the time, for ten seconds: a hundred samples, on either side of an edge enough.
IN_FLIGHT, REQUESTS = 5, 50
OFTEN = {"OTEL_METRIC_EXPORT_INTERVAL": "100"}


def gateway(to: str) -> Starlette:
    """Return an OTLP gateway that hands on everything but two of three bodies of spans, and says that all is well."""
    bodies = count()

    async def take(request: Request) -> Response:
        if not request.url.path.endswith("/traces") or next(bodies) % 3 == 0:
            headers = {name: request.headers[name] for name in ("content-type", "content-encoding")}
            async with httpx.AsyncClient() as client:
                await client.post(f"{to}{request.url.path}", content=await request.body(), headers=headers)
        return Response(media_type="application/x-protobuf")

    return Starlette(routes=[Route("/v1/{signal}", take, methods=["POST"])])


async def keep_busy(honest: str, lossy: str, running: Collector) -> list[tuple[str, str]]:
    """Ask both services steadily while streams of one hang; return services and routes that are found meanwhile."""
    steady = ["/steady/well?at=slow&model=large&tokens=64"] * REQUESTS
    hanging = asyncio.create_task(ask(honest, ["/steady/sick?at=stuck&model=large&tokens=64"] * IN_FLIGHT))
    await asyncio.gather(*(ask(url, steady, at_once=IN_FLIGHT) for url in (honest, lossy)))
    seen = "select count(*) from requests where service = 'honest'"
    await asyncio.to_thread(wait_until, lambda: running.value(seen) >= REQUESTS)
    found = running.rows("from found_littles_law(now() - interval 1 hour, now() + interval 10 minutes)")
    hanging.cancel()
    return sorted({(row["scope"]["service"], row["scope"]["route"]) for row in found})


@pytest.mark.slow
def test_streams_that_leak_and_spans_that_are_lost_are_found_and_an_honest_service_is_not(tmp_path: Path) -> None:
    with (
        collector(tmp_path / "data") as running,
        serve(ModelServer(["word "] * 10, delay_s=0.1).app()) as model,
        serve(gateway(endpoint := f"http://127.0.0.1:{running.http_port}")) as gate,
    ):
        urls = {"slow": f"{model}/v1", "stuck": f"{model}/stuck/v1"}
        with (
            service("honest", endpoint, urls, **OFTEN) as honest,
            service("lossy", gate, urls, **OFTEN) as lossy,
        ):
            found = asyncio.run(keep_busy(honest, lossy, running))
    assert found == [("honest", "/steady/sick"), ("lossy", "/steady/well")]
