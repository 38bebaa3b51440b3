"""A data file with fifteen realistic minutes of a service: a slow index, a throttled decode, clients that leave."""

import json
import random
import shutil
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tailbudget.analytics.reader import DATABASE_NAME
from tailbudget.collector.seal.views import BULK
from tailbudget.instrument.vocabulary import STAGES

from .spans import empty_file

Row = dict[str, Any]

MODEL = "SmolLM2-135M-Instruct"
INSTANCE = "127.0.0.1:8000"
#: Median milliseconds of a stage, and its budget; None has no budget.
TYPICAL_MS: dict[str, tuple[float, float | None]] = {
    "network": (6, 150),
    "queue": (25, 200),
    "retrieval": (120, 300),
    "prompt": (9, 150),
    "prefill": (210, 600),
    "decode": (1150, 2200),
    "tools": (140, 300),
    "post": (12, None),
    "other": (8, None),
}
#: Seconds after the first request in which one stage takes this many times as long.
SLOW: tuple[tuple[str, int, int, float], ...] = (("retrieval", 330, 450, 4.5), ("decode", 600, 720, 2.4))
TOTAL_BUDGET_MS = {"/chat": 4000.0, "/summarise": 6000.0}
OUTCOMES = ("ok",) * 90 + ("dropped",) * 4 + ("left",) * 2 + ("error",) * 2 + ("rejected", "timeout")


@dataclass
class Seeded:
    """Every row that was written, by table, for figures to be computed without the database."""

    started: datetime
    ended: datetime
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def add(self, table: str, row: Row) -> None:
        """Keep one row of `table`."""
        self.rows.setdefault(table, []).append(row)


def empty(folder: Path) -> duckdb.DuckDBPyConnection:
    """Return a connection to a new database in `folder` that has all tables and views and no row."""
    shutil.copyfile(empty_file(), folder / DATABASE_NAME)
    connection = duckdb.connect(str(folder / DATABASE_NAME))
    connection.execute("set timezone = 'UTC'")
    return connection


def seed(
    connection: duckdb.DuckDBPyConnection, *, ended: datetime, minutes: int = 15, gpu: bool = False, number: int = 7
) -> Seeded:
    """Write `minutes` of requests up to `ended`, the same for the same `number`, and return what was written."""
    chance = random.Random(number)
    seeded = Seeded(ended - timedelta(minutes=minutes), ended)
    since_s = 0.0
    while (since_s := since_s + chance.expovariate(1 / 2.0)) < minutes * 60 - 8:
        _request(seeded, chance, since_s)
    _decode_rate(seeded, chance, minutes)
    if gpu:
        _gpu(seeded, minutes)
    for table, rows in seeded.rows.items():
        _insert(connection, table, rows)
    return seeded


def _insert(connection: duckdb.DuckDBPyConnection, table: str, rows: Iterable[Row]) -> None:
    batch = pa.Table.from_pylist(list(rows))
    connection.register("seed_batch", batch)
    connection.execute(f"insert into {_stored(table)} by name select * from seed_batch")
    connection.unregister("seed_batch")


def _stored(table: str) -> str:
    return f"{table}_open" if table in BULK else table


def _slowness(stage: str, since_s: float) -> float:
    return next((factor for name, begin, end, factor in SLOW if name == stage and begin <= since_s < end), 1.0)


def _request(seeded: Seeded, chance: random.Random, since_s: float) -> None:
    route = chance.choices(["/chat", "/summarise"], [4, 1])[0]
    started = seeded.started + timedelta(seconds=since_s)
    trace_id = str(uuid.UUID(int=chance.getrandbits(128)))
    request_id = f"req-{chance.getrandbits(48):012x}"
    outcome = chance.choice(OUTCOMES)
    times = {
        stage: round(typical * chance.lognormvariate(0, 0.35) * _slowness(stage, since_s), 3)
        for stage, (typical, _) in TYPICAL_MS.items()
        if stage != "tools" or route == "/chat"
    }
    if outcome in ("dropped", "timeout", "error"):
        times["decode"] = round(times["decode"] * chance.uniform(0.1, 0.5), 3)
        times.pop("post")
    identity = {"request_id": request_id, "trace_id": trace_id, "started": started}
    over = {
        stage: times[stage] - budget
        for stage, (_, budget) in TYPICAL_MS.items()
        if budget is not None and stage in times and times[stage] > budget
    }
    total_ms = sum(times.get(stage, 0.0) for stage in STAGES)
    blamed = max(over, key=over.__getitem__) if over else None
    first_token_ms = sum(times[stage] for stage in ("network", "queue", "retrieval", "prompt", "prefill"))
    row = {
        **identity,
        "span_id": chance.getrandbits(63),
        "service": "demo",
        "route": route,
        "tenant": chance.choice(["acme", "globex", "initech"]),
        "model": MODEL,
        "outcome": outcome,
        "left_in_stage": "decode" if outcome in ("dropped", "left") else None,
        "left_after_ms": total_ms if outcome in ("dropped", "left") else None,
        "total_ms": total_ms,
        "ttft_ms": None if outcome == "rejected" else first_token_ms,
        "final_ms": total_ms,
        **{f"{stage}_ms": times.get(stage, 0.0) for stage in STAGES},
        "calls": 1,
        "tool_rounds": 1 if "tools" in times else 0,
        "input_tokens": chance.randrange(200, 900),
        "output_tokens": round(times["decode"] / 18),
        "budget_ms": TOTAL_BUDGET_MS[route],
        "over_stage": blamed,
        "over_by": "budget" if blamed else None,
        "root_kind": "slo",
        "synthetic": chance.random() < 0.01,
    }
    seeded.add("requests", row)
    if blamed:
        seeded.add("violations", _violation(row, over[blamed]))
    _stages(seeded, chance, row, times)


def _violation(request: Row, over_ms: float) -> Row:
    kept = ("request_id", "trace_id", "started", "route", "tenant", "model", "total_ms", "over_stage")
    budget_ms = TYPICAL_MS[request["over_stage"]][1]
    return {**{name: request[name] for name in kept}, "budget_ms": budget_ms, "over_ms": over_ms}


def _stages(seeded: Seeded, chance: random.Random, request: Row, times: dict[str, float]) -> None:
    identity = {name: request[name] for name in ("request_id", "trace_id", "started")}
    offset_ms = 0.0
    for stage, ms in sorted(times.items(), key=lambda item: _ORDER_IN_TIME.index(item[0])):
        budget_ms = TYPICAL_MS[stage][1]
        parallel = stage == "tools"
        over_ms = ms - budget_ms if budget_ms is not None and ms > budget_ms else None
        seeded.add(
            "stages",
            {
                **identity,
                "stage": stage,
                "spans": 0 if stage == "other" else 2 if parallel else 1,
                "busy_ms": 0.0 if stage == "other" else ms,
                "critical_ms": ms,
                "budget_ms": budget_ms,
                "over_ms": over_ms,
            },
        )
        for part in () if stage == "other" else range(2 if parallel else 1):
            _span(seeded, chance, request, stage, part, offset_ms, ms)
        offset_ms += ms


_ORDER_IN_TIME = ("other", "retrieval", "tools", "prompt", "network", "queue", "prefill", "decode", "post")
_NAMES = {
    "retrieval": "retrieval bm25",
    "prompt": "prompt answer",
    "post": "post citations",
}
_TOOLS = ("execute_tool versions", "execute_tool licences")


def _span(
    seeded: Seeded, chance: random.Random, request: Row, stage: str, part: int, offset_ms: float, ms: float
) -> None:
    name = _TOOLS[part] if stage == "tools" else _NAMES.get(stage, f"chat {MODEL}")
    span_id = chance.getrandbits(63)
    started = request["started"] + timedelta(milliseconds=offset_ms)
    duration_ms = ms * (0.6 if part else 1)
    seeded.add(
        "stage_spans",
        {
            "request_id": request["request_id"],
            "trace_id": request["trace_id"],
            "span_id": span_id,
            "stage": stage,
            "name": name,
            "peer": INSTANCE if name.startswith("chat") else None,
            "started": started,
            "offset_ms": offset_ms,
            "duration_ms": duration_ms,
            "critical_ms": 0.0 if part else ms,
            "outcome": "error" if request["outcome"] == "error" and stage == "decode" else "ok",
        },
    )
    if stage in ("network", "queue", "prefill"):
        return  # parts of the one span of the model call, which its decode part stands for
    start_ns = round(started.timestamp() * 1e9)
    seeded.add(
        "spans",
        {
            "trace_id": request["trace_id"],
            "span_id": span_id,
            "name": name,
            "kind": "INTERNAL",
            "started": started,
            "start_ns": start_ns,
            "end_ns": start_ns + round(duration_ms * 1e6),
            "duration_ns": round(duration_ms * 1e6),
            "service": "demo",
            "status": "UNSET",
            "resource_id": 1,
            "role": "stage",
            "stage": stage,
            "rule": "slo.stage",
            "attrs": json.dumps({"slo.stage": stage, "slo.retrieval.documents": 8, "k1": 1.5}),
        },
    )


def _decode_rate(seeded: Seeded, chance: random.Random, minutes: int) -> None:
    for side, unit, provider in (("server", "token", "smollm2"), ("client", "chunk", "openai")):
        identity = {"model": MODEL, "provider": provider, "instance": INSTANCE}
        series = f"{MODEL}|{provider}|{INSTANCE}|{side}|{unit}"
        for since_s in range(0, minutes * 60, 10):
            streams = chance.randrange(1, 4)
            active_s = round(streams * chance.uniform(5, 10), 3)
            rate = (60 - 6 * streams) / _slowness("decode", since_s) * chance.uniform(0.96, 1.04)
            row = {
                **identity,
                "t": _whole_10_s(seeded.started) + timedelta(seconds=since_s),
                "series": series,
                "side": side,
                "unit": unit,
                "tokens": float(round(rate * active_s)),
                "active_stream_s": active_s,
                "streams": float(streams),
            }
            seeded.add("decode_rate", row)
        if side == "server":
            _alert(seeded, identity, series, opened_s=630, closed_s=740)
    _alert(seeded, identity, series, opened_s=655, closed_s=None)


def _alert(seeded: Seeded, identity: Row, series: str, *, opened_s: int, closed_s: int | None) -> None:
    opened = seeded.started + timedelta(seconds=opened_s)
    row = {
        **identity,
        "alert_id": f"sag|{series}|{opened.isoformat()}",
        "kind": "sag",
        "rule": "decode_rate",
        "severity": "page",
        "opened": opened,
        "closed": None if closed_s is None else seeded.started + timedelta(seconds=closed_s),
        "value": 2.4,
        "threshold": 1.13,
        "summary": f"{MODEL} on {INSTANCE} takes 2.4 times as long a token as its load explains",
    }
    seeded.add("alerts", row)


def _gpu(seeded: Seeded, minutes: int) -> None:
    for since_s in range(minutes * 60):
        slow = _slowness("decode", since_s) > 1
        row = {
            "sampled_at": seeded.started + timedelta(seconds=since_s),
            "host": "box-1",
            "gpu": "GPU-0",
            "util": 0.93,
            "sm_mhz": 1035.0 if slow else 1980.0,
            "throttle": 0x20 if slow else 0,
            "up": True,
        }
        seeded.add("gpu", row)


def _whole_10_s(instant: datetime) -> datetime:
    return datetime.fromtimestamp(instant.timestamp() // 10 * 10, UTC)
