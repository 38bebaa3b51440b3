"""Prompts, answers, tool arguments and documents are on no disk unless asked for."""

import gzip
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tailbudget.collector.receive.decode import decode_traces
from tailbudget.collector.receive.privacy import AS_JOURNALED, Content, read_key
from tailbudget.collector.receive.redact import redact
from tailbudget.instrument.errors import UserError

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
    rows = (
        str(row["v"])
        for table in running.rows("select table_name as name from duckdb_tables()")
        for row in running.rows(f"select to_json(t)::varchar as v from {table['name']} t")
    )
    text = "\n".join(rows)
    return {secret for secret in SECRETS if secret in text}


def test_the_captures_say_each_of_the_secrets() -> None:
    sent = b"\0".join(gzip.decompress(body) if encoding else body for _, body, encoding in bodies())
    assert [secret for secret in SECRETS if secret.encode() not in sent] == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [("drop", "content_dropped"), ("hash", "content_hashed"), ("truncate:4", "content_truncated")],
)
def test_no_prompt_answer_or_document_of_the_captures_reaches_the_disk(
    tmp_path: Path, content: str, reason: str
) -> None:
    with collector(tmp_path / "data", content=content) as running:
        post_all(running)
        # It is killed with what came in the journal and lands from it: neither journal nor write-ahead log has any.
        running.kill()
        assert on_disk(tmp_path / "data") == set()
        running.start()
        wait_until(lambda: running.value("select count(*) from spans") == 365)
        assert in_tables(running) == set()
        counted = running.value(f"select sum(n)::bigint from ingest_health where reason = '{reason}'")
        assert counted > 700
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
    assert decode_traces(body, content=Content("keep")).spans["status_message"].to_pylist() == [message]


def test_the_journaled_body_decodes_to_the_same_rows() -> None:
    for path, body, encoding in bodies():
        if path == "/v1/traces":
            first = decode_traces(gzip.decompress(body) if encoding else body)
            assert first.scrubbed is None or decode_traces(first.scrubbed).spans == first.spans


def test_a_body_without_content_is_journaled_as_it_came() -> None:
    body = trace_request(attributes={"gen_ai.usage.input_tokens": 3}).SerializeToString()
    assert decode_traces(body).scrubbed is None
    assert ExportTraceServiceRequest.FromString(body)


PERSONAL = {
    "bob.smith@mail.example.org": "[e-mail]",
    "sk-proj-abcdefghijklmnop1234": "[key]",
    "AKIAIOSFODNN7EXAMPLE": "[key]",
    "Bearer abc.def-ghi123": "Bearer [token]",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def": "[jwt]",
    "4111 1111 1111 1111": "[card]",
    "5500-0000-0000-0004": "[card]",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----": "[private key]",
}


@pytest.mark.parametrize(("text", "placeholder"), PERSONAL.items())
def test_what_nobody_may_keep_is_taken_out_of_what_is_kept(text: str, placeholder: str) -> None:
    assert redact(f"it is {text}, no?") == f"it is {placeholder}, no?"
    assert redact(redact(text)) == redact(text)


@pytest.mark.parametrize(
    "text",
    ["4111 1111 1111 1112", "1767225600000000000", "task-force-one-two-three", "a@b", "meet @bob at 12:30", "v1.2.3"],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("text", ["a", "a.", "1 ", "4", "eyJ", "-----BEGIN ", "bearer ", "sk-", "a@", "a@a.", "+@1 "])
def test_redaction_takes_as_long_as_the_text_is(text: str) -> None:
    def took_s(times: int) -> float:
        began = time.process_time()
        redact(text * times)
        return time.process_time() - began

    assert took_s(400_000 // len(text)) < 20 * max(took_s(40_000 // len(text)), 0.005)


def kept_of(value: object, content: str) -> tuple[object, bytes]:
    """Return what a content attribute becomes, and the body as it is journaled."""
    rule = Content.parse(content, key="k" * 16)
    body = trace_request(attributes={"gen_ai.input.messages": value}).SerializeToString()
    batches = decode_traces(body, content=rule)
    assert batches.scrubbed is not None
    again = decode_traces(batches.scrubbed, content=rule)
    assert again.spans == batches.spans
    assert again.health == batches.health
    return json.loads(batches.spans["attrs"][0].as_py())["gen_ai.input.messages"], batches.scrubbed


def test_kept_content_is_redacted_wherever_it_lies() -> None:
    said = {"role": "user", "parts": ["I am bob.smith@mail.example.org", 7, {"key": "AKIAIOSFODNN7EXAMPLE"}]}
    kept, journaled = kept_of(said, "keep")
    assert kept == {"role": "user", "parts": ["I am [e-mail]", 7, {"key": "[key]"}]}
    assert b"bob.smith" not in journaled
    assert kept_of("I am bob.smith@mail.example.org", "truncate:12")[0] == "I am [e-mai…"


def test_hashed_content_tells_equal_texts_and_nothing_else() -> None:
    first, journaled = kept_of("yes", "hash")
    assert re.fullmatch("hash:[0-9a-f]{16}", str(first))
    assert kept_of("yes", "hash")[0] == first != kept_of("no", "hash")[0]
    assert b"yes" not in journaled
    other = Content.parse("hash", key="x" * 16)
    assert other.text("yes") != first
    assert Content.parse("hash").text("yes") != Content.parse("hash").text("yes")  # a key of each start's own


@pytest.mark.parametrize("value", ["a long prompt", ["a", "long", "prompt"], {"a": "long prompt"}, b"a long prompt"])
def test_truncated_content_has_at_most_so_many_characters(value: object) -> None:
    kept, _ = kept_of(value, "truncate:6")
    assert len(str(kept)) == 6
    assert str(kept).endswith("…")


@pytest.mark.parametrize("content", ["hash", "truncate:3"])
def test_the_attributes_of_a_content_event_are_treated_too(content: str) -> None:
    request = trace_request()
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.events.add(name="gen_ai.user.message", time_unix_nano=7, attributes=pairs({"text": "secret"}))
    batches = decode_traces(request.SerializeToString(), content=Content.parse(content))
    (attrs,) = (json.loads(text) for text in batches.events["attrs"].to_pylist())
    assert attrs["text"].startswith("hash:" if content == "hash" else "se…")
    assert b"secret" not in (batches.scrubbed or b"secret")


@pytest.mark.parametrize("content", ["", "Drop", "truncate", "truncate:0", "truncate:x", "drop:3", "hash:4"])
def test_a_rule_that_is_none_is_named(content: str) -> None:
    with pytest.raises(UserError, match="expected drop, hash, truncate:N"):
        Content.parse(content)


def test_a_user_is_the_tenant_by_a_hash_that_needs_the_key() -> None:
    rule = Content.parse("drop", key="k" * 16, tenant_from_user=True)
    promoted = ("slo.tenant",)

    def tenant(attributes: dict[str, object]) -> tuple[str | None, bytes]:
        body = trace_request(attributes=attributes).SerializeToString()
        batches = decode_traces(body, promoted=promoted, content=rule)
        again = decode_traces(batches.scrubbed or body, promoted=promoted, content=AS_JOURNALED)
        assert again.spans == batches.spans
        return batches.spans.to_pylist()[0].get("slo.tenant"), (batches.scrubbed or body)

    bob, journaled = tenant({"user.id": "bob@mail.example.org"})
    assert re.fullmatch("user:[0-9a-f]{16}", bob or "")
    assert b"bob" not in journaled
    assert tenant({"enduser.id": "bob@mail.example.org"})[0] == bob
    assert tenant({"user.id": "eve"})[0] != bob
    said, journaled = tenant({"user.id": "bob@mail.example.org", "slo.tenant": "acme"})
    assert (said, b"bob" in journaled) == ("acme", False)
    assert tenant({"k": 1})[0] is None
    with pytest.raises(UserError, match="--key-file"):
        Content.parse("drop", tenant_from_user=True)


def test_the_key_is_read_from_a_file_outside_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    assert read_key(tmp_path / "key", data=tmp_path / "data") == "0123456789abcdef"
    with pytest.raises(UserError, match="lies in the data folder"):
        read_key(tmp_path / "key", data=tmp_path)
    (tmp_path / "key").write_text("short")
    with pytest.raises(UserError, match="at least 16"):
        read_key(tmp_path / "key", data=tmp_path / "data")
