"""What costs much is asked for behind the viewers: an old answer is given at once, and the page says how old it is."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

from tailbudget.analytics.reader import ApiReader, QueryError
from tailbudget.app.pages.parts import ahead, answers
from tailbudget.app.pages.parts.renewed import Renewed

from .local_api import local_api
from .support import free_port, wait_until
from .test_map import seen, shop

#: Longer than any question of these tests takes.
LONG_S = 60.0
BEGAN = datetime(2020, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Stands still until it is moved."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Question:
    """Counts how often it is asked, which is its answer; waits while its gate is closed."""

    n: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> int:
        with self.lock:
            self.n += 1
            found = self.n
        assert self.gate.wait(LONG_S)
        return found


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def question() -> Iterator[Question]:
    made = Question()
    made.gate.set()
    yield made
    made.gate.set()


def _renewed(clock: Clock, *, wait_s: float = 0.0, most: int = 4) -> Renewed:
    return Renewed(fresh_s=60, given_s=600, wait_s=wait_s, most=most, clock=clock)


def _fails() -> NoReturn:
    raise QueryError("the collector is gone")


def _not_asked() -> NoReturn:
    raise AssertionError("it was asked for")


def test_an_answer_of_a_minute_is_given_again(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock)
    assert renewed.get("a", question) == 1
    clock.now_s += 59
    assert renewed.get("a", question) == 1
    assert question.n == 1


def test_an_old_answer_is_given_at_once_while_the_new_one_is_asked_for(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock)
    renewed.get("a", question)
    clock.now_s += 61
    question.gate.clear()
    assert renewed.get("a", question) == 1
    wait_until(lambda: question.n == 2, what="the new ask")
    assert renewed.get("a", question) == 1
    question.gate.set()
    wait_until(lambda: renewed.get("a", question) == 2, what="the new answer")
    assert renewed.get("a", _not_asked) == 2


def test_a_new_answer_that_takes_no_time_is_given_in_place_of_the_old_one(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock, wait_s=LONG_S)
    renewed.get("a", question)
    clock.now_s += 61
    assert renewed.get("a", question) == 2


def test_ten_sessions_that_find_an_old_answer_ask_once(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock)
    renewed.get("a", question)
    clock.now_s += 61
    question.gate.clear()
    with ThreadPoolExecutor(10) as sessions:
        assert list(sessions.map(lambda _: renewed.get("a", question), range(10))) == [1] * 10
    question.gate.set()
    wait_until(lambda: renewed.get("a", question) == 2, what="the new answer")
    assert question.n == 2


def test_ten_sessions_without_an_answer_wait_for_the_same_ask(clock: Clock, question: Question) -> None:
    renewed, came = _renewed(clock), threading.Barrier(11)
    question.gate.clear()

    def session(_: int) -> int:
        came.wait(LONG_S)
        return renewed.get("a", question)

    with ThreadPoolExecutor(10) as sessions:
        found = sessions.map(session, range(10))
        came.wait(LONG_S)
        question.gate.set()
        assert list(found) == [1] * 10
    assert question.n == 1


def test_one_question_does_not_wait_for_another(clock: Clock, question: Question) -> None:
    renewed, other = _renewed(clock), Question()
    with ThreadPoolExecutor(1) as session:
        waits = session.submit(renewed.get, "b", other)
        wait_until(lambda: other.n == 1, what="the other question")
        assert renewed.get("a", question) == 1
        assert not waits.done()
        other.gate.set()


def test_a_failing_renewal_keeps_the_old_answer_until_the_limit_then_it_is_raised(
    clock: Clock, question: Question
) -> None:
    renewed = _renewed(clock, wait_s=LONG_S)
    renewed.get("a", question)
    for now_s in (1061, 1300, 1600):
        clock.now_s = now_s
        assert renewed.get("a", _fails) == 1
    clock.now_s = 1601
    with pytest.raises(QueryError, match="the collector is gone"):
        renewed.get("a", _fails)
    assert renewed.get("a", question) == 2


def test_after_a_failure_the_next_try_is_a_minute_later(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock, wait_s=LONG_S)
    renewed.get("a", question)
    clock.now_s = 1061
    renewed.get("a", _fails)
    clock.now_s = 1120
    assert renewed.get("a", question) == 1
    assert question.n == 1
    clock.now_s = 1122
    assert renewed.get("a", question) == 2


def test_after_a_failure_without_an_answer_the_next_viewer_asks_again(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock)
    with pytest.raises(QueryError):
        renewed.get("a", _fails)
    assert renewed.get("a", question) == 1


def test_an_old_answer_that_says_nothing_is_not_given(clock: Clock, question: Question) -> None:
    renewed = Renewed(fresh_s=60, given_s=600, wait_s=0, most=4, worth=lambda found: found > 1, clock=clock)
    renewed.prepare("a", question)
    assert renewed.get("a", question) == 2


def test_what_nobody_wanted_for_ten_minutes_is_waited_for(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock)
    renewed.get("a", question)
    clock.now_s += 601
    assert renewed.get("a", question) == 2


def test_of_too_many_answers_those_that_were_wanted_last_stay(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock, most=2)
    first = renewed.get("a", question)
    renewed.get("b", question)
    renewed.get("a", _not_asked)
    renewed.get("c", question)
    assert renewed.get("a", _not_asked) == first
    assert renewed.get("b", question) == 4


def test_what_was_prepared_is_given_at_once_unless_a_newer_one_takes_no_time(clock: Clock, question: Question) -> None:
    renewed = _renewed(clock)
    renewed.prepare("a", question)
    question.gate.clear()
    assert renewed.get("a", question) == 1
    question.gate.set()
    prompt = _renewed(clock, wait_s=LONG_S)
    prompt.prepare("a", lambda: "nothing yet")
    assert prompt.get("a", lambda: "a request") == "a request"


def test_a_question_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    code = (
        "import threading; from tailbudget.app.pages.parts.renewed import Renewed; "
        "renewed = Renewed(fresh_s=0, given_s=600, wait_s=0, most=1); "
        "renewed.get('a', lambda: 1); print(renewed.get('a', threading.Event().wait))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LONG_S)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "1\n", "")


@dataclass
class Gated:
    """Reads as a collector's API does; questions about the map wait while the gate is closed."""

    api: str
    gate: threading.Event = field(default_factory=threading.Event)

    def query(self, sql: str, params: Mapping[str, object] = {}) -> pa.Table:
        assert "from map_" not in sql or self.gate.wait(LONG_S)
        return ApiReader(self.api).query(sql, params)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Gated]:
    """A collector with a map; pages ask through it, and see the clock."""
    connection = seen(map(shop, range(1, 41)))
    with local_api(connection) as api:
        made = Gated(api)
        made.gate.set()
        monkeypatch.setenv("TAILBUDGET_API", api)
        monkeypatch.setattr(answers, "_reader", lambda: made)
        monkeypatch.setattr(answers, "_KEPT", _renewed(clock))
        monkeypatch.setattr(answers, "_now", lambda: BEGAN + timedelta(seconds=clock.now_s - Clock.now_s))
        answers.forget()
        yield made
        made.gate.set()
        wait_until(lambda: not _running(), what="the last question's end")
    connection.close()


def _running() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "renewed"]


def _map() -> None:
    from tailbudget.app.pages import service_map

    service_map.page()


def _titles(app: AppTest) -> list[str]:
    """Return the titles of the picture of hops and of the table of services; draws nothing but the map."""
    assert not app.exception
    assert not app.error
    return [one.value for one in app.caption if "Hops of the day" in one.value or "what they call" in one.value]


def test_the_map_is_drawn_of_an_old_answer_and_says_of_when_it_is(reader: Gated, clock: Clock) -> None:
    app = AppTest.from_function(_map, default_timeout=LONG_S).run()
    assert [title for title in _titles(app) if "as of" in title] == []
    assert len(_titles(app)) == 2
    clock.now_s += 61
    reader.gate.clear()
    assert all(title.endswith(" · as of 1 Mar 12:00:00 UTC") for title in _titles(app.run()))
    assert len(_titles(app)) == 2
    reader.gate.set()
    wait_until(lambda: not _running(), what="the new answers")
    assert [title for title in _titles(app.run()) if "as of" in title] == []


def test_who_opens_the_map_first_finds_what_the_start_asked_for(reader: Gated) -> None:
    ahead.ask(lambda _: False)
    reader.gate.clear()
    app = AppTest.from_function(_map, default_timeout=LONG_S).run()
    assert len(_titles(app)) == 2
    assert set(app.dataframe[1].value["name"]) == {"shop", "billing", "qdrant", "find", "api.example"}


def _pauses(*, then: Callable[[list[float]], object] = lambda _: None) -> list[float]:
    """Return how long the start paused before each try; it goes on unless `then` says that all is over."""
    paused: list[float] = []

    def pause(pause_s: float) -> bool:
        paused.append(pause_s)
        return then(paused) is True

    ahead.ask(pause)
    return paused


def test_the_start_asks_again_until_the_collector_answers(reader: Gated) -> None:
    there, reader.api = reader.api, f"http://127.0.0.1:{free_port()}"

    def then(paused: list[float]) -> None:
        if len(paused) == 3:
            reader.api = there

    assert _pauses(then=then) == [0, 1, 2]
    reader.gate.clear()
    assert len(_titles(AppTest.from_function(_map, default_timeout=LONG_S).run())) == 2


def test_the_start_gives_up_without_a_word_where_no_collector_answers(
    reader: Gated, capfd: pytest.CaptureFixture[str]
) -> None:
    reader.api = f"http://127.0.0.1:{free_port()}"
    assert _pauses() == [0, 1, 2, 4, 8, 16, 32]
    assert _pauses(then=lambda paused: len(paused) == 2) == [0, 1]  # the dashboard ends
    reader.api = "none"  # an address that is none
    assert _pauses() == [0]
    assert capfd.readouterr() == ("", "")


def test_the_start_asks_no_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILBUDGET_READER", "clickhouse")
    assert _pauses() == []
