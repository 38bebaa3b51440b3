"""A request is a span with its route, id, tenant and budgets, and an outcome when it ends."""

import asyncio
import time
from collections.abc import Iterator

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from tailbudget import annotate, request, usable
from tailbudget.instrument.guard import Guard
from tests.instrument_support import Recorded, recording


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


def test_a_request_carries_its_marks_and_its_budgets_in_seconds(recorded: Recorded) -> None:
    with request("chat", budgets_ms={"total": 2500, "retrieval": 300}, tenant="acme", request_id="r-1"):
        pass
    assert recorded.named("chat").kind == SpanKind.INTERNAL
    attributes = recorded.attributes("chat")
    assert attributes.pop("slo.deadline") == pytest.approx(time.time() + 2.5, abs=10)
    assert attributes == {
        "slo.request": "chat",
        "slo.request.id": "r-1",
        "slo.tenant": "acme",
        "slo.budget.total": 2.5,
        "slo.budget.retrieval": 0.3,
        "slo.outcome": "ok",
    }


def test_id_and_tenant_come_from_baggage_when_nobody_says_them(recorded: Recorded) -> None:
    carried = baggage.set_baggage("slo.tenant", "acme", baggage.set_baggage("slo.request.id", "r-2"))
    token = otel_context.attach(carried)
    with request("chat"):
        pass
    otel_context.detach(token)
    attributes = recorded.attributes("chat")
    assert (attributes["slo.request.id"], attributes["slo.tenant"]) == ("r-2", "acme")


@pytest.mark.parametrize(
    ("error", "outcome", "failed"),
    [
        (ValueError("secret"), "error", True),
        (TimeoutError(), "timeout", True),
        (asyncio.CancelledError(), None, False),
    ],
)
def test_an_error_gives_the_outcome(
    recorded: Recorded, error: BaseException, outcome: str | None, failed: bool
) -> None:
    with pytest.raises(type(error)), request("chat"):
        raise error
    assert recorded.attributes("chat").get("slo.outcome") == outcome
    assert (recorded.named("chat").status.status_code == StatusCode.ERROR) is failed


def test_what_is_learnt_later_is_annotated(recorded: Recorded) -> None:
    with request("chat"):
        annotate(route="agent", tenant="acme", budgets_ms={"ttft": 500}, outcome="degraded", conversation_id="c-1")
        annotate(attributes={"slo.synthetic": True})
        usable()
    attributes = recorded.attributes("agent")
    assert attributes["slo.request"] == "agent"
    assert attributes["slo.tenant"] == "acme"
    assert attributes["slo.budget.ttft"] == 0.5
    assert attributes["slo.outcome"] == "degraded"
    assert attributes["gen_ai.conversation.id"] == "c-1"
    assert attributes["slo.synthetic"] is True
    assert attributes["slo.usable.source"] == "app"
    assert attributes["slo.time_to_usable"] > 0


def test_outside_of_a_request_nothing_happens(recorded: Recorded) -> None:
    annotate(tenant="acme")
    usable()
    assert not recorded.spans


def test_an_unknown_budget_does_not_break_the_request(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Guard, "reraise", False)
    monkeypatch.setattr(Guard, "_logged_s", {})
    for _ in range(3):
        with request("chat", budgets_ms={"retreival": 1}):
            pass
    assert len(recorded.spans) == 3
    assert [record.message.split(" (")[0] for record in caplog.records] == ["telemetry failed in request"]
    assert "retreival" in caplog.text


def test_requests_are_counted_by_route_tenant_and_outcome(recorded: Recorded) -> None:
    with request("counted", tenant="acme"):
        assert ({"route": "counted", "tenant": "acme"}, 1) in recorded.points("slo.requests.active")
    with pytest.raises(KeyError), request("counted", tenant="acme"):
        raise KeyError
    labels = {"route": "counted", "tenant": "acme"}
    assert (labels, 2) in recorded.points("slo.requests.started")
    assert (labels, 0) in recorded.points("slo.requests.active")
    ended = recorded.points("slo.requests.ended")
    assert (labels | {"outcome": "ok"}, 1) in ended
    assert (labels | {"outcome": "error"}, 1) in ended


def test_of_requests_inside_of_each_other_the_outermost_is_counted(recorded: Recorded) -> None:
    with request("outermost"), request("inner"), request("innermost"):
        pass
    for metric in ("slo.requests.started", "slo.requests.ended", "slo.requests.active"):
        routes = [labels["route"] for labels, _ in recorded.points(metric)]
        assert "outermost" in routes
        assert not {"inner", "innermost"} & set(routes), metric
    assert recorded.attributes("inner")["slo.outcome"] == "ok"


def test_an_unknown_outcome_is_logged_once_and_ignored(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Guard, "reraise", False)
    monkeypatch.setattr(Guard, "_logged_s", {})
    with request("chat"):
        for _ in range(3):
            annotate(outcome="weird", tenant="acme", budgets_ms={"total": 1000})  # type: ignore[arg-type]
    attributes = recorded.attributes("chat")
    assert (attributes["slo.outcome"], attributes["slo.tenant"], attributes["slo.budget.total"]) == ("ok", "acme", 1.0)
    assert [record.message.split(" (")[0] for record in caplog.records] == ["telemetry failed in annotate"]
    assert "unknown outcome 'weird': expected one of ok, error" in caplog.text


def test_the_context_is_as_before(recorded: Recorded) -> None:
    before = otel_context.get_current()
    with request("chat"):
        assert otel_context.get_current() is not before
    assert otel_context.get_current() is before


class Unreadable:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_tenant_that_cannot_be_read_leaves_the_metrics_as_they_were(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Guard, "reraise", False)
    with request("unreadable", tenant="acme"):
        annotate(tenant=Unreadable())  # type: ignore[arg-type]
    labels = {"route": "unreadable", "tenant": "acme", "outcome": "ok"}
    assert (labels, 1) in recorded.points("slo.requests.ended")


async def test_one_scope_serves_tasks_and_itself_at_once(recorded: Recorded) -> None:
    shared = request("shared")

    async def task(number: int) -> None:
        with shared as outer:
            await asyncio.sleep(0.001 * number)
            async with shared as inner:
                assert inner is not outer
                annotate(attributes={"number": number})
                await asyncio.sleep(0.01)

    await asyncio.gather(*(task(n) for n in range(5)))
    assert not get_current_span().get_span_context().is_valid
    said = [span.attributes.get("number") for span in recorded.spans if span.attributes]
    assert sorted(number for number in said if isinstance(number, int)) == [0, 1, 2, 3, 4]
    assert len(recorded.spans) == 10
