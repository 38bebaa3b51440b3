"""A decode step on fixed tensors gives the logits of the step that it stands for, at every batch size."""

import random
from collections.abc import Callable

import pytest
import torch

from tailbudget.gpu_runtime.graphs import Capture, DecodeGraphs, cuda_graph
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.weights import open_model

from .runtime_support import on_devices, tiny_path


def _again(work: Callable[[], None]) -> Callable[[], None]:
    """What a CPU has in place of a graph: the work itself."""
    return work


@on_devices
@pytest.mark.parametrize("window", [0, 20])
def test_decoding_by_graph_gives_the_logits_of_the_plain_step(device: str, window: int) -> None:
    model = Llama(open_model(tiny_path()), form="float32", device=device)
    pages, chance = 40, random.Random(1)
    plain, fixed = (model.cache(pages=pages + 1, size=16) for _ in range(2))
    fixed.keys[:] = fixed.values[:] = float("nan")  # what no sequence wrote may be anything
    plain.windows = fixed.windows = (window,) * model.shape.layers
    capture: Capture = cuda_graph if device == "cuda" else _again
    graphs = DecodeGraphs(model, fixed, most=6, longest=96, capture=capture)
    free = chance.sample(range(pages), pages)
    sequences = [(free[6 * at : 6 * at + 6], 3 + 15 * at) for at in range(6)]
    for table, length in sequences:
        prompt = [chance.randint(3, 499) for _ in range(length)]
        for cache in (plain, fixed):
            model.forward([Segment(table, 0, prompt, 1)], cache)
    for step, size in enumerate((1, 2, 3, 6, 5, 1)):
        chosen = chance.sample(sequences, size)
        segments = [Segment(table, length + step, [chance.randint(3, 499)], 1) for table, length in chosen]
        assert graphs.fits(segments)
        expected = model.forward(segments, plain)
        torch.testing.assert_close(graphs.forward(segments), expected, rtol=1e-4, atol=1e-4)
        for table, length in sequences:  # the others go on too, so that no position stays empty
            if (table, length) not in chosen:
                for cache in (plain, fixed):
                    model.forward([Segment(table, length + step, [9], 1)], cache)


def test_prompts_drafts_and_larger_batches_are_no_decode_step() -> None:
    model = Llama(open_model(tiny_path()), form="float32")
    graphs = DecodeGraphs(model, model.cache(pages=4, size=16), most=2, longest=32, capture=_again)
    one = Segment([0], 3, [7], 1)
    assert graphs.fits([one, one])
    assert not graphs.fits([one] * 3)
    assert not graphs.fits([one, Segment([1], 0, [7, 8], 1)])
    assert not graphs.fits([one, Segment([1], 0, [7, 8], 2)])
    assert not graphs.fits([Segment([1], 0, [7], 0)])
