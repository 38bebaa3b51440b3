"""Decode steps as CUDA graphs: one launch in place of hundreds, captured once a batch size."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import KVCache, Tables, padded, paged
from .model import Llama, Segment

#: Turns work on fixed tensors into what does it again.
Capture = Callable[[Callable[[], None]], Callable[[], None]]


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """Capture work as a CUDA graph, after a run on a side stream that makes what is made on first use."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@dataclass(frozen=True)
class _Step:
    """The fixed tensors of one batch size, and what computes `logits` from the others."""

    inputs: Tensor  # int64 [3, sequences]: token, place, row of the cache
    tables: Tables
    logits: Tensor
    run: Callable[[], None]


class DecodeGraphs:
    """Decodes one token for each of up to `most` sequences of a cache whose last page no sequence holds.

    Batches are filled up to a power of two with a sequence of one token on that page.
    """

    def __init__(self, model: Llama, cache: KVCache, *, most: int, longest: int, capture: Capture = cuda_graph) -> None:
        self._model = model
        self._cache = cache
        self._capture = capture
        self._most = most
        self._longest = longest
        self._spare = cache.keys.shape[1] // cache.size - 1
        self._steps: dict[int, _Step] = {}

    def fits(self, segments: Sequence[Segment]) -> bool:
        """Return whether a step is one token with its logits for each sequence."""
        return len(segments) <= self._most and all(len(each.tokens) == each.tail == 1 for each in segments)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment]) -> Tensor:
        """Return what `Llama.forward` returns; the tensor is written over by the next call of its batch size."""
        size = 1 << (len(segments) - 1).bit_length()
        step = self._steps.get(size) or self._steps.setdefault(size, self._made(size))
        filled = [*segments, *[Segment([self._spare], 0, [0], 1)] * (size - len(segments))]
        rows = [self._cache.rows(each.pages, each.start, 1)[0] for each in filled]
        lengths = torch.tensor([each.start + 1 for each in filled], dtype=torch.int32)
        width = step.tables.pages.shape[1]
        pages = [[*each.pages[:width], *[self._spare] * (width - len(each.pages))] for each in filled]
        step.inputs.copy_(torch.tensor([[each.tokens[0] for each in filled], [each.start for each in filled], rows]))
        step.tables.pages.copy_(torch.tensor(pages, dtype=torch.int32))
        step.tables.lengths.copy_(lengths)
        step.tables.key_starts[1:].copy_(lengths.cumsum(0))
        step.run()
        return step.logits[: len(segments)]

    def _made(self, size: int) -> _Step:
        model, cache, device = self._model, self._cache, self._model.device
        inputs = torch.zeros(3, size, dtype=torch.long, device=device)
        inputs[2] = self._spare * cache.size
        width = -(-self._longest // cache.size)
        pages = torch.full((size, width), self._spare, dtype=torch.int32, device=device)
        starts = torch.arange(size + 1, dtype=torch.int32, device=device)
        tables = Tables(pages, starts.new_ones(size), starts, starts.clone(), 1, self._longest)
        attend = (paged if cache.flash else padded)(cache, tables)
        logits = torch.zeros(size, model.shape.vocabulary, device=device)

        def work() -> None:
            tokens, places, target = inputs
            logits.copy_(model.logits(model.states(tokens, places, target, cache=cache, attend=attend)))

        return _Step(inputs, tables, logits, self._capture(work))
