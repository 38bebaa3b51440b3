"""Percentiles by segment are exact, and any attribute is a segment by its name, however hostile the name is."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tailbudget.analytics.breakdown import CALL_SEGMENTS, REQUEST_SEGMENTS, breakdown
from tailbudget.analytics.reader import ApiReader, ConnectionReader
from tailbudget.analytics.window import Window
from tailbudget.instrument.errors import UserError

from .local_api import local_api
from .seed import Row, Seeded, empty, seed
from .spans import Trace, assemble, database, later
from .test_assemble_requests import CALL

ENDED = datetime(2026, 3, 1, 12, 15, tzinfo=UTC)
WINDOW = Window(ENDED - timedelta(minutes=13), ENDED - timedelta(minutes=1))
SPANS = Window(later(-1), later(3600))
HOSTILE = (
    "plain", "with.dots.in", "sp ace", "quote'", 'double"quote', "semi;colon", "$", "$.x", "$[*]", "*", "/slash", "a/b",
    "~0", "~1", "back\\slash", "per%cent", "{brace}", "[0]", "0", "-1", "'); drop table requests; --", "null",
    "\u00e4\u597d\U0001f600", "new\nline", "Case", "case",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ConnectionReader, Seeded]]:
    connection = empty(Path(tmp_path_factory.mktemp("data")))
    yield ConnectionReader(connection), seed(connection, ended=ENDED)
    connection.close()


def quantile(values: list[float], share: float) -> float:
    """Return the quantile that interpolates between ranks."""
    values = sorted(values)
    at = share * (len(values) - 1)
    below = math.floor(at)
    above = min(below + 1, len(values) - 1)
    return values[below] + (at - below) * (values[above] - values[below])


def expected(seeded: Seeded, by: str, measure: str) -> dict[Any, tuple[float, ...]]:
    groups: dict[Any, list[float]] = defaultdict(list)
    for row in seeded.rows["requests"]:
        if WINDOW.from_ts <= row["started"] < WINDOW.to_ts and not row["synthetic"] and row[measure] is not None:
            groups[row[by]].append(row[measure])
    return {
        value: (len(found), *(quantile(found, share) for share in (0.5, 0.95, 0.99))) for value, found in groups.items()
    }


@pytest.mark.parametrize("measure", ["total_ms", "ttft_ms", "decode_ms"])
@pytest.mark.parametrize("by", ["tenant", "route", "outcome"])
def test_percentiles_are_exact_with_their_n(data: tuple[ConnectionReader, Seeded], by: str, measure: str) -> None:
    reader, seeded = data
    wanted = expected(seeded, by, measure)
    found = breakdown(reader, WINDOW, by=by, measure=measure).to_pylist()
    assert {row["value"] for row in found} == set(wanted)
    for row in found:
        figures = (row["n"], row["p50_ms"], row["p95_ms"], row["p99_ms"])
        assert figures == pytest.approx(wanted[row["value"]])
    assert [row["n"] for row in found] == sorted((row["n"] for row in found), reverse=True)


def test_the_median_of_one_value_is_the_plain_median(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    acme = [
        row["total_ms"]
        for row in seeded.rows["requests"]
        if WINDOW.from_ts <= row["started"] < WINDOW.to_ts and not row["synthetic"] and row["tenant"] == "acme"
    ]
    (row,) = (row for row in breakdown(reader, WINDOW, by="tenant").to_pylist() if row["value"] == "acme")
    assert row["p50_ms"] == pytest.approx(statistics.median(acme))


def test_a_route_can_be_asked_for_alone(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    window = Window(WINDOW.from_ts, WINDOW.to_ts, route="/chat")
    assert breakdown(reader, window, by="route")["value"].to_pylist() == ["/chat"]


def test_output_buckets_are_powers_of_two_in_their_order(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, seeded = data
    values = [int(value) for value in breakdown(reader, WINDOW, by="output_bucket")["value"].to_pylist()]
    assert values == sorted(values)
    assert {math.log2(value) % 1 for value in values} == {0.0}
    assert max(values) >= max(row["output_tokens"] for row in seeded.rows["requests"]) / 2


def test_at_most_so_many_values_come(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    assert breakdown(reader, WINDOW, by="tenant", rows=2).num_rows == 2


def two_requests(attrs: Row, call: Row) -> ConnectionReader:
    """Return a reader over a request of 100 ms with the attributes, and one of 300 ms without; both have a call."""
    traces = []
    for number, (length, own, below) in enumerate([(100, attrs, call), (300, {}, {})], 1):
        trace = Trace(number)
        root = trace.add("ask", 0, length, attrs={"slo.request": "/ask", "slo.tenant": f"t{number}", **own})
        trace.add("chat m", 0, length / 2, under=root, kind="CLIENT", attrs={**CALL, **below})
        traces.extend(trace.spans)
    connection = database()
    assemble(connection, traces)
    return ConnectionReader(connection)


def values(table: pa.Table) -> dict[str | None, tuple[int, float]]:
    return {row["value"]: (row["n"], row["p50_ms"]) for row in table.to_pylist()}


@pytest.fixture(scope="module")
def hostile_root() -> ConnectionReader:
    return two_requests({key: f"under {key}" for name in HOSTILE for key in (name, f"{name}x")}, {})


@pytest.fixture(scope="module")
def hostile_call() -> ConnectionReader:
    return two_requests({}, {name: place for place, name in enumerate(HOSTILE)})


@pytest.mark.parametrize("name", HOSTILE)
def test_any_attribute_of_the_root_span_is_a_segment(hostile_root: ConnectionReader, name: str) -> None:
    assert values(breakdown(hostile_root, SPANS, by=name)) == {f"under {name}": (1, 100.0), None: (1, 300.0)}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_attribute_of_a_call_is_a_segment_of_its_request(hostile_call: ConnectionReader, name: str) -> None:
    place = str(HOSTILE.index(name))
    assert values(breakdown(hostile_call, SPANS, by=name)) == {place: (1, 100.0), None: (1, 300.0)}


def test_names_that_no_span_has_find_nothing_and_break_nothing() -> None:
    reader = two_requests({"a": {"b": "nested"}}, {})
    for name in ("a.b", "$.a.b", "/a/b", "a/b", "", "'", "attr:", "a' or 'a"):
        assert values(breakdown(reader, SPANS, by=name)) == {None: (2, 200.0)}, name


def test_the_root_spans_attribute_goes_before_the_calls() -> None:
    reader = two_requests({"flag": "root"}, {"flag": "call"})
    assert values(breakdown(reader, SPANS, by="flag"))["root"] == (1, 100.0)


def test_of_calls_the_calls_own_attribute_goes_first() -> None:
    tokens = {"slo.time_to_first_token": 0.01, "slo.stream.end": "complete", "gen_ai.usage.output_tokens": 5}
    reader = two_requests({"flag": "root", "other": "root"}, {"flag": "call", **tokens})
    assert values(breakdown(reader, SPANS, by="flag", measure="tpot_ms")) == {"call": (1, 10.0)}
    assert values(breakdown(reader, SPANS, by="other", measure="tpot_ms")) == {"root": (1, 10.0)}


def test_an_attribute_with_the_name_of_a_column_is_reached_by_attr() -> None:
    reader = two_requests({"tenant": "spelled"}, {})
    assert set(values(breakdown(reader, SPANS, by="tenant"))) == {"t1", "t2"}
    assert set(values(breakdown(reader, SPANS, by="attr:tenant"))) == {"spelled", None}


@pytest.mark.parametrize("by", CALL_SEGMENTS)
def test_every_segment_has_its_column(by: str) -> None:
    attrs = {
        "gen_ai.provider.name": "p", "slo.role": "main", "gen_ai.request.stream": True, "server.address": "h",
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 30, "gen_ai.usage.cache_read.input_tokens": 0,
    }  # fmt: skip
    reader = two_requests({"gen_ai.conversation.id": "c"}, attrs)
    wanted = {
        "service": "shop", "tenant": "t1", "route": "/ask", "model": "m", "conversation": "c", "outcome": "ok",
        "prompt_bucket": "128", "output_bucket": "32", "cache_hit": "miss", "provider": "p", "stream": "true",
        "server_address": "h",
    }.get(by)  # fmt: skip
    assert wanted in values(breakdown(reader, SPANS, by=by))


def test_only_calls_have_a_provider_and_say_what_they_measure() -> None:
    reader = two_requests({}, {"gen_ai.provider.name": "p"})
    assert values(breakdown(reader, SPANS, by="provider"))["p"] == (1, 50.0)
    with pytest.raises(
        UserError, match="'usable_ms' by 'provider': only calls have a provider, expected one of total_ms"
    ):
        breakdown(reader, SPANS, by="provider", measure="usable_ms")


def test_an_unknown_measure_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"unknown measure 'cost': expected one of total_ms, ttft_ms.*tpot_ms"):
        breakdown(two_requests({}, {}), SPANS, by=REQUEST_SEGMENTS[0], measure="cost")


def test_the_api_answers_the_same(data: tuple[ConnectionReader, Seeded]) -> None:
    reader, _ = data
    with local_api(reader.connection) as api:
        for by in ("tenant", "slo.stage", "x'; drop table requests; --"):
            assert breakdown(ApiReader(api), WINDOW, by=by) == breakdown(reader, WINDOW, by=by)
