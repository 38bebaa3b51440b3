"""The step's formula is found again in samples that follow it, and no part of it is ever below zero."""

import random
from collections.abc import Callable

import pytest

from tailbudget.analytics.reader import ConnectionReader
from tailbudget.analytics.step_time import StepFit, step_fits
from tailbudget.analytics.window import Window

from .spans import database, later

WINDOW = Window(later(0), later(1000))
Formula = Callable[[float, float], float]


def _fits(formula: Formula, *, count: int = 60, streams: tuple[int, int] = (1, 16)) -> list[StepFit]:
    """Return the fits of samples whose steps follow a formula of streams and prompt tokens."""
    chance = random.Random(5)
    connection = database()
    for second in range(count):
        steps, load, prompt = chance.randint(5, 50), chance.uniform(*streams), chance.choice((0, 0, 20, 90))
        connection.execute(
            "insert into engine by name select $t as t, 'box:8000' as instance, true as up, $steps as steps, "
            "$length as step_ms, $load + $prompt as batch_tokens, $steps * $prompt as prompt_tokens",
            {"t": later(second), "steps": steps, "length": formula(load, prompt), "load": load, "prompt": prompt},
        )
    return step_fits(ConnectionReader(connection), WINDOW)


def test_the_parts_of_a_step_are_found_again() -> None:
    (fit,) = _fits(lambda streams, prompt: 12 + 0.7 * streams + 0.05 * prompt)
    assert (fit.instance, fit.n) == ("box:8000", 60)
    assert (fit.base_ms, fit.stream_ms, fit.prompt_token_ms) == pytest.approx((12, 0.7, 0.05))
    assert fit.r2 == pytest.approx(1)


def test_a_part_that_would_be_negative_is_left_out() -> None:
    (fit,) = _fits(lambda streams, prompt: 20 - 0.2 * streams + 0.05 * prompt)
    assert fit.stream_ms == 0
    assert fit.prompt_token_ms == pytest.approx(0.05, rel=0.3)
    assert fit.base_ms == pytest.approx(18, rel=0.1)
    (fit,) = _fits(lambda streams, _: 3 * streams - 1)
    assert fit.base_ms == 0
    assert fit.stream_ms == pytest.approx(2.9, rel=0.03)


def test_an_engine_that_ran_at_one_load_has_a_step_of_one_length() -> None:
    (fit,) = _fits(lambda *_: 30, streams=(4, 4))
    assert fit.base_ms == pytest.approx(30)
    assert (fit.stream_ms, fit.r2) == (0, 1)


def test_an_engine_that_tells_no_steps_has_no_fit() -> None:
    connection = database()
    connection.execute("insert into engine by name select $1 as t, 'vllm:8000' as instance, true as up", [later(1)])
    assert step_fits(ConnectionReader(connection), WINDOW) == []
