"""Guards do what they say, with real tasks and threads, and report it under their names."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from openai import AsyncOpenAI

import tailbudget
from tailbudget import UserError, request, stage
from tailbudget.guards import (
    AdaptiveLimit,
    BoundedQueue,
    CircuitBreaker,
    CircuitOpenError,
    Hedge,
    LimitReachedError,
    LoadShedder,
    QueueFullError,
    ShedError,
    fan_out,
    fan_out_sync,
)
from tailbudget.instrument import hooks
from tailbudget.instrument.attempts import Attempt
from tests.instrument_support import ModelServer, Recorded, recording, serve
from tests.support import wait_until

LONG_S = 30.0
names = map(str, count())


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    with recording() as recorded:
        yield recorded


@pytest.fixture
def name() -> str:
    return f"guard-{next(names)}"


def figure(recorded: Recorded, metric: str, name: str) -> float:
    return sum(value for labels, value in recorded.points(metric) if labels["slo.guard"] == name)


# Hedge


async def test_a_slow_first_attempt_is_overtaken_and_cancelled(recorded: Recorded, name: str) -> None:
    hedge, cancelled = Hedge(name, delay_s=0.02, max_share=1), []
    told: list[int] = []

    async def call(attempt: Attempt) -> str:
        attempt.on_cancel(lambda: told.append(attempt.number))
        try:
            await asyncio.sleep(LONG_S if attempt.number == 1 else 0)
        except asyncio.CancelledError:
            cancelled.append(attempt.number)
            raise
        return f"attempt {attempt.number}"

    assert await hedge.run(call, idempotent=True) == "attempt 2"
    await asyncio.sleep(0)
    assert cancelled == told == [1]
    assert (figure(recorded, "slo.hedge.sent", name), figure(recorded, "slo.hedge.won", name)) == (1, 1)


async def test_what_is_fast_or_not_idempotent_is_not_hedged(name: str) -> None:
    hedge, attempts = Hedge(name, delay_s=0.02, max_share=1), []

    async def call(attempt: Attempt) -> int:
        attempts.append(attempt.number)
        await asyncio.sleep(0.06)
        return attempt.number

    assert await hedge.run(call, idempotent=False) == 1
    hedge = Hedge(name, delay_s=LONG_S, max_share=1)
    assert await hedge.run(call, idempotent=True) == 1
    assert attempts == [1, 1]


async def test_hedges_are_a_share_of_the_traffic(name: str) -> None:
    hedge = Hedge(name, delay_s=0, max_share=0.125)

    async def call(_: Attempt) -> None:
        await asyncio.sleep(0.002)

    for _ in range(40):
        await hedge.run(call, idempotent=True)
    assert hedge.sent == 6  # one to begin with, and one for every eight calls


async def test_the_delay_is_learnt_from_the_calls(name: str) -> None:
    clock = Clock()
    hedge = Hedge(name, clock=clock)

    async def call(_: Attempt) -> None:
        clock.now_s += next(durations)

    durations = iter([0.1] * 18 + [2.0, 3.0])
    for _ in range(19):
        await hedge.run(call, idempotent=True)
    assert hedge.delay_s() is None
    await hedge.run(call, idempotent=True)
    assert hedge.delay_s() == pytest.approx(3.0)


async def test_an_error_is_no_reason_to_hedge_and_a_failed_hedge_waits_for_the_first(name: str) -> None:
    hedge = Hedge(name, delay_s=0.02, max_share=1)

    async def fails_at_once(_: Attempt) -> None:
        raise KeyError("first")

    with pytest.raises(KeyError, match="first"):
        await hedge.run(fails_at_once, idempotent=True)
    assert hedge.sent == 0

    async def second_fails(attempt: Attempt) -> str:
        if attempt.number == 2:
            raise KeyError("second")
        await asyncio.sleep(0.08)
        return "the first"

    assert await hedge.run(second_fails, idempotent=True) == "the first"

    async def both_fail(attempt: Attempt) -> None:
        await asyncio.sleep(0.05)
        raise KeyError(attempt.number)

    with pytest.raises(KeyError, match="1"):
        await hedge.run(both_fail, idempotent=True)
    assert (hedge.sent, hedge.won) == (2, 0)


async def test_a_caller_that_is_cancelled_cancels_every_attempt(name: str) -> None:
    hedge, cancelled = Hedge(name, delay_s=0.01, max_share=1), []

    async def call(attempt: Attempt) -> None:
        try:
            await asyncio.sleep(LONG_S)
        except asyncio.CancelledError:
            cancelled.append(attempt.number)
            raise

    with pytest.raises(TimeoutError):
        await asyncio.wait_for(hedge.run(call, idempotent=True), 0.1)
    await asyncio.sleep(0.01)
    assert sorted(cancelled) == [1, 2]


def test_the_losers_tokens_are_counted_and_both_calls_are_marked(recorded: Recorded, name: str) -> None:
    model, hedge = ModelServer(["word "] * 50, delay_s=0.02), Hedge(name, delay_s=0.2, max_share=1)

    async def ask(client: AsyncOpenAI, attempt: Attempt) -> int:
        words = 50 if attempt.number == 1 else 1
        messages: Any = [{"role": "user", "content": "?"}]
        stream: Any = await client.chat.completions.create(model="m", messages=messages, stream=True)
        seen = 0
        async with stream:
            async for chunk in stream:
                seen += bool(chunk.choices and chunk.choices[0].delta.content)
                if seen == words:
                    break
        return attempt.number

    async def both(url: str) -> int:
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            winner = await hedge.run(lambda attempt: ask(client, attempt), idempotent=True)
            await asyncio.sleep(0.05)  # the loser's stream is closed in the loop's next turns
            return winner

    hooks.install()
    try:
        with serve(model.app()) as url:
            assert asyncio.run(both(url)) == 2
    finally:
        hooks.uninstall()
    calls = [span.attributes or {} for span in recorded.spans if span.name == "chat m"]
    assert [call["slo.hedged"] for call in calls] == [True, True]
    (lost,) = [call for call in calls if call["slo.stream.end"] == "cancelled"]
    assert figure(recorded, "slo.hedge.wasted_tokens", name) == lost["slo.stream.chunks"]
    assert lost["slo.stream.chunks"] > 3


def test_a_blocking_call_is_hedged_and_the_loser_is_told(recorded: Recorded, name: str) -> None:
    hedge, told = Hedge(name, delay_s=0.02, max_share=1), threading.Event()

    def call(attempt: Attempt) -> str | None:
        if attempt.number == 1:
            attempt.on_cancel(told.set)
            told.wait(LONG_S)
        return tailbudget.request_id()

    with request("chat", request_id="r-3"):
        assert hedge.run_sync(call, idempotent=True) == "r-3"
    assert told.wait(5)
    assert (hedge.sent, hedge.won) == (1, 1)

    def fails(_: Attempt) -> None:
        time.sleep(0.04)
        raise KeyError("both")

    with pytest.raises(KeyError, match="both"):
        hedge.run_sync(fails, idempotent=True)


# CircuitBreaker


def failing(breaker: CircuitBreaker, error: BaseException) -> None:
    with pytest.raises(type(error)), breaker:
        raise error


async def test_after_five_failures_it_is_open_for_a_minute_then_tries_one(recorded: Recorded, name: str) -> None:
    clock = Clock()
    breaker = CircuitBreaker(name, clock=clock)
    for _ in range(5):
        assert breaker.state == 0
        failing(breaker, TimeoutError())
    with pytest.raises(CircuitOpenError, match=r"is open after: TimeoutError x5") as caught, breaker:
        pass
    assert caught.value.retry_after_s == 60
    assert figure(recorded, "slo.breaker.state", name) == 2
    clock.now_s += 60
    assert figure(recorded, "slo.breaker.state", name) == 1
    async with breaker:
        with pytest.raises(CircuitOpenError):  # one at a time is tried
            await breaker.__aenter__()
    assert figure(recorded, "slo.breaker.state", name) == 0


def test_a_failed_try_opens_it_again_and_success_forgets_failures(name: str) -> None:
    clock = Clock()
    breaker = CircuitBreaker(name, failures=2, open_s=10, clock=clock)
    failing(breaker, OSError())
    with breaker:
        pass
    failing(breaker, OSError())
    assert breaker.state == 0
    failing(breaker, OSError())
    clock.now_s += 10
    failing(breaker, OSError())
    assert breaker.state == 2
    clock.now_s += 10
    failing(breaker, asyncio.CancelledError())
    assert breaker.state == 1  # a cancelled try says nothing, and lets the next one try


async def test_a_call_from_before_the_outage_neither_closes_the_circuit_nor_is_the_one_try(name: str) -> None:
    clock = Clock()
    breaker = CircuitBreaker(name, failures=1, open_s=10, clock=clock)
    answers = [asyncio.Event() for _ in range(2)]

    async def call(answered: asyncio.Event, error: Exception | None) -> None:
        async with breaker:
            await answered.wait()
            if error:
                raise error

    slow, slower = (asyncio.create_task(call(answered, None)) for answered in answers)
    await asyncio.sleep(0)
    failing(breaker, OSError())
    answers[0].set()
    await slow
    assert breaker.state == 2
    clock.now_s += 10
    async with breaker:
        answers[1].set()
        await slower
        assert breaker.state == 1
        with pytest.raises(CircuitOpenError):
            await breaker.__aenter__()
    assert breaker.state == 0


def test_a_callers_mistake_is_no_failure(name: str) -> None:
    breaker = CircuitBreaker(name, failures=1, ignored=(ValueError,))
    failing(breaker, ValueError())
    failing(breaker, asyncio.CancelledError())
    assert breaker.state == 0


# AdaptiveLimit


def test_the_limit_falls_when_p95_is_over_its_target_and_grows_where_it_is_used(recorded: Recorded, name: str) -> None:
    clock = Clock()
    limit = AdaptiveLimit(name, target_s=1.0, initial=10, most=20, clock=clock)

    def window(duration_s: float, at_once: int) -> None:
        for _ in range(20 // at_once):
            scopes = [limit.__enter__() for _ in range(at_once)]
            clock.now_s += duration_s
            for scope in scopes:
                scope.__exit__(None, None, None)

    window(2.0, 10)
    assert limit.limit == 8
    window(2.0, 5)
    assert limit.limit == 6
    window(0.5, 2)
    assert limit.limit == 6  # fast, but hardly used
    window(0.5, 5)
    assert limit.limit == 6
    for _ in range(6):
        limit.__enter__()
    with pytest.raises(LimitReachedError, match="6 in flight, 6 allowed"):
        limit.__enter__()
    assert (figure(recorded, "slo.limit.current", name), figure(recorded, "slo.limit.in_flight", name)) == (6, 6)


async def test_the_limit_finds_what_a_real_server_can_take(name: str) -> None:
    capacity, limit = asyncio.Semaphore(3), AdaptiveLimit(name, target_s=0.03, initial=30)

    async def ask() -> bool:
        try:
            async with limit, capacity:
                await asyncio.sleep(0.01)
        except LimitReachedError:
            await asyncio.sleep(0.005)
            return False
        return True

    for _ in range(40):
        await asyncio.gather(*(ask() for _ in range(25)))
    assert limit.limit < 20


async def test_an_overload_error_lowers_the_limit(name: str) -> None:
    limit = AdaptiveLimit(name, target_s=60, initial=10)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            async with limit:
                raise TimeoutError
    assert limit.limit == 8


# BoundedQueue


async def test_places_are_handed_on_in_order_and_waiting_is_a_stage(recorded: Recorded, name: str) -> None:
    queue, order = BoundedQueue(name, at_once=2, most_waiting=3), []

    async def ask(number: int) -> None:
        async with queue:
            order.append(number)
            await asyncio.sleep(0.01)

    with request("chat"):
        results = await asyncio.gather(*(ask(number) for number in range(7)), return_exceptions=True)
    assert order == [0, 1, 2, 3, 4]
    assert [type(each) for each in results[5:]] == [QueueFullError] * 2
    assert [span.name for span in recorded.spans].count(f"queue {name}") == 3
    assert figure(recorded, "slo.queue.depth", name) == 0
    (waits,) = [point for metric, point in recorded.histograms() if metric == "slo.queue.wait"]
    assert waits.count == 5


async def test_littles_law_gives_the_wait_and_refuses_what_would_come_too_late(name: str) -> None:
    clock = Clock()
    queue = BoundedQueue(name, at_once=1, max_wait_s=5.0, clock=clock)
    for _ in range(11):
        async with queue:
            clock.now_s += 2.0
        clock.now_s += 600  # idle: no reason to expect a longer wait
    async with queue:
        assert queue.expected_wait_s() == pytest.approx(2.0)
        waiting = [asyncio.ensure_future(queue.__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        assert queue.depth == 2
        assert queue.expected_wait_s() == pytest.approx(6.0)
        with pytest.raises(QueueFullError, match=r"6\.0 s to wait, 5\.0 s allowed") as caught:
            await queue.__aenter__()
        assert caught.value.retry_after_s == pytest.approx(6.0)
        waiting.pop().cancel()
        await asyncio.sleep(0)
        assert queue.depth == 1
        with request("chat", budgets_ms={"total": 3_000}), pytest.raises(QueueFullError, match=r"allowed"):
            await queue.__aenter__()
    await asyncio.wait_for(waiting[0], 5)
    await queue.__aexit__(None, None, None)
    assert queue._inside == 0


async def test_one_that_gives_up_at_the_last_moment_hands_its_turn_on(name: str) -> None:
    queue = BoundedQueue(name, at_once=1)
    await queue.__aenter__()
    first, second = (asyncio.ensure_future(queue.__aenter__()) for _ in range(2))
    await asyncio.sleep(0)
    await queue.__aexit__(None, None, None)
    first.cancel()
    await asyncio.wait_for(second, 5)
    assert first.cancelled() or first.exception() is None


async def test_nobody_waits_longer_than_allowed_behind_one_that_hangs(name: str) -> None:
    queue = BoundedQueue(name, at_once=1, max_wait_s=0.03)
    async with queue:
        with pytest.raises(QueueFullError, match=r"waited 0\.0 s"):
            await queue.__aenter__()
        with pytest.raises(QueueFullError, match=r"waited 0\.0 s"):
            await asyncio.to_thread(queue.__enter__)
        assert queue.depth == 0
    async with queue:
        assert queue._inside == 1
    assert queue._inside == 0


def test_a_waiter_whose_loop_is_gone_is_passed_over(name: str) -> None:
    queue = BoundedQueue(name, at_once=1)
    queue.__enter__()

    async def wait_a_little() -> None:
        waiting = asyncio.ensure_future(queue.__aenter__())
        await asyncio.sleep(0)
        queue._waiting.append(queue._waiting[0])  # one that its loop could not take out when it ended
        waiting.cancel()

    asyncio.run(wait_a_little())
    assert queue.depth == 1
    queue.__exit__(None, None, None)
    assert queue.depth == queue._inside == 0


def test_threads_wait_too_and_never_more_are_inside_than_allowed(name: str) -> None:
    queue, inside, peak = BoundedQueue(name, at_once=3), [0], []
    lock = threading.Lock()

    def work(_: int) -> None:
        with queue:
            with lock:
                inside[0] += 1
                peak.append(inside[0])
            time.sleep(0.002)
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(work, range(100)))
    assert len(peak) == 100
    assert max(peak) == 3
    assert queue.depth == queue._inside == 0


# LoadShedder


def shed(pressure: float, **about: Any) -> bool:
    shedder = LoadShedder("tiers", {"cpu": lambda: 0.1, "queue": lambda: pressure})
    try:
        shedder.admit(**about)
    except ShedError:
        return True
    return False


@pytest.mark.parametrize(
    ("about", "shed_from"),
    [
        ({"tier": "low"}, 1.0),
        ({"tier": "normal"}, 1.2),
        ({}, 1.2),
        ({"tier": "high"}, 1.5),
        ({"tier": "critical"}, 2.0),
        ({"tier": "normal", "attempt": 2}, 1.0),
        ({"tier": "low", "attempt": 3}, 1.0),
        ({"tier": "normal", "realtime": True}, 1.5),
        ({"tier": "critical", "realtime": True}, 2.0),
        ({"tier": "normal", "realtime": True, "attempt": 2}, 1.2),
    ],
)
def test_tiers_are_shed_in_order_retries_earlier_and_people_who_wait_later(
    about: dict[str, Any], shed_from: float
) -> None:
    assert not shed(shed_from - 0.01, **about)
    assert shed(shed_from, **about)


def test_a_shed_request_says_so_and_is_counted_with_its_reason(recorded: Recorded, name: str) -> None:
    def broken() -> float:
        raise OSError("no load here")

    shedder = LoadShedder(name, {"cpu": broken, "wait": lambda: 1.3})
    with pytest.raises(ShedError, match=r"wait is at 1\.30 of its limit"), request("chat"):
        shedder.admit()
    assert recorded.attributes("chat")["slo.outcome"] == "shed"
    assert recorded.points("slo.shed") == [({"slo.guard": name, "tier": "normal", "reason": "wait"}, 1)]
    with pytest.raises(UserError, match="tier is 'vip': expected one of critical, high"):
        shedder.admit(tier="vip")  # type: ignore[arg-type]


def test_a_queue_presses(name: str) -> None:
    queue = BoundedQueue(name, at_once=1, most_waiting=4)
    shedder = LoadShedder(name, {"queue": lambda: queue.fullness * 2})
    assert shedder.pressure() == ("queue", 0.0)


# fan_out


async def test_what_comes_in_time_is_used_and_the_rest_is_patched_in_later(recorded: Recorded) -> None:
    patched: list[tuple[str, Any]] = []
    came = asyncio.Event()

    def patch(branch: str, value: Any) -> None:
        patched.append((branch, value))
        came.set()

    async def fails() -> str:
        raise KeyError("broken")

    @stage("retrieval", "slow")
    async def slow() -> str:
        await asyncio.sleep(0.08)
        return "late docs"

    async def fast() -> str:
        return "docs"

    with request("chat"):
        result = await fan_out(
            {"fast": fast, "slow": slow, "broken": fails},
            timeouts_ms={"slow": 20, "*": 5_000},
            on_late=patch,
            name="sources",
        )
    assert result.values == {"fast": "docs"}
    assert not result.complete
    assert isinstance(result.missing["slow"], TimeoutError)
    assert isinstance(result.missing["broken"], KeyError)
    async with asyncio.timeout(20):
        await came.wait()
    assert patched == [("slow", "late docs")]
    said = {metric: figure(recorded, f"slo.fan_out.{metric}", "sources") for metric in ("branches", "late", "patched")}
    assert said == {"branches": 3, "late": 1, "patched": 1}
    assert figure(recorded, "slo.fan_out.failed", "sources") == 1


async def test_a_late_branch_without_a_patch_is_cancelled_and_budgets_shorten_timeouts() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(LONG_S)
        finally:
            ended.append("slow")

    began_s = time.monotonic()
    with request("chat", budgets_ms={"total": 60}):
        result = await fan_out({"slow": slow}, timeouts_ms=LONG_S * 1e3)
    await asyncio.sleep(0)
    assert time.monotonic() - began_s < LONG_S / 2
    assert list(result.missing) == ended == ["slow"]
    with pytest.raises(UserError, match="the timeout of 'slow' is None"):
        await fan_out({"slow": slow}, timeouts_ms={"fast": 1})


def test_threads_fan_out_too() -> None:
    patched, release = threading.Event(), threading.Event()

    def waits(release: threading.Event = release) -> str:
        release.wait(LONG_S)
        return "late"

    def own_timeout() -> str:
        raise TimeoutError("its own")

    branches: dict[str, Callable[[], str]] = {"fast": lambda: "docs", "slow": waits, "own": own_timeout}
    result = fan_out_sync(branches, timeouts_ms={"slow": 30, "*": 5_000}, on_late=lambda *_: patched.set())
    assert result.values == {"fast": "docs"}
    assert str(result.missing["own"]) == "its own"
    assert "slow took longer than 30 ms" in str(result.missing["slow"])
    release.set()
    wait_until(patched.is_set, what="the patch")


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: Hedge("x", max_share=0), "max_share 0"),
        (lambda: CircuitBreaker("x", failures=0), "failures is 0"),
        (lambda: AdaptiveLimit("x", target_s=1, initial=5, most=4), "expected seconds above 0 and 1 <= least"),
        (lambda: BoundedQueue("x", at_once=0), "at_once is 0"),
        (lambda: LoadShedder("x", {}), "no triggers"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(build: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build()
