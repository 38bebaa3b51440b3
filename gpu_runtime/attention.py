"""Causal attention of one sequence's new tokens over its cached ones."""

import torch
from torch import Tensor
from torch.nn import functional


def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Return the attention output [rows, heads, head_dim] of the last `rows` positions.

    `query` is [rows, heads, head_dim]; `keys` and `values` are [positions, kv_heads, head_dim], the new ones included.
    """
    rows, heads, head_dim = query.shape
    positions, kv_heads, _ = keys.shape
    keys, values = keys.transpose(0, 1), values.transpose(0, 1)
    if rows == 1:
        # The heads that share a KV head stand in as query rows: SDPA's enable_gqa took 310 us here, this 40.
        grouped = query.view(1, kv_heads, heads // kv_heads, head_dim)
        return functional.scaled_dot_product_attention(grouped, keys[None], values[None]).view(1, heads, head_dim)
    # Two batched products: 0.67 ms at 128 x 500 in bfloat16, where SDPA with a mask takes 1.5.
    grouped = query.view(rows, kv_heads, -1, head_dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, head_dim)
    scores = torch.bmm(grouped, keys.transpose(1, 2)).mul_(head_dim**-0.5)
    hidden = torch.ones(rows, positions, dtype=torch.bool).triu_(positions - rows + 1)
    scores.view(kv_heads, -1, rows, positions).masked_fill_(hidden, float("-inf"))
    mixed = torch.bmm(scores.softmax(-1), values)
    return mixed.view(kv_heads, -1, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, heads, head_dim)
