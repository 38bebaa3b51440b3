"""A stage goes wrong as the request asks, where the service wants that, and its time and failure are its own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context

import tailbudget
from tailbudget.instrument import faults
from tailbudget.instrument.faults import InjectedFaultError

from .instrument_support import recording


@contextmanager
def asked(fault: str) -> Iterator[None]:
    """Run the body as a request that asks for a fault."""
    token = otel_context.attach(baggage.set_baggage("slo.fault", fault))
    try:
        yield
    finally:
        otel_context.detach(token)


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "heeded", True)


@tailbudget.stage("retrieval", "docs")
def find() -> str:
    return "found"


@tailbudget.stage("retrieval", "docs")
async def find_soon() -> str:
    return "found"


async def _within() -> str:
    async with tailbudget.stage("retrieval"):
        return "found"


def _plainly() -> str:
    with tailbudget.stage("retrieval"):
        return "found"


FORMS: dict[str, Any] = {
    "function": find,
    "coroutine": lambda: asyncio.run(find_soon()),
    "async with": lambda: asyncio.run(_within()),
    "with": _plainly,
}


@pytest.mark.parametrize("form", FORMS)
def test_a_stage_that_is_asked_to_fail_fails_and_its_span_says_so(wanted: None, form: str) -> None:
    with recording() as recorded, asked("retrieval=fail"), pytest.raises(InjectedFaultError, match="retrieval"):
        FORMS[form]()
    (span,) = recorded.spans
    assert "InjectedFaultError" in str((span.attributes or {})["error.type"])


@pytest.mark.parametrize("form", FORMS)
def test_a_stage_that_is_asked_to_be_slow_holds_the_wait(wanted: None, form: str) -> None:
    with recording() as recorded, asked("retrieval=slow:30"):
        assert FORMS[form]() == "found"
    (span,) = recorded.spans
    assert (span.end_time or 0) - (span.start_time or 0) >= 30_000_000


@pytest.mark.parametrize("fault", ["tools=fail", "retrieval=slow:much", "retrieval=", "fail", "retrieval=explode"])
def test_other_stages_and_words_that_are_none_change_nothing(wanted: None, fault: str) -> None:
    with asked(fault):
        assert find() == "found"


def test_nobody_makes_a_service_fail_that_does_not_want_it() -> None:
    assert not faults.heeded
    with asked("retrieval=fail"):
        assert find() == "found"
        assert asyncio.run(find_soon()) == "found"


def test_a_request_takes_from_its_callers_baggage_that_it_is_synthetic_and_of_which_run() -> None:
    said = baggage.set_baggage("slo.run.id", "r-1", baggage.set_baggage("slo.synthetic", "true"))
    token = otel_context.attach(said)
    try:
        with recording() as recorded, tailbudget.request("chat"):
            pass
    finally:
        otel_context.detach(token)
    attributes = dict(recorded.spans[0].attributes or {})
    assert (attributes["slo.synthetic"], attributes["slo.run.id"]) == (True, "r-1")
    with recording() as recorded, tailbudget.request("chat"):
        pass
    assert "slo.synthetic" not in (recorded.spans[0].attributes or {})
