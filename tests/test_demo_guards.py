"""`up --demo --guard` runs real requests without and with a guard, and the guard helps with its trouble."""

import asyncio
import math
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tailbudget.app.cli import cli
from tailbudget.app.demo.trial import HEAD, Run, compare, percentile
from tailbudget.app.demo.trials import TRIALS, embedded, questions
from tailbudget.app.options import GUARDS
from tailbudget.instrument.errors import UserError
from tests.instrument_support import recording
from tests.runtime_support import receiver, server, tiny_path
from tests.support import free_port
from tests.up_support import Up


@pytest.fixture(scope="module")
def model() -> Iterator[str]:
    with receiver() as otlp, server(otlp.endpoint, max_context=1024, step_delay_ms=5) as (url, _):
        yield f"{url}/v1"


def test_every_guard_that_the_command_offers_has_a_trial() -> None:
    assert tuple(TRIALS) == GUARDS


def runs(name: str, model: str, requests: int) -> tuple[Run, Run]:
    with recording():
        bare, guarded = asyncio.run(compare(name, model_url=model, requests=requests, limit_s=60))
    assert bare.failed == guarded.failed == 0
    return bare, guarded


def test_a_hedge_cuts_the_tail_for_a_few_more_searches(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    bare, guarded = runs("hedge", model, 40)
    assert max(bare.answered_ms) > 1_500 > max(guarded.answered_ms)
    assert bare.cost["searches"] == 40 < guarded.cost["searches"] <= 49
    _, head, *rows, _ = capsys.readouterr().out.splitlines()
    assert head == HEAD
    assert [row.split()[:2] for row in rows] == [["bare", "40"], ["guarded", "40"]]


def test_a_cache_saves_calls_and_time(model: str) -> None:
    bare, guarded = runs("cache", model, 60)
    assert guarded.cost["model calls"] < bare.cost["model calls"] == 60
    assert percentile(guarded.answered_ms, 0.5) < percentile(bare.answered_ms, 0.5)


def test_an_embedding_cache_embeds_each_text_once(model: str) -> None:
    bare, guarded = runs("embeddings", model, 30)
    assert guarded.cost["texts embedded"] < bare.cost["texts embedded"] / 2


def test_a_semantic_cache_hears_the_same_question_in_other_words_and_no_wrong_one(model: str) -> None:
    bare, guarded = runs("semantic", model, 60)
    assert guarded.cost["model calls"] < bare.cost["model calls"]
    assert guarded.cost["wrong hits"] == 0
    assert embedded("why?") == embedded("Why?")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["breaker", "fan-out"])
def test_waiting_for_what_is_down_or_slow_is_cut(model: str, name: str) -> None:
    bare, guarded = runs(name, model, 200)
    assert percentile(bare.answered_ms, 0.95) > 1_000 > percentile(guarded.answered_ms, 0.95)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["limit", "shed"])
def test_under_overload_what_is_served_is_served_sooner(model: str, name: str) -> None:
    bare, guarded = runs(name, model, 200)
    assert guarded.refused > 0 == bare.refused
    assert percentile(guarded.answered_ms, 0.95) < percentile(bare.answered_ms, 0.95)


@pytest.mark.slow
def test_a_queue_serves_or_refuses_everybody(model: str) -> None:
    bare, guarded = runs("queue", model, 200)
    assert len(bare.answered_ms) == len(guarded.answered_ms) + guarded.refused == 200


def test_the_same_questions_meet_the_same_luck() -> None:
    one, other = questions(50), questions(50)
    assert [(each.text, each.luck.random()) for each in one] == [(each.text, each.luck.random()) for each in other]
    assert sum(each.important for each in one) == 13


def test_percentiles_are_those_of_the_values() -> None:
    assert [percentile(range(1, 101), share) for share in (0.5, 0.95, 0.99)] == [50, 95, 99]
    assert percentile([7], 0.5) == 7
    assert math.isnan(percentile([], 0.5))


def test_without_a_model_it_says_so() -> None:
    with pytest.raises(UserError, match=r"no model answers on .*tailbudget runtime"):
        asyncio.run(compare("cache", model_url=f"http://127.0.0.1:{free_port()}/v1"))


def test_a_guard_without_the_demo_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli, ["up", "--guard", "hedge", "--data", str(tmp_path)])
    assert isinstance(done.exception, UserError)
    assert "--guard hedge needs --demo" in str(done.exception)


@pytest.mark.slow
@pytest.mark.parametrize("guard", GUARDS)
def test_up_with_a_guard_prints_both_runs_of_200_requests(tmp_path: Path, guard: str) -> None:
    up = Up(tmp_path, "--demo", "--guard", guard, "--model", str(tiny_path()))
    try:
        shown = up.lines_until("done: ")
    finally:
        up.process.send_signal(signal.SIGINT)
        status, output = up.ended()
    assert (status, "Traceback" in output) == (0, False)
    assert HEAD in "".join(shown)
    rows = [line.split(maxsplit=7) for line in shown if re.match(r"bare|guarded", line)]
    assert [row[0] for row in rows] == ["bare", "guarded"]
    for name, *figures, cost in rows:
        answered, refused, failed, p50_ms, p95_ms, p99_ms = (int(figure.replace(",", "")) for figure in figures)
        # Of "shed" the important quarter alone is timed, so that the others are no part of these figures.
        assert answered + refused == 200 or guard == "shed"
        assert (answered > 0, failed, refused == 0 or name == "guarded") == (True, 0, True)
        assert 0 <= p50_ms <= p95_ms <= p99_ms > 0  # a hit of a cache takes less than half of one
        assert re.fullmatch(r"[\d,]+ [a-z ]+(, [\d,]+ [a-z ]+)*\n", cost)
    assert not up.left_running()
