"""Runs a model's steps on its device: the cache, graphs where there is CUDA, and the warm-up."""

from collections.abc import Callable, Sequence
from functools import cached_property

import torch
from torch import Tensor

from tailbudget.instrument.errors import UserError

from .graphs import DecodeGraphs
from .model import Llama, Segment
from .settings import Device


def placed(device: Device) -> torch.device:
    """Return where to compute; UserError when CUDA is asked for and not there."""
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UserError("device is 'cuda': torch sees no GPU. Check nvidia-smi and torch's build, or choose 'cpu'")
    return torch.device("cuda" if there and device != "cpu" else "cpu")


class Logits:
    """A step's logits where they were computed: to the host goes one number a row, all of them only when asked for."""

    def __init__(self, computed: Tensor) -> None:
        self._computed = computed

    @cached_property
    def likeliest(self) -> list[int]:
        """The likeliest token of each row."""
        found: list[int] = self._computed.argmax(-1).tolist()
        return found

    @cached_property
    def rows(self) -> Tensor:
        """All of them on the CPU, float32 [rows, vocabulary]."""
        return self._computed.cpu()


class Runner:
    """Runs steps of up to `most` sequences over a cache of `pages` pages, one of `longest` tokens among them."""

    def __init__(self, model: Llama, *, pages: int, page_tokens: int, most: int, longest: int) -> None:
        cuda = model.device.type == "cuda"
        self._model = model
        # Graphs fill their batches up with sequences on a page of nobody's.
        self._cache = model.cache(pages=pages + cuda, size=page_tokens)
        self._graphs = DecodeGraphs(model, self._cache, most=most, longest=longest) if cuda else None

    def forward(self, segments: Sequence[Segment]) -> Logits:
        """Return the logits of `Llama.forward`; they are to be read before the next step.

        IndexError for a token that the model does not have: on a GPU it would end every later step, too.
        """
        most = self._model.shape.vocabulary
        if any(not 0 <= token < most for segment in segments for token in segment.tokens):
            raise IndexError(f"a token is none of the model's {most}")
        if self._graphs and self._graphs.fits(segments):
            return Logits(self._graphs.forward(segments))
        return Logits(self._model.forward(segments, self._cache))

    def warm_up(self, *, prompt_tokens: int, most: int, given_up: Callable[[], bool]) -> None:
        """Run a prompt and every batch of decoding once, so that the first request does not pay for it."""
        table = range(-(-prompt_tokens // self._cache.size))
        self.forward([Segment(table, 0, [0] * prompt_tokens, 1)])
        for count in range(1, most + 1):
            if given_up():
                return
            self.forward([Segment(table, 0, [0], 1)] * count)
