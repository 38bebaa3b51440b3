"""Real telemetry of nineteen sources lands as the calls that its clients made, and every other span as what it is."""

import gzip
import json
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pytest

from tailbudget.analytics.recognise import PROMOTED, span_select
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.receive.batches import SpanBatches
from tailbudget.collector.receive.decode import decode_traces

from .spans import Row, database, promoted, rows
from .support import CONFORMANCE

CAPTURES = CONFORMANCE.with_name("captures")
#: (source, file) of each captured body.
CASES = [
    (path.parent.name, file)
    for path in (*sorted(CONFORMANCE.glob("*/expected.json")), *sorted(CAPTURES.glob("*/expected.json")))
    for file in json.loads(path.read_text(encoding="utf-8"))
]
#: Name in expected.json -> column of `calls`; where expected.json has no such name, the column is null.
COLUMNS = {
    "model": "model", "in": "input_tokens", "out": "output_tokens", "cached": "cached_tokens", "outcome": "outcome",
    "error": "error",
}  # fmt: skip
SECONDS = {
    "ttft": "ttft_ms",
    "max_gap": "max_gap_ms",
    "queue": "queue_ms",
    "prefill": "prefill_ms",
    "decode": "decode_ms",
}
#: Every call is cut into these; only a server's word for them can be wrong.
CUTS = ("queue_ms", "prefill_ms", "decode_ms")
WITHIN_MS, CLOCKS_WITHIN_MS = 2, 60
#: What expected.json calls another span, up to a colon -> its role and stage.
OTHERS = {
    "chain": ("container", None),
    "container": ("container", None),
    "server": ("container", None),
    "http-part": ("ignored", None),
    "not a call": ("ignored", None),
    "network": ("network", None),
    "retrieval": ("stage", "retrieval"),
    "prompt": ("stage", "prompt"),
    "tools": ("stage", "tools"),
    "duplicate of inner call": ("call", None),
    "tail of the streamed call": ("tail", None),
}
#: An engine's span that stands for a call tells the server's first token alone.
CALLS = """
    select calls.* replace (if(spans.role = 'engine', server_ttft_ms, calls.ttft_ms) as ttft_ms),
        spans.name, spans.duration_ns / 1e6 as span_ms
    from calls
    join spans using (trace_id, span_id)
    where list_contains($traces::uuid[], trace_id)
"""

#: Of the body's traces.
SPANS = "(from spans where list_contains($traces::uuid[], trace_id))"
#: Tails of calls in the same trace: they are part of the call, one in a trace of its own is part of none.
TAILS = f"""
    select span_id from {SPANS}
    where role = 'tail' and trace_id in (select trace_id from spans where role = 'call')
"""


def folder(source: str) -> Path:
    return (CAPTURES if (CAPTURES / source).is_dir() else CONFORMANCE) / source


@cache
def expected(source: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder(source) / "expected.json").read_text(encoding="utf-8"))
    return found


@cache
def clock_lag() -> dict[str, str]:
    found: dict[str, str] = json.loads((CONFORMANCE / "clock_lag.json").read_text(encoding="utf-8"))
    return found


class Assembled(NamedTuple):
    """A database in which a body is, and the traces that it holds."""

    connection: duckdb.DuckDBPyConnection
    traces: list[str]

    def rows(self, query: str) -> list[Row]:
        """Return the answer to a question that names the traces it is about."""
        return rows(self.connection, query, {"traces": self.traces})


@cache
def decoded(source: str, file: str) -> SpanBatches:
    body = (folder(source) / file).read_bytes()
    return decode_traces(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body, promoted=PROMOTED)


def traces_of(source: str, file: str) -> list[str]:
    return sorted({str(trace_id) for trace_id in decoded(source, file).spans["trace_id"].to_pylist()})


@cache
def together(source: str, files: Sequence[str]) -> duckdb.DuckDBPyConnection:
    """Return a database with what the bodies hold, assembled at once."""
    connection = database()
    for file in files:
        batches = decoded(source, file)
        connection.register("batch_spans", batches.spans)
        connection.register("batch_events", batches.events)
        connection.execute(f"insert into spans_open by name {span_select(promoted(batches.spans))}")
    connection.execute("insert into dirty select distinct trace_id, now(), now(), true, null, null from spans")
    assert not Assembler(connection).tick(datetime.now(UTC)).unfinished
    return connection


def assembled(source: str, file: str) -> Assembled:
    """Return a database with the body, and with the other bodies of its source that tell of other traces."""
    files = tuple(name for folder_, name in CASES if folder_ == source)
    told = Counter(trace for name in files for trace in traces_of(source, name))
    apart = tuple(name for name in files if all(told[trace] == 1 for trace in traces_of(source, name)))
    return Assembled(together(source, apart if file in apart else (file,)), traces_of(source, file))


def differences(wanted: dict[str, Any], call: Row) -> list[str]:
    """Return what the call's row says otherwise."""
    found = [f"{column} {call[column]!r}" for key, column in COLUMNS.items() if wanted.get(key) != call[column]]
    if bool(wanted.get("stream")) != bool(call["stream"]):  # false and unknown are both no claim to have streamed
        found.append(f"stream {call['stream']!r}")
    for key, column in SECONDS.items():
        ms, want_s = call[column], wanted.get(key)
        if want_s is None:
            wrong = ms is not None and column not in CUTS
        else:
            wrong = ms is None or abs(ms - want_s * 1000) > WITHIN_MS
        if wrong:
            found.append(f"{column} {ms!r}")
    return found


def off_the_clients_clock(source: str, file: str, calls: list[Row]) -> bool:
    """Whether the only call's first token is further from what the client saw than clocks explain."""
    seen_s = expected(source)[file]["client_truth"].get("client_ttft_s")
    told_ms = [call["ttft_ms"] for call in calls if call["ttft_ms"] is not None]
    return seen_s is not None and len(told_ms) == 1 and abs(told_ms[0] - seen_s * 1000) > CLOCKS_WITHIN_MS


@pytest.mark.parametrize(("source", "file"), CASES)
def test_a_capture_lands_as_the_calls_that_were_made_and_nothing_else(source: str, file: str) -> None:
    found = assembled(source, file)
    calls, wanted = found.rows(CALLS), expected(source)[file]
    assert off_the_clients_clock(source, file, calls) == (f"{source}/{file}" in clock_lag())
    left = list(calls)
    for call in wanted["calls"]:
        same = [row for row in left if row["name"] == call["span"] and abs(row["span_ms"] - call["span_ms"]) < 0.1]
        assert same, f"no call {call['span']}"
        assert differences(call, same[0]) == [], call
        left.remove(same[0])
    assert left == []

    joined = {span_id for call in calls for span_id in call["spans"]}
    assert joined == {
        row["span_id"] for row in found.rows(f"select span_id from {SPANS} where role in ('call', 'engine')")
    } | {row["span_id"] for row in found.rows(TAILS)}
    others = found.rows(f"select name, role, stage from {SPANS} where span_id not in (select span_id from calls)")
    assert sorted((row["name"], row["role"], row["stage"] or "") for row in others) == sorted(
        (span["name"], role, stage or "")
        for span in wanted["other_spans"]
        for role, stage in [OTHERS[span["stage_or_role"].partition(":")[0]]]
    )


@pytest.mark.parametrize(
    ("source", "file"),
    [("openinference-langchain", "002.pb"), ("openinference-langchain", "003.pb"), ("traceloop-langchain", "002.pb")],
)
def test_a_parser_that_reads_a_stream_hides_nothing_of_its_call(source: str, file: str) -> None:
    """StrOutputParser begins with the first chunk and ends after the call."""
    found = assembled(source, file)
    (call,), (request,) = (
        found.rows(f"from {table} where list_contains($traces::uuid[], trace_id)") for table in ("calls", "requests")
    )
    assert request["decode_ms"] == call["decode_ms"] > 0.9 * request["total_ms"]


def test_few_calls_are_explained_away() -> None:
    assert len(clock_lag()) <= 3
    assert all(clock_lag().values())
