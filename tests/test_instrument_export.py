"""`init` in a real process sends real OTLP, respects the OTEL_* variables, and never holds a service up."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from tailbudget import UserError, init
from tailbudget.instrument.exporters import Exports, PromptSession
from tests.instrument_support import Sink, sink
from tests.support import free_port, wait_until

ONE_REQUEST = "from tailbudget import *\ninit('svc')\nwith request('chat'): pass\n"
DELTA, CUMULATIVE = 1, 2


def clean_environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return kept | variables


def service(code: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a service to its end."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env=clean_environment(**variables),
    )


@pytest.fixture
def collector() -> Iterator[Sink]:
    with sink() as received:
        yield received


def test_a_service_that_ends_delivers_its_spans(collector: Sink) -> None:
    done = service(ONE_REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert collector.span_names() == ["chat"]
    assert collector.resource()["service.name"] == "svc"
    assert len(collector.resource()["service.instance.id"]) == 36
    assert {h.get("content-encoding") for h in collector.headers} == {None}  # it does not leave the machine
    assert {h["content-type"] for h in collector.headers} == {"application/x-protobuf"}


def test_bodies_are_packed_as_the_variables_ask(collector: Sink) -> None:
    asked = {
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION": "gzip",
        "OTEL_EXPORTER_OTLP_LOGS_COMPRESSION": "gzip",
    }
    done = service(ONE_REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert collector.span_names() == ["chat"]
    assert collector.metric_named("slo.requests.started")
    assert {h.get("content-encoding") for h in collector.headers} == {None, "gzip"}


@pytest.mark.parametrize(
    ("endpoint", "packed"),
    [
        ("http://127.0.0.1:4318", False), ("http://localhost:4318", False), ("http://[::1]:4318", False),
        ("http://collector.example:4318", True), ("http://10.1.2.3:4318", True), ("https://127.example.com", True),
    ],
)  # fmt: skip
def test_bodies_that_leave_the_machine_are_packed(monkeypatch: pytest.MonkeyPatch, endpoint: str, packed: bool) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
    asked = (Exports(None), Exports(endpoint))
    for exports in asked:
        for processor in exports.span_processors():
            processor.shutdown()
    assert [session.packs for exports in asked for session, _ in exports._prompt] == [packed, packed]


def test_a_session_prepares_once_and_sends_each_body_whole(collector: Sink) -> None:
    with PromptSession() as session:
        for name in ("first", "a longer second"):
            span = ReadableSpan(name, SpanContext(1, 2, is_remote=False), start_time=1, end_time=2)
            body = encode_spans([span]).SerializeToString()
            headers = {"x-key": name[0]}
            assert session.request("POST", f"{collector.url}/v1/traces", data=body, headers=headers, timeout=9).ok
    assert collector.span_names() == ["first", "a longer second"]
    assert [h["x-key"] for h in collector.headers] == ["f", "a"]


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_spans_are_whole_however_they_are_packed(collector: Sink, compression: str) -> None:
    code = "from tailbudget import *\ninit('svc')\nwith request('chat', tenant='t'):\n  with stage('retrieval'): pass"
    done = service(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(collector.span_names()) == ["chat", "retrieval"]
    assert {h.get("content-encoding", "none") for h in collector.headers} == {compression}


def test_what_the_exporter_encodes_by_itself_goes_before_what_was_encoded_here(collector: Sink) -> None:
    theirs = encode_spans([ReadableSpan("theirs", SpanContext(1, 2, is_remote=False), start_time=1, end_time=2)])
    with PromptSession(packs=True) as session:
        session.body = b"ours"
        assert session.request("POST", f"{collector.url}/v1/traces", data=theirs.SerializeToString()).ok
    assert collector.span_names() == ["theirs"]


def test_spans_arrive_soon_after_they_end(collector: Sink) -> None:
    code = (
        "from tailbudget import *\nimport sys\n"
        f"init('svc', endpoint={collector.url!r})\nfor _ in sys.stdin:\n  with request('chat'): pass"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=clean_environment())
    assert running.stdin is not None
    asking = running.stdin

    def soon() -> bool:
        before = len(collector.span_names())
        asking.write(b"\n")
        asking.flush()
        wait_until(lambda: len(collector.span_names()) > before, what="the span")
        # By the SDK's own schedule it is 5 s, for one that ends just after the last were sent.
        return bool(time.time() - collector.spans()[-1].end_time_unix_nano * 1e-9 < 4.5)

    try:
        wait_until(soon, what="a span that arrives soon")
        wait_until(lambda: collector.metric_named("slo.requests.ended"), what="a metric")
    finally:
        running.communicate(timeout=120)
    assert running.returncode == 0


def test_metrics_are_deltas_unless_asked_otherwise(collector: Sink) -> None:
    service(ONE_REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    started = collector.metric_named("slo.requests.started")[0].sum
    assert started.aggregation_temporality == DELTA
    assert [point.as_int for point in started.data_points] == [1]
    service(
        ONE_REQUEST,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="cumulative",
    )
    assert collector.metric_named("slo.requests.started")[-1].sum.aggregation_temporality == CUMULATIVE


def test_the_environment_names_the_service_and_the_resource(collector: Sink) -> None:
    service(
        "from tailbudget import *\ninit()\nwith request('chat'): pass\n",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_SERVICE_NAME="from-env",
        OTEL_RESOURCE_ATTRIBUTES="cloud.region=eu-1,service.instance.id=i-1",
    )
    resource = collector.resource()
    assert (resource["service.name"], resource["cloud.region"]) == ("from-env", "eu-1")
    assert resource["service.instance.id"] == "i-1"


@pytest.mark.parametrize(
    "variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}]
)
def test_telemetry_can_be_switched_off(collector: Sink, variables: dict[str, str]) -> None:
    done = service(ONE_REQUEST, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert not collector.headers


def test_a_provider_that_is_already_there_is_used_and_kept(collector: Sink) -> None:
    code = (
        "from opentelemetry import trace\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "from opentelemetry.sdk.trace.export import SimpleSpanProcessor\n"
        "from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter\n"
        "kept = InMemorySpanExporter(); mine = TracerProvider()\n"
        "mine.add_span_processor(SimpleSpanProcessor(kept)); trace.set_tracer_provider(mine)\n"
        + ONE_REQUEST
        + "init('again'); assert trace.get_tracer_provider() is mine\n"
        "assert [s.name for s in kept.get_finished_spans()] == ['chat']\n"
    )
    done = service(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert not collector.traces


def test_init_may_come_again_after_shutdown(collector: Sink) -> None:
    code = ONE_REQUEST + "init('svc')\nshutdown()\nshutdown()\n" + ONE_REQUEST.replace("'chat'", "'later'")
    done = service(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert collector.span_names() == ["chat", "later"]


#: The exporters wait 300 s between their attempts, longer than `service` does for the end; the code goes on after what
#: they say of the first.
PATIENT = """
import logging, random, threading, time
random.uniform = lambda *_: 300.0
said = threading.Event()
class Log(logging.StreamHandler):
    def emit(self, record):
        super().emit(record)
        said.set()
logging.getLogger().addHandler(Log())
"""


def test_a_service_without_a_collector_ends_promptly_with_one_warning() -> None:
    going_on = "said.wait()\nfor _ in range(5):\n  time.sleep(0.1)\n  with request('chat'): pass\n"
    done = service(
        PATIENT + ONE_REQUEST + going_on,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_EXPORTER_OTLP_TIMEOUT="600",
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_METRIC_EXPORT_INTERVAL="300",
    )
    assert done.returncode == 0, done.stderr
    (warning,) = done.stderr.strip().splitlines()
    assert "retrying in 300" in warning


def test_a_collector_that_never_answers_does_not_hold_the_end_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        code = ONE_REQUEST + "import time\nlast = time.monotonic()\nshutdown()\nprint(time.monotonic() - last)\n"
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = service(code, OTEL_EXPORTER_OTLP_ENDPOINT=address, OTEL_EXPORTER_OTLP_TIMEOUT="600")
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 20  # it takes two; by the SDK's own limits half a minute for spans alone


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkinn"}, "OTEL_TRACES_EXPORTER is 'zipkinn'"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/xml"}, "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/xml'"),
    ],
)
def test_a_setting_that_cannot_be_is_told_at_start(variables: dict[str, str], said: str) -> None:
    done = service(ONE_REQUEST, **variables)
    assert done.returncode == 1
    assert "UserError" in done.stderr
    assert said in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("given", "said"),
    [({"service": 5}, "service is 5"), ({"endpoint": 7}, "endpoint is 7"), ({"propagate_to": "a.b"}, "to is 'a.b'")],
)
def test_what_cannot_be_is_refused_in_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=f"{said}: expected "):
        init(**given)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "http://", "ftp://x"])
def test_an_endpoint_that_is_no_url_is_refused(endpoint: str) -> None:
    with pytest.raises(UserError, match=r"endpoint is .*expected .*http://127\.0\.0\.1:4318"):
        init("svc", endpoint=endpoint)


def test_importing_tailbudget_loads_nothing_heavy() -> None:
    code = (
        "import sys, tailbudget\n"
        "heavy = {'openai', 'duckdb', 'torch', 'pandas', 'streamlit', 'pyarrow', 'starlette', 'uvicorn', 'requests',\n"
        "         'click', 'opentelemetry.sdk', 'google.protobuf', 'grpc'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert service(code).stdout.strip() == "[]"
