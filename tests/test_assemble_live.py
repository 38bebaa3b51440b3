"""A request that hangs is seen while it hangs; one of which nothing more is heard is lost until its span comes."""

import random
from collections.abc import Mapping

import duckdb
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from tailbudget.collector.assemble import Assembler, Live
from tailbudget.collector.land.landing import Body, Landing
from tailbudget.collector.receive.decode import decode_logs

from .collector_support import pairs
from .spans import EPOCH_NS, MS, Row, Span, Trace, database, land, later, one, rows
from .test_assemble_requests import CALL
from .test_assemble_timing import TABLES
from .test_collector_logs import logs_request

LIVE = "select request_id, route, tenant, stage, age_s, service, outcome from live"


class Watched:
    """A collector's connection: beats and spans arrive at seconds after EPOCH_NS, then its chores run."""

    def __init__(self) -> None:
        self.connection: duckdb.DuckDBPyConnection = database()
        self._landing = Landing(self.connection)
        self._live = Live(self.connection)
        self._assembler = Assembler(self.connection)
        self.chores(0)

    def beat(
        self, at_s: float, *, arrived_s: float | None = None, stage: str = "decode", said: Mapping[str, object] = {}
    ) -> None:
        """Land a record that trace 1, span 1001, which began at 0 s, still runs."""
        attributes: Mapping[str, object] = {
            "slo.request.id": "r-1", "slo.request": "/chat", "slo.tenant": "acme", "slo.stage": stage,
            "slo.request.age": float(at_s), "slo.request.started": EPOCH_NS / 1e9, **said,
        }  # fmt: skip
        record = LogRecord(
            trace_id=(1).to_bytes(16, "big"), span_id=(1001).to_bytes(8, "big"), event_name="slo.request.running",
            time_unix_nano=EPOCH_NS + round(at_s * 1000) * MS, attributes=pairs(attributes),
        )  # fmt: skip
        batches = decode_logs(logs_request(record).SerializeToString())
        now = later(at_s if arrived_s is None else arrived_s)
        self._landing.land([Body(digest=b"%f" % at_s, batches=batches)], now=now)

    def spans(self, spans: list[Span], *, at_s: float) -> None:
        land(self.connection, spans, at=later(at_s))

    def chores(self, at_s: float) -> None:
        self._live.tick(later(at_s))
        self._assembler.tick(later(at_s))

    def requests(self) -> list[Row]:
        return rows(self.connection, "from requests order by started")


def hung(*, ended: bool) -> list[Span]:
    """Return the spans of trace 1 that were exported: with or without the request's own."""
    trace = Trace(1)
    root = trace.add("POST /chat", 0, 30_000, kind="SERVER", attrs={"slo.request": "/chat", "slo.request.id": "r-1"})
    trace.add("retrieval docs", 100, 600, under=root, attrs={"slo.stage": "retrieval"})
    trace.add("chat m", 700, 900, under=root, kind="CLIENT", attrs=CALL)
    return trace.spans if ended else trace.spans[1:]


def test_a_request_is_there_while_it_runs_and_gone_once_its_span_came() -> None:
    watched = Watched()
    watched.beat(5, stage="retrieval")
    watched.beat(10)
    watched.chores(11)
    assert one(watched.connection, LIVE) == {
        "request_id": "r-1", "route": "/chat", "tenant": "acme", "stage": "decode", "age_s": 10.0, "service": "shop",
        "outcome": None,
    }  # fmt: skip
    assert one(watched.connection, "select epoch_ns(started) as ns from live")["ns"] == EPOCH_NS
    watched.spans(hung(ended=True), at_s=12)
    watched.chores(13)
    assert rows(watched.connection, LIVE) == []
    assert [(row["outcome"], row["total_ms"]) for row in watched.requests()] == [("ok", 30_000.0)]


def test_after_fifteen_seconds_of_silence_it_is_lost_with_all_that_is_known_of_it() -> None:
    watched = Watched()
    watched.beat(5)
    watched.spans(hung(ended=False), at_s=6)
    watched.chores(19.9)
    assert one(watched.connection, LIVE)["outcome"] is None
    assert watched.requests() == []  # its other spans make no request before it has ended
    watched.chores(20)
    (row,) = watched.requests()
    assert (row["request_id"], row["route"], row["tenant"], row["outcome"]) == ("r-1", "/chat", "acme", "lost")
    assert (row["total_ms"], row["retrieval_ms"], row["calls"], row["left_in_stage"]) == (5000.0, 500.0, 1, "decode")
    assert one(watched.connection, LIVE)["outcome"] == "lost"
    watched.chores(22)
    assert len(watched.requests()) == 1


def test_a_late_span_replaces_the_lost_request() -> None:
    watched, early = Watched(), Watched()
    watched.beat(5)
    watched.spans(hung(ended=False), at_s=6)
    watched.chores(25)
    watched.spans(hung(ended=True)[:1], at_s=40)
    watched.chores(41)
    early.spans(hung(ended=True), at_s=40)
    early.chores(41)
    assert watched.requests() == early.requests()
    assert rows(watched.connection, LIVE) == []


def test_a_lost_request_that_is_heard_of_again_runs() -> None:
    watched = Watched()
    watched.beat(5)
    watched.chores(21)
    assert [row["outcome"] for row in watched.requests()] == ["lost"]
    watched.beat(30)
    watched.chores(31)
    assert watched.requests() == []
    assert one(watched.connection, LIVE)["outcome"] is None


def test_a_record_that_comes_after_the_span_opens_nothing() -> None:
    watched = Watched()
    watched.spans(hung(ended=True), at_s=31)
    watched.chores(32)
    watched.beat(5, arrived_s=33)
    watched.chores(34)
    assert rows(watched.connection, LIVE) == []
    assert [row["outcome"] for row in watched.requests()] == ["ok"]


def test_a_marked_request_inside_another_is_closed_by_its_span_too() -> None:
    watched = Watched()
    trace = Trace(1)
    inner = trace.add("inner", 0, 30_000, under=1002, attrs={"slo.request": "/chat"})
    trace.add("outer", 0, 31_000, attrs={"slo.request": "/outer"})
    assert inner == 1001
    watched.spans(trace.spans, at_s=31)
    watched.chores(32)
    watched.beat(5, arrived_s=33)
    watched.chores(49)
    assert rows(watched.connection, LIVE) == []
    assert [row["route"] for row in watched.requests()] == ["/outer"]


def test_senders_have_time_to_be_heard_after_a_start() -> None:
    watched = Watched()
    watched.beat(5)
    Live(watched.connection).tick(later(60))
    assert one(watched.connection, LIVE)["outcome"] is None


def test_a_record_of_wrong_types_is_read_as_far_as_it_goes() -> None:
    watched = Watched()
    watched.beat(5, said={"slo.request.age": "long", "slo.request.started": "then", "slo.request": 7})
    assert (one(watched.connection, LIVE)["age_s"], one(watched.connection, LIVE)["route"]) == (0.0, "7")
    assert one(watched.connection, "select epoch_ns(started) as ns from live")["ns"] == EPOCH_NS + 5_000 * MS


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
def test_beats_and_spans_in_any_order_and_twice_give_the_same_rows(seed: int) -> None:
    rng = random.Random(seed)
    events: list[float | Span] = [5.0, 10.0, 15.0, *hung(ended=True)] * 2
    rng.shuffle(events)
    watched, expected = Watched(), Watched()
    for number, event in enumerate(events):
        at_s = 20 + number * rng.choice([1, 9])
        if isinstance(event, float):
            watched.beat(event, arrived_s=at_s)
        else:
            watched.spans([event], at_s=at_s)
        watched.chores(at_s + 0.5)
    for at_s in (300, 320):
        watched.chores(at_s)
    expected.spans(hung(ended=True), at_s=0)
    expected.chores(60)
    assert rows(watched.connection, LIVE) == []
    for table in TABLES:
        query = f"select * from {table} order by all"
        assert rows(watched.connection, query) == rows(expected.connection, query), table
