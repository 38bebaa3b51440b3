"""On an NVIDIA GPU: FlashAttention and graphs agree with the reference in half precision, and the server serves."""

import random
from typing import Any

import openai
import pytest
import torch

from tailbudget.gpu_runtime.attention import KVCache, plan
from tailbudget.gpu_runtime.graphs import DecodeGraphs
from tailbudget.gpu_runtime.model import Llama, Segment
from tailbudget.gpu_runtime.settings import Form
from tailbudget.gpu_runtime.weights import Shape, open_model
from tests.runtime_support import receiver, server, tiny_path
from tests.support import wait_until

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
PAGE = 256
#: Rows of the tiny model's head that are no -100: what it speaks in.
VOICED = slice(262, 300)


@pytest.mark.parametrize("window", [0, 64], ids=["all", "window"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("rows", [[1, 1, 1], [1, 200, 17]], ids=["decode", "mixed"])
def test_both_bodies_of_attention_agree(rows: list[int], dtype: torch.dtype, window: int) -> None:
    shape = Shape(
        1, 512, 512, heads=8, kv_heads=2, head_dim=64, vocabulary=8, max_context=2048, rope_base=1e4, norm_eps=1e-5,
        windows=(window,),
    )  # fmt: skip
    torch.manual_seed(0)
    ends = [300, 600, 40]
    tables = [[3, 1], [0, 5, 2], [4]]
    spans = [(end - count, end) for end, count in zip(ends, rows, strict=True)]
    fast = KVCache(shape, pages=6, size=PAGE, dtype=dtype, device="cuda")
    fast.keys.normal_()
    fast.values.normal_()
    exact = KVCache(shape, pages=6, size=PAGE, dtype=torch.float32)
    exact.keys.copy_(fast.keys)
    exact.values.copy_(fast.values)
    query = torch.randn(sum(rows), 8, 64, device="cuda", dtype=dtype)
    assert fast.flash
    assert not exact.flash
    found = plan(fast, tables, spans)(query, 0)
    expected = plan(exact, tables, spans)(query.float().cpu(), 0)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("form", ["auto", "float16"])
def test_graphs_over_flash_attention_give_nearly_the_logits_of_float32(form: Form) -> None:
    chance, file = random.Random(2), open_model(tiny_path())
    exact, model = Llama(file, form="float32"), Llama(file, form=form, device="cuda")
    plain, fixed = exact.cache(pages=9, size=PAGE), model.cache(pages=9, size=PAGE)
    graphs = DecodeGraphs(model, fixed, most=4, longest=2 * PAGE)
    assert fixed.flash
    sequences = [([2 * at, 2 * at + 1], 230 + 10 * at) for at in range(4)]  # two of them go on into a second page
    for table, length in sequences:
        prompt = Segment(table, 0, [chance.randint(3, 499) for _ in range(length)], 1)
        exact.forward([prompt], plain)
        model.forward([prompt], fixed)
    errors, spreads = [], []
    for step, size in enumerate((1, 3, 4, 2, 4)):
        segments = [Segment(table, length + step, [chance.randint(3, 499)], 1) for table, length in sequences]
        expected = exact.forward(segments, plain)[:size, VOICED]
        found = graphs.forward(segments[:size])[:, VOICED].cpu()
        model.forward(segments[size:], fixed) if size < len(segments) else None
        errors.append((found - expected).flatten())
        spreads.append(expected.flatten())
    assert torch.cat(errors).std() / torch.cat(spreads).std() < 0.05


def test_the_server_answers_from_a_gpu_and_tells_what_it_did() -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": list(range(5, 305)), "max_tokens": 40, "temperature": 0}
    with receiver() as otlp, server(otlp.endpoint, device="cuda", dtype="auto", max_running=4) as (url, _):
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=60) as client:
            first, again = (client.completions.create(**asked) for _ in range(2))
        assert first.choices[0].text
        assert again.usage is not None
        assert again.usage.prompt_tokens_details is not None
        assert again.usage.prompt_tokens_details.cached_tokens == PAGE
        wait_until(lambda: len(otlp.spans) == 2, what="the spans")
    attributes = {each.key for each in otlp.spans[-1].attributes}
    assert {"slo.gpu.id", "slo.gpu.sm_clock_min", "slo.gpu.memory_peak", "slo.gpu.energy"} <= attributes
