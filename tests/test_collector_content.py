"""Prompts, answers, tool arguments and documents are on no disk unless asked for."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tailbudget.collector.receive.decode import decode_traces

from .collector_support import Collector, collector, pairs, trace_request
from .support import CONFORMANCE, wait_until

#: Said in the captures: a system prompt, questions, answers, a tool's arguments and result, documents, a template.
SECRETS = (
    "You are terse",
    "Say twenty four tokens",
    "tok0 tok1 tok2",
    "weather in Paris",
    "Paris",
    "sunny",
    "fact 3 about latency",
    "why slow?",
    "expert Q&A system",
    "Given the context information and not prior",
)


def bodies() -> Iterator[tuple[str, bytes, str]]:
    """Yield path, bytes and Content-Encoding of every capture."""
    for manifest in sorted(CONFORMANCE.glob("*/manifest.jsonl")):
        for line in manifest.read_text().splitlines():
            row = json.loads(line)
            path = "/v1/metrics" if row["file"].endswith(".metrics.pb") else row["path"]
            yield path, (manifest.parent / row["file"]).read_bytes(), row["content_encoding"]


def post_all(running: Collector) -> None:
    for path, body, encoding in bodies():
        status, _, _ = running.post(path, body, **({"content_encoding": encoding} if encoding else {}))
        assert status == 200


def on_disk(data: Path) -> set[str]:
    files = b"\0".join(path.read_bytes() for path in data.rglob("*") if path.is_file())
    assert files
    return {secret for secret in SECRETS if secret.encode() in files}


def in_tables(running: Collector) -> set[str]:
    found = set()
    text = "not internal and data_type in ('VARCHAR', 'JSON')"
    for row in running.rows(f"select table_name t, column_name c from duckdb_columns() where {text}"):
        values = f"select distinct {row['c']}::varchar v from {row['t']}"
        found |= {secret for secret in SECRETS for value in running.rows(values) if secret in str(value["v"])}
    return found


def test_the_captures_say_each_of_the_secrets() -> None:
    sent = b"\0".join(gzip.decompress(body) if encoding else body for _, body, encoding in bodies())
    assert [secret for secret in SECRETS if secret.encode() not in sent] == []


def test_no_prompt_answer_or_document_of_the_captures_reaches_the_disk(tmp_path: Path) -> None:
    with collector(tmp_path / "data") as running:
        post_all(running)
        # It is killed with what came in the journal and lands from it: neither journal nor write-ahead log has any.
        running.kill()
        assert on_disk(tmp_path / "data") == set()
        running.start()
        wait_until(lambda: running.value("select count(*) from spans") == 365)
        assert in_tables(running) == set()
        dropped = running.value("select sum(n)::bigint from ingest_health where reason = 'content_dropped'")
        assert dropped > 700
        running.kill()
        assert on_disk(tmp_path / "data") == set()


def test_content_is_kept_when_asked_for(tmp_path: Path) -> None:
    with collector(tmp_path / "data", content="keep") as running:
        post_all(running)
        wait_until(lambda: running.value("select count(*) from spans") == 365)
        assert in_tables(running) == set(SECRETS)


@pytest.mark.parametrize(
    "key",
    [
        "gen_ai.input.messages",
        "gen_ai.prompt.0.content",
        "llm.input_messages.3.message.content",
        "input.value",
        "retrieval.documents.0.document.content",
        "traceloop.entity.output",
        "ai.prompt.messages",
        "db.query.text",
        "exception.message",
        "exception.stacktrace",
    ],
)
def test_a_known_key_is_dropped_and_counted_and_its_neighbours_stay(key: str) -> None:
    batches = decode_traces(trace_request(attributes={key: "secret", "gen_ai.prompt.name": "p"}).SerializeToString())
    assert json.loads(batches.spans["attrs"][0].as_py()) == {"gen_ai.prompt.name": "p"}
    assert batches.health["shop", "content_dropped"] == 1
    assert b"secret" not in (batches.scrubbed or b"secret")


def test_an_event_of_content_keeps_its_name_and_time_alone() -> None:
    request = trace_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.events.add(name="gen_ai.content.completion.chunk", time_unix_nano=7, attributes=pairs({"text": "secret"}))
    batches = decode_traces(request.SerializeToString())
    assert batches.events.select(["name", "t_ns", "attrs"]).to_pylist() == [
        {"name": "gen_ai.content.completion.chunk", "t_ns": 7, "attrs": "{}"}
    ]


def test_an_exception_keeps_its_type_alone() -> None:
    request = trace_request()
    said = {"exception.type": "ValueError", "exception.message": "bad secret", "exception.stacktrace": "at secret"}
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.events.add(name="exception", time_unix_nano=7, attributes=pairs(said))
    batches = decode_traces(request.SerializeToString())
    assert json.loads(batches.events["attrs"][0].as_py()) == {"exception.type": "ValueError"}
    assert b"secret" not in (batches.scrubbed or b"secret")


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("ValueError: bad prompt 'secret'", "ValueError"),
        ("asyncio.CancelledError: ", "asyncio.CancelledError"),
        ("upstream said\nsecret", "upstream said"),
        ("cannot parse 'secret' as JSON", "cannot parse"),
        ("can't connect", "can't connect"),
        ("abandoned stream", "abandoned stream"),
        ('"secret"', None),
        ("'secret' is unknown", None),
        ("x" * 500, "x" * 200),
    ],
)
def test_a_status_message_is_kept_up_to_what_it_quotes(message: str, kept: str | None) -> None:
    request = trace_request()
    request.resource_spans[0].scope_spans[0].spans[0].status.message = message
    body = request.SerializeToString()
    batches = decode_traces(body)
    assert batches.spans["status_message"].to_pylist() == [kept]
    assert batches.health["shop", "content_dropped"] == (message != kept)
    assert decode_traces(batches.scrubbed or body).spans == batches.spans
    assert decode_traces(body, content="keep").spans["status_message"].to_pylist() == [message]


def test_the_journaled_body_decodes_to_the_same_rows() -> None:
    for path, body, encoding in bodies():
        if path == "/v1/traces":
            first = decode_traces(gzip.decompress(body) if encoding else body)
            assert first.scrubbed is None or decode_traces(first.scrubbed).spans == first.spans


def test_a_body_without_content_is_journaled_as_it_came() -> None:
    body = trace_request(attributes={"gen_ai.usage.input_tokens": 3}).SerializeToString()
    assert decode_traces(body).scrubbed is None
    assert ExportTraceServiceRequest.FromString(body)
