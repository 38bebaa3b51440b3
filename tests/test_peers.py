"""Collectors behind a plain load balancer share traces out: each request is assembled by one, and counted once."""

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tailbudget.collector.peers.split import owner, split
from tailbudget.collector.settings import CollectorSettings
from tailbudget.instrument.errors import UserError

from .collector_support import Collector, pairs, trace_request
from .support import free_port, wait_until

S = 1_000_000_000
MEMBERS = ("http://a:1", "http://b:1", "http://c:1")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[tuple[Collector, Collector]]:
    ports = [free_port(), free_port()]
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    with ExitStack() as stack:
        members = []
        for port, url in zip(ports, urls, strict=True):
            settings = {"peers": urls, "peer_self": url}
            one = Collector(tmp_path / str(port), settings, http_port=port)
            stack.callback(_killed, one)
            members.append(one.start())
        yield members[0], members[1]


def _killed(one: Collector) -> None:
    if one.process is not None:
        one.kill()


def _halves(number: int, traces: int) -> tuple[bytes, bytes]:
    """Return the root spans of requests, and the model call below each: two bodies that two collectors get."""
    rng = random.Random(number)
    roots, calls = trace_request(0), trace_request(0)
    now = time.time_ns()
    for _ in range(traces):
        trace_id, root_id = rng.randbytes(16), rng.randbytes(8)
        common = {"trace_id": trace_id, "start_time_unix_nano": now}
        roots.resource_spans[0].scope_spans[0].spans.add(
            **common,
            span_id=root_id,
            name="chat",
            end_time_unix_nano=now + S,
            attributes=pairs({"slo.request": "/chat"}),
        )
        calls.resource_spans[0].scope_spans[0].spans.add(
            **common,
            span_id=rng.randbytes(8),
            parent_span_id=root_id,
            name="chat m",
            end_time_unix_nano=now + S // 2,
            attributes=pairs({"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}),
        )
    return roots.SerializeToString(), calls.SerializeToString()


def _counts(members: tuple[Collector, Collector]) -> tuple[int, int, int]:
    """Return over all members how many requests there are, how many different ones, and how many with their call."""
    rows = [row for one in members for row in one.rows("select trace_id::varchar as id, calls, model from requests")]
    return len(rows), len({row["id"] for row in rows}), sum(row["calls"] == 1 and row["model"] == "m" for row in rows)


def _sent(one: Collector, body: bytes) -> int:
    return one.post("/v1/traces", body)[0]


@pytest.mark.scale
def test_traces_that_are_split_between_two_collectors_are_whole_and_counted_once(
    group: tuple[Collector, Collector],
) -> None:
    one, other = group
    roots, calls = _halves(1, 40)
    assert _sent(one, roots) == 200
    assert _sent(other, calls) == 200
    wait_until(lambda: _counts(group) == (40, 40, 40))
    assert all(member.value("select count(*) from requests") > 5 for member in group)


@pytest.mark.scale
def test_while_one_is_killed_bodies_with_its_traces_are_refused_and_nothing_is_lost_or_doubled(
    group: tuple[Collector, Collector],
) -> None:
    one, other = group
    roots, calls = _halves(2, 40)
    assert _sent(one, roots) == 200
    other.kill()
    status, fields, answer = one.post("/v1/traces", calls)
    assert status == 503
    assert "retry-after" in fields
    assert other_name(other).encode() in answer
    other.start()
    assert _sent(one, calls) == 200  # as senders do after a 503: its own part is known by its digest
    wait_until(lambda: _counts(group) == (40, 40, 40))
    assert sum(member.value("select count(*) from spans") for member in group) == 80


@pytest.mark.scale
def test_what_other_members_reject_is_counted_in_the_answer(group: tuple[Collector, Collector]) -> None:
    request = trace_request(40, seed=5)
    for span in request.resource_spans[0].scope_spans[0].spans[:10]:
        span.span_id = bytes(8)
    status, _, answer = group[0].post("/v1/traces", request.SerializeToString())
    assert (status, ExportTraceServiceResponse.FromString(answer).partial_success.rejected_spans) == (200, 10)


def other_name(one: Collector) -> str:
    return f"127.0.0.1:{one.http_port}"


def test_a_body_is_cut_alike_each_time_and_nothing_of_it_is_lost() -> None:
    whole = trace_request(300, seed=3, attributes={"k": "v"})
    body = whole.SerializeToString()
    parts = split(body, ExportTraceServiceRequest, "traces", members=MEMBERS, own=MEMBERS[0])
    assert parts == split(body, ExportTraceServiceRequest, "traces", members=MEMBERS, own=MEMBERS[0])
    assert set(parts) == set(MEMBERS)
    found = [
        (name, span)
        for name, part in parts.items()
        for group in ExportTraceServiceRequest.FromString(part).resource_spans
        for scope in group.scope_spans
        for span in scope.spans
        if group.resource == whole.resource_spans[0].resource
    ]
    key = lambda span: span.span_id  # noqa: E731 - said once
    assert sorted((span for _, span in found), key=key) == sorted(whole.resource_spans[0].scope_spans[0].spans, key=key)
    assert all(owner(span.trace_id, MEMBERS) == name for name, span in found)


def test_a_member_that_joins_takes_over_only_what_becomes_its_own() -> None:
    rng = random.Random(4)
    ids = [rng.randbytes(16) for _ in range(3000)]
    before = {one: owner(one, MEMBERS[:2]) for one in ids}
    after = {one: owner(one, MEMBERS) for one in ids}
    moved = [one for one in ids if before[one] != after[one]]
    assert {after[one] for one in moved} == {MEMBERS[2]}
    assert 0.28 < len(moved) / len(ids) < 0.39


def test_a_collector_that_is_none_of_its_peers_does_not_start(tmp_path: Path) -> None:
    from tailbudget.collector.peers import Peers

    with pytest.raises(UserError, match="none of the peers"):
        Peers(("http://a:1", "http://b:1"), own="http://c:1")
    settings = CollectorSettings(tmp_path)
    assert settings.peers == ()
