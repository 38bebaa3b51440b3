"""A transaction lands bodies whole: spans once, resources once, traces marked, counters as rates, GPUs as rows."""

import hashlib
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from tailbudget.analytics.recognise import PROMOTED
from tailbudget.collector.journal.writer import Position
from tailbudget.collector.land.database import open_database
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.land.rates import DecodeRates, Last
from tailbudget.collector.land.seen import RecentKeys
from tailbudget.collector.receive.decode import decode_metrics, decode_traces

from .collector_support import T0_NS, S, counter, gauge, metrics_body, pairs, trace_request

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SERVER = {"model": "m", "provider": "p", "server.address": "h:1", "side": "server"}
CLIENT = SERVER | {"side": "client"}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    found = open_database(tmp_path)
    yield found
    found.close()


def traces(body: bytes) -> Body:
    return Body(digest=hashlib.blake2b(body, digest_size=16).digest(), batches=decode_traces(body, promoted=PROMOTED))


def metrics(body: bytes) -> Body:
    return Body(digest=hashlib.blake2b(body, digest_size=16).digest(), batches=decode_metrics(body))


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = connection.cursor().sql(sql).to_arrow_table().to_pylist()
    return found


def test_every_column_of_a_span_has_the_type_and_value_of_the_contract(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    request = trace_request(attributes={"slo.request": "/chat", "gen_ai.usage.input_tokens": 7, "x": [1]})
    span = request.resource_spans[0].scope_spans[0].spans[0]
    span.events.add(name="e", time_unix_nano=T0_NS + 5)
    span.links.add(trace_id=b"\x01" * 16, span_id=b"\x02" * 8)
    Landing(connection).land([traces(request.SerializeToString())], now=NOW)
    (row,) = rows(connection, "select *, replace(trace_id::varchar, '-', '') as hex from spans")
    assert (row["hex"], row["span_id"]) == (span.trace_id.hex(), int.from_bytes(span.span_id, "big"))
    assert (row["started"], row["duration_ns"], row["parent_span_id"]) == (NOW, S, None)
    assert (row["request"], row["input_tokens"]) == ("/chat", 7)
    assert json.loads(row["attrs"]) == {"slo.request": "/chat", "gen_ai.usage.input_tokens": 7, "x": [1]}
    ((event,), (link,)) = rows(connection, "from span_events"), rows(connection, "from span_links")
    assert event["span_id"] == link["span_id"] == row["span_id"]
    assert event["t_ns"] == T0_NS + 5
    assert link["linked_span_id"] == int.from_bytes(b"\x02" * 8, "big")


def test_a_span_lands_once_whatever_body_brings_it(connection: duckdb.DuckDBPyConnection) -> None:
    request = trace_request(4)
    for span in request.resource_spans[0].scope_spans[0].spans:
        span.events.add(name="e")
    first = request.SerializeToString()
    more = trace_request(1, seed=2)
    more.resource_spans[0].scope_spans[0].spans.extend(request.resource_spans[0].scope_spans[0].spans[:3])
    landing = Landing(connection)
    landing.land([traces(first), traces(more.SerializeToString())], now=NOW)  # repeats within one transaction
    landing.land([traces(trace_request(4).SerializeToString())], now=NOW)  # and in a later one
    assert rows(connection, "select count(*)::int as n, count(distinct span_id)::int as ids from spans") == [
        {"n": 5, "ids": 5}
    ]
    assert rows(connection, "select count(*)::int as n from span_events") == [{"n": 4}]
    assert rows(connection, "select reason, n from ingest_health order by all") == [
        {"reason": "accepted", "n": 5},
        {"reason": "duplicate", "n": 7},
    ]


def test_a_restart_remembers_the_spans_of_the_last_hour(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    Landing(connection).land([traces(trace_request(3).SerializeToString())])
    connection.close()
    connection = open_database(tmp_path)
    again = trace_request(4)  # the same three and one more
    Landing(connection).land([traces(again.SerializeToString())])
    assert rows(connection, "select count(*)::int as n from spans") == [{"n": 4}]
    connection.close()


def test_a_restart_remembers_the_newest_spans_where_there_are_more_than_are_kept(
    connection: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    bodies = [traces(trace_request(4, seed=seed).SerializeToString()) for seed in range(1, 6)]
    for body in bodies:
        Landing(connection).land([body])
    monkeypatch.setattr("tailbudget.collector.land.landing.SPANS_KEPT", 8)
    Landing(connection).land(bodies[-2:])
    assert rows(connection, "select count(*)::int as n from spans") == [{"n": 20}]
    Landing(connection).land(bodies[:1])
    assert rows(connection, "select count(*)::int as n from spans") == [{"n": 24}]


def test_touched_traces_are_marked_with_their_arrivals(connection: duckdb.DuckDBPyConnection) -> None:
    request = trace_request(1)
    spans = request.resource_spans[0].scope_spans[0].spans
    spans[0].parent_span_id = b"\x07" * 8
    landing = Landing(connection)
    landing.land([traces(request.SerializeToString())], now=NOW)
    (row,) = rows(connection, "from dirty")
    assert (row["since"], row["last_arrival"], row["root_seen"]) == (NOW, NOW, False)
    spans[0].span_id, spans[0].parent_span_id = b"\x07" * 8, b""
    later = NOW.replace(second=3)
    landing.land([traces(request.SerializeToString())], now=later)
    (row,) = rows(connection, "from dirty")
    assert (row["since"], row["last_arrival"], row["root_seen"]) == (NOW, later, True)


def test_a_resource_has_one_row_and_the_position_lands_with_the_rows(connection: duckdb.DuckDBPyConnection) -> None:
    landing = Landing(connection)
    for seed in (1, 2):
        body = traces(trace_request(seed=seed).SerializeToString())
        landing.land([body], now=NOW, position=Position(3, 100 + seed))
    assert rows(connection, "select service from resources") == [{"service": "shop"}]
    assert rows(connection, "select journal_segment, journal_offset from meta") == [
        {"journal_segment": 3, "journal_offset": 102}
    ]
    assert rows(connection, "select count(*)::int as n from bodies") == [{"n": 2}]


def test_a_transaction_that_fails_leaves_nothing_and_may_be_tried_again(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    landing = Landing(connection)
    connection.execute("alter table bodies rename to away")
    body = traces(trace_request(2).SerializeToString())
    with pytest.raises(duckdb.Error):
        landing.land([body], now=NOW)
    connection.execute("alter table away rename to bodies")
    assert rows(connection, "from spans") == []
    landing.land([body], now=NOW)
    assert len(rows(connection, "from spans")) == 2


def rate(connection: duckdb.DuckDBPyConnection) -> list[tuple[object, ...]]:
    columns = "epoch(t)::bigint as t, side, unit, tokens, active_stream_s, streams, series"
    found = rows(connection, f"select {columns} from decode_rate order by t")
    return [tuple(row.values()) for row in found]


def test_delta_counters_are_split_over_bins_by_overlap(connection: duckdb.DuckDBPyConnection) -> None:
    """5 s up to 2 s into a bin: 3/5 of the value before its start, 2/5 behind it."""
    start_ns, t_ns = T0_NS + 7 * S, T0_NS + 12 * S
    body = metrics_body(
        counter("slo.decode.tokens", 100, SERVER, start_ns=start_ns, t_ns=t_ns),
        counter("slo.decode.active_stream_time", 5, SERVER, start_ns=start_ns, t_ns=t_ns),
        gauge("slo.decode.streams", 2, SERVER, t_ns=t_ns),
    )
    landing = Landing(connection)
    landing.land([metrics(body)], now=NOW)
    t0 = T0_NS // S
    series = "m|p|h:1|server|token"
    assert rate(connection) == [
        (t0, "server", "token", 60.0, 3.0, None, series),
        (t0 + 10, "server", "token", 40.0, 2.0, 2.0, series),
    ]
    start_ns, t_ns = T0_NS + 12 * S, T0_NS + 17 * S
    landing.land(
        [metrics(metrics_body(counter("slo.decode.tokens", 50, SERVER, start_ns=start_ns, t_ns=t_ns)))], now=NOW
    )
    assert rate(connection)[1][3] == 90.0


def test_a_client_counts_chunks_and_an_instance_without_address_is_the_resource(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    start_ns, t_ns = T0_NS, T0_NS + 5 * S
    nameless = {key: value for key, value in CLIENT.items() if key != "server.address"}
    body = metrics_body(
        counter("slo.decode.chunks", 30, nameless, start_ns=start_ns, t_ns=t_ns),
        counter("slo.decode.tokens", 99, nameless, start_ns=start_ns, t_ns=t_ns),
        counter("slo.decode.active_stream_time", 4, nameless, start_ns=start_ns, t_ns=t_ns),
        instance="pod-7",
    )
    Landing(connection).land([metrics(body)], now=NOW)
    assert rate(connection) == [(T0_NS // S, "client", "chunk", 30.0, 4.0, None, "m|p|pod-7|client|chunk")]


def test_a_gauge_alone_makes_no_bin(connection: duckdb.DuckDBPyConnection) -> None:
    Landing(connection).land([metrics(metrics_body(gauge("slo.decode.streams", 3, SERVER, t_ns=T0_NS)))], now=NOW)
    assert rate(connection) == []
    assert len(rows(connection, "from metrics")) == 1


def cumulative(value: float, *, start_s: int = 0, t_s: int) -> bytes:
    return metrics_body(
        counter("slo.decode.tokens", value, SERVER, start_ns=T0_NS + start_s * S, t_ns=T0_NS + t_s * S, cumulative=True)
    )


def test_cumulative_counters_count_their_growth_also_over_a_restart_of_the_collector(tmp_path: Path) -> None:
    connection = open_database(tmp_path)
    landing = Landing(connection)
    for value, t_s in ((10, 5), (30, 10)):
        landing.land([metrics(cumulative(value, t_s=t_s))], now=NOW)
    landing.land([metrics(cumulative(35, t_s=15))], now=NOW)
    connection.close()
    connection = open_database(tmp_path)
    landing = Landing(connection)
    landing.land([metrics(cumulative(36, t_s=20))], now=NOW)
    landing.land([metrics(cumulative(36, t_s=20) + b"")], now=NOW)  # told again: nothing more
    landing.land([metrics(cumulative(4, start_s=22, t_s=25))], now=NOW)  # the sender started anew
    assert [(row[0], row[3]) for row in rate(connection)] == [
        (T0_NS // S, 30.0),
        (T0_NS // S + 10, 6.0),
        (T0_NS // S + 20, 4.0),
    ]
    connection.close()


def test_an_interval_without_end_does_not_fill_the_table() -> None:
    point = {
        "name": "slo.decode.tokens", "attrs": json.dumps(SERVER), "instance": None, "resource_id": 1,
        "temporality": "delta", "start_ns": 1, "t_ns": T0_NS, "value": 7200.0,
    }  # fmt: skip
    bins = DecodeRates().bins([point])
    assert bins.num_rows <= 361
    assert 0 < sum(bins["tokens"].to_pylist()) <= 7200.0


def test_a_counter_that_is_not_kept_counts_again() -> None:
    rates = DecodeRates(lambda _: Last(0, 0.0))
    point = {
        "name": "slo.decode.tokens", "attrs": json.dumps(SERVER), "instance": None, "resource_id": 1,
        "temporality": "cumulative", "start_ns": 1, "t_ns": T0_NS, "value": 5.0,
    }  # fmt: skip
    assert rates.bins([point]).num_rows
    assert rates.bins([point]).num_rows  # its transaction failed
    rates.keep()
    assert rates.bins([point]).num_rows == 0


def test_gpu_points_of_one_instant_are_one_row(connection: duckdb.DuckDBPyConnection) -> None:
    def of(gpu: str, **values: float) -> list[Any]:
        where = {"host.id": "box", "hw.id": gpu}
        return [gauge(name.replace("__", "."), value, where, t_ns=T0_NS) for name, value in values.items()]

    body = metrics_body(
        *of("0", hw__gpu__utilization=0.5, hw__power=250, slo__gpu__throttle=4, slo__gpu__up=1),
        *of("1", slo__gpu__up=0),
    )
    Landing(connection).land([metrics(body)], now=NOW)
    found = rows(connection, "select sampled_at, host, gpu, util, power_w, throttle, temp_c, up from gpu order by gpu")
    assert found == [
        {"sampled_at": NOW, "host": "box", "gpu": "0", "util": 0.5, "power_w": 250.0, "throttle": 4, "temp_c": None,
         "up": True},
        {"sampled_at": NOW, "host": "box", "gpu": "1", "util": None, "power_w": None, "throttle": None, "temp_c": None,
         "up": False},
    ]  # fmt: skip


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300, -1e300])
def test_a_gpu_value_that_is_no_number_or_too_large_is_null_and_the_rest_lands(
    connection: duckdb.DuckDBPyConnection, value: float
) -> None:
    names = ("hw.gpu.memory.usage", "slo.gpu.throttle")
    where = {"host.id": "box", "hw.id": "0"}
    broken = [gauge(name, value, where, t_ns=T0_NS) for name in names]
    body = metrics_body(*broken, gauge("hw.power", 250.0, where, t_ns=T0_NS))
    Landing(connection).land([metrics(body)], now=NOW)
    found = rows(connection, "select mem_used_bytes, throttle, power_w from gpu")
    assert found == [{"mem_used_bytes": None, "throttle": None, "power_w": 250.0}]


def test_recent_keys_know_what_was_added_and_forget_what_is_old() -> None:
    now = 0.0
    keys = RecentKeys(keep_s=100, limit=1000, clock=lambda: now)
    rng = np.random.default_rng(1)
    added = rng.integers(0, 2**64, 500, np.uint64)
    for part in np.split(added, 100):
        now += 0.1
        keys.add(part)
    assert keys.known(added).all()
    assert not keys.known(rng.integers(0, 2**64, 500, np.uint64)).any()
    assert int(added[7]) in keys
    now = 200.0
    keys.add(np.array([1], np.uint64))
    assert not keys.known(added).any()
    assert 1 in keys


@pytest.mark.parametrize("at_once", [7, 5000])
def test_recent_keys_are_nearly_as_many_as_their_limit_however_fast_they_come(at_once: int) -> None:
    keys = RecentKeys(keep_s=3600, limit=1200, clock=lambda: 0.0)
    for first in range(0, 5000, at_once):
        keys.add(np.arange(first, min(first + at_once, 5000), dtype=np.uint64))
        assert len(keys) <= 1200
    assert keys.known(np.arange(5000 - 1100, 5000, dtype=np.uint64)).all()
    assert not keys.known(np.arange(5000 - 1200, dtype=np.uint64)).any()


def test_recent_keys_forget_the_oldest_beyond_their_limit() -> None:
    now = 0.0
    keys = RecentKeys(keep_s=1e9, limit=100, clock=lambda: now)
    for number in range(10):
        now += 1e9 / 10
        keys.add(np.arange(number * 20, number * 20 + 20, dtype=np.uint64))
    assert len(keys) <= 100
    assert 199 in keys
    assert 0 not in keys


def test_attributes_are_kept_when_a_key_has_the_name_of_a_column(connection: duckdb.DuckDBPyConnection) -> None:
    request = trace_request()
    request.resource_spans[0].scope_spans[0].spans[0].attributes.extend(pairs({"name": "n", "stage": "s"}))
    Landing(connection).land([traces(request.SerializeToString())], now=NOW)
    assert json.loads(rows(connection, "select attrs from spans")[0]["attrs"]) == {"name": "n", "stage": "s"}
