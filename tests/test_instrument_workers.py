"""Servers of many processes: each worker's spans are its own, and come whole through stops, reloads and kill -9."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.collector_support import collector
from tests.instrument_support import Sink, sink
from tests.support import free_port, wait_until
from tests.test_instrument_endings import NEVER
from tests.test_instrument_zero_code import RUN, get, listens, running

pytestmark = pytest.mark.slow

#: The same in WSGI and ASGI: `/pid` says who served, `/hang` never answers.
SERVICE = """
import os, time
import flask, tailbudget
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

def pid():
    with tailbudget.stage("retrieval"):
        return str(os.getpid())

def hang():
    with tailbudget.request("hang", budgets_ms={"ttft": 100}), tailbudget.stage("tools"):
        time.sleep(3600)

wsgi = flask.Flask(__name__)
wsgi.get("/pid")(pid)
wsgi.get("/hang")(hang)
asgi = Starlette(routes=[
    Route("/pid", lambda _: PlainTextResponse(pid())), Route("/hang", lambda _: PlainTextResponse(hang()))
])
"""
GUNICORN = ["gunicorn", "--log-level", "error", "--workers", "2"]
SERVERS = {
    "uvicorn with workers": ["uvicorn", "--log-level", "error", "--workers", "2", "service:asgi", "--port"],
    "gunicorn": [*GUNICORN, "service:wsgi", "--bind"],
    "gunicorn that loads first": [*GUNICORN, "--preload", "service:wsgi", "--bind"],
    "gunicorn's threads": [*GUNICORN, "--worker-class", "gthread", "--threads", "4", "service:wsgi", "--bind"],
    "gunicorn's threads, loaded first": [
        *GUNICORN, "--preload", "--worker-class", "gthread", "--threads", "4", "service:wsgi", "--bind"
    ],
    "gunicorn with uvicorn's worker": [
        *GUNICORN, "--worker-class", "uvicorn.workers.UvicornWorker", "service:asgi", "--bind"
    ],
    "gunicorn's asgi": [*GUNICORN, "--worker-class", "asgi", "service:asgi", "--bind"],
}  # fmt: skip


class Service:
    """A running service; `served` is the worker's pid by the trace in which it was asked."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.served: dict[bytes, str] = {}

    def ask(self) -> str:
        """Ask once and return the pid of who answered, "" where nobody did."""
        trace = len(self.served) + 1
        said = get(f"{self.url}/pid", traceparent=f"00-{trace:032x}-{9:016x}-01")
        if said:
            self.served[trace.to_bytes(16, "big")] = said
        return said

    def workers(self, *, but: frozenset[str] = frozenset()) -> frozenset[str]:
        """Ask until two workers have answered that are not among `but`, and return their pids."""

        def both() -> frozenset[str]:
            self.ask()
            found = frozenset(self.served.values()) - but
            return found if len(found) >= 2 else frozenset()

        return wait_until(both, what="an answer of each worker")


@contextmanager
def serving(name: str, folder: Path, received: Sink, **variables: str) -> Iterator[Service]:
    (folder / "service.py").write_text(SERVICE)
    port, command = free_port(), SERVERS[name]
    address = f"127.0.0.1:{port}" if command[-1] == "--bind" else str(port)
    with running([*RUN, *command, address], folder, received, **variables) as process:
        wait_until(lambda: listens(port), what="the service")
        yield Service(process, port)


def instances(received: Sink, service: Service) -> dict[str, set[str]]:
    """Return the instances whose spans say that they served, by pid; each answer must have its span."""
    found: dict[str, set[str]] = {}
    seen = set()
    for body in received.traces:
        for group in body.resource_spans:
            names = {a.key: a.value.string_value for a in group.resource.attributes}
            for span in (span for scope in group.scope_spans for span in scope.spans if span.name == "GET /pid"):
                seen.add(span.trace_id)
                found.setdefault(service.served[span.trace_id], set()).add(names["service.instance.id"])
    assert seen == set(service.served)
    return found


@pytest.mark.parametrize("name", SERVERS)
def test_each_worker_delivers_all_it_served_under_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    with sink() as received:
        with serving(name, tmp_path, received, **NEVER) as service:
            pids = service.workers()
            assert not received.traces  # nothing came before the end
        found = instances(received, service)
        assert set(found) == pids
        assert all(len(names) == 1 for names in found.values())
        assert len(set.union(*found.values())) == 2
        points = [p for metric in received.metric_named("slo.loop.lag") for p in metric.histogram.data_points]
        assert bool(points) == ("asgi" in SERVERS[name][-2])


@pytest.mark.parametrize("name", SERVERS)
def test_workers_that_a_reload_replaces_lose_nothing(tmp_path: Path, name: str) -> None:
    with sink() as received:
        with serving(name, tmp_path, received, **NEVER) as service:
            before = service.workers()
            service.process.send_signal(signal.SIGHUP)
            after = service.workers(but=before)
        found = instances(received, service)
        assert set(found) == before | after
        assert len(set.union(*found.values())) == len(found)


@pytest.mark.parametrize("name", ["gunicorn that loads first", "gunicorn's threads, loaded first",
                                  "gunicorn with uvicorn's worker", "uvicorn with workers"])  # fmt: skip
def test_a_request_of_a_worker_that_is_killed_is_lost(tmp_path: Path, name: str) -> None:
    with collector(tmp_path / "data") as stored:
        receiver = Sink(port=stored.http_port)
        with serving(name, tmp_path, receiver) as service:
            before = service.workers()
            asking = threading.Thread(target=get, args=(f"{service.url}/hang",), daemon=True)
            asking.start()
            live = wait_until(
                lambda: stored.rows("select request_id, route, stage from live where outcome is null"),
                what="the request in live",
            )
            assert [(row["route"], row["stage"]) for row in live] == [("hang", "tools")]
            for pid in before:
                os.kill(int(pid), signal.SIGKILL)
            lost = wait_until(
                lambda: stored.rows("select outcome, left_in_stage from requests where route = 'hang'"),
                what="the lost request",
            )
            assert lost == [{"outcome": "lost", "left_in_stage": "tools"}]
            assert service.workers(but=before)  # those that replaced them serve, and say so
            wait_until(
                lambda: stored.rows("select count(distinct instance) as n from resources")[0]["n"] >= 4,
                what="the spans of the new workers",
            )
