"""Log records become rows of `logs` with every value in its place, and what they say of prompts is dropped."""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tailbudget.collector.journal.record import Record, read
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.census import TooManyItemsError, check_items
from tailbudget.collector.receive.decode import BadBodyError, decode_logs
from tailbudget.collector.receive.intake import decode
from tailbudget.collector.receive.privacy import DROP, Content
from tailbudget.collector.receive.values import json_text

from .collector_support import T0_NS, any_value, pairs

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def logs_request(*records: LogRecord) -> ExportLogsServiceRequest:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add()
    group.resource.attributes.extend(pairs({"service.name": "shop"}))
    group.scope_logs.add().log_records.extend(records)
    group.scope_logs[0].scope.name = "lib"
    return request


def record(*, body: object = None, attributes: Mapping[str, object] = {}, **fields: object) -> LogRecord:
    value = None if body is None else any_value(body)
    return LogRecord(body=value, attributes=pairs(attributes), **fields)  # type: ignore[arg-type]


def test_a_record_is_what_was_sent() -> None:
    sent = record(
        trace_id=bytes(range(16)),
        span_id=b"\x00" * 7 + b"\x09",
        time_unix_nano=T0_NS,
        observed_time_unix_nano=T0_NS + 1,
        severity_number=13,
        severity_text="WARN",
        event_name="cache.miss",
        body={"key": [1, None]},
        attributes={"k": 0.5},
        dropped_attributes_count=2,
    )
    request = logs_request(sent)
    request.resource_logs[0].scope_logs[0].scope.attributes.extend(pairs({"of_scope": True}))
    batches = decode_logs(request.SerializeToString())
    (row,) = batches.logs.to_pylist()
    assert row == {
        "trace_id": UUID(bytes=bytes(range(16))),
        "span_id": 9,
        "t_ns": T0_NS,
        "observed_ns": T0_NS + 1,
        "severity_number": 13,
        "severity": "WARN",
        "event_name": "cache.miss",
        "body": '{"key":[1,null]}',
        "service": "shop",
        "scope": "lib",
        "resource_id": batches.resources["resource_id"][0].as_py(),
        "attrs": '{"of_scope":true,"k":0.5,"otel.dropped_attributes_count":2}',
    }
    assert batches.health == {("shop", "accepted"): 1}
    assert batches.scrubbed is None


def test_what_a_record_lacks_is_null() -> None:
    (row,) = decode_logs(logs_request(LogRecord()).SerializeToString()).logs.to_pylist()
    absent = {name for name, value in row.items() if value is None}
    assert absent == set(row) - {"service", "scope", "resource_id", "attrs"}


@pytest.mark.parametrize("trace_id", [b"", b"\x01" * 15, bytes(16)])
def test_a_record_with_an_invalid_id_is_kept_without_it(trace_id: bytes) -> None:
    batches = decode_logs(logs_request(record(trace_id=trace_id, span_id=bytes(8), body="x")).SerializeToString())
    assert batches.logs.select(["trace_id", "span_id", "body"]).to_pylist() == [
        {"trace_id": None, "span_id": None, "body": '"x"'}
    ]
    assert batches.rejected == 0


@pytest.mark.parametrize("name", ["gen_ai.user.message", "gen_ai.choice", "gen_ai.client.inference.operation.details"])
@pytest.mark.parametrize("field", ["event_name", "event.name"])
def test_an_event_that_carries_messages_keeps_its_name_and_time_alone(name: str, field: str) -> None:
    named = {} if field == "event_name" else {field: name}
    said = {"gen_ai.system": "openai", "role": "secret", **named}
    event = record(body={"content": "secret"}, attributes=said, time_unix_nano=T0_NS)
    if field == "event_name":
        event.event_name = name
    body = logs_request(event).SerializeToString()
    batches = decode_logs(body)
    (row,) = batches.logs.to_pylist()
    assert (row["event_name"], row["t_ns"], row["body"], row["attrs"]) == (name, T0_NS, None, json_text(named))
    assert batches.health["shop", "content_dropped"] == 3
    assert batches.scrubbed is not None
    assert b"secret" not in batches.scrubbed
    assert decode_logs(batches.scrubbed).logs == batches.logs
    (kept,) = decode_logs(body, content=Content("keep")).logs.to_pylist()
    assert (json.loads(kept["body"]), json.loads(kept["attrs"])) == ({"content": "secret"}, said)


def test_known_keys_are_dropped_from_attributes_and_from_a_body_that_is_a_map() -> None:
    said = {"gen_ai.input.messages": "secret", "gen_ai.request.model": "m"}
    batches = decode_logs(logs_request(record(body=said, attributes=said, event_name="e")).SerializeToString())
    (row,) = batches.logs.to_pylist()
    assert json.loads(row["body"]) == json.loads(row["attrs"]) == {"gen_ai.request.model": "m"}
    assert batches.health["shop", "content_dropped"] == 2
    assert b"secret" not in (batches.scrubbed or b"secret")


def test_what_is_no_message_is_refused() -> None:
    with pytest.raises(BadBodyError):
        decode("logs", b"\xff", content=DROP)


def test_records_are_counted_before_they_are_parsed() -> None:
    body = logs_request(*[LogRecord()] * 5).SerializeToString()
    check_items("logs", body, most=5)
    with pytest.raises(TooManyItemsError, match="more than 4 log records"):
        check_items("logs", body, most=4)


def test_the_journal_gives_a_body_of_logs_back(tmp_path: Path) -> None:
    written = Record(signal="logs", encoding="identity", digest=bytes(16), arrived_ns=1, payload=b"body")
    path = tmp_path / "segment"
    path.write_bytes(written.pack())
    assert read(path, start=0) == written


def test_records_land_with_their_instants_and_are_counted(tmp_path: Path) -> None:
    body = logs_request(
        record(body={"a": 1}, time_unix_nano=T0_NS, trace_id=b"\x01" * 16, span_id=b"\x02" * 8),
        record(body="text", observed_time_unix_nano=T0_NS + 1_000_000_000),
        record(),
    ).SerializeToString()
    with open_database(tmp_path) as connection:
        digest = hashlib.blake2b(body, digest_size=16).digest()
        batches = decode("logs", body, content=DROP)
        counted = Landing(connection).land([Body(digest=digest, batches=batches)], now=NOW + timedelta(days=1))
        rows = connection.cursor().sql("select * from logs order by t").to_arrow_table().to_pylist()
        stored = connection.execute("select signal, reason, n from ingest_health").fetchall()
        assert connection.execute("select service from resources").fetchall() == [("shop",)]
    assert [row["t"] for row in rows] == [NOW, NOW + timedelta(seconds=1), NOW + timedelta(days=1)]
    assert [row["observed"] for row in rows] == [None, NOW + timedelta(seconds=1), None]
    assert [row["body"] for row in rows] == ['{"a":1}', '"text"', None]
    assert (str(rows[0]["trace_id"]).replace("-", ""), rows[0]["span_id"]) == ("01" * 16, 0x0202020202020202)
    assert stored == [("logs", "accepted", 3)]
    assert counted == {("shop", "logs", "accepted"): 3}
