"""An interaction whose work waits in a queue stays one trace, with its time in the queue and at its user's side."""

import asyncio
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.trace import SpanKind, StatusCode
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from tailbudget import ASGIMiddleware, job, job_headers, request, stage, stream
from tests.instrument_support import Recorded, recording


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


class Workers:
    """One thread that takes jobs off a queue; `busy_s` is what each waits there."""

    def __init__(self, work: Any, busy_s: float = 0.05) -> None:
        self.jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._work = work
        self._busy_s = busy_s
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (payload := self.jobs.get()) is not None:
            time.sleep(self._busy_s)
            self._work(payload)

    def stop(self) -> None:
        self.jobs.put(None)
        self._thread.join(10)


def test_a_job_is_a_part_of_the_request_that_waits_for_it(recorded: Recorded) -> None:
    done = threading.Event()

    def work(payload: dict[str, Any]) -> None:
        with job("reports", payload["headers"]):
            with stage("retrieval", "docs"):
                pass
            list(stream(iter(["Ready", "."]), model="m"))
        done.set()

    workers = Workers(work)
    with request("report", tenant="acme", request_id="r-1"):
        workers.jobs.put({"headers": job_headers()})
        assert done.wait(10)
    workers.stop()
    parents = {span.name: span.parent.span_id if span.parent else 0 for span in recorded.spans}
    assert parents["process reports"] == recorded.id_of("report")
    assert parents["queue reports"] == parents["retrieval docs"] == recorded.id_of("process reports")
    waited, said = recorded.named("queue reports"), recorded.attributes("process reports")
    assert waited.attributes is not None
    assert waited.attributes["slo.stage"] == "queue"
    assert (waited.end_time or 0) - (waited.start_time or 0) == pytest.approx(said["slo.queue.wait"] * 1e9, abs=1e3)
    assert said["slo.queue.wait"] >= 0.04
    assert (said["slo.request.id"], said["slo.tenant"]) == ("r-1", "acme")
    assert recorded.named("process reports").kind == SpanKind.CONSUMER
    assert "slo.request" not in said


def test_where_nobody_waits_the_job_is_the_request_from_the_moment_it_was_queued(recorded: Recorded) -> None:
    def work(payload: dict[str, Any]) -> None:
        with job("reports", payload, route="report", budgets_ms={"total": 5000, "queue": 100}):
            list(stream(iter(["Ready", ". "]), model="m"))

    workers = Workers(work)
    started = time.time()
    workers.jobs.put(job_headers())
    workers.stop()
    said = recorded.attributes("report")
    span = recorded.named("report")
    assert (said["slo.request"], said["slo.outcome"], said["slo.budget.queue"]) == ("report", "ok", 0.1)
    assert (span.start_time or 0) / 1e9 == pytest.approx(started, abs=0.02)
    assert said["slo.time_to_first_token"] >= said["slo.queue.wait"] >= 0.04
    assert said["slo.time_to_final"] >= said["slo.time_to_first_token"]
    assert recorded.named("queue reports").parent is not None


async def test_an_asynchronous_queue_works_as_well(recorded: Recorded) -> None:
    jobs: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    results: asyncio.Queue[str] = asyncio.Queue()

    async def worker() -> None:
        with job("answers", await jobs.get()):
            await results.put("done")

    running = asyncio.create_task(worker())
    with request("chat"):
        await jobs.put(job_headers())
        assert await results.get() == "done"
    await running
    assert recorded.named("process answers").parent is not None
    assert recorded.named("process answers").context.trace_id == recorded.named("chat").context.trace_id


def test_each_question_on_a_websocket_is_one_request_though_a_worker_answers(recorded: Recorded) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    answers: asyncio.Queue[str] = asyncio.Queue()

    def work(payload: dict[str, Any]) -> None:
        with job("answers", payload["headers"]):
            said = "".join(stream(iter(["So", "."]), model="m"))
        loops[0].call_soon_threadsafe(answers.put_nowait, said)

    workers = Workers(work)

    async def talk(socket: WebSocket) -> None:
        loops.append(asyncio.get_running_loop())
        await socket.accept()
        for _ in range(2):
            await socket.receive_text()
            with request("ask"):
                workers.jobs.put({"headers": job_headers()})
                await socket.send_text(await answers.get())
        await socket.close()

    app = ASGIMiddleware(Starlette(routes=[WebSocketRoute("/talk", talk)]))
    with TestClient(app) as client, client.websocket_connect("/talk") as socket:
        for _ in range(2):
            socket.send_text("why?")
            assert socket.receive_text() == "So."
    workers.stop()
    asked, worked, called = (
        [span for span in recorded.spans if span.name == name] for name in ("ask", "process answers", "chat m")
    )
    assert len({span.context.trace_id for span in asked if span.context}) == 2
    for request_span, job_span, call_span in zip(asked, worked, called, strict=True):
        assert request_span.context is not None
        assert job_span.context is not None
        assert job_span.parent is not None
        assert call_span.parent is not None
        assert job_span.parent.span_id == request_span.context.span_id
        assert call_span.parent.span_id == job_span.context.span_id
        assert dict[str, Any](job_span.attributes or {})["slo.queue.wait"] >= 0.04
        assert (request_span.attributes or {})["slo.outcome"] == "ok"
        # The user's side: from the question until the answer is sent, the wait in the queue included.
        assert (request_span.end_time or 0) >= (call_span.end_time or 0)
        assert (request_span.start_time or 0) <= (job_span.start_time or 0)


@pytest.mark.parametrize("headers", [None, {}, {"slo-enqueued-ns": "soon", "traceparent": 7}])
def test_a_job_without_usable_headers_is_a_trace_of_its_own(recorded: Recorded, headers: Any) -> None:
    with job("reports", headers):
        pass
    assert recorded.named("process reports").parent is None
    assert [span.name for span in recorded.spans] == ["process reports"]


def test_a_clock_that_is_ahead_never_makes_a_wait_negative(recorded: Recorded) -> None:
    headers = job_headers() | {"slo-enqueued-ns": str(time.time_ns() + 10**12)}
    with job("reports", headers):
        pass
    assert recorded.attributes("process reports")["slo.queue.wait"] == 0


def test_a_job_that_fails_says_so(recorded: Recorded) -> None:
    with pytest.raises(ValueError, match="secret"), job("reports", job_headers(), route="report"):
        raise ValueError("secret")
    assert recorded.attributes("report")["slo.outcome"] == "error"
    assert recorded.named("report").status.status_code == StatusCode.ERROR
    assert "secret" not in str(recorded.named("report").attributes)
