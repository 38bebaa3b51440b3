"""The memory of keys and values: one pool, one stretch of `context` positions for each running sequence."""

import torch
from torch import Tensor

from .weights import Shape


class KVCache:
    """Keys and values of `slots` sequences; memory is taken from the system only where something was written."""

    def __init__(self, shape: Shape, *, slots: int, context: int, dtype: torch.dtype) -> None:
        self.slots, self.context = slots, context
        size = (shape.layers, slots * context, shape.kv_heads, shape.head_dim)
        self.keys = torch.empty(size, dtype=dtype)
        self.values = torch.empty(size, dtype=dtype)

    @property
    def capacity(self) -> int:
        """Positions in all."""
        return self.slots * self.context

    def rows(self, slot: int, start: int, count: int) -> range:
        """Return the rows of the pool that hold `count` positions of a slot from `start` on."""
        first = slot * self.context + start
        return range(first, first + count)

    def upto(self, slot: int, length: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return keys and values of the first `length` positions of a slot, [length, kv_heads, head_dim] a layer."""
        first = slot * self.context
        return self.keys[:, first : first + length].unbind(0), self.values[:, first : first + length].unbind(0)
