"""Steps compiled in C give what their textbook gives, for any few rows, pages and parts of a model."""

import random
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from tailbudget.gpu_runtime.decode import MATRICES, library
from tailbudget.gpu_runtime.kernels import Linear, Packed
from tailbudget.gpu_runtime.model import COMPILED_ROWS, Llama, Segment
from tailbudget.gpu_runtime.settings import Form
from tailbudget.gpu_runtime.tiny import write_tiny_model
from tailbudget.gpu_runtime.weights import FourBit, ModelFile, open_model

from .support import scratch

pytestmark = pytest.mark.skipif(
    library() is None, reason="steps are not compiled here, or the processor lacks AVX-512 VNNI"
)
#: Keys are bfloat16 in C: errors stay within this share of the spread.
ERROR = 0.02


class _Dressed(ModelFile):
    """The tiny model with biases, norms of queries and keys, windows: what other architectures have."""

    halves = False

    def __init__(self, file: ModelFile) -> None:
        self._file = file
        self.path, self.vocabulary = file.path, file.vocabulary
        self.shape = replace(file.shape, windows=(0, 7))

    def __contains__(self, name: str) -> bool:
        dressed = name.startswith("blk.") and name.endswith((".bias", "q_norm.weight", "k_norm.weight"))
        return dressed or name in self._file

    def read(self, name: str) -> torch.Tensor:
        if name in self._file:
            return self._file.read(name)
        sizes = {"attn_k": 32, "attn_v": 32, "ffn_gate": 128, "ffn_up": 128, "attn_q_norm": 16, "attn_k_norm": 16}
        size = sizes.get(name.split(".")[2], 64)
        return torch.rand(size, generator=torch.Generator().manual_seed(sum(map(ord, name)))) + 0.5

    def read_four_bit(self, name: str) -> FourBit | None:
        return self._file.read_four_bit(name)


class _Rounded(Linear):
    """The textbook of what C computes: activations in 8 bits a group of 32, weights from their packed form."""

    def __init__(self, packed: Packed) -> None:
        codes = packed.codes.int()
        if packed.low is not None:  # a byte has a code and the one 32 behind it
            pairs = codes.view(len(codes), -1, 32)
            codes = torch.cat((pairs & 15, pairs >> 4), dim=-1)
        # Two groups take turns, four codes each.
        groups = codes.view(len(codes), -1, 8, 2, 4).transpose(2, 3).reshape(len(codes), -1, 32)
        if packed.low is not None:
            weight = groups * packed.scale.float()[..., None] + packed.low.float()[..., None]
        else:
            weight = (groups - 128) * packed.scale.float()[:, None, None]
        super().__init__(weight.flatten(1), bias=packed.bias)

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:
        groups = rows.view(len(rows), -1, 32)
        scale = groups.abs().amax(-1, keepdim=True) / 127
        rounded = ((groups / scale.clamp_min(1e-30)).round() * scale).flatten(1)
        return super().__call__(rounded)


@cache
def _models(form: Form, dressed: bool) -> tuple[Llama, Llama]:
    """Return a model whose steps are compiled, and the textbook's one with the same weights in float32."""
    folder = scratch()
    file = open_model(write_tiny_model(folder / "tiny.gguf", quantisation="Q4_1" if form != "int8" else "Q8_0"))
    model, exact = (Llama(_Dressed(file) if dressed else file, form=each) for each in (form, "float32"))
    assert model.compiled
    assert model._head.packed
    for index, layer in enumerate(model.layers):
        rounded: dict[str, Any] = {name: _Rounded(getattr(layer, name).packed) for name in MATRICES}
        exact.layers[index] = replace(exact.layers[index], **rounded)
    exact._head = _Rounded(model._head.packed)
    exact._embedding = model._embedding.float()
    return model, exact


class _Pair:
    """Both models with a cache each, one for the other's keys."""

    def __init__(self, form: Form, *, dressed: bool, pages: int) -> None:
        self.model, self.exact = _models(form, dressed)
        self.cache, self.exact_cache = (each.cache(pages=pages, size=16) for each in (self.model, self.exact))

    def prompt(self, segment: Segment) -> None:
        """Compute a prompt by the textbook, and let both have it."""
        self.exact.forward([segment], self.exact_cache)
        for ours, theirs in ((self.cache.keys, self.exact_cache.keys), (self.cache.values, self.exact_cache.values)):
            ours.copy_(theirs)
            theirs.copy_(ours)  # rounded alike

    def check(self, segments: list[Segment]) -> torch.Tensor:
        """Compute a step by both and compare logits and keys; returns ours."""
        expected = self.exact.forward(segments, self.exact_cache)
        found = self.model.forward(segments, self.cache)
        assert found.shape == expected.shape
        errors = (found - expected).std(-1) / expected.std(-1)
        # A score next to another's makes much of little, in one row or two of all of these tests.
        assert float(errors.sort().values[len(errors) * 9 // 10 - 1]) < ERROR
        assert float(errors.max()) < 10 * ERROR
        rows = [row for each in segments for row in self.cache.rows(each.pages, each.start, len(each.tokens))]
        for ours, theirs in ((self.cache.keys, self.exact_cache.keys), (self.cache.values, self.exact_cache.values)):
            assert float((ours.float() - theirs)[:, rows].std()) < ERROR * float(theirs[:, rows].std())
        return found


@pytest.mark.parametrize("dressed", [False, True], ids=["plain", "dressed"])
@pytest.mark.parametrize("form", ["auto", "int8"])
def test_a_step_gives_what_the_textbook_gives_for_any_few_rows(form: Form, dressed: bool) -> None:
    pair, chance = _Pair(form, dressed=dressed, pages=160), random.Random(2)
    free = chance.sample(range(160), 160)
    tables = [free[4 * at : 4 * at + 4] for at in range(40)]
    lengths = [1 + (13 * at) % 50 for at in range(40)]
    for table, length in zip(tables, lengths, strict=True):
        pair.prompt(Segment(table, 0, [chance.randint(3, 499) for _ in range(length)], 1))
    for count in (1, 2, 3, 5, 8, 15, COMPILED_ROWS):
        chosen = chance.sample(range(40), count)
        pair.check([Segment(tables[at], lengths[at], [chance.randint(3, 499)], 1) for at in chosen])


@pytest.mark.parametrize("dressed", [False, True], ids=["plain", "dressed"])
def test_guesses_and_short_prompts_see_those_before_them_and_only_wanted_rows_get_logits(dressed: bool) -> None:
    pair = _Pair("auto", dressed=dressed, pages=8)
    pair.prompt(Segment([5, 2], 0, list(range(5, 19)), 1))
    guessed, prompt = Segment([5, 2], 14, [7, 8, 9, 10], 4), Segment([0, 3], 0, list(range(40, 61)), 1)
    unfinished = Segment([1], 0, [11, 12, 13], 0)
    assert len(pair.check([guessed, prompt, unfinished])) == 5
    assert pair.model.forward([unfinished], pair.cache).shape == (0, pair.model.shape.vocabulary)


def test_a_model_of_floats_is_left_to_torch() -> None:
    folder = scratch()
    plain = open_model(write_tiny_model(folder / "tiny.gguf"))
    assert Llama(plain, form="bfloat16").compiled is None
    assert Llama(plain, form="auto").compiled is None
