"""Budgets in code: what is left, stages that are cut short, rounds of tools, and a deadline that travels."""

import asyncio
import json
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

import tailbudget
from tailbudget import (
    Budget,
    OverBudgetError,
    UserError,
    check,
    deadline_s,
    remaining_ms,
    request,
    stage,
    testing,
    within,
)
from tailbudget.instrument import hooks
from tailbudget.instrument.guard import Guard
from tests.instrument_support import ModelServer, Recorded, recording, serve

LONG_S = 30.0


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture(autouse=True)
def fresh_log(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailbudget.instrument import overruns

    monkeypatch.setattr(overruns, "_once", overruns.OnceAWindow())


async def slow() -> str:
    await asyncio.sleep(LONG_S)
    return "too late"


def test_what_is_left_counts_down_and_the_total_ends_first() -> None:
    assert remaining_ms() == math.inf
    assert deadline_s() is None
    with request("chat", budgets_ms=Budget(total_ms=60_000, retrieval_ms=90_000, tools_ms=500)):
        assert 50_000 < remaining_ms() <= 60_000
        assert remaining_ms("retrieval") <= 60_000
        assert remaining_ms("tools") == 500
        assert remaining_ms("post") <= 60_000
        ends_s = deadline_s()
        assert ends_s is not None
        assert 50 < ends_s - time.time() <= 60


def test_a_stage_spends_while_it_is_open_side_by_side_once_and_nothing_in_between(recorded: Recorded) -> None:
    with request("chat", budgets_ms=Budget(tools_ms=60_000)):
        with stage("tools"), stage("tools"):
            time.sleep(0.02)
        left_ms = remaining_ms("tools")
        assert 59_000 < left_ms <= 59_980
        time.sleep(0.01)
        assert remaining_ms("tools") == left_ms


def words(clock: testing.Clock) -> Iterator[str]:
    for word in ("It ", "depends"):
        clock.advance_ms(40)
        yield word
    clock.advance_ms(10)


def test_model_calls_are_held_against_the_budgets_of_the_model() -> None:
    clock = testing.Clock()
    budget = Budget(total_ms=1_000, prefill_ms=30, decode_ms=300, model_ms=100, tools_ms=70)
    with testing.recording(clock=clock) as recorded:
        with request("chat", budgets_ms=budget):
            list(tailbudget.stream(words(clock), model="tiny"))
            clock.advance_ms(500)  # nothing runs
            assert (remaining_ms("prefill"), remaining_ms("decode"), remaining_ms("model")) == (0, 250, 10)
            with pytest.raises(OverBudgetError, match="prefill"):
                check()
            with stage("tools"):  # which owns the call beneath it
                list(tailbudget.stream(words(clock), model="tiny"))
            assert (remaining_ms("decode"), remaining_ms("model")) == (250, 10)
        with request("two at once", budgets_ms=Budget(model_ms=50)):
            first, second = (tailbudget.stream(words(clock), model="tiny") for _ in range(2))
            for stream in (first, second):
                next(stream)
            assert remaining_ms("model") == 0
            for stream in (first, second):
                stream.close()
    chat, both = (recorded.named(name).attributes for name in ("chat", "two at once"))
    assert (chat["slo.over"], chat["slo.over.time"]) == ("tools", 0.02)
    assert (both["slo.over"], both["slo.over.time"]) == ("model", 0.03)


async def test_a_coroutine_stage_is_cancelled_when_its_budget_is_spent(recorded: Recorded) -> None:
    cancelled = []

    @stage("retrieval", "docs")
    async def search() -> str:
        try:
            return await slow()
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    began_s = time.monotonic()
    budget = Budget(total_ms=20_000, retrieval_ms=50, on_over="raise")
    said = r"retrieval: \d+ ms of a budget of 50 ms"
    with pytest.raises(OverBudgetError, match=said) as caught, request("chat", budgets_ms=budget):
        await search()
    assert time.monotonic() - began_s < LONG_S / 2
    assert cancelled == [True]
    assert (caught.value.name, caught.value.budget) == ("retrieval", 50)
    assert caught.value.spent >= 50
    assert recorded.attributes("retrieval docs")["slo.over.action"] == "raise"
    attributes = recorded.attributes("chat")
    assert (attributes["slo.outcome"], attributes["slo.over"]) == ("timeout", "retrieval")
    assert attributes["slo.over.time"] >= 0


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_a_fallback_answers_in_place_of_the_stage(recorded: Recorded, asynchronous: bool) -> None:
    def at_once(over: OverBudgetError) -> str:
        return f"cached, for {over.name}"

    async def later(over: OverBudgetError) -> str:
        await asyncio.sleep(0)
        return at_once(over)

    @stage("retrieval", "docs")
    async def search() -> str:
        return await slow()

    budget = Budget(retrieval_ms=30, on_over={"retrieval": later if asynchronous else at_once})
    with request("chat", budgets_ms=budget):
        assert await search() == "cached, for retrieval"
    assert recorded.attributes("retrieval docs")["slo.over.action"] == "fallback"
    assert recorded.attributes("chat")["slo.outcome"] == "ok"


async def test_a_timeout_of_the_stage_itself_is_handed_on(recorded: Recorded) -> None:
    @stage("tools")
    async def impatient() -> None:
        raise TimeoutError("the tool's own")

    with pytest.raises(TimeoutError, match="the tool's own"), request("chat", budgets_ms=Budget(tools_ms=9e4)):
        await impatient()
    biting = Budget(tools_ms=9e4, on_over="raise")
    with pytest.raises(TimeoutError, match="the tool's own"), request("chat", budgets_ms=biting):
        await impatient()
    with pytest.raises(TimeoutError, match="the tool's own"), request("chat", budgets_ms=biting):
        async with stage("tools"):
            raise TimeoutError("the tool's own")


async def test_an_async_block_is_cut_short_and_its_span_ends_then(recorded: Recorded) -> None:
    with pytest.raises(OverBudgetError), request("chat", budgets_ms=Budget(tools_ms=30, on_over="raise")):
        async with stage("tools", "search"):
            await slow()
    span = recorded.named("execute_tool search")
    assert span.end_time is not None
    assert span.start_time is not None
    assert 0.03 <= (span.end_time - span.start_time) / 1e9 < LONG_S / 2
    assert recorded.attributes("execute_tool search")["error.type"] == "tailbudget.instrument.budget.OverBudgetError"


async def test_the_total_cuts_a_stage_and_an_async_request_short(recorded: Recorded) -> None:
    with pytest.raises(OverBudgetError, match="total"):
        async with request("chat", budgets_ms=Budget(total_ms=40, on_over="raise")):
            await slow()
    assert recorded.attributes("chat")["slo.outcome"] == "timeout"
    budget = Budget(total_ms=40, tools_ms=60_000, on_over="raise")
    with pytest.raises(OverBudgetError, match="total"), request("agent", budgets_ms=budget):
        async with stage("tools"):
            await slow()


async def test_recording_alone_changes_nothing_but_the_span_and_one_line_in_the_log(
    recorded: Recorded, caplog: pytest.LogCaptureFixture
) -> None:
    @stage("retrieval")
    async def search() -> str:
        await asyncio.sleep(0.02)
        return "found"

    for _ in range(3):
        with request("chat", budgets_ms=Budget(total_ms=1, retrieval_ms=5, tools_ms=60_000)):
            assert await search() == "found"
    assert [span.attributes["slo.over"] for span in recorded.spans if span.attributes and span.name == "chat"] == [
        "retrieval"
    ] * 3
    (line,) = [record.getMessage() for record in caplog.records if record.name == "tailbudget.budget"]
    assert line.startswith("chat over budget: retrieval took ")
    assert line.endswith(" ms of 5 ms")


def test_a_blocking_call_is_waited_for_no_longer_than_its_budget(recorded: Recorded) -> None:
    release, seen = threading.Event(), []

    def blocking(word: str) -> str:
        seen.append(tailbudget.request_id())
        release.wait(LONG_S)
        return word

    budget = Budget(retrieval_ms=60, on_over=lambda over: f"instead of {over.name}")
    with request("chat", budgets_ms=budget, request_id="r-1"):
        assert within("retrieval", blocking, "found") == "instead of retrieval"
        assert remaining_ms("retrieval") == 0
        assert within("retrieval", blocking, "not begun") == "instead of retrieval"
    release.set()
    assert seen == ["r-1"]
    with request("chat"):
        assert within("retrieval", blocking, "found") == "found"


def test_what_a_blocking_call_raises_is_raised(recorded: Recorded) -> None:
    def failing() -> None:
        raise TimeoutError("its own")

    budget = Budget(tools_ms=60_000, on_over="raise")
    with pytest.raises(TimeoutError, match="its own"), request("chat", budgets_ms=budget):
        within("tools", failing)


def test_a_blocking_stage_is_not_begun_when_nothing_is_left(recorded: Recorded) -> None:
    @stage("tools")
    def tool() -> None:
        raise AssertionError("begun")

    with request("chat", budgets_ms=Budget(total_ms=1, on_over="raise")):
        time.sleep(0.005)
        with pytest.raises(OverBudgetError, match="total"):
            tool()


async def test_a_coroutine_stage_is_not_begun_when_nothing_is_left(recorded: Recorded) -> None:
    begun = []

    @stage("tools")
    async def tool() -> None:
        begun.append(True)

    with request("chat", budgets_ms=Budget(total_ms=1, on_over="raise")):
        await asyncio.sleep(0.005)
        with pytest.raises(OverBudgetError, match="total"):
            await tool()
        with pytest.raises(OverBudgetError, match="total"):
            async with stage("tools"):
                begun.append(True)
    assert not begun


def test_rounds_of_tools_end_and_tools_side_by_side_are_one_round(recorded: Recorded) -> None:
    @stage("tools")
    def tool() -> str:
        return "answer"

    with request("agent", budgets_ms=Budget(tool_rounds=2, on_over={"tool_rounds": "raise"})):
        with stage("tools"):
            assert tool() == "answer"
        assert tool() == "answer"
        check()
        with pytest.raises(OverBudgetError, match="tool_rounds: 3 of a budget of 2"):
            tool()
        with pytest.raises(OverBudgetError):
            check()
    attributes = recorded.attributes("agent")
    assert (attributes["slo.budget.tool_rounds"], attributes["slo.over"]) == (2, "tool_rounds")


def test_check_raises_for_what_is_over_whatever_the_policy(recorded: Recorded) -> None:
    check()
    with request("chat", budgets_ms={"retrieval": 5, "total": 60_000}):
        check()
        with stage("retrieval"):
            time.sleep(0.01)
        with pytest.raises(OverBudgetError, match="retrieval"):
            check()


def test_a_request_inside_another_has_no_later_deadline(recorded: Recorded) -> None:
    with request("agent", budgets_ms=Budget(total_ms=1_000)), request("turn", budgets_ms=Budget(total_ms=90_000)):
        assert remaining_ms() <= 1_000


def ask(url: str) -> None:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])


def test_the_deadline_travels_with_a_model_call_where_it_bites(recorded: Recorded) -> None:
    hooks.install()
    model = ModelServer(["one."])
    try:
        with serve(model.app()) as url:
            for on_over in ("record", "raise"):
                with request("chat", budgets_ms=Budget(total_ms=60_000, on_over=on_over)):
                    ask(url)
    finally:
        hooks.uninstall()
    recording_only, biting = (headers.get("x-slo-remaining-ms") for headers in model.headers)
    assert recording_only is None
    assert biting is not None
    assert 30_000 < int(biting) <= 60_000


@contextmanager
def a_slow_model() -> Iterator[str]:
    hooks.install()
    try:
        with serve(ModelServer(["word "] * 500, delay_s=0.02).app()) as url:
            yield f"{url}/v1"
    finally:
        hooks.uninstall()


async def read_all(url: str, *, stream: bool = True, timeout_s: float = 60.0) -> None:
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=timeout_s) as client:
        answer: Any = await client.chat.completions.create(model="m", messages=[], stream=stream)
        async for _ in answer:
            pass


async def under_a_total(url: str) -> None:
    async with request("chat", budgets_ms=Budget(total_ms=300, on_over="raise")):
        await read_all(url)


async def under_a_stage(url: str) -> None:
    with request("chat", budgets_ms=Budget(decode_ms=300, on_over={"decode": "raise"})):
        await stage("decode")(read_all)(url)


async def before_the_answer(url: str) -> None:
    async with request("chat", budgets_ms=Budget(total_ms=300, on_over="raise")):
        await read_all(url.replace("/v1", "/stuck/v1"), stream=False)


async def by_a_check_in_the_loop(url: str) -> None:
    client = OpenAI(base_url=url, api_key="none")
    with client, request("chat", budgets_ms=Budget(total_ms=300)):
        answer = client.chat.completions.create(model="m", messages=[], stream=True)
        with answer:
            for _ in answer:
                check()


async def by_the_clients_own_timeout(url: str) -> None:
    with request("chat", budgets_ms=Budget(total_ms=100, on_over="raise")):
        try:
            await read_all(url.replace("/v1", "/stuck/v1"), timeout_s=remaining_ms() / 1e3)
        except openai.APITimeoutError:
            check()


@pytest.mark.parametrize(
    "ask_it",
    [under_a_total, under_a_stage, before_the_answer, by_a_check_in_the_loop, by_the_clients_own_timeout],
    ids=lambda ask_it: ask_it.__name__,
)
async def test_a_call_that_a_budget_ended_says_deadline(recorded: Recorded, ask_it: Any) -> None:
    with a_slow_model() as url, pytest.raises(OverBudgetError):
        await ask_it(url)
    assert recorded.attributes("chat m")["slo.stream.end"] == "deadline"
    assert recorded.attributes("chat")["slo.outcome"] == "timeout"


async def test_a_call_that_somebody_else_ended_does_not(recorded: Recorded) -> None:
    with a_slow_model() as url, pytest.raises(TimeoutError):
        async with request("chat", budgets_ms=Budget(total_ms=60_000, on_over="raise")), asyncio.timeout(0.3):
            await read_all(url)
    assert recorded.attributes("chat m")["slo.stream.end"] == "cancelled"


@pytest.mark.parametrize(("code", "end"), [("deadline", "deadline"), ("overloaded", "error"), (None, "error")])
def test_a_stream_on_the_wire_whose_last_word_is_an_error_says_which(recorded: Recorded, code: str, end: str) -> None:
    event = f"data: {json.dumps({'error': {'message': 'no more', 'code': code}})}\n\n"

    async def complete(_: Request) -> Response:
        return Response('data: {"choices": [{"delta": {"content": "a"}}]}\n\n' + event, media_type="text/event-stream")

    hooks.install()
    try:
        with serve(Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])) as url:
            asked = {"model": "m", "stream": True}
            with httpx.stream("POST", f"{url}/v1/chat/completions", json=asked) as answer:
                answer.read()
    finally:
        hooks.uninstall()
    assert recorded.attributes("chat m")["slo.stream.end"] == end


async def hang(_: Request) -> Response:
    await slow()
    return Response()


async def begin_and_hang(_: Request) -> Response:
    async def words() -> AsyncIterator[str]:
        yield "one "
        yield await slow()

    return StreamingResponse(words())


@pytest.mark.parametrize(
    ("path", "bites", "expected"),
    [
        ("/hang", True, ("504 the budget of this request is spent\n", "timeout")),
        ("/begin", True, ("RemoteProtocolError", "timeout")),
        ("/begin", False, ("ReadTimeout", "dropped")),
    ],
)
async def test_the_total_of_a_middleware_cancels_the_handler_where_it_bites(
    recorded: Recorded, path: str, bites: bool, expected: tuple[str, str]
) -> None:
    budget = Budget(total_ms=300, on_over="raise" if bites else "record")
    inner = Starlette(routes=[Route("/hang", hang), Route("/begin", begin_and_hang)])
    app = tailbudget.ASGIMiddleware(inner, budgets_ms={"/hang": budget, "/begin": budget})
    with serve(app) as url:
        async with httpx.AsyncClient(timeout=10.0 if bites else 0.8) as client:
            try:
                answer = await client.get(url + path)
                told = f"{answer.status_code} {answer.text}"
            except httpx.TransportError as error:
                told = type(error).__name__
        assert (told, recorded.attributes(path)["slo.outcome"]) == expected


@pytest.mark.parametrize(("sent", "most_ms"), [("800", 800.0), ("soon", 5_000.0), ("99999999", 5_000.0)])
def test_the_callers_deadline_holds_in_the_service_and_goes_on(recorded: Recorded, sent: str, most_ms: float) -> None:
    async def chat(_: Request) -> JSONResponse:
        from tailbudget.instrument.caps import outgoing

        return JSONResponse({"left_ms": remaining_ms(), "sends": dict(outgoing())})

    app = tailbudget.ASGIMiddleware(Starlette(routes=[Route("/chat", chat)]), budgets_ms={"/chat": {"total": 5_000}})
    with serve(app) as url:
        said: dict[str, Any] = httpx.get(f"{url}/chat", headers={"x-slo-remaining-ms": sent}).json()
    assert most_ms - 4_000 < said["left_ms"] <= most_ms
    assert bool(said["sends"]) is sent.isdecimal()
    assert "slo.deadline" in recorded.attributes("/chat")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"total_ms": 0}, "total_ms is 0: expected a positive number"),
        ({"retreival_ms": 300}, "unknown 'retreival_ms': expected one of total_ms, ttft_ms"),
        ({"tools_ms": True}, "tools_ms is True"),
        ({"tool_rounds": -1}, "tool_rounds is -1"),
        ({"on_over": "explode"}, "on_over is 'explode': expected 'record', 'raise' or a function"),
        ({"on_over": {"ttft": "raise"}}, "on_over has 'ttft': expected one of total, network"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_in_words(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Budget(**given)


async def test_an_error_of_ours_leaves_the_stage_without_a_cap(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tailbudget.instrument import caps

    def broken(*_: object) -> float:
        raise ValueError("no")

    @stage("tools")
    async def tool() -> str:
        return "answer"

    monkeypatch.setattr(Guard, "reraise", False)
    monkeypatch.setattr(caps, "left_ms", broken)
    with request("chat", budgets_ms=Budget(tools_ms=1_000, on_over="raise")):
        assert await tool() == "answer"
        async with stage("tools"):
            pass


def test_feedback_is_a_record_with_the_requests_id_in_no_trace(recorded: Recorded) -> None:
    with request("chat", request_id="r-7"):
        assert tailbudget.request_id() == "r-7"
        tailbudget.feedback("r-6", score=1, completed=False)
    (log,) = recorded.logs
    assert log.log_record.event_name == "slo.feedback"
    assert log.log_record.trace_id == 0
    assert dict(log.log_record.attributes or {}) == {
        "slo.request.id": "r-6",
        "slo.feedback.score": 1.0,
        "slo.feedback.completed": False,
    }
    assert tailbudget.request_id() is None


@pytest.mark.parametrize("said", [{}, {"score": math.nan}])
def test_feedback_that_says_nothing_is_logged_and_ignored(
    recorded: Recorded, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, said: dict[str, Any]
) -> None:
    monkeypatch.setattr(Guard, "reraise", False)
    monkeypatch.setattr(Guard, "_logged_s", {})
    tailbudget.feedback("r-1", **said)
    assert not recorded.logs
    assert "telemetry failed in feedback" in caplog.text
