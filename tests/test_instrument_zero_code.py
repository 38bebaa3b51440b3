"""Services whose code is not changed are observed: `tailbudget run`, frameworks' hooks, and the instrumentor."""

import os
import socket
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

import tailbudget
from tailbudget import UserError, stage
from tailbudget.instrument import hooks
from tailbudget.instrument.run import AUTOLOAD, environment, executable
from tailbudget.instrument.running import beat, registry
from tests.instrument_support import ModelServer, Recorded, Sink, hooked, serve, sink
from tests.support import free_port, wait_until

SOURCES = Path(__file__).resolve().parents[1] / "src"
RUN = [sys.executable, "-m", "tailbudget.app.main", "run"]
FASTAPI = """
import jinja2
import openai
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
prompt = jinja2.Template("Say {{{{ name }}}}")
model = openai.AsyncOpenAI(base_url="{model}/v1", api_key="none")

@app.get("/chat/{{name}}")
async def chat(name: str):
    answer = await model.chat.completions.create(
        model="tiny", messages=[{{"role": "user", "content": prompt.render(name=name)}}], stream=True)
    async def words():
        async for chunk in answer:
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""
    return StreamingResponse(words())

@app.get("/health")
def health():
    return "ok"
"""
FLASK = """
import jinja2
import openai
from flask import Flask, Response

app = Flask(__name__)
prompt = jinja2.Template("Say {{{{ name }}}}")
model = openai.OpenAI(base_url="{model}/v1", api_key="none")

@app.get("/chat/<name>")
def chat(name):
    answer = model.chat.completions.create(
        model="tiny", messages=[{{"role": "user", "content": prompt.render(name=name)}}], stream=True)
    return Response(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)
"""


@contextmanager
def running(command: list[str], folder: Path, collector: Sink, **variables: str) -> Iterator["subprocess.Popen[bytes]"]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    settings = {"PYTHONPATH": str(SOURCES), "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "svc"}
    service = subprocess.Popen(command, cwd=folder, env=kept | settings | variables)
    try:
        yield service
    finally:
        service.terminate()
        try:
            service.wait(20)
        except subprocess.TimeoutExpired:
            service.kill()
            raise


def get(url: str, **headers: str) -> str:
    try:
        return httpx.get(url, timeout=120, headers=headers).text
    except httpx.TransportError:
        return ""


def span_named(collector: Sink, name: str) -> Any:
    (found,) = wait_until(lambda: [span for span in collector.spans() if span.name == name], what=f"the span {name!r}")
    return found


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def ancestors(span: Any, collector: Sink) -> list[bytes]:
    """Return the ids of the spans above: newer FastAPI has spans of its own for the steps of a request."""
    parents = {found.span_id: found.parent_span_id for found in collector.spans()}
    above = [span.parent_span_id]
    while above[-1] in parents:
        above.append(parents[above[-1]])
    return above


@pytest.fixture
def collector() -> Iterator[Sink]:
    with sink() as received:
        yield received


#: A service, its server up to the port, and the route of its requests.
KINDS = {
    "fastapi": (FASTAPI, ["uvicorn", "service:app", "--log-level", "warning", "--port"], "GET /chat/{name}"),
    "flask": (FLASK, ["flask", "--app", "service", "run", "--port"], "GET /chat/<name>"),
    "gunicorn": (
        FLASK, ["gunicorn", "--log-level", "critical", "--workers", "2", "service:app", "--bind"], "GET /chat/<name>"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Observed:
    """A service whose code is not changed, the model that it asks and what tells of it, for one trace a test."""

    url: str
    route: str
    model: ModelServer
    received: Sink

    def says(self, words: list[str], *, delay_s: float = 0.0) -> None:
        self.model.words, self.model.delay_s = words, delay_s

    def span(self, name: str, *, trace: int) -> Any:
        """Wait for the only span of this name in a trace."""
        wanted = (name, trace.to_bytes(16, "big"))
        (found,) = wait_until(
            lambda: [span for span in self.received.spans() if (span.name, span.trace_id) == wanted],
            what=f"the span {name!r}",
        )
        return found


@pytest.fixture(scope="module")
def observed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    code, server, route = KINDS[request.param]
    folder, port = tmp_path_factory.mktemp(request.param), free_port()
    address = f"127.0.0.1:{port}" if server[-1] == "--bind" else str(port)
    words = ModelServer(words=[])
    with sink() as received, serve(words.app()) as model:
        (folder / "service.py").write_text(code.format(model=model))
        with running([*RUN, *server, address], folder, received):
            wait_until(lambda: listens(port), what="the service")
            yield Observed(f"http://127.0.0.1:{port}", route, words, received)


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("observed", KINDS, indirect=True)
def test_a_service_without_a_line_of_ours_is_observed(observed: Observed) -> None:
    observed.says(["one ", "two."])
    caller = {"traceparent": f"00-{7:032x}-{9:016x}-01", "x-request-id": "r-1", "baggage": "slo.tenant=acme"}
    assert get(f"{observed.url}/chat/why", **caller) == "one two."
    sent = observed.model.headers[-1]
    request, call = observed.span(observed.route, trace=7), observed.span("chat tiny", trace=7)
    prompt = observed.span("prompt Template", trace=7)
    assert observed.received.resource()["service.name"] == "svc"
    assert request.parent_span_id == (9).to_bytes(8, "big")
    assert request.span_id in ancestors(call, observed.received)
    assert request.span_id in ancestors(prompt, observed.received)
    assert attributes(prompt)["slo.stage"] == "prompt"
    of_request, of_call = attributes(request), attributes(call)
    assert of_request["slo.request.id"] == "r-1"
    assert of_request["slo.tenant"] == "acme"
    assert of_request["http.route"] == observed.route.removeprefix("GET ")
    assert of_request["slo.outcome"] == "ok"
    assert 0 < of_request["slo.http.time_to_first_byte"] <= of_request["slo.http.time_to_last_byte"]
    assert 0 < of_request["slo.time_to_first_token"] <= of_request["slo.time_to_final"]
    assert of_call["slo.stream.end"] == "complete"
    assert of_call["gen_ai.usage.output_tokens"] == 2
    assert of_call["slo.net.connect"] > 0
    assert sent["traceparent"].split("-")[1:3] == [call.trace_id.hex(), call.span_id.hex()]
    assert "slo.tenant=acme" in sent["baggage"]
    assert not [span for span in observed.received.spans() if span.name in ("POST", "GET")]


@pytest.mark.parametrize("observed", ["fastapi", "gunicorn"], indirect=True)
def test_a_client_that_leaves_is_dropped(observed: Observed) -> None:
    observed.says(["word "] * 500, delay_s=0.02)
    caller = {"traceparent": f"00-{8:032x}-{9:016x}-01"}
    with httpx.stream("GET", f"{observed.url}/chat/why", timeout=120, headers=caller) as answer:
        assert next(answer.iter_raw())
    call, request = observed.span("chat tiny", trace=8), observed.span(observed.route, trace=8)
    assert attributes(request)["slo.outcome"] == "dropped"
    assert attributes(call)["slo.stream.end"] in ("closed", "cancelled", "abandoned")


@pytest.fixture(scope="module")
def runtime() -> Iterator[tuple[str, Sink]]:
    from tests.runtime_support import server  # torch is for this proof alone

    with sink() as engines, server(engines.url) as (url, _):
        yield url, engines


@pytest.mark.parametrize("kind", ["fastapi", "flask"])
def test_the_runtimes_queue_prefill_and_decode_are_in_the_trace_of_the_service(
    collector: Sink, runtime: tuple[str, Sink], tmp_path: Path, kind: str
) -> None:
    code, command, route = KINDS[kind]
    url, engines = runtime
    port = free_port()
    (tmp_path / "service.py").write_text(code.format(model=url))
    with running([*RUN, *command, str(port)], tmp_path, collector):
        assert wait_until(lambda: get(f"http://127.0.0.1:{port}/chat/hello"), what="an answer")
        request, call = span_named(collector, route), span_named(collector, "chat tiny")
    (engine,) = wait_until(
        lambda: [span for span in engines.spans() if span.parent_span_id == call.span_id],
        what="the runtime's span",
    )
    assert request.trace_id == call.trace_id == engine.trace_id
    said = attributes(engine)
    parts = ("time_in_queue", "time_in_model_prefill", "time_in_model_decode")
    spent_s = sum(said[f"gen_ai.latency.{part}"] for part in parts)
    assert 0 < spent_s <= (call.end_time_unix_nano - call.start_time_unix_nano) / 1e9
    assert said["gen_ai.response.id"] == attributes(call)["gen_ai.response.id"]
    assert attributes(request)["slo.outcome"] == "ok"


def test_sub_processes_and_a_sitecustomize_of_the_users_own_survive(collector: Sink, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.mine = getattr(sys, 'mine', 0) + 1\n")
    (tmp_path / "child.py").write_text("from tailbudget import request\nwith request('child'): pass\n")
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys\nfrom tailbudget import request\nassert sys.mine == 1\n"
        "with request('parent'): subprocess.run([sys.executable, 'child.py'], check=True)\n"
    )
    with running(
        [*RUN, "python", "parent.py"], tmp_path, collector, PYTHONPATH=os.pathsep.join([str(SOURCES), str(tmp_path)])
    ) as service:
        assert service.wait(30) == 0
    assert sorted(collector.span_names()) == ["child", "parent"]


def test_a_python_without_tailbudget_runs_as_if_nothing_was_there() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import sitecustomize, sys; print(sorted(n for n in sys.modules if 'tail' in n))"],
        env={"PYTHONPATH": AUTOLOAD}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_setting_that_cannot_be_is_one_line_and_the_service_runs(collector: Sink, tmp_path: Path) -> None:
    command = [*RUN, "python", "-c", "print('served')"]
    environ = {**os.environ, "PYTHONPATH": str(SOURCES), "OTEL_TRACES_EXPORTER": "zipkinn"}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "served\n")
    assert "OTEL_TRACES_EXPORTER is 'zipkinn'" in done.stderr
    assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    ("arguments", "said"), [([], "no command"), (["--fast"], "'--fast'"), (["no-such-command"], "'no-such-command'")]
)
def test_what_cannot_be_run_is_refused_in_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("tailbudget: run was given ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_is_looked_for_beside_this_python_first() -> None:
    assert executable("python") == str(Path(sys.executable).parent / "python")
    with pytest.raises(UserError, match="no such command"):
        executable("no-such-command")


def test_the_path_is_put_in_once() -> None:
    once = environment({"PYTHONPATH": "a:b"})
    assert once["PYTHONPATH"] == os.pathsep.join([AUTOLOAD, "a", "b"])
    assert environment(once) == once


@pytest.mark.parametrize("variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "*"}])
def test_the_variables_that_switch_telemetry_off_are_respected(variables: dict[str, str], tmp_path: Path) -> None:
    code = "import httpx; print(httpx.Client.send.__code__.co_filename.endswith('_client.py'))"
    environ = {**os.environ, "PYTHONPATH": str(SOURCES), "OTEL_TRACES_EXPORTER": "none"}
    environ |= {"OTEL_METRICS_EXPORTER": "none"} | variables
    done = subprocess.run([*RUN, "python", "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_only_libraries_that_are_imported_are_touched() -> None:
    code = (
        "import sys, tailbudget; tailbudget.init('svc'); import json, decimal\n"
        "names = {hook.waits_for for hook in __import__('tailbudget').instrument.hooks.HOOKS}\n"
        "print(sorted((names & set(sys.modules)) - {'urllib3.connection', 'urllib3.connectionpool'}))\n"
    )  # urllib3 sends our own spans
    environ = {
        **os.environ,
        "PYTHONPATH": str(SOURCES),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_libraries_are_left_alone_where_that_is_asked() -> None:
    code = (
        "import tailbudget; tailbudget.init('svc', instrument_libraries=False)\n"
        "import httpx; print('http_httpx' in httpx.Client.send.__code__.co_filename)\n"
    )
    environ = {
        **os.environ,
        "PYTHONPATH": str(SOURCES),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_asking_whether_a_module_exists_does_not_use_its_hook_up() -> None:
    code = (
        "import importlib.util, tailbudget; tailbudget.init('svc')\n"
        "assert importlib.util.find_spec('httpx') is not None\n"
        "import httpx; print('http_httpx' in httpx.Client.send.__code__.co_filename)\n"
    )
    environ = {
        **os.environ,
        "PYTHONPATH": str(SOURCES),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_the_instrumentor_hooks_for_providers_that_are_there_and_makes_none() -> None:
    from opentelemetry import trace

    from tailbudget.instrument.autostart import Instrumentor

    before = trace.get_tracer_provider()
    original = httpx.Client.send
    instrumentor = Instrumentor()
    instrumentor.instrument(skip_dep_check=True)
    try:
        assert httpx.Client.send is not original
    finally:
        instrumentor.uninstrument()
    assert httpx.Client.send is original
    assert trace.get_tracer_provider() is before


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with hooked("starlette", "fastapi") as recorded:
        yield recorded


def test_an_app_that_serves_already_is_wrapped_when_telemetry_starts(recorded: Recorded) -> None:
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    hooks.uninstall()
    app = Starlette(routes=[Route("/{name}", lambda _: PlainTextResponse("hi"))])
    with serve(app) as url:
        assert httpx.get(f"{url}/a").text == "hi"
        assert not recorded.spans
        hooks.install(only=("starlette",))
        for _ in range(2):
            assert httpx.get(f"{url}/a").text == "hi"
    assert [span.name for span in recorded.spans] == ["GET /{name}"] * 2


def test_an_otel_server_span_outside_is_annotated_and_none_is_added(recorded: Recorded) -> None:
    from opentelemetry.trace import SpanKind
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    inner = Starlette(routes=[Route("/{name}", lambda _: PlainTextResponse("hi"))])
    app: Any = Starlette(routes=[Mount("/in", app=inner)])

    async def instrumented(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        with recorded.tracer_provider.get_tracer("theirs").start_as_current_span("theirs", kind=SpanKind.SERVER):
            await app(scope, receive, send)

    with serve(instrumented) as url:
        assert httpx.get(f"{url}/in/a", headers={"x-request-id": "r-9"}).text == "hi"
    assert [span.name for span in recorded.spans] == ["theirs"]
    assert recorded.attributes("theirs")["slo.request.id"] == "r-9"
    assert recorded.attributes("theirs")["slo.http.time_to_first_byte"] > 0
    with serve(app) as url:
        assert httpx.get(f"{url}/in/a").text == "hi"
    assert [span.name for span in recorded.spans][1:] == ["GET /{name}"]


def test_an_instrumentor_that_rebuilds_an_apps_middleware_gets_what_it_expects(recorded: Recorded) -> None:
    from fastapi import FastAPI
    from starlette.middleware.errors import ServerErrorMiddleware

    app = FastAPI()
    app.get("/{name}")(lambda name: name)
    original = app.build_middleware_stack

    def rebuilt() -> Any:  # as opentelemetry-instrumentation-fastapi does
        stack = original()
        assert isinstance(stack, ServerErrorMiddleware)
        return ServerErrorMiddleware(stack.app, handler=stack.handler, debug=stack.debug)

    app.build_middleware_stack = rebuilt  # type: ignore[method-assign]
    with serve(app) as url:
        assert httpx.get(f"{url}/why").json() == "why"
    assert "GET /{name}" in [span.name for span in recorded.spans]


class Held:
    """An app whose second stage waits until it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.inside = threading.Event()

    def app(self, recorded: Recorded) -> Any:
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import PlainTextResponse
        from starlette.routing import Route

        def chat(request: Request) -> PlainTextResponse:
            with stage("retrieval"):
                self.inside.set()
                self.go.wait(120)
            return PlainTextResponse("hi", status_code=int(request.query_params.get("status", 200)))

        def own(_: Request) -> PlainTextResponse:
            with tailbudget.request("mine"), stage("tools"):
                return PlainTextResponse("hi")

        def covered(request: Request) -> PlainTextResponse:
            said = {"gen_ai.request.model": "m"}
            with recorded.tracer_provider.get_tracer("theirs").start_as_current_span("chat m", attributes=said):
                httpx.post(f"{request.base_url}v1/chat/completions", json={"model": "m", "messages": []})
            return PlainTextResponse("hi")

        def page(_: Request) -> PlainTextResponse:
            with stage("prompt"):
                return PlainTextResponse("hi")

        return Starlette(
            routes=[Route("/chat/{name}", chat), Route("/own", own), Route("/page", page), Route("/covered", covered)]
        )


def test_a_request_that_nobody_marked_is_counted_and_told_of_once_it_retrieves_or_calls(recorded: Recorded) -> None:
    held = Held()
    hooks.uninstall()
    hooks.install(only=("starlette", "httpx"))
    with serve(held.app(recorded)) as url, ThreadPoolExecutor() as pool:
        asked = pool.submit(httpx.get, f"{url}/chat/why?status=404", headers={"baggage": "slo.tenant=acme"})
        assert held.inside.wait(120)
        labels = {"route": "/chat/{name}", "tenant": "acme"}
        assert (labels, 1) in recorded.points("slo.requests.active")
        beat(time.perf_counter_ns() + 6_000_000_000)
        held.go.set()
        assert asked.result().text == "hi"
        span = recorded.named("GET /chat/{name}")
        for path in ("/own", "/page", "/covered"):
            assert httpx.get(f"{url}{path}").text == "hi"
    (told,) = (dict(log.log_record.attributes or {}) for log in recorded.logs)
    assert (told["slo.request"], told["slo.stage"], told["slo.tenant"]) == ("/chat/{name}", "retrieval", "acme")
    assert span.context is not None
    assert told["slo.request.id"] == f"{span.context.span_id:016x}"
    assert (span.attributes or {})["slo.outcome"] == "rejected"
    ended = [(point["route"], point["outcome"]) for point, n in recorded.points("slo.requests.ended") if n]
    assert (labels | {"outcome": "rejected"}, 1) in recorded.points("slo.requests.ended")
    assert {("mine", "ok"), ("/covered", "ok")} <= set(ended)
    assert not {"/own", "/page", "GET"} & {route for route, _ in ended}
    assert not registry.running()


@pytest.mark.slow
def test_the_base_install_can_import_and_run(collector: Sink, tmp_path: Path) -> None:
    venv.create(tmp_path / "base", with_pip=True)
    python = tmp_path / "base" / "bin" / "python"
    root = SOURCES.parent
    wanted = ["-c", str(root / "constraints.txt"), "opentelemetry-sdk", "opentelemetry-exporter-otlp"]
    subprocess.run([python, "-m", "pip", "install", "--disable-pip-version-check", "-q", *wanted], check=True)
    (tmp_path / "service.py").write_text("from tailbudget import request\nwith request('base'): print('served')\n")
    command = [str(python), "-m", "tailbudget.app.main", "run", "python", "service.py"]
    with running(command, tmp_path, collector) as service:
        assert service.wait(30) == 0
    assert collector.span_names() == ["base"]
    done = subprocess.run(
        [python, "-m", "tailbudget.app.main", "report"],
        env={"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "pip install 'tailbudget[all]'" in done.stderr
