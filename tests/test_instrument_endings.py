"""A process delivers what it holds when it ends, also where it ends past its exit handlers."""

import os
import sys
import threading
from pathlib import Path

import pytest

from tailbudget.instrument import lifecycle
from tests.instrument_support import sink
from tests.support import free_port, wait_until
from tests.test_instrument_zero_code import RUN, get, running

#: Longer than any of these processes lives: what comes was delivered at its end.
NEVER = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
SERVICE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from tailbudget import stage

@stage("retrieval")
def hello(_):
    return PlainTextResponse("hi")

app = Starlette(routes=[Route("/{name}", hello)])
"""
CHILD = """
import multiprocessing, tailbudget

def work():
    with tailbudget.request("child"):
        pass

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
assert child.exitcode == 0
"""


#: Options of uvicorn, and variables: an app may have no lifespan, as Django has none, or its server not be hooked.
ENDINGS: list[tuple[list[str], dict[str, str]]] = [
    (["--lifespan", "off"], {}), (["--lifespan", "on"], {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "uvicorn"})
]  # fmt: skip


@pytest.mark.parametrize(("options", "variables"), ENDINGS)
def test_a_server_that_a_signal_stops_delivers_its_last_requests(
    tmp_path: Path, options: list[str], variables: dict[str, str]
) -> None:
    (tmp_path / "service.py").write_text(SERVICE)
    port = free_port()
    command = [*RUN, "uvicorn", "service:app", "--log-level", "warning", *options, "--port", str(port)]
    with sink() as collector:
        with running(command, tmp_path, collector, **NEVER, **variables) as service:
            wait_until(lambda: get(f"http://127.0.0.1:{port}/why") == "hi", what="an answer")
            assert not collector.traces
        assert service.returncode == -15  # past every exit handler
        assert collector.span_names() == ["retrieval hello", "GET /{name}"]
        (metric,) = collector.metric_named("slo.requests.ended")
        assert metric.sum.data_points[0].as_int == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_delivers_when_it_ends(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(CHILD)
    with sink() as collector:
        with running([*RUN, sys.executable, "service.py"], tmp_path, collector, **NEVER) as service:
            assert service.wait(120) == 0
        assert collector.span_names() == ["child"]


def test_a_collector_that_hangs_holds_no_server_up(monkeypatch: pytest.MonkeyPatch) -> None:
    began, hung = threading.Event(), threading.Event()

    class Hanging:
        def deliver(self) -> None:
            began.set()
            hung.wait()

    monkeypatch.setattr(lifecycle, "_running", Hanging())
    monkeypatch.setattr(lifecycle, "DELIVERY_S", 0.1)
    lifecycle.deliver()
    assert began.wait(60)
    began.clear()
    lifecycle.deliver()  # of the app, then of its server: nobody waits a second time
    assert not began.is_set()
    hung.set()
