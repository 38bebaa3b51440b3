"""`tailbudget ingest` sends what is in files of any kind, counts it exactly, and names what it cannot read."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tailbudget.app.cli import run
from tailbudget.app.ingest.files import Bad, Body, read_bodies

from .collector_support import Collector, any_value, collector, gauge, metrics_body, span_ids, trace_body, trace_request
from .support import CONFORMANCE, free_port, shared, wait_until
from .test_otlp_json import in_json

T0_US = 1_767_225_600_000_000


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collector]:
    with collector(tmp_path_factory.mktemp("ingest") / "data") as found:
        yield found


@pytest.fixture
def ingest(running: Collector, capsys: pytest.CaptureFixture[str]) -> Any:
    def send(*files: Path) -> tuple[int, Any, str]:
        status = run(["ingest", *map(str, files), "--json", "--http", f"http://127.0.0.1:{running.http_port}"])
        said = capsys.readouterr()
        return status, json.loads(said.out), said.err

    return send


def jaeger_trace(trace_id: str = "fe") -> dict[str, Any]:
    """Return a small trace with every kind of thing that Jaeger writes."""

    def tag(key: str, kind: str, value: object) -> dict[str, object]:
        return {"key": key, "type": kind, "value": value}

    shop = {"serviceName": "shop", "tags": [tag("host.name", "string", "box"), tag("cores", "int64", 2)]}
    root = {
        "traceID": trace_id,
        "spanID": "1",
        "operationName": "GET /",
        "references": [],
        "startTime": T0_US,
        "duration": 2_500,
        "tags": [tag("span.kind", "string", "server"), tag("ratio", "float64", 0.5), tag("cold", "bool", True)],
        "logs": [{"timestamp": T0_US + 7, "fields": [tag("event", "string", "began"), tag("n", "int64", 3)]}],
        "processID": "p1",
        "warnings": ["clock skew"],
    }
    child = {
        "traceID": trace_id,
        "spanID": "00000000000000a2",
        "operationName": "query",
        "references": [
            {"refType": "FOLLOWS_FROM", "traceID": "beef", "spanID": "9"},
            {"refType": "CHILD_OF", "traceID": trace_id, "spanID": "1"},
        ],
        "startTime": T0_US + 100,
        "duration": 400,
        "tags": [
            tag("error", "bool", True),
            tag("otel.status_description", "string", "refused"),
            tag("otel.scope.name", "string", "db"),
            tag("key", "binary", "AAH/"),
        ],
        "processID": "p2",
    }
    return {"traceID": trace_id, "spans": [root, child], "processes": {"p1": shop, "p2": {"serviceName": "store"}}}


def test_a_trace_of_jaegers_lands_with_all_that_it_says(tmp_path: Path, running: Collector, ingest: Any) -> None:
    file = tmp_path / "jaeger.json"
    file.write_text(json.dumps({"data": [jaeger_trace()], "total": 0, "errors": None}, indent=2))
    status, said, _ = ingest(file)
    assert (status, said["total"]["bodies"], said["total"]["accepted"]) == (0, 1, {"traces": 2})
    where = "from spans where trace_id = '000000000000000000000000000000fe'"
    wait_until(lambda: running.value(f"select count(*) {where}") == 2)
    root, child = running.rows(f"select * {where} order by start_ns")
    assert (root["name"], root["kind"], root["service"], root["parent_span_id"]) == ("GET /", "SERVER", "shop", None)
    assert (root["start_ns"], root["duration_ns"]) == (T0_US * 1000, 2_500_000)
    assert root["attrs"] == {"ratio": 0.5, "cold": True, "jaeger.warnings": ["clock skew"]}
    assert (child["span_id"], child["parent_span_id"], child["service"], child["scope"]) == (0xA2, 1, "store", "db")
    assert (child["status"], child["status_message"], child["attrs"]) == ("ERROR", "refused", {"key": "AAH/"})
    (event,) = running.rows("select * from span_events where name = 'began'")
    assert (event["span_id"], event["attrs"]) == (1, {"n": 3})
    (link,) = running.rows(f"select * from span_links where span_id = {0xA2}")
    assert (link["linked_trace_id"][-4:], link["linked_span_id"]) == ("beef", 9)
    (resource,) = running.rows("select attrs from resources where service = 'shop' and contains(attrs::varchar, 'box')")
    assert resource["attrs"] == {"service.name": "shop", "host.name": "box", "cores": 2}


def test_json_lines_and_protobuf_of_all_signals_gzipped_or_not_are_one(
    tmp_path: Path, running: Collector, ingest: Any
) -> None:
    traces = trace_request(30, seed=801)
    logs = ExportLogsServiceRequest()
    for number in range(4):
        logs.resource_logs.add().scope_logs.add().log_records.add(body=any_value(f"line {number}"))
    points = metrics_body(*(gauge("g", float(n), t_ns=1 + n) for n in range(5)))
    (tmp_path / "traces.pb").write_bytes(traces.SerializeToString())
    (tmp_path / "points.pb.gz").write_bytes(gzip.compress(points))
    (tmp_path / "logs").write_bytes(logs.SerializeToString())
    lines = [json.dumps(in_json(traces)), "", json.dumps(in_json(logs, original_names=True))]
    (tmp_path / "lines.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    (tmp_path / "one.json").write_text(json.dumps(in_json(trace_request(2, seed=802)), indent=4))
    status, said, errors = ingest(*(tmp_path / name for name in ("traces.pb", "points.pb.gz", "logs")))
    assert (status, errors) == (0, "")
    assert [one["accepted"] for one in said["files"]] == [{"traces": 30}, {"metrics": 5}, {"logs": 4}]
    status, said, _ = ingest(tmp_path / "lines.jsonl.gz", tmp_path / "one.json")
    assert said["total"]["accepted"] == {"traces": 2}
    assert said["total"]["repeated"] == {"traces": 30, "logs": 4}
    trace_id, _ = span_ids(traces.SerializeToString())[0]
    wait_until(lambda: running.value(f"select count(*) from spans where trace_id = '{trace_id}'") == 1)
    wait_until(lambda: running.value("select count(*) from logs where contains(body::varchar, 'line')") == 4)


def test_what_is_bad_is_named_with_its_line_and_the_rest_is_stored(tmp_path: Path, ingest: Any) -> None:
    request = trace_request(3, seed=811)
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"short"
    good = json.dumps(in_json(request))
    lines = [
        "{not json",
        good,
        '{"resourceSpans":[{"scopeSpans":5}]}',
        '{"other":1}',
        '{"spans":[{"spanID":"1"}]}',
        good[:-9],
    ]
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines))
    (tmp_path / "garbage.pb").write_bytes(b"\x01\x02\x03 garbage")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "torn.gz").write_bytes(gzip.compress(trace_body(50, seed=812))[:-20])
    (tmp_path / "broken.json").write_text('{\n  "data": [\n    oops\n]}')
    names = ["mixed.jsonl", "garbage.pb", "empty", "torn.gz", "broken.json", "absent"]
    status, said, errors = ingest(*(tmp_path / name for name in names))
    assert status == 1
    assert errors == "tailbudget: not all of it was stored: 10 places could not be read or were refused\n"
    assert (said["total"]["accepted"], said["total"]["rejected"]) == ({"traces": 2}, {"traces": 1})
    faults = [fault.removeprefix(f"{tmp_path}/") for fault in said["total"]["faults"]]
    assert [fault.partition(" ")[0] for fault in faults] == [
        "mixed.jsonl:1:", "mixed.jsonl:3:", "mixed.jsonl:4:", "mixed.jsonl:5:", "mixed.jsonl:6:",
        "garbage.pb:", "empty:", "torn.gz:", "broken.json:3:", "absent:",
    ]  # fmt: skip
    assert "scopeSpans is 5: expected a list" in faults[1]
    assert "spans[0]: KeyError: 'startTime'" in faults[3]
    assert "it cannot be read: No such file" in faults[-1]


def test_people_are_told_in_lines(tmp_path: Path, running: Collector, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "a.pb", tmp_path / "b.pb"]
    for number, file in enumerate(files):
        file.write_bytes(trace_body(1500, seed=821 + number))
    command = ["ingest", *map(str, files), "--http", f"http://127.0.0.1:{running.http_port}"]
    assert run(command) == 0
    told = [f"{file}: 1 body: 1,500 spans" for file in files]
    assert capsys.readouterr().out.splitlines() == [*told, "total: 2 bodies: 3,000 spans"]
    assert run(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "total: 2 bodies: 3,000 spans sent before"


def test_without_a_collector_the_way_to_start_one_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.pb").write_bytes(trace_body(1))
    assert run(["ingest", str(tmp_path / "a.pb"), "--http", f"http://127.0.0.1:{free_port()}"]) == 1
    assert "start it with `tailbudget collector`" in capsys.readouterr().err


def test_the_signal_of_every_captured_body_is_told_by_its_bytes() -> None:
    files = sorted(CONFORMANCE.glob("*/*.pb*"))
    for file in files:
        (body,) = read_bodies(file)
        assert isinstance(body, Body), (file, body)
        assert body.endpoint.signal == ("metrics" if ".metrics." in file.name else "traces")
    assert len(files) > 50


def test_the_traces_of_crisp_are_read_span_for_span(ingest: Any, running: Collector) -> None:
    files = sorted(shared("data/crisp_jaeger").rglob("*.json"))
    spans, ids = 0, set()
    for file in files:
        for trace in json.loads(file.read_text())["data"]:
            spans += len(trace["spans"])
        for body in read_bodies(file):
            assert not isinstance(body, Bad)
            ids |= set(span_ids(body.data))
    status, said, _ = ingest(*files)
    assert status == 0
    assert (said["total"]["bodies"], spans) == (33, 134)
    found = {name: said["total"][name].get("traces", 0) for name in ("accepted", "repeated")}
    assert sum(found.values()) == 134
    # Every file calls its trace A and its spans by letters, so that one span a letter is stored.
    stored = "select count(*) from spans where trace_id = '0000000000000000000000000000000a'"
    wait_until(lambda: running.value(stored) == len(ids))
