"""Django under the ASGI servers, none of which offers it a lifespan: a stop by signal loses none of its spans."""

import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.instrument_support import sink
from tests.support import free_port, wait_until
from tests.test_instrument_endings import NEVER
from tests.test_instrument_zero_code import RUN, get, listens, running

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]
PROJECT = """
import sys
import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor
from tailbudget import stage

class Ended(SpanProcessor):  # says so to the test, whichever worker it was
    def on_end(self, span):
        with open("ended", "a") as file:
            file.write(span.name + "\\n")

trace.get_tracer_provider().add_span_processor(Ended())

async def chat(request, name):
    with stage("retrieval"):
        return HttpResponse("hi")

def plain(request):
    return HttpResponse("hi")

async def words(request):
    async def parts():
        for part in ("one ", "two"):
            yield part
    return StreamingHttpResponse(parts())

urlpatterns = [path("chat/<str:name>", chat), path("plain", plain), path("words", words)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="none", USE_TZ=True)
django.setup()
application = get_asgi_application()
"""
SPANS = ["GET /chat/<str:name>", "GET /plain", "GET /words", "retrieval"]
#: A server's module, and its arguments for a port.
SERVERS: dict[str, Callable[[str], list[str]]] = {
    "uvicorn": lambda port: ["--log-level", "error", "--port", port, "project:application"],
    "hypercorn": lambda port: ["--bind", f"127.0.0.1:{port}", "project:application"],
    "hypercorn with workers": lambda port: ["--workers", "2", "--bind", f"127.0.0.1:{port}", "project:application"],
    "daphne": lambda port: ["-b", "127.0.0.1", "-p", port, "project:application"],
    "granian": lambda port: ["--interface", "asginl", "--port", port, "project:application"],
    "granian with lifespan": lambda port: ["--interface", "asgi", "--port", port, "project:application"],
    "gunicorn": lambda port: ["-k", "asgi", "--bind", f"127.0.0.1:{port}", "project:application"],
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_django_that_a_signal_stops_delivers_its_last_requests(tmp_path: Path, name: str) -> None:
    library = name.partition(" ")[0]
    for needed in ("django", library):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
        print(f"\n{needed} {version(needed)}", end="")
    (tmp_path / "project.py").write_text(PROJECT)
    port, ended = free_port(), tmp_path / "ended"
    ended.touch()
    command = [*RUN, sys.executable, "-m", library, *SERVERS[name](str(port))]
    with sink() as collector:
        with running(command, tmp_path, collector, **NEVER):
            wait_until(lambda: listens(port), what="the server")
            said = [get(f"http://127.0.0.1:{port}/{path}") for path in ("chat/why", "plain", "words")]
            assert said == ["hi", "hi", "one two"]
            # A client has all of its answer a moment before the app is done with it.
            wait_until(lambda: sorted(ended.read_text().splitlines()) == SPANS, what="the end of all spans")
            assert not collector.traces
        assert sorted(collector.span_names()) == SPANS
        counted = [point for metric in collector.metric_named("slo.requests.ended") for point in metric.sum.data_points]
        assert sum(point.as_int for point in counted) == 1
