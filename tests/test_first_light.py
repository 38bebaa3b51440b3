"""The whole path on real parts: demo service, runtime with a tiny model, collector, `tailbudget sql`."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tailbudget.gpu_runtime.tiny import write_tiny_model
from tailbudget.instrument.vocabulary import STAGES

from .support import free_port, wait_until

REQUESTS = 12
COMMAND = [sys.executable, "-m", "tailbudget.app.main"]


@contextmanager
def running(arguments: list[str], ready_url: str, log: Path, **environment: str) -> Iterator[None]:
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments], stdout=file, stderr=file, env={**os.environ, **environment}
        )
    try:
        wait_until(lambda: _answers(ready_url, process, log), what=f"{arguments[:2]} ready")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=120)
        assert status in (0, -signal.SIGTERM), log.read_text()


def _answers(url: str, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        return bool(urllib.request.urlopen(url, timeout=2).status == 200)
    except OSError:
        return False


class Stack:
    """The addresses of the running parts, and the command line against them."""

    def __init__(self, *, demo: str, runtime: str, api: str) -> None:
        self.demo, self.runtime, self.api = demo, runtime, api

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Return what the API answers, of which `command` gives the same in a process of its own."""
        answer = httpx.post(f"{self.api}/v1/sql", json={"sql": query}, headers={"accept": "application/json"})
        assert answer.status_code == 200, answer.text
        rows: list[dict[str, Any]] = answer.json()
        return rows

    def command(self, query: str) -> list[dict[str, Any]]:
        done = subprocess.run(
            [*COMMAND, "sql", query, "--json", "--api", self.api], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("first-light")
    http, api, runtime, demo = (free_port() for _ in range(4))
    model = write_tiny_model(folder / "tiny.gguf")
    send = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{http}"}
    base = "http://127.0.0.1"
    collector = [
        "tailbudget.app.main",
        "collector",
        "--data",
        str(folder / "data"),
        "--http",
        str(http),
        "--api",
        str(api),
        "--grpc",
        str(free_port()),
    ]
    engine = ["tailbudget.app.main", "runtime", "--model", str(model), "--port", str(runtime), "--control"]
    service = ["tailbudget.app.demo.service", "--port", str(demo), "--model-url", f"{base}:{runtime}/v1"]
    with (
        running(collector, f"{base}:{api}/readyz", folder / "collector.log"),
        running(engine, f"{base}:{runtime}/health", folder / "runtime.log", **send),
        running(service, f"{base}:{demo}/healthz", folder / "demo.log", **send),
    ):
        stack = Stack(demo=f"{base}:{demo}", runtime=f"{base}:{runtime}", api=f"{base}:{api}")
        _use(stack)
        wait_until(lambda: _settled(stack), what="all requests assembled with the runtime's spans")
        yield stack


def _use(stack: Stack) -> None:
    for number in range(REQUESTS):
        body = {"question": f"What does duckdb do, question {number}?", "max_tokens": 12}
        answer = httpx.post(f"{stack.demo}/chat", json=body, headers={"x-request-id": f"asked-{number}"}, timeout=120)
        assert answer.text.endswith("data: [DONE]\n\n"), answer.text
    _control(stack.runtime, step_delay_ms=100)  # slow enough that a client surely leaves in mid-answer
    _leave_after(stack, pieces=3, request_id="left-early", max_tokens=60)
    _leave_after(stack, pieces=40, request_id="left-late", max_tokens=90)
    _control(stack.runtime, step_delay_ms=0)
    _control(stack.demo, slow_index_ms=2500)
    httpx.post(
        f"{stack.demo}/chat", json={"question": "uvicorn?", "max_tokens": 4}, headers={"x-request-id": "slow-index"}
    )
    _control(stack.demo, slow_index_ms=0)


def _control(address: str, **setting: float) -> None:
    assert httpx.post(f"{address}/control", json=setting).status_code == 200


def _leave_after(stack: Stack, *, pieces: int, request_id: str, max_tokens: int) -> None:
    body = {"question": "What is streamlit?", "max_tokens": max_tokens}
    headers = {"x-request-id": request_id}
    with httpx.stream("POST", f"{stack.demo}/chat", json=body, headers=headers, timeout=120) as answer:
        seen = 0
        for line in answer.iter_lines():
            seen += line.startswith("data: ")
            if seen >= pieces:
                return
    raise AssertionError(f"the answer ended after {seen} pieces")


def _settled(stack: Stack) -> bool:
    (row,) = stack.sql(
        "select count(*) as n, count(*) filter (split = 'server') as joined from requests join calls using (request_id)"
    )
    time.sleep(0.2)
    return bool(row["n"] == row["joined"] == REQUESTS + 3)


def test_every_request_is_stored_once_under_the_id_its_caller_gave(stack: Stack) -> None:
    ids = [row["request_id"] for row in stack.command("select request_id from requests order by 1")]
    assert ids == sorted([*(f"asked-{n}" for n in range(REQUESTS)), "left-early", "left-late", "slow-index"])


def test_the_stages_of_every_request_sum_to_its_total_to_the_microsecond(stack: Stack) -> None:
    columns = " + ".join(f"{stage}_ms" for stage in STAGES)
    for row in stack.sql(f"select request_id, total_ms, {columns} as summed from requests"):
        assert row["summed"] == pytest.approx(row["total_ms"], abs=1e-3), row
    for row in stack.sql(
        "select request_id, sum(critical_ms) as summed, any_value(total_ms) as total_ms "
        "from stages join requests using (request_id) group by all"
    ):
        assert row["summed"] == pytest.approx(row["total_ms"], abs=1e-3), row


def test_each_stage_of_the_service_has_time(stack: Stack) -> None:
    for row in stack.sql("select * from requests where request_id like 'asked-%'"):
        for stage in ("retrieval", "tools", "prompt", "prefill", "decode"):
            assert row[f"{stage}_ms"] > 0, (stage, row)
        assert row["outcome"] == "ok"
        assert row["route"] == "/chat"


def test_queue_prefill_and_decode_of_the_runtime_fit_inside_the_clients_call(stack: Stack) -> None:
    query = """
        select c.total_ms, c.queue_ms + c.prefill_ms + c.decode_ms as model_ms, c.network_ms,
            (e.queue_ns + e.prefill_ns + e.decode_ns) / 1e6 as said_ms,
            e.duration_ns / 1e6 as engine_ms, e.start_ns >= s.start_ns and e.end_ns <= s.end_ns as inside
        from calls c
        join spans s using (trace_id, span_id)
        join spans e on e.trace_id = c.trace_id and e.parent_span_id = c.span_id and e.role = 'engine'
        where c.outcome = 'ok'"""
    rows = stack.sql(query)
    assert len(rows) == REQUESTS + 1
    for row in rows:
        assert row["inside"], row
        assert row["said_ms"] == pytest.approx(row["engine_ms"], abs=1e-3)
        assert row["model_ms"] == pytest.approx(row["said_ms"], abs=1e-3)
        assert row["network_ms"] >= 0
        assert row["model_ms"] + row["network_ms"] == pytest.approx(row["total_ms"], abs=1e-3)


def test_a_client_that_leaves_early_is_dropped_with_the_stage_it_left_in(stack: Stack) -> None:
    (row,) = stack.sql("select * from requests where request_id = 'left-early'")
    assert (row["outcome"], row["left_in_stage"]) == ("dropped", "decode")
    assert 0 < row["left_after_ms"] <= row["total_ms"]


def test_a_client_that_leaves_after_a_usable_answer_has_left(stack: Stack) -> None:
    (row,) = stack.sql("select * from requests where request_id = 'left-late'")
    assert row["outcome"] == "left"
    assert row["usable_ms"] < row["total_ms"]


def test_the_runtime_stops_generating_when_the_client_leaves(stack: Stack) -> None:
    (row,) = stack.sql(
        "select spans.output_tokens from spans join requests using (trace_id) "
        "where request_id = 'left-late' and role = 'engine'"
    )
    assert row["output_tokens"] < 90


def test_a_slow_index_is_a_violation_blamed_on_retrieval(stack: Stack) -> None:
    (row,) = stack.command("select over_stage, over_ms from violations where request_id = 'slow-index'")
    assert row["over_stage"] == "retrieval"
    assert row["over_ms"] > 1900


def test_the_rate_of_tokens_is_stored_for_client_and_server(stack: Stack) -> None:
    rows = stack.sql(
        "select side, unit, sum(tokens) as tokens, sum(active_stream_s) as s from decode_rate group by all"
    )
    assert {(row["side"], row["unit"]) for row in rows} == {("client", "chunk"), ("server", "token")}
    assert all(row["tokens"] > 0 and row["s"] > 0 for row in rows)


def test_no_prompt_and_no_answer_is_stored(stack: Stack) -> None:
    (row,) = stack.sql("select count(*) as n from spans where attrs::varchar like '%What does duckdb%'")
    assert row["n"] == 0
