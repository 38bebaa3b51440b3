"""Whatever becomes of the collector, the service answers as ever, as fast as ever, and counts what was lost."""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from tests.instrument_support import sink
from tests.support import free_port, wait_until

SERVICE = """
import resource, sys
import tailbudget
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from tailbudget.instrument.guard import Guard

if "bare" not in sys.argv:
    tailbudget.init("svc")

def answers(request):
    with tailbudget.request("chat"):
        for _ in range(20):
            with tailbudget.stage("retrieval", "docs"):
                pass
        text = "".join(tailbudget.stream(iter(["one ", "two ", "three."]), model="m"))
    return JSONResponse({"said": text, "to": request.query_params["n"]})

def health(request):
    losses = sys.modules.get("tailbudget.instrument.losses")
    return JSONResponse({"dropped": dict(losses.dropped) if losses else {}, "failures": Guard.failures,
        "max_rss_kb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss})

app = Starlette(routes=[Route("/chat", answers), Route("/health", health)])
if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, port=int(sys.argv[1]), log_level="critical")
"""
REQUESTS = 120
#: Far beyond the spans that the requests make in the time that a batch takes: 21 spans a request, a queue of 500.
QUEUE = "500"


@contextlib.contextmanager
def hanging() -> Iterator[str]:
    """Accept connections and say nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def refusing() -> Iterator[str]:
    """Listen nowhere."""
    yield f"http://127.0.0.1:{free_port()}"


@contextlib.contextmanager
def talking_garbage() -> Iterator[str]:
    """Answer with bytes that are no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(65536)
                        connection.sendall(b"\x00\xffgarbage\r\n\r\n" * 50)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def served(folder: Path, *options: str, **variables: str) -> Iterator[str]:
    port = free_port()
    (folder / "service.py").write_text(SERVICE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    command = [sys.executable, "service.py", str(port), *options]
    with subprocess.Popen(command, cwd=folder, env=kept | variables, stderr=subprocess.DEVNULL) as service:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: _is_up(url), what="the service")
            yield url
        finally:
            service.kill()  # how it ends without a collector is held elsewhere


def _is_up(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/health").status_code == 200
    return False


def ask(*urls: str) -> list[tuple[list[object], list[float]]]:
    """Return answers and latencies in milliseconds of each service; they take turns, since other work slows both."""
    found: list[tuple[list[object], list[float]]] = [([], []) for _ in urls]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=url, timeout=120)) for url in urls]
        for n in range(REQUESTS):
            for client, (answers, latencies_ms) in zip(clients, found, strict=True):
                started_s = time.perf_counter()
                answers.append(client.get("/chat", params={"n": n}).json())
                latencies_ms.append((time.perf_counter() - started_s) * 1e3)
    return found


@pytest.mark.parametrize("collector", [hanging, refusing, talking_garbage], ids=lambda kind: kind.__name__)
def test_a_collector_that_is_out_of_order_changes_nothing_but_a_counter(
    tmp_path: Path, collector: Callable[[], AbstractContextManager[str]]
) -> None:
    settings = {"OTEL_BSP_MAX_QUEUE_SIZE": QUEUE, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "250"}
    settings |= {"OTEL_EXPORTER_OTLP_TIMEOUT": "600"}
    with (
        sink() as healthy,
        collector() as away,
        served(tmp_path, "bare") as bare_url,
        served(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=healthy.url) as usual_url,
        served(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=away, **settings) as url,
    ):
        (expected, _), (same, usual_ms), (answers, latencies_ms) = ask(bare_url, usual_url, url)
        usual, health = (httpx.get(f"{each}/health").json() for each in (usual_url, url))
    assert answers == same == expected
    assert usual["dropped"] == {}
    assert health["failures"] == usual["failures"] == {}
    lost = sum(health["dropped"].values())
    spans = REQUESTS * 22  # the request, its stages, its call
    assert 0 < spans - lost <= 500 + 250 * 2, json.dumps(health)  # what the queue and a batch on its way may hold
    assert statistics.median(latencies_ms) < 3 * statistics.median(usual_ms) + 5
    # An export in a thread of its own: waited for, each of ten batches would hold one request for half a minute, which
    # the exporter's tries take, or for longer than its client waits. A busy machine may hold three.
    assert sorted(latencies_ms)[-4] < 20_000
    assert health["max_rss_kb"] < usual["max_rss_kb"] + 30_000
