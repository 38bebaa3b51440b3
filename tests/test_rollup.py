"""The roll-up is what the requests say, whatever arrived when, and within 1 % of their percentiles."""

import math
import random
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailbudget.analytics.percentiles import percentiles
from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.collector.assemble import Assembler, pack_rollup
from tailbudget.instrument.errors import UserError

from .spans import Row, Span, Trace, database, land, later, one, rows
from .test_assemble_requests import CALL
from .test_assemble_timing import busy_trace, foreign_traces

DIMENSIONS = "measure, service, route, model, tenant, outcome, bucket"
STORED = f"""
    select minute, {DIMENSIONS}, sum(n)::bigint as n, sum(total_ms)::double as total_ms
    from rollup_minute group by all having sum(n) <> 0 or sum(total_ms) <> 0 order by all
"""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def recomputed(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """Return what the roll-up should hold, counted from `requests` in plain Python."""
    found: dict[tuple[Any, ...], list[int]] = {}
    for row in rows(connection, "from requests where not synthetic"):
        measures = [
            name for name in row if name.endswith("_ms") and name not in ("left_after_ms", "budget_ms", "skew_ms")
        ]
        for measure in measures:
            ms = row[measure]
            if ms is not None:
                bucket = math.ceil(math.log(ms) / math.log(1.02)) if ms > 0 else -32768
                dimensions = (row[name] for name in ("service", "route", "model", "tenant", "outcome"))
                key = (row["started"].replace(second=0, microsecond=0), measure, *dimensions, bucket)
                sums = found.setdefault(key, [0, 0])
                sums[0] += 1
                sums[1] += math.floor(ms * 1000 + 0.5)
    names = ("minute", *DIMENSIONS.split(", "))
    return [dict(zip(names, key, strict=True)) | {"n": n, "total_ms": us / 1000} for key, (n, us) in found.items()]


def in_order(table: list[Row]) -> list[str]:
    return sorted(repr(row) for row in table)


@settings(max_examples=6)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_after_any_arrivals_late_spans_and_repeats_it_is_what_the_requests_say(seed: int, cuts: list[int]) -> None:
    spans = foreign_traces() + busy_trace(1) + busy_trace(2)
    rng = random.Random(seed)
    rng.shuffle(spans)
    edges = [0, *sorted(cuts), len(spans)]
    connection = database()
    assembler = Assembler(connection)
    for number, batch in enumerate([*(spans[a:b] for a, b in pairwise(edges) if a < b), rng.sample(spans, 6)]):
        land(connection, batch, at=later(number))
        assembler.tick(later(number + 0.5))
        assert in_order(rows(connection, STORED)) == in_order(recomputed(connection))
    for seconds in (60, 62):
        assembler.tick(later(len(edges) + seconds))
    assert in_order(rows(connection, STORED)) == in_order(recomputed(connection))
    assert one(connection, "select sum(n)::bigint as n from rollup_minute where measure = 'total_ms'")["n"] == 7


def test_synthetic_requests_are_in_no_percentile() -> None:
    connection = database()
    trace = Trace()
    trace.add("ask", 0, 100, attrs={"slo.request": "ask", "slo.synthetic": True})
    land(connection, trace.spans)
    Assembler(connection).tick(later(1))
    assert rows(connection, STORED) == []


def rolled(*, seed: int = 3, n: int = 4000, tenants: int = 1) -> duckdb.DuckDBPyConnection:
    """Return n requests of log-normal length over two hours, assembled."""
    rng = random.Random(seed)
    connection = database()
    spans: list[Span] = []
    for number in range(1, n + 1):
        trace = Trace(number)
        start = rng.uniform(0, 7_200_000)
        attrs = {"slo.request": rng.choice(["/a", "/b"]), "slo.tenant": f"t{number % tenants}"}
        root = trace.add("x", start, start + rng.lognormvariate(6, 1.2), attrs=attrs)
        trace.add("chat m", start, start + 1, under=root, attrs=CALL)
        spans += trace.spans
    land(connection, spans)
    assembler = Assembler(connection)
    while assembler.tick(later(60)).unfinished:
        pass
    return connection


@pytest.fixture(scope="module")
def many() -> Iterator[duckdb.DuckDBPyConnection]:
    with rolled() as connection:
        yield connection


def ask(
    connection: duckdb.DuckDBPyConnection, *, exact_rows: int = 1000, window: Window | None = None, **more: Any
) -> Row:
    window = window or Window(later(0), later(7200))
    (row,) = percentiles(ConnectionReader(connection), window, exact_rows=exact_rows, **more).to_pylist()
    found: Row = row
    return found


@pytest.mark.parametrize("where", [{}, {"route": "/a"}])
@pytest.mark.parametrize("measure", ["total_ms", "other_ms", "retrieval_ms"])
def test_it_is_within_one_percent_of_the_value_of_the_same_rank(
    many: duckdb.DuckDBPyConnection, where: Mapping[str, str], measure: str
) -> None:
    found = ask(many, where=where, measure=measure)
    assert (found["source"], found["reason"]) == ("roll-up", "it holds 4,000 requests, more than 1,000")
    route = where.get("route")
    for share in (50, 95, 99):
        exact = one(
            many,
            f"""select quantile_disc({measure}, {share / 100}) as ms, count(*) as n
                from requests where $route is null or route = $route""",
            {"route": route},
        )
        assert found[f"p{share}_ms"] == pytest.approx(exact["ms"], rel=0.01)
        assert found["n"] == exact["n"]


def test_a_window_of_few_requests_is_exact(many: duckdb.DuckDBPyConnection) -> None:
    found = ask(many, exact_rows=5000)
    assert (found["source"], found["reason"]) == ("exact", "4,000 requests, each looked at")
    assert found["p95_ms"] == one(many, "select quantile_cont(total_ms, 0.95) as ms from requests")["ms"]


def test_a_filter_that_the_roll_up_lacks_says_so_and_names_the_longest_exact_window(
    many: duckdb.DuckDBPyConnection,
) -> None:
    with pytest.raises(UserError, match=r"cannot be filtered by version.*ask from (\S+ \S+) UTC on") as raised:
        ask(many, where={"version": "1.2"})
    offered = datetime.strptime(str(raised.value).partition("ask from ")[2][:19], "%Y-%m-%d %H:%M:%S").replace(
        tzinfo=UTC
    )
    longest = Window(offered + timedelta(seconds=1), later(7200))
    assert ask(many, where={"version": "1.2"}, window=longest)["source"] == "exact"
    shorter = one(many, "select count(*) as n from requests where started >= $since", {"since": offered})["n"]
    assert 990 < shorter <= 1001


def test_what_retention_removed_is_told_from_the_roll_up() -> None:
    connection = rolled(n=200)
    before = ask(connection, exact_rows=10)
    connection.execute("delete from requests where started < $t", {"t": later(3600)})
    found = ask(connection)
    assert found["source"] == "roll-up"
    assert "are not stored any more" in found["reason"]
    assert (found["n"], found["p95_ms"]) == (200, before["p95_ms"])


@pytest.mark.parametrize(
    ("named", "said"), [({"measure": "x"}, "unknown measure 'x'"), ({"where": {"x": "1"}}, "unknown filter 'x'")]
)
def test_an_unknown_name_is_refused(many: duckdb.DuckDBPyConnection, named: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ask(many, **named)


def test_packing_changes_no_sum_and_counts_old_minutes_by_the_hour() -> None:
    connection = rolled(n=300)
    sums = f"""select date_trunc('hour', minute) as hour, {DIMENSIONS}, sum(n)::bigint as n, sum(total_ms)::double as ms
               from rollup_minute group by all order by all"""
    before = rows(connection, sums)
    for now in (later(7200), later(7200 + 600), later(3600) + 26 * HOUR, later(0) + 3 * DAY, later(0) + 9 * DAY):
        pack_rollup(connection, now)
        assert rows(connection, sums) == before
    assert one(connection, "select count(distinct minute) as n from rollup_minute")["n"] == 2
    assert one(connection, "select count(*) as n from rollup_minute")["n"] == len(before)


def test_a_late_span_of_a_packed_hour_is_counted_once() -> None:
    connection = database()
    assembler = Assembler(connection)
    trace = Trace()
    root = trace.add("ask", 90_000, 90_900, attrs={"slo.request": "ask"})
    land(connection, trace.spans)
    assembler.tick(later(1))
    pack_rollup(connection, later(0) + 2 * DAY)
    trace.add("retrieval docs", 90_000, 90_010, under=root, attrs={"slo.stage": "retrieval"})
    land(connection, trace.spans[1:], at=later(0) + 2 * DAY)
    assembler.tick(later(60) + 2 * DAY)
    pack_rollup(connection, later(0) + 2 * DAY)
    found = rows(connection, "select bucket, n from rollup_minute where measure = 'retrieval_ms'")
    assert found == [{"bucket": 117, "n": 1}]


def test_all_but_the_largest_tenants_of_a_day_are_counted_as_other_later() -> None:
    connection = rolled(n=1010, tenants=505)
    pack_rollup(connection, later(0) + DAY)
    assert one(connection, "select count(distinct tenant) as n from rollup_minute")["n"] == 505
    pack_rollup(connection, later(0) + 3 * DAY)
    found = one(
        connection,
        """select count(distinct tenant) as tenants, sum(n) filter (where tenant = 'other')::bigint as others,
                  sum(n)::bigint as n
           from rollup_minute where measure = 'total_ms'""",
    )
    assert found == {"tenants": 201, "others": 610, "n": 1010}
    pack_rollup(connection, later(0) + 4 * DAY)
    assert one(connection, "select count(distinct tenant) as n from rollup_minute")["n"] == 201
