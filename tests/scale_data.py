"""Rows of every kind that questions ask for, of the last days: requests, streams, load runs, troubles, hedges."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import duckdb

from .diagnosed import CASES, Traffic, stored, traffic, young_instance
from .seed import seed
from .seed_more import furnish
from .seed_streams import stream
from .spans import later
from .test_load_page import store

#: Each rule's trouble has an hour of its own, and idle ones between.
APART = timedelta(hours=3)
#: Tables whose rows a landed and assembled body makes; of `resources` only those that are not there yet.
MADE = (
    *("spans_open", "metrics_open", "requests", "calls", "stages", "stage_spans", "streams", "violations", "engine"),
    *("gpu", "resources"),
)
MORE = """
    insert into feedback
        select request_id, started, 0.5, outcome = 'ok', total_ms < 1500 from requests where hash(request_id) % 3 = 0;
    insert into rollup_minute
        select
            time_bucket(interval 1 minute, started), 'total_ms', service, route, model, tenant, outcome,
            ceil(ln(total_ms) / ln(1.02)), count(*), sum(total_ms)
        from requests group by all;
    insert into decode_rate
        select * replace (replace(series, '127.0.0.1:8000', 'engine-2:8000') as series, 'engine-2:8000' as instance)
        from decode_rate where side = 'server';
    update gpu set host = '127.0.0.1' where host = 'box-1';
    update slo_status set period = 'month' where objective = 'answers';
    insert into metrics_open by name
        select
            'slo.gpu.process.memory' as name, 'gauge' as kind, sampled_at as t, 1 as resource_id, 5e9 as value,
            json_object('host.id', host, 'hw.id', gpu, 'process.pid', 7, 'process.executable.name', 'engine') as attrs
        from gpu where second(sampled_at) = 0;
"""
#: Engines of two minutes: one that names its GPU, and one whose host has two.
ENGINES = """
    insert into engine by name
        select
            $ended + to_minutes(1) + to_seconds(s) as t, instance, 'm' as model, source, true as up, gpu,
            50.0 as prompt_tokens, s * 100.0 as generation_tokens
        from range(0, 120, 10) as seconds (s),
            (values ('b:1', 'tailbudget-runtime', 'GPU-c'), ('box-2:8000', 'vllm', null)) as e (instance, source, gpu);
    insert into gpu by name
        select $ended + to_minutes(1) + to_seconds(s) as sampled_at, host, gpu, true as up
        from range(0, 120, 10) as seconds (s),
            (values ('b', 'GPU-c'), ('box-2', 'GPU-a'), ('box-2', 'GPU-b')) as g (host, gpu);
"""


def fill(connection: duckdb.DuckDBPyConnection, *, ended: datetime) -> None:
    """Write fifteen minutes of a service up to `ended`, and before them the trouble of each diagnosis."""
    seeded = seed(connection, ended=ended)
    furnish(connection, seeded)
    stream(connection, seeded)
    connection.execute(MORE)
    for statement in ENGINES.strip().split(";\n"):
        connection.execute(statement, {"ended": ended})
    store(connection, "run-1", began=ended + timedelta(minutes=10))
    for sent, began in _troubles(ended):
        with stored(sent) as made:
            _copy(made, connection, began - later(0))


def _troubles(ended: datetime) -> Iterator[tuple[Traffic, datetime]]:
    # What varies within a day is told of the last one: no other trouble is in it.
    last = "unpredictable"
    yield traffic(last, wrong=True), ended - APART
    for place, rule in enumerate(sorted(CASES.keys() - {last}), start=1):
        yield traffic(rule, wrong=True), ended - timedelta(days=1) - place * APART
    yield young_instance(slow_at_start=20), ended - timedelta(days=1) - len(CASES) * APART
    yield _hedged(), ended - timedelta(minutes=8)


def _hedged() -> Traffic:
    sent = Traffic()
    for name, grown in (("slo.hedge.sent", 12), ("slo.hedge.won", 5), ("slo.hedge.wasted_tokens", 640)):
        for at_s in (60, 120):
            sent.count(name, grown, at_s=at_s, attrs={"slo.guard": "answers"})
    for at_s in (60, 120):
        sent.count("slo.requests.ended", 30, at_s=at_s, attrs={"route": "/chat"})
    return sent


def _copy(made: duckdb.DuckDBPyConnection, connection: duckdb.DuckDBPyConnection, shift: timedelta) -> None:
    """Copy all rows, their instants moved by `shift`."""
    micros = shift // timedelta(microseconds=1)
    for table in MADE:
        described = made.execute(f"describe {table}").fetchall()
        moved = [f"{name} + to_microseconds({micros}) as {name}" for name, kind, *_ in described if "TIME ZONE" in kind]
        moved += [f"{name} + {micros * 1000} as {name}" for name, *_ in described if name in ("start_ns", "end_ns")]
        replaced = f"replace ({', '.join(moved)})" if moved else ""
        rows = made.sql(f"select * {replaced} from {table}").to_arrow_table()
        if rows.num_rows:
            connection.register("moved", rows)
            new = "where resource_id not in (select resource_id from resources)" if table == "resources" else ""
            connection.execute(f"insert into {table} by name select * from moved {new}")
            connection.unregister("moved")
