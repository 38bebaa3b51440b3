"""Real telemetry of thirteen sources lands as the calls that its clients made."""

import gzip
import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tailbudget.analytics.recognise import PROMOTED, span_select
from tailbudget.collector.assemble import Assembler
from tailbudget.collector.receive.decode import decode_traces

from .spans import Row, database, rows
from .support import SHARED, shared

SOURCES = sorted(path.name for path in (SHARED / "conformance").glob("*") if path.is_dir()) or ["absent"]
#: Name in expected.json -> column of `calls`.
COLUMNS = {
    "model": "model", "in": "input_tokens", "out": "output_tokens", "cached": "cached_tokens", "stream": "stream",
    "outcome": "outcome", "error": "error",
}  # fmt: skip
#: An engine's span that stands for a call tells the server's first token alone.
CALLS = """
    select calls.* exclude (role) replace (if(spans.role = 'engine', server_ttft_ms, calls.ttft_ms) as ttft_ms),
        spans.name, spans.duration_ns / 1e6 as span_ms, files.file
    from calls
    join spans using (trace_id, span_id)
    join files using (trace_id)
"""
SECONDS = {"ttft": "ttft_ms", "queue": "queue_ms", "prefill": "prefill_ms", "decode": "decode_ms"}


def calls_of(folder: Path, files: Iterable[str]) -> list[Row]:
    """Return the calls of each file; files that share a trace id are told apart."""
    connection = database()
    connection.execute("create table files (trace_id uuid, file varchar)")
    for name in files:
        body = (folder / name).read_bytes()
        batches = decode_traces(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body, promoted=PROMOTED)
        connection.register("batch_spans", batches.spans)
        connection.register("batch_events", batches.events)
        connection.execute(f"create or replace temp table landed as {span_select()}")
        connection.execute("update landed set trace_id = md5($file || trace_id)::uuid", {"file": name})
        connection.execute("insert into spans by name from landed")
        connection.execute("insert into files select distinct trace_id, $file from landed", {"file": name})
    connection.execute("insert into dirty select distinct trace_id, now(), now(), true from spans")
    Assembler(connection).tick(datetime.now(UTC))
    return rows(connection, CALLS)


def differences(wanted: dict[str, Any], call: Row) -> list[str]:
    """Return what the call's row says otherwise."""
    found = [f"{key} {call[name]!r}" for key, name in COLUMNS.items() if key in wanted and wanted[key] != call[name]]
    for key, column in SECONDS.items():
        if key in wanted:
            ms, want_s = call[column], wanted[key]
            if (ms is None) != (want_s is None) or (ms is not None and abs(ms / 1000 - want_s) > 0.0006):
                found.append(f"{key} {ms!r}")
    return found


@pytest.mark.parametrize("source", SOURCES)
def test_every_call_is_found_once_with_what_its_telemetry_says(source: str) -> None:
    folder = shared("conformance") / source
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    found = calls_of(folder, expected)
    for file, wanted in expected.items():
        calls = [row for row in found if row["file"] == file]
        assert len(calls) == len(wanted["calls"]), file
        for call in wanted["calls"]:
            same = [row for row in calls if row["name"] == call["span"] and abs(row["span_ms"] - call["span_ms"]) < 0.1]
            assert same, f"{file}: no call {call['span']}"
            assert differences(call, same[0]) == [], f"{file}: {call}"
