"""OpenTelemetry's own SDKs, as they are, send all three signals over every protocol, and their rows are found."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .collector_support import Collector, collector
from .support import wait_until

SPANS = 700  # as the Python sender has it
SENDERS = Path(__file__).with_name("senders")
NODE_PACKAGES = (
    "@opentelemetry/sdk-trace-base@2.9.0",
    "@opentelemetry/sdk-metrics@2.9.0",
    "@opentelemetry/sdk-logs@0.223.0",
    "@opentelemetry/resources@2.9.0",
    *(f"@opentelemetry/exporter-{kind}-otlp-{form}@0.223.0"
      for kind in ("trace", "metrics", "logs") for form in ("http", "proto", "grpc")),
)  # fmt: skip


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("senders") / "data") as found:
        yield found


def base(running: Collector, protocol: str) -> str:
    return f"http://127.0.0.1:{running.grpc_port if protocol == 'grpc' else running.http_port}"


def landed(running: Collector, service: str, *, spans: int) -> None:
    wait_until(lambda: running.value(f"select count(*) from spans where service = '{service}'") == spans)
    wait_until(lambda: running.value(f"select count(*) from logs where service = '{service}'") >= 1)
    wait_until(lambda: points(running, service))


def points(running: Collector, service: str) -> dict[str, dict[str, object]]:
    """Return the last point of each metric by its name."""
    query = f"""select m.* from metrics m join resources r using (resource_id)
                where r.service = '{service}' order by t"""
    return {row["name"]: row for row in running.rows(query)}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("packing", [{"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}, {}], ids=["gzip", "plain"])
def test_the_python_sdk_is_stored_as_it_sends(running: Collector, protocol: str, packing: dict[str, str]) -> None:
    service = f"{protocol} {len(packing)}"
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": base(running, protocol), "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    sender = [sys.executable, str(SENDERS / "sdk_sender.py"), service]
    environment = {**os.environ, **told, **packing}
    done = subprocess.run(sender, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    landed(running, service, spans=SPANS)
    (root,) = running.rows(f"select * from spans where service = '{service}' and parent_span_id is null")
    assert (root["name"], root["kind"], root["scope"]) == ("root", "SERVER", "shop")
    where = f"service = '{service}' and parent_span_id = {root['span_id']} and trace_id = '{root['trace_id']}'"
    steps = f"""select count(*) as n, sum((attrs ->> 'n')::int)::int as total, any_value(attrs ->> 'list') as list
                from spans where {where}"""
    assert running.rows(steps) == [{"n": SPANS - 1, "total": (SPANS - 1) * (SPANS - 2) // 2, "list": '["a","b"]'}]
    (event,) = running.rows(f"select * from span_events where span_id = {root['span_id']}")
    assert (event["name"], event["attrs"]) == ("began", {"n": 1})
    found = points(running, service)
    assert (found["orders"]["value_int"], found["orders"]["temporality"]) == (SPANS - 1, "cumulative")
    assert found["orders"]["attrs"] == {"kind": "book"}
    assert (found["wait"]["n"], found["wait"]["unit"], found["wait"]["max"]) == (SPANS - 1, "s", (SPANS - 2) / 1000)
    assert (found["size"]["kind"], found["size"]["n"], found["size"]["min"]) == (
        "exponential_histogram",
        SPANS - 1,
        0.0,
    )
    assert (found["load"]["kind"], found["load"]["value"]) == ("gauge", 0.75)
    (record,) = running.rows(f"select * from logs where service = '{service}'")
    assert (record["body"], record["severity_number"], record["attrs"]) == ("paid", 9, {"n": 7})
    assert (record["trace_id"], record["span_id"]) == (root["trace_id"], root["span_id"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sender and its packages."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs node and npm")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(SENDERS / "node_sender.cjs", folder)
    install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *NODE_PACKAGES]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the sender's packages: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["http", "proto", "grpc"])
def test_the_node_sdk_is_stored_as_it_sends(running: Collector, node: Path, protocol: str) -> None:
    """Its `http` exporter sends JSON."""
    service = f"node {protocol}"
    command = ["node", str(node / "node_sender.cjs"), protocol, base(running, protocol), service]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    landed(running, service, spans=300)
    query = f"""select count(distinct trace_id) as traces, count(distinct attrs -> 'n') as numbers,
                       any_value(kind) as kind, any_value(status_message) as said,
                       any_value(attrs ->> 'grüße') as rocket
                from spans where service = '{service}'"""
    wanted = {"traces": 300, "numbers": 300, "kind": "CLIENT", "said": "broken", "rocket": "\U0001f680"}
    assert running.rows(query) == [wanted]
    events = f"select count(*) from span_events join spans using (trace_id, span_id) where service = '{service}'"
    assert running.value(events) == 300
    found = points(running, service)
    assert (found["orders"]["value"], found["orders"]["attrs"]) == (5.0, {"kind": "book"})
    assert (found["wait"]["n"], found["wait"]["total"]) == (1, 0.3)
    (record,) = running.rows(f"select * from logs where service = '{service}'")
    assert (record["body"], record["severity"]) == ({"text": "paid", "n": 7}, "INFO")
