"""What streams tell, beside the requests of `seed`: gaps between chunks, stalls, slow readers, the network, twins."""

import json
import random
from datetime import timedelta
from typing import Final

import duckdb
import pyarrow as pa

from .seed import MODEL, Row, Seeded, _insert, _slowness

#: Every so manieth stream has a stall while decoding is throttled, and every so manieth a reader that dawdles.
STALLED_EVERY: Final = 3
DAWDLED_EVERY: Final = 9
STALL_MS: Final = 1400.0
NETWORK: Final = {
    "slo.net.pool_wait": 0.0004, "slo.net.dns": 0.0011, "slo.net.connect": 0.021, "slo.net.tls": 0.034,
    "slo.net.send": 0.0007, "slo.net.wait_headers": 0.41, "slo.net.reused": False, "slo.net.http_version": "HTTP/2",
    "slo.net.attempts": 1,
}  # fmt: skip


def stream(connection: duckdb.DuckDBPyConnection, seeded: Seeded, *, number: int = 13) -> dict[str, list[Row]]:
    """Write what the streams of `seeded`, furnished before, tell; return it by table, of `calls` what is new."""
    chance = random.Random(number)
    made: dict[str, list[Row]] = {"streams": [], "spans": [], "calls": []}
    for place, request in enumerate(seeded.rows["requests"]):
        spans, call = _spans(chance, request), _call(seeded, request, place)
        made["spans"] += spans
        made["calls"].append({**call, "spans": [span["span_id"] for span in spans]})
        made["streams"].append(_stream(chance, request, spans[0], call))
    for table in ("streams", "spans"):
        _insert(connection, table, made[table])
    connection.register("told", pa.Table.from_pylist(made["calls"]))
    connection.execute(
        "update calls set stalls = told.stalls, stall_ms = told.stall_ms, max_gap_ms = told.max_gap_ms, "
        "chunks = told.chunks, consumer_ms = told.consumer_ms, spans = told.spans, span_id = told.spans[1], "
        "queue_ms = queue_ms * if(told.stalls > 0, 90, 1) from told where told.request_id = calls.request_id"
    )
    connection.unregister("told")
    connection.execute(
        "update stage_spans set span_id = calls.span_id from calls where calls.request_id = stage_spans.request_id "
        "and stage in ('network', 'queue', 'prefill', 'decode')"
    )
    return made


def _call(seeded: Seeded, request: Row, place: int) -> Row:
    slow = _slowness("decode", (request["started"] - seeded.started).total_seconds()) > 1
    stalled = slow and place % STALLED_EVERY == 0 and request["decode_ms"] > 2 * STALL_MS
    return {
        "request_id": request["request_id"],
        "stalls": int(stalled),
        "stall_ms": STALL_MS if stalled else 0.0,
        "max_gap_ms": STALL_MS if stalled else 40.0,
        "consumer_ms": request["decode_ms"] * (0.4 if place % DAWDLED_EVERY == 0 else 0.01),
        "chunks": max(request["output_tokens"], 3),
    }


def _spans(chance: random.Random, request: Row) -> list[Row]:
    """The client's span of the model call, and that of a second instrumentation around the same call."""
    before_ms = request["retrieval_ms"] + request["tools_ms"] + request["prompt_ms"] + request["other_ms"]
    start_ns = round(request["started"].timestamp() * 1e9) + round(before_ms * 1e6)
    took_ns = round((request["total_ms"] - before_ms - request["post_ms"]) * 1e6)
    first_ms = request["network_ms"] + request["queue_ms"] + request["prefill_ms"]
    started = request["started"] + timedelta(milliseconds=before_ms)
    common = {"trace_id": request["trace_id"], "started": started, "kind": "CLIENT", "service": "demo"}
    return [
        {
            **common,
            "span_id": chance.getrandbits(63),
            "name": f"chat {MODEL}",
            "start_ns": start_ns,
            "end_ns": start_ns + took_ns,
            "duration_ns": took_ns,
            "scope": scope,
            "status": "UNSET",
            "resource_id": 1,
            "role": "call",
            "rule": "gen_ai.chat",
            "ttft_ns": round(first_ms * 1e6),
            "attrs": json.dumps({"gen_ai.request.model": MODEL, **(NETWORK if scope == "tailbudget" else {})}),
        }
        for scope in ("tailbudget", "opentelemetry.instrumentation.openai_v2")
    ]


def _stream(chance: random.Random, request: Row, span: Row, call: Row) -> Row:
    """Gaps that fill the decode time, one of them a stall where the call has one."""
    parts = [chance.uniform(0.7, 1.3) for _ in range(call["chunks"] - 1)]
    if call["stalls"]:
        parts[len(parts) // 2] = 0
    scale_us = (request["decode_ms"] - call["stall_ms"]) * 1000 / sum(parts)
    gaps_us = [round(part * scale_us) for part in parts]
    if call["stalls"]:
        gaps_us[len(gaps_us) // 2] = round(STALL_MS * 1000)
    kept = ("trace_id", "span_id", "started")
    rest = {"request_id": request["request_id"], "side": "client", "model": MODEL, "gaps_us": gaps_us}
    return {**{name: span[name] for name in kept}, **rest}
