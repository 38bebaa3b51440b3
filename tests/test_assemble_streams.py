"""The gaps between the chunks of a stream are rows of numbers, and what a call says of itself is kept."""

import base64

import pytest

from tailbudget.instrument.gaps import MAX_GAPS, Gaps

from .spans import Row, Trace, assemble, database, one, rows
from .test_assemble_requests import CALL, ENGINE

MS_NS = 1_000_000


def encoded(gaps_ms: list[float]) -> str:
    """Return the gaps as the attribute lands: base64 of what the instrument sends."""
    gaps, at, arrivals = Gaps(), 0, [0]
    for gap_ms in gaps_ms:
        at += round(gap_ms * MS_NS)
        arrivals.append(at)
    gaps.feed(arrivals)
    return base64.b64encode(gaps.encode()).decode()


def streamed(gaps: str, *, engine: str | None = None) -> list[Row]:
    trace = Trace()
    root = trace.add("ask", 0, 1000, attrs={"slo.request": "ask", "slo.request.id": "r-1"})
    attrs = {**CALL, "slo.stream.end": "complete", "slo.stream.chunks": 3, "slo.stream.gaps": gaps}
    call = trace.add("chat m", 10, 900, under=root, kind="CLIENT", attrs=attrs)
    if engine:
        told = {**ENGINE, "slo.stream.chunks": 3, "slo.stream.gaps": engine}
        trace.add("llm_request", 20, 890, under=call, kind="SERVER", service="engine", attrs=told)
    connection = database()
    assemble(connection, trace.spans)
    assemble(connection, trace.spans)
    return rows(connection, "select * from streams order by side")


def test_the_gaps_of_a_stream_come_out_as_they_went_in() -> None:
    (row,) = streamed(encoded([12.5, 0.001, 4000]))
    assert (row["side"], row["model"], row["request_id"]) == ("client", "m", "r-1")
    assert row["gaps_us"] == [12_500, 1, 4_000_000]


def test_client_and_server_are_two_rows() -> None:
    found = streamed(encoded([12.0]), engine=encoded([11.0]))
    assert [(row["side"], row["gaps_us"], row["model"]) for row in found] == [
        ("client", [12_000], "m"),
        ("server", [11_000], "m"),
    ]
    assert found[0]["span_id"] != found[1]["span_id"]


def test_a_long_stream_keeps_its_first_gaps_and_none_of_its_histogram() -> None:
    (row,) = streamed(encoded([float(number % 7 + 1) for number in range(MAX_GAPS + 100)]))
    assert row["gaps_us"] == [(number % 7 + 1) * 1000 for number in range(MAX_GAPS)]


@pytest.mark.parametrize("text", ["", "not base64!", base64.b64encode(b"\x02\x00\x00\x00\x00").decode()])
def test_bytes_of_an_unknown_layout_are_no_stream(text: str) -> None:
    assert streamed(text) == []


def test_role_hedge_and_fallback_come_from_the_call_and_a_plan_from_the_span_around_it() -> None:
    trace = Trace()
    root = trace.add("ask", 0, 1000, attrs={"slo.request": "ask"})
    plan = trace.add("plan", 0, 300, under=root, attrs={"gen_ai.operation.name": "plan"})
    trace.add("chat m", 0, 300, under=plan, attrs=CALL)
    attrs = {**CALL, "slo.role": "answer", "slo.hedged": True, "slo.fallback": True}
    trace.add("chat m", 400, 900, under=root, attrs=attrs)
    connection = database()
    assemble(connection, trace.spans)
    assert rows(connection, "select role, hedged from calls order by started") == [
        {"role": "plan", "hedged": None},
        {"role": "answer", "hedged": True},
    ]
    assert one(connection, "select fallback from requests")["fallback"] is True
