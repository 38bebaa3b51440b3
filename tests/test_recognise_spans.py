"""A span of any known dialect lands with its role, its stage and its canonical columns."""

import csv
import gzip
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from tailbudget.analytics.recognise import PROMOTED, RULES, rules, span_select
from tailbudget.collector.receive.batches import SpanBatches
from tailbudget.collector.receive.decode import decode_traces

from .spans import Row, Span, database, event_table, land, one, promoted, rows, span_table
from .support import CONFORMANCE

HTTP = {"http.request.method": "POST"}
MODEL = {"gen_ai.request.model": "m"}


@cache
def emptied() -> duckdb.DuckDBPyConnection:
    return database()


def landed(name: str = "x", *, kind: str = "INTERNAL", scope: str = "s", **more: object) -> Row:
    attrs = more.get("attrs", {})
    events = more.get("events", ())
    assert isinstance(attrs, dict)
    assert isinstance(events, tuple)
    connection = emptied()
    connection.execute("delete from spans_open; delete from dirty")
    land(connection, [Span(name, 10, 510, 7, kind=kind, scope=scope, attrs=attrs, events=events)])
    return one(connection, "select * from spans")


@pytest.mark.parametrize(
    ("name", "kind", "attrs", "role", "stage"),
    [
        ("retrieval docs", "CLIENT", {"slo.stage": "retrieval"}, "stage", "retrieval"),
        ("chat m", "CLIENT", {"slo.stage": "prompt", "gen_ai.operation.name": "chat"}, "call", "prompt"),
        ("x", "INTERNAL", {"slo.stage": "nonsense"}, "container", None),
        ("POST /chat", "SERVER", {"slo.request": "/chat", **HTTP}, "container", None),
        ("chat m", "CLIENT", {"gen_ai.operation.name": "chat", **HTTP}, "call", None),
        ("embeddings m", "CLIENT", {"gen_ai.operation.name": "embeddings"}, "stage", "retrieval"),
        ("execute_tool t", "INTERNAL", {"gen_ai.operation.name": "execute_tool"}, "stage", "tools"),
        ("invoke_agent a", "INTERNAL", {"gen_ai.operation.name": "invoke_agent"}, "container", None),
        ("x", "INTERNAL", {"gen_ai.operation.name": "unheard_of", "gen_ai.request.model": "m"}, "call", None),
        ("llm_request", "SERVER", {"gen_ai.latency.e2e": 1.5}, "engine", None),
        ("ChatOpenAI", "INTERNAL", {"openinference.span.kind": "LLM"}, "call", None),
        ("r", "INTERNAL", {"openinference.span.kind": "RETRIEVER"}, "stage", "retrieval"),
        ("p", "INTERNAL", {"openinference.span.kind": "PROMPT"}, "stage", "prompt"),
        ("t", "INTERNAL", {"openinference.span.kind": "TOOL"}, "stage", "tools"),
        ("c", "INTERNAL", {"openinference.span.kind": "CHAIN"}, "container", None),
        ("x._prepare_chat_with_tools", "INTERNAL", {"openinference.span.kind": "LLM"}, "ignored", None),
        ("raw_gen_ai_request", "INTERNAL", {"gen_ai.request.model": "m"}, "ignored", None),
        ("t.tool", "INTERNAL", {"traceloop.span.kind": "tool"}, "stage", "tools"),
        ("t.task", "INTERNAL", {"traceloop.span.kind": "task"}, "container", None),
        ("s", "INTERNAL", {"logfire.span_type": "log", "gen_ai.request.model": "m"}, "tail", None),
        ("f", "INTERNAL", {"gen_ai.tool.name": "f"}, "stage", "tools"),
        ("chroma.query", "INTERNAL", {"db.system": "chroma", "db.operation": "query"}, "stage", "retrieval"),
        ("chroma.add", "INTERNAL", {"db.system": "chroma", "db.operation": "add"}, "container", None),
        ("qdrant.query_points", "CLIENT", {"db.system": "Qdrant"}, "stage", "retrieval"),
        ("select", "CLIENT", {"db.system": "postgresql"}, "container", None),
        ("POST", "CLIENT", HTTP, "network", None),
        ("POST", "CLIENT", {"http.method": "POST"}, "network", None),
        ("POST /x", "SERVER", HTTP, "container", None),
        ("POST /x http send", "INTERNAL", {"asgi.event.type": "http.response.body"}, "ignored", None),
        ("x", "INTERNAL", {"llm.model_name": "m"}, "call", None),
        ("litellm_request", "INTERNAL", {"gen_ai.operation.name": "aembedding", **MODEL}, "stage", "retrieval"),
        ("Req 1", "INTERNAL", {"module": "sglang::request"}, "engine", None),
        ("prefill_waiting", "INTERNAL", {}, "slice", "queue"),
        ("chunked_prefill", "INTERNAL", {}, "slice", "prefill"),
        ("decode_loop", "INTERNAL", {}, "slice", "decode"),
        ("g", "INTERNAL", {"langfuse.observation.type": "generation"}, "call", None),
        ("r", "INTERNAL", {"langfuse.observation.type": "retriever"}, "stage", "retrieval"),
        ("a", "INTERNAL", {"langfuse.observation.type": "agent", **MODEL}, "container", None),
        ("x", "INTERNAL", {"ai.operationId": "ai.generateText", "ai.model.id": "m"}, "container", None),
        ("x", "INTERNAL", {"ai.operationId": "ai.generateText.doGenerate"}, "call", None),
        ("x", "INTERNAL", {"ai.operationId": "ai.embedMany.doEmbed"}, "stage", "retrieval"),
        ("x", "INTERNAL", {"ai.operationId": "ai.toolCall"}, "stage", "tools"),
        ("x", "INTERNAL", {"genkit:type": "action", "genkit:metadata:subtype": "model"}, "call", None),
        ("x", "INTERNAL", {"genkit:type": "flow"}, "container", None),
        ("x", "INTERNAL", {"langsmith.span.kind": "llm"}, "call", None),
        ("x", "INTERNAL", {"langsmith.span.kind": "prompt", "gen_ai.operation.name": "chat"}, "stage", "prompt"),
        ("x", "CLIENT", {"gen_ai.operation.name": "chat.completions"}, "call", None),
        ("x", "CLIENT", {"gen_ai.operation.name": "acompletion", **MODEL}, "call", None),
        ("x", "INTERNAL", {"gen_ai.operation.name": "guardrail"}, "stage", "prompt"),
        ("x", "CLIENT", {"mcp.method.name": "tools/call"}, "stage", "tools"),
        ("x", "CLIENT", {"mcp.method.name": "tools/list"}, "container", None),
        ("x", "INTERNAL", {"langsmith.span.kind": "chain", **MODEL}, "container", None),
        ("x", "INTERNAL", {}, "container", None),
    ],
)
def test_what_a_span_is_taken_for(name: str, kind: str, attrs: dict[str, object], role: str, stage: str | None) -> None:
    row = landed(name, kind=kind, attrs=attrs)
    assert (row["role"], row["stage"]) == (role, stage)
    assert row["rule"] in {rule.name for rule in rules()} | {"none"}


@pytest.mark.parametrize("table", ["rules", "aliases", "first_token"])
def test_each_row_of_the_tables_says_whose_it_is(table: str) -> None:
    with (RULES / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            assert None not in row, row
            assert row["source"], row


def test_tokens_model_and_provider_come_from_the_first_alias_that_is_there() -> None:
    row = landed(
        attrs={"gen_ai.usage.prompt_tokens": 57, "llm.usage.prompt_tokens": 1, "llm.token_count.completion": 24}
    )
    assert (row["input_tokens"], row["output_tokens"], row["cached_tokens"]) == (57, 24, None)
    row = landed(attrs={"gen_ai.request.model": "m", "gen_ai.response.model": "m-2026", "gen_ai.system": "openai"})
    assert (row["model"], row["provider"]) == ("m-2026", "openai")
    assert landed(attrs={"llm.invocation_parameters": '{"model": "inner"}'})["model"] == "inner"
    assert landed(attrs={"llm.invocation_parameters": "{not json"})["model"] is None


@pytest.mark.parametrize(
    ("attrs", "column", "value"),
    [
        ({"gen_ai.response.finish_reasons": ["stop", "length"]}, "finish_reason", "stop"),
        ({"gen_ai.response.finish_reasons": "('tool_calls',)"}, "finish_reason", "tool_calls"),
        ({"gen_ai.response.finish_reasons": "stop, length"}, "finish_reason", "stop"),
        ({"ai.response.finishReason": "tool-calls"}, "finish_reason", "tool-calls"),
        ({"langfuse.observation.metadata.finish_reason": '"stop"'}, "finish_reason", "stop"),
        ({"gen_ai.usage.input_token_details": "{'audio': 1, 'cache_read': 32}"}, "cached_tokens", 32),
        ({"gen_ai.usage.input_token_details": '{"cache_read": 32}'}, "cached_tokens", 32),
        ({"langfuse.observation.usage_details": '{"prompt_tokens": 57, "completion_tokens": 24}'}, "input_tokens", 57),
        ({"llm.invocation_parameters": '{"max_completion_tokens": 99}'}, "max_tokens", 99),
        ({"langfuse.observation.model.parameters": '{"max_tokens": "Infinity"}'}, "max_tokens", None),
        ({"langsmith.request.streaming": True}, "stream", True),
        ({"gen_ai.system": "langchain", "langsmith.metadata.ls_provider": "openai"}, "provider", "openai"),
        ({"ai.stream.msToFirstChunk": 80}, "ttfc_ns", 80_000_000),
    ],
)
def test_dialects_say_the_same_in_their_own_words(attrs: dict[str, object], column: str, value: object) -> None:
    assert landed(attrs=attrs)[column] == value


def test_an_exception_that_was_recorded_after_the_end_makes_no_span_longer() -> None:
    assert landed(events=(("exception", 5000, {"exception.type": "X"}),))["last_event_ns"] is None


def test_budgets_are_milliseconds_by_name_and_null_without_any() -> None:
    row = landed(attrs={"slo.budget.total": 4.0, "slo.budget.retrieval": 0.3, "slo.budget.ttft": "soon"})
    assert dict(row["budgets"]) == {"total": 4000.0, "retrieval": 300.0}
    assert landed(attrs={})["budgets"] is None


@pytest.mark.parametrize(
    ("attrs", "events", "ttft_ms", "source"),
    [
        (
            {"slo.time_to_first_token": 0.2, "gen_ai.response.time_to_first_chunk": 0.1},
            (),
            200,
            "slo.time_to_first_token",
        ),
        ({"gen_ai.response.time_to_first_chunk": 0.1}, (), 100, "gen_ai.response.time_to_first_chunk"),
        ({"gen_ai.response.time_to_first_chunk": 0.1, "slo.stream.end": "closed"}, (), None, None),
        ({}, (("First Token Stream Event", 140, {}),), 130, "First Token Stream Event"),
        ({}, (("gen_ai.content.completion.chunk", 60, {}),) * 5, 50, "gen_ai.content.completion.chunk"),
        ({}, (("gen_ai.content.completion.chunk", 60, {}),) * 128, None, None),
        ({"ai.response.msToFirstChunk": 80}, (), 80, "ai.response.msToFirstChunk"),
        ({"slo.time_to_first_token": 0.2, "gen_ai.request.stream": False}, (), None, None),
        ({"slo.time_to_first_token": -1}, (), None, None),
        ({"slo.time_to_first_token": "NaN"}, (), None, None),
    ],
)
def test_the_first_token_comes_from_the_best_signal_that_is_there(
    attrs: dict[str, object],
    events: tuple[tuple[str, float, dict[str, object]], ...],
    ttft_ms: float | None,
    source: str | None,
) -> None:
    row = landed(attrs=attrs, events=events)
    assert (row["ttft_ns"], row["ttft_source"]) == (ttft_ms and ttft_ms * 1_000_000, source)


def test_the_first_chunk_of_a_stream_of_ours_is_kept_beside_its_first_token() -> None:
    attrs = {"gen_ai.response.time_to_first_chunk": 0.1, "slo.time_to_first_token": 0.2, "slo.stream.end": "complete"}
    assert [landed(attrs=attrs)[column] for column in ("ttfc_ns", "ttft_ns")] == [100_000_000, 200_000_000]
    attrs = {"gen_ai.response.time_to_first_chunk": 0.1, "slo.stream.end": "closed"}
    assert [landed(attrs=attrs)[column] for column in ("ttfc_ns", "ttft_ns")] == [100_000_000, None]


def test_the_first_token_that_openlit_counts_from_the_headers_is_not_believed() -> None:
    attrs = {"gen_ai.server.time_to_first_token": 0.003}
    assert landed(scope="openlit.instrumentation.openai", attrs=attrs)["ttft_ns"] is None
    assert landed(scope="else", attrs=attrs)["ttft_ns"] == 3_000_000


def test_connecting_is_the_sum_of_its_parts_and_never_the_wait_for_headers() -> None:
    row = landed(attrs={"slo.net.dns": 0.01, "slo.net.connect": 0.02, "slo.net.wait_headers": 5.0})
    assert row["connect_ns"] == 30_000_000
    assert landed(attrs={"slo.net.wait_headers": 5.0})["connect_ns"] is None


def test_where_a_span_went_is_its_address_with_its_port() -> None:
    assert landed(attrs={"server.address": "h", "server.port": 8000})["server_address"] == "h:8000"
    assert landed(attrs={"server.address": "h:8000", "server.port": 8000})["server_address"] == "h:8000"
    assert landed(attrs={"url.full": "https://api.example/v1/x?y"})["peer"] == "api.example"


def test_an_exception_event_names_the_error_where_no_attribute_does() -> None:
    events = (("exception", 20, {"exception.type": "CancelledError"}),)
    assert landed(events=events)["error"] == "CancelledError"
    assert landed(attrs={"error.type": "timeout"}, events=events)["error"] == "timeout"


def test_values_of_the_wrong_type_are_null_not_an_error() -> None:
    attrs = {"gen_ai.usage.input_tokens": "many", "slo.net.attempts": [1], "gen_ai.response.finish_reasons": "[oops"}
    row = landed(attrs={**attrs, "slo.synthetic": "True"})
    assert (row["input_tokens"], row["attempts"], row["finish_reason"], row["synthetic"]) == (None, None, None, True)


def test_the_select_yields_the_columns_of_the_table_in_its_order() -> None:
    connection = database()
    connection.register("batch_spans", span_table([]))
    connection.register("batch_events", event_table([]))
    connection.execute(f"create table selected as {span_select()}")
    columns = {
        name: [row["column_name"] for row in rows(connection, f"describe {name}")] for name in ("spans", "selected")
    }
    assert columns["selected"] == columns["spans"]


def decoded(path: Path) -> SpanBatches:
    body = path.read_bytes()
    return decode_traces(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body, promoted=PROMOTED)


def selected(spans: pa.Table, events: pa.Table, sql: str) -> list[Row]:
    """Return the rows that a select makes of a batch."""
    connection = emptied()
    connection.register("batch_spans", spans)
    connection.register("batch_events", events)
    connection.execute("delete from spans_open")
    connection.execute(f"insert into spans_open by name {sql}")
    return rows(connection, "select * replace (budgets::varchar as budgets) from spans order by all")


@pytest.mark.parametrize("source", sorted(path.name for path in CONFORMANCE.iterdir() if path.is_dir()))
def test_leaving_out_what_a_batch_cannot_have_changes_nothing(source: str) -> None:
    files = [path for path in sorted((CONFORMANCE / source).glob("0*.pb")) if not path.name.endswith(".metrics.pb")]
    bodies = list(map(decoded, files))
    events = pa.concat_tables([body.events for body in bodies])
    whole = pa.concat_tables([*(body.spans for body in bodies), span_table([])], promote_options="default")
    short = [
        row
        for body in bodies
        for row in selected(body.spans, body.events, span_select(promoted(body.spans), events=body.events.num_rows > 0))
    ]
    assert len(short) == whole.num_rows > 0
    wanted = selected(whole, events, span_select())
    assert sorted(map(repr, short)) == sorted(map(repr, wanted))


def test_promoted_keys_are_attributes_named_once() -> None:
    assert len(set(PROMOTED)) == len(PROMOTED)
    assert {"slo.stage", "gen_ai.usage.input_tokens", "slo.budget.total"} <= set(PROMOTED)
    assert not {"name", "kind", "scope"} & set(PROMOTED)


def test_chunk_events_give_the_chunks_and_the_longest_gap_unless_the_span_lost_some() -> None:
    def chunks(n: int) -> Row:
        return landed(events=tuple(("llm.content.completion.chunk", 100 + i * i, {}) for i in range(n)))

    assert [chunks(4)[column] for column in ("chunks", "max_gap_ns", "ttfc_ns", "last_event_ns")] == [
        4, 5_000_000, 90_000_000, 99_000_000,
    ]  # fmt: skip
    assert (chunks(1)["chunks"], chunks(1)["max_gap_ns"]) == (1, None)
    assert (chunks(128)["chunks"], chunks(128)["max_gap_ns"]) == (None, None)


def test_what_a_dialect_keeps_in_one_of_its_own_fields_is_read_there_only() -> None:
    usage = {"langfuse.observation.usage_details": '{"input": 57, "output": 24}'}
    assert [landed(attrs=usage)[column] for column in ("input_tokens", "output_tokens")] == [57, 24]
    assert landed(attrs={"rid": "r"})["response_id"] is None
    assert landed(attrs={"rid": "r", "module": "sglang::request"})["response_id"] == "r"
    assert landed(attrs={"duration": 0.5})["streamed_ns"] is None
    assert landed(attrs={"duration": 0.5, "logfire.span_type": "log"})["streamed_ns"] == 500_000_000
    assert landed(attrs={"slo.hedged": "true"})["hedged"] is True
    assert landed(attrs={"slo.fallback": "model-b"})["fallback"] is True
