"""What other pages show, beside the requests of `seed`: budgets, running requests, an engine, calls, peers, losses."""

import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import duckdb

from .seed import INSTANCE, MODEL, Row, Seeded, _insert, _slowness

OBJECTIVES: tuple[tuple[Any, ...], ...] = (
    ("chat-total", "", "p95 of total < 4 s", 0.95, 41_200, 2_390, -0.16, 21.4, ["2% in 1h"]),
    ("first-token", "", "p95 of ttft < 1 s", 0.95, 41_200, 640, 0.69, 0.8, []),
    ("answers", "acme", "99 % of requests end well", 0.99, 38, 1, 0.2, 0.0, []),
)

SLICES: dict[str, Row] = {
    "chat-total": {
        "slice": "route = '/chat'",
        "measure": "(total_ms)",
        "limit_ms": 4000.0,
        "coverage": 0.912,
        "running": 3,
    },
    "first-token": {
        "slice": "ttft_ms is not null",
        "measure": "(ttft_ms)",
        "limit_ms": 1000.0,
        "coverage": 1.0,
        "margin": 0.004,
    },
    "answers": {
        "slice": "tenant = 'acme' and outcome <> 'rejected'",
        "measure": "total_ms",
        "limit_ms": None,
        "coverage": None,
    },
}


def furnish(connection: duckdb.DuckDBPyConnection, seeded: Seeded, *, number: int = 11) -> dict[str, list[Row]]:
    """Write rows that fit those of `seeded`, and return them by table."""
    chance = random.Random(number)
    made = {
        "slo_status": _budgets(seeded),
        "slo_minute": _minutes(seeded),
        "marks": _marks(seeded),
        "live": _running(seeded, chance),
        "engine": _engine(seeded, chance),
        "gpu": _gpu(seeded, chance),
        "calls": _calls(seeded),
        "spans": list(_client_spans(seeded, chance)),
        "resources": [{"resource_id": 1, "service": "demo", "version": "1.4.0", "region": "eu-west-1", "attrs": "{}"}],
        "ingest_health": _health(seeded),
    }
    for table, rows in made.items():
        _insert(connection, table, rows)
    half = seeded.started + (seeded.ended - seeded.started) / 2
    connection.execute("update requests set version = if(started < ?, '1.3.9', '1.4.0')", [half])
    connection.execute(
        "update requests set tenant = 'globex' where over_stage = 'retrieval' and hash(trace_id) % 5 > 0"
    )
    return made


def _budgets(seeded: Seeded) -> list[Row]:
    names = ("objective", "part", "goal", "target", "n", "bad", "budget_left", "burn_1h", "firing")
    rows: list[Row] = [dict(zip(names, one, strict=True)) | SLICES[str(one[0])] for one in OBJECTIVES]
    unsure = {"coverage": None, "margin": 0.0, "running": 0}
    common = {"judged": seeded.ended, "period": "30d", "owner": "chat-team", "runbook": "https://wiki.example/chat"}
    return [{**unsure, **row, **common, "good_share": 1 - row["bad"] / row["n"]} for row in rows]


def _minutes(seeded: Seeded) -> list[Row]:
    """A month of the objectives, hour by hour: most of what is bad came in the last two days."""
    rows: list[Row] = []
    for objective, part, _, _, n, bad, *_ in OBJECTIVES:
        hour = seeded.ended.replace(minute=0, second=0, microsecond=0) - timedelta(days=29)
        hours = [hour + timedelta(hours=place) for place in range(29 * 24)]
        for place, t in enumerate(hours):
            share = [done * n // len(hours) for done in (place, place + 1)]
            burnt = [
                round(bad * (0.4 * done / len(hours) + 0.6 * max(0, done / len(hours) - 0.93) / 0.07))
                for done in (place, place + 1)
            ]
            row = {
                "objective": objective,
                "part": part,
                "minute": t,
                "n": share[1] - share[0],
                "bad": burnt[1] - burnt[0],
            }
            rows.append(row)
    return rows


def _marks(seeded: Seeded) -> list[Row]:
    named = (("version 1.4.0", "version", "demo", 390), ("rolled the index back", "note", None, 455))
    return [
        {
            "mark_id": label,
            "t": seeded.started + timedelta(seconds=at_s),
            "kind": kind,
            "service": service,
            "label": label,
        }
        for label, kind, service, at_s in named
    ]


def _running(seeded: Seeded, chance: random.Random) -> list[Row]:
    return [
        {
            "trace_id": str(UUID(int=chance.getrandbits(128))),
            "span_id": chance.getrandbits(63),
            "request_id": f"req-live-{place}",
            "started": seeded.ended - timedelta(seconds=age_s),
            "service": "demo",
            "route": "/chat",
            "tenant": tenant,
            "stage": stage,
            "age_s": float(age_s),
            "heard": seeded.ended,
            "outcome": None,
            "changed": False,
            "resource_id": 1,
        }
        for place, (age_s, stage, tenant) in enumerate(((12, "decode", "acme"), (47, "tools", "globex")))
    ]


def _engine(seeded: Seeded, chance: random.Random) -> list[Row]:
    rows = []
    for since_s in range(0, round((seeded.ended - seeded.started).total_seconds()), 5):
        slow = _slowness("decode", since_s) > 1
        running, prompt = float(chance.randrange(6, 9) if slow else chance.randrange(2, 5)), float(since_s // 5 % 4)
        rows.append(
            {
                "t": seeded.started + timedelta(seconds=since_s),
                "instance": INSTANCE,
                "model": MODEL,
                "source": "tailbudget",
                "up": True,
                "running": running,
                "waiting": float(chance.randrange(4, 9) if slow else chance.randrange(0, 2)),
                "kv_used": 0.9 if slow else chance.uniform(0.3, 0.5),
                "step_ms": 40.0 if slow else 18.0,
                "prefix_queries": 800.0,
                "prefix_hits": chance.uniform(300, 500),
                "generation_tokens": chance.uniform(150, 200) if slow else chance.uniform(400, 500),
                "preemptions": 1.0 if slow and chance.random() < 0.3 else 0.0,
                "steps": 40.0,
                "batch_tokens": running + prompt,
                "prompt_tokens": 40 * prompt,
            }
        )
    return rows


def _gpu(seeded: Seeded, chance: random.Random) -> list[Row]:
    rows = []
    energy_j = 1e6
    for since_s in range(0, round((seeded.ended - seeded.started).total_seconds()), 5):
        slow = _slowness("decode", since_s) > 1
        energy_j += 5 * (260 if slow else 310)
        rows.append(
            {
                "sampled_at": seeded.started + timedelta(seconds=since_s),
                "host": "box-1",
                "gpu": "GPU-0",
                "util": chance.uniform(0.1, 0.2) if slow else chance.uniform(0.6, 0.95),
                "sm_mhz": 1035.0 if slow else 1980.0,
                "power_w": 260.0 if slow else 310.0,
                "energy_j": energy_j,
                "throttle": 0x20 if slow else 0,
                "up": True,
            }
        )
    return rows


def _calls(seeded: Seeded) -> list[Row]:
    names = ("trace_id", "span_id", "request_id", "started", "service", "model", "total_ms", "ttft_ms")
    kept = (*names, "queue_ms", "prefill_ms", "decode_ms", "network_ms", "input_tokens", "output_tokens")
    rest = {"provider": "smollm2", "stream": True, "outcome": "ok", "server_address": INSTANCE, "split": "server"}
    return [
        {**{name: row[name] for name in kept}, **rest, "spans": [row["span_id"]]} for row in seeded.rows["requests"]
    ]


def _client_spans(seeded: Seeded, chance: random.Random) -> list[Row]:
    kept = ("trace_id", "started")
    return [
        {
            **{name: row[name] for name in kept},
            "span_id": chance.getrandbits(63),
            "name": "GET",
            "kind": "CLIENT",
            "start_ns": round(row["started"].timestamp() * 1e9),
            "end_ns": round(row["started"].timestamp() * 1e9) + 30_000_000,
            "duration_ns": 30_000_000,
            "service": "demo",
            "status": "UNSET",
            "resource_id": 1,
            "role": "network",
            "rule": "http",
            "peer": "billing.internal:443",
            "server_address": "billing.internal:443",
            "attrs": '{"slo.net.connect": 0.021, "slo.net.reused": false}',
        }
        for row in seeded.rows["requests"]
    ]


def _health(seeded: Seeded) -> list[Row]:
    minute = (seeded.ended - timedelta(minutes=2)).replace(second=0, microsecond=0)
    named = {"minute": minute, "service": "demo", "signal": "traces"}
    return [
        {**named, "reason": "accepted", "n": 4_210, "lag_sum_s": 4_210 * 0.8, "lag_max_s": 2.4},
        {**named, "reason": "bad_id", "n": 3, "lag_sum_s": None, "lag_max_s": None},
    ]
