"""The real model loads and answers with sense, and its 4-bit path agrees with the bfloat16 one."""

from collections.abc import Iterator
from functools import cache

import pytest
import torch

from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.models import resolve
from tailbudget.gpu_runtime.settings import Form
from tailbudget.gpu_runtime.tokenizer import TextTokenizer
from tailbudget.gpu_runtime.weights import open_model
from tailbudget.instrument.errors import UserError

pytestmark = pytest.mark.slow
TEXT = (
    "The history of the steam engine begins in the seventeenth century, when inventors across Europe experimented with "
    "the pressure of the atmosphere. Thomas Newcomen built the first practical engine in 1712 to pump water from coal "
    "mines. James Watt later improved the design by adding a separate condenser, which reduced the amount of fuel."
)


@cache
def _loaded(form: Form = "auto") -> tuple[Llama, TextTokenizer]:
    try:
        file = open_model(resolve("smollm2"))
    except UserError as error:
        pytest.skip(str(error))
    return Llama(file, form=form), TextTokenizer(file.vocabulary)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _greedy(prompt: list[int], tokens: int) -> str:
    model, tokenizer = _loaded()
    cache_ = model.cache(pages=16, size=16)
    logits = model.forward([Segment(range(16), 0, prompt, 1)], cache_)
    output: list[int] = []
    while len(output) < tokens and int(logits.argmax()) not in tokenizer.end_ids:
        output.append(int(logits.argmax()))
        logits = model.forward([Segment(range(16), len(prompt) + len(output) - 1, output[-1:], 1)], cache_)
    return tokenizer.decode(output)


def test_the_capital_of_france_is_paris() -> None:
    assert "Paris" in _greedy(_loaded()[1].encode("The capital of France is"), 8)


def test_a_chat_is_answered_and_ends_by_itself() -> None:
    answer = _greedy(_loaded()[1].encode_chat([{"role": "user", "content": "What is 2+2?"}]), 60)
    assert "4" in answer
    assert len(answer) < 120


def _perplexity(*, rows: int) -> float:
    """Return the perplexity of TEXT, computed `rows` tokens at a time: one row takes the 4-bit kernels."""
    model, tokenizer = _loaded()
    tokens = tokenizer.encode(TEXT)
    cache_ = model.cache(pages=16, size=16)
    losses = []
    for at in range(len(tokens) - 1):
        start = max(0, at + 1 - rows)
        logits = model.forward([Segment(range(16), start, tokens[start : at + 1], 1)], cache_)
        losses.append(-logits[0].log_softmax(-1)[tokens[at + 1]])
    return float(torch.stack(losses).mean().exp())


def test_the_four_bit_path_reads_as_well_as_the_dense_one() -> None:
    model, _ = _loaded()
    assert model.compiled or model.layers[0].gate_up.few_rows >= 1
    assert _perplexity(rows=1) == pytest.approx(_perplexity(rows=64), rel=0.03)
    assert _perplexity(rows=1) < 20
