"""celery, dramatiq and rq with real workers: a task is a part of the request that sent it, its code unchanged."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

import pytest

from tailbudget import request, stage
from tests.instrument_support import Recorded, hooked, sink
from tests.support import free_port, wait_until
from tests.test_instrument_endings import NEVER
from tests.test_instrument_zero_code import RUN, SOURCES, attributes, running, span_named

pytestmark = [pytest.mark.libraries, pytest.mark.filterwarnings("default")]


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with hooked("celery") as recorded:
        yield recorded


def test_a_task_goes_on_with_the_request_that_sent_it(recorded: Recorded) -> None:
    celery = pytest.importorskip("celery", reason="celery is not installed")
    from celery.contrib.testing.worker import start_worker

    app = celery.Celery("svc", broker="memory://", backend="cache+memory://")
    app.conf.worker_hijack_root_logger = False

    def report(fails: bool) -> str:
        with stage("retrieval", "docs"):
            if fails:
                raise ValueError("secret")
        return "done"

    task = app.task(name="svc.report")(report)
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=20):
        with request("report", tenant="acme"):
            assert task.delay(False).get(timeout=120) == "done"
        with request("again"), pytest.raises(ValueError, match="secret"):
            task.delay(True).get(timeout=120)
    first, second = (span for span in recorded.spans if span.name == "process svc.report")
    assert first.parent is not None
    assert first.parent.span_id == recorded.id_of("report")
    assert (first.attributes or {})["slo.tenant"] == "acme"
    assert (first.attributes or {})["messaging.system"] == "celery"
    assert (second.attributes or {})["error.type"] == "ValueError"
    waits = [span for span in recorded.spans if span.name == "queue svc.report"]
    assert len(waits) == 2
    assert all((span.attributes or {})["slo.stage"] == "queue" for span in waits)
    assert "secret" not in str([span.attributes for span in recorded.spans])


JOBS = """
import celery

folders = {"data_folder_in": "mail", "data_folder_out": "mail", "control_folder": "control"}
app = celery.Celery("jobs", broker="filesystem://", backend="file://results", broker_transport_options=folders)

@app.task(name="jobs.report")
def report(question):
    return question.upper()
"""
ASK = """
import tailbudget
from jobs import report

with tailbudget.request("ask", tenant="acme"):
    assert report.delay("why").get(timeout=110) == "WHY"
"""


def test_a_forked_worker_without_a_line_of_ours_goes_on_with_the_request(tmp_path: Path) -> None:
    pytest.importorskip("celery", reason="celery is not installed")
    for folder in ("mail", "control", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "ask.py").write_text(ASK)
    # celery's default, written out: the pool forks once the worker has begun.
    worker = [sys.executable, "-m", "celery", "-A", "jobs", "worker", "--pool", "prefork", "--concurrency", "1"]
    # Each of its processes ends after one task, by os._exit; nothing is sent before that.
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    command = [*RUN, *worker, *quiet, "--max-tasks-per-child", "1"]
    with (
        sink() as collector,
        running(command, tmp_path, collector, OTEL_SERVICE_NAME="worker", OTEL_BSP_SCHEDULE_DELAY="3600000"),
    ):
        with running([*RUN, sys.executable, "ask.py"], tmp_path, collector, OTEL_SERVICE_NAME="asking") as asking:
            assert asking.wait(120) == 0
        asked, queued = span_named(collector, "ask"), span_named(collector, "queue jobs.report")
        worked = span_named(collector, "process jobs.report")
    assert worked.trace_id == queued.trace_id == asked.trace_id
    assert worked.parent_span_id == asked.span_id
    assert attributes(worked)["slo.tenant"] == "acme"
    assert attributes(queued)["slo.stage"] == "queue"


DRAMATIQ_JOBS = """
import os, dramatiq, tailbudget
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["STORE"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["STORE"])))
dramatiq.set_broker(broker)

@dramatiq.actor(store_results=True, max_retries=1, min_backoff=10, max_backoff=10)
def report(question):
    if question == "fail":
        raise ValueError("secret")
    return question.upper()

@dramatiq.actor(store_results=True)
async def report_async(question):
    with tailbudget.stage("retrieval", "docs"):
        return question.upper()

broker.add_middleware(dramatiq.middleware.AsyncIO())
"""
DRAMATIQ_ASK = """
import tailbudget
from jobs import report, report_async

with tailbudget.request("ask", tenant="acme"):
    assert report.send("why").get_result(block=True, timeout=110_000) == "WHY"
    assert report_async.send("why").get_result(block=True, timeout=110_000) == "WHY"
    late = report.send_with_options(args=("late",), delay=700)
    failed = report.send("fail")
    assert late.get_result(block=True, timeout=110_000) == "LATE"
    try:
        failed.get_result(block=True, timeout=110_000)
    except Exception as error:
        assert "ValueError" in str(error), error
"""


def test_a_message_of_dramatiq_goes_on_with_the_request_and_its_worker_delivers_all_at_its_end(tmp_path: Path) -> None:
    pytest.importorskip("dramatiq", reason="dramatiq is not installed")
    print(f"\ndramatiq {version('dramatiq')}", end="")
    (tmp_path / "jobs.py").write_text(DRAMATIQ_JOBS)
    (tmp_path / "ask.py").write_text(DRAMATIQ_ASK)
    command = [*RUN, sys.executable, "-m", "dramatiq", "jobs", "--processes", "1", "--threads", "2"]
    with redis(tmp_path) as port, sink() as collector:
        environ = {"STORE": f"redis://127.0.0.1:{port}", "PYTHONPATH": os.pathsep.join([str(SOURCES), str(tmp_path)])}
        with running(command, tmp_path, collector, OTEL_SERVICE_NAME="worker", **NEVER, **environ):
            asking = running([*RUN, sys.executable, "ask.py"], tmp_path, collector, **environ)
            with asking as asker:
                assert asker.wait(120) == 0
            assert "process report" not in collector.span_names()
        asked = span_named(collector, "ask")
        worked = [span for span in collector.spans() if span.name.startswith("process report")]
        queued = [span for span in collector.spans() if span.name.startswith("queue report")]
    assert {span.trace_id for span in (*worked, *queued)} == {asked.trace_id}
    assert [span.parent_span_id for span in worked] == [asked.span_id] * 5
    assert {(attributes(span)["slo.tenant"], attributes(span)["messaging.system"]) for span in worked} == {
        ("acme", "dramatiq")
    }
    (stage_inside,) = (span for span in collector.spans() if span.name == "retrieval docs")
    (asynchronous,) = (span for span in worked if span.name == "process report_async")
    assert stage_inside.parent_span_id == asynchronous.span_id  # in the thread of its event loop
    errors = [attributes(span).get("error.type") for span in worked]
    assert (errors.count("ValueError"), errors.count(None)) == (2, 3)  # one that failed was tried again
    assert "secret" not in str([attributes(span) for span in worked])
    assert {attributes(span)["slo.stage"] for span in queued} == {"queue"}
    # All that is sent is sent in a second or so, but for one that was not to begin before 0.7 s were over.
    late = max(worked, key=lambda span: span.start_time_unix_nano)
    assert late.start_time_unix_nano - asked.start_time_unix_nano >= 700_000_000
    assert asked.end_time_unix_nano >= max(span.end_time_unix_nano for span in worked if span is not late)


RQ_JOBS = """
def report(question):
    if question == "fail":
        raise ValueError("secret")
    return question.upper()
"""
RQ_ASK = """
import sys
import redis, rq, tailbudget
from jobs import report

queue = rq.Queue(connection=redis.Redis(port=int(sys.argv[1])))
with tailbudget.request("ask", tenant="acme"):
    queue.enqueue(report, "why")
    queue.enqueue(report, "fail")
"""


@contextmanager
def redis(folder: Path) -> Iterator[int]:
    """Run a redis server; gives its port."""
    if not (server := shutil.which("redis-server")):
        pytest.skip("redis-server is not installed (Debian: apt-get install redis-server)")
    port = free_port()
    command = [server, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(port), what="redis-server")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def test_a_job_of_rq_goes_on_with_the_request_though_its_process_ends_with_it(tmp_path: Path) -> None:
    pytest.importorskip("rq", reason="rq is not installed")
    (tmp_path / "jobs.py").write_text(RQ_JOBS)
    (tmp_path / "ask.py").write_text(RQ_ASK)
    with redis(tmp_path) as port, sink() as collector:
        with running([*RUN, sys.executable, "ask.py", str(port)], tmp_path, collector) as asking:
            assert asking.wait(120) == 0
        command = [*RUN, sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", f"redis://127.0.0.1:{port}"]
        with running(command, tmp_path, collector, OTEL_BSP_SCHEDULE_DELAY="3600000") as worker:
            assert worker.wait(120) == 0
        (asked,) = (span for span in collector.spans() if span.name == "ask")
        worked = [span for span in collector.spans() if span.name == "process jobs.report"]
        queued = [span for span in collector.spans() if span.name == "queue jobs.report"]
    assert {span.trace_id for span in (*worked, *queued)} == {asked.trace_id}
    assert [span.parent_span_id for span in worked] == [asked.span_id] * 2
    assert [attributes(span)["slo.tenant"] for span in worked] == ["acme"] * 2
    assert [attributes(span).get("error.type") for span in worked] == [None, "ValueError"]
    assert [attributes(span)["slo.stage"] for span in queued] == ["queue"] * 2
