"""FlashAttention over pages agrees with the reference body; runs where there is an NVIDIA GPU."""

import pytest
import torch

from tailbudget.gpu_runtime.attention import KVCache, plan
from tailbudget.gpu_runtime.weights import Shape

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


@pytest.mark.parametrize("rows", [[1, 1, 1], [1, 200, 17]], ids=["decode", "mixed"])
def test_both_bodies_of_attention_agree(rows: list[int]) -> None:
    shape = Shape(
        1, 512, 512, heads=8, kv_heads=2, head_dim=64, vocabulary=8, max_context=2048, rope_base=1e4, norm_eps=1e-5
    )
    torch.manual_seed(0)
    ends = [300, 600, 40]
    tables = [[3, 1], [0, 5, 2], [4]]
    spans = [(end - count, end) for end, count in zip(ends, rows, strict=True)]
    fast = KVCache(shape, pages=6, size=256, dtype=torch.bfloat16, device="cuda")
    fast.keys.normal_()
    fast.values.normal_()
    exact = KVCache(shape, pages=6, size=256, dtype=torch.float32)
    exact.keys.copy_(fast.keys)
    exact.values.copy_(fast.values)
    query = torch.randn(sum(rows), 8, 64, device="cuda", dtype=torch.bfloat16)
    found = plan(fast, tables, spans)(query, 0)
    expected = plan(exact, tables, spans)(query.float().cpu(), 0)
    torch.testing.assert_close(found.float().cpu(), expected, rtol=2e-2, atol=2e-2)
