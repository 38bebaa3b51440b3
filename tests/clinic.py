"""What the diagnoses' real tests share: a service that ails, whom it asks, who asks it, and what a rule finds then."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from .collector_support import Collector
from .support import free_port, wait_until

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def service(name: str, endpoint: str, urls: Mapping[str, str], **environment: str) -> Iterator[str]:
    """Run `tests.ailing` in a process of its own; gives its base URL. All that it told has been sent at the end."""
    port = free_port()
    own = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.ailing", name, endpoint, str(port), json.dumps(dict(urls))],
        cwd=ROOT,
        env={**own, "OTEL_METRIC_EXPORT_INTERVAL": "500", "OTEL_BSP_SCHEDULE_DELAY": "200", **environment},
    )
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None
        try:
            return httpx.get(url, timeout=5).status_code == 404
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, timeout_s=180, what="the service")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=120)


async def ask(url: str, paths: Sequence[str], *, at_once: int = 8, **headers: str) -> None:
    """Get each path, so many at once; who asks with `?leave` hangs up before the answer begins."""
    places = asyncio.Semaphore(at_once)
    async with httpx.AsyncClient(base_url=url, timeout=400, headers=headers) as client:

        async def one(path: str) -> None:
            async with places, client.stream("GET", path) as answer:
                assert answer.status_code == 200, path
                if "leave" not in path:
                    await answer.aread()

        await asyncio.gather(*map(one, paths))


def assembled(running: Collector, count: int) -> None:
    """Wait until the collector has so many requests, and nothing to do."""
    wait_until(lambda: running.value("select count(*) from requests") >= count, timeout_s=180, what=f"{count} requests")
    assert running.value("select count(*) from requests") == count


def found(running: Collector, rule: str, **settings: float) -> list[Row]:
    """Return what a rule finds in the hour that ends now."""
    said = "".join(f", {name} := {value}" for name, value in settings.items())
    return running.rows(f"from found_{rule}(now() - interval 1 hour, now(){said})")
