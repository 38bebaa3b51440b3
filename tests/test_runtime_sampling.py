"""Each setting of the sampler changes the choice as its definition says."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tailbudget.gpu_runtime.params import SamplingParams
from tailbudget.gpu_runtime.sampling import Sampler

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -2.0])
DRAWS = 400


def _sampler(prompt: tuple[int, ...] = (), **params: Any) -> Sampler:
    return Sampler(SamplingParams(99, **{"seed": 1, **params}), prompt=prompt)


def _drawn(logits: Tensor = LOGITS, **params: Any) -> set[int]:
    sampler = _sampler(**params)
    return {sampler.choose(logits) for _ in range(DRAWS)}


def test_without_settings_every_token_can_come() -> None:
    assert _drawn(temperature=2.0) == {0, 1, 2, 3, 4}


def test_top_k_leaves_the_k_likeliest() -> None:
    assert _drawn(temperature=2.0, top_k=2) == {0, 1}
    assert _drawn(temperature=2.0, top_k=99) == {0, 1, 2, 3, 4}


def test_top_p_leaves_the_fewest_that_reach_it() -> None:
    # The chances at temperature 1 are 0.636, 0.234, 0.086, ...
    assert _drawn(top_p=0.6) == {0}
    assert _drawn(top_p=0.7) == {0, 1}
    assert _drawn(top_p=0.9) == {0, 1, 2}


def test_top_p_counts_within_what_top_k_left() -> None:
    # Of two, the likelier has 0.731.
    assert _drawn(top_k=2, top_p=0.72) == {0}
    assert _drawn(top_k=2, top_p=0.75) == {0, 1}


def test_min_p_leaves_what_comes_near_the_likeliest() -> None:
    # e^-1 = 0.37 and e^-2 = 0.14 of the likeliest.
    assert _drawn(temperature=1.0, min_p=0.4) == {0}
    assert _drawn(temperature=1.0, min_p=0.3) == {0, 1}
    assert _drawn(temperature=1.0, min_p=0.1) == {0, 1, 2}


def test_min_p_reaches_beyond_the_first_candidates() -> None:
    flat = torch.zeros(2000)
    assert max(_drawn(flat, min_p=0.5)) > 512 or len(_drawn(flat, min_p=0.5)) > 300


def test_draws_follow_the_chances() -> None:
    sampler = _sampler()
    drawn = [sampler.choose(LOGITS) for _ in range(4000)]
    for token, chance in enumerate(LOGITS.softmax(-1).tolist()):
        assert drawn.count(token) / 4000 == pytest.approx(chance, abs=4 * math.sqrt(chance / 4000))


def test_a_presence_penalty_counts_once_and_a_frequency_penalty_each_time() -> None:
    once = _sampler(temperature=0, presence_penalty=1.5)
    assert [once.choose(LOGITS) for _ in range(4)] == [0, 1, 0, 0]
    each = _sampler(temperature=0, frequency_penalty=0.6)
    assert [each.choose(LOGITS) for _ in range(5)] == [0, 0, 1, 0, 1]


def test_a_repetition_penalty_moves_prompt_and_answer_down_on_both_sides_of_zero() -> None:
    sampler = _sampler((0,), temperature=0, repetition_penalty=3.0)
    assert sampler.choose(LOGITS) == 1
    negative = torch.tensor([-1.0, -2.0])
    assert _sampler((0,), temperature=0, repetition_penalty=3.0).choose(negative) == 1


def test_a_bias_forbids_or_forces_a_token() -> None:
    assert _sampler(temperature=0, logit_bias=((0, -100.0),)).choose(LOGITS) == 1
    assert _sampler(temperature=0, logit_bias=((4, 100.0),)).choose(LOGITS) == 4
    assert LOGITS.tolist() == [2.0, 1.0, 0.0, -1.0, -2.0]


def test_a_seed_repeats_its_draws() -> None:
    first, again, other = (
        [sampler.choose(LOGITS) for _ in range(30)] for sampler in (_sampler(), _sampler(), _sampler(seed=2))
    )
    assert first == again != other


def test_log_probabilities_are_the_models_own() -> None:
    sampler = _sampler(temperature=0, logit_bias=((1, 100.0),), logprobs=2)
    report = sampler.report(sampler.choose(LOGITS), LOGITS)
    expected = LOGITS.log_softmax(-1).tolist()
    assert report is not None
    assert report.token == 1
    assert report.logprob == pytest.approx(expected[1])
    assert [token for token, _ in report.likeliest] == [0, 1]
    assert _sampler().report(0, LOGITS) is None


def test_logits_that_are_no_numbers_are_an_error() -> None:
    with pytest.raises(ValueError, match="not finite"):
        _sampler().choose(torch.tensor([float("nan"), 1.0]))
