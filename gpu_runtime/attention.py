"""Keys and values in pages, and causal attention of new tokens over them: one reference body, one for CUDA."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from .weights import Shape

#: Attention of a step in one layer: query [rows, heads, head_dim] -> the same shape.
Attend = Callable[[Tensor, int], Tensor]


def flash(device: torch.device, dtype: torch.dtype, *, page: int, head_dim: int) -> bool:
    """Return whether FlashAttention can be had: in half precision, over its pages and heads, on Ampere or newer."""
    fits = dtype in (torch.float16, torch.bfloat16) and not page % 256 and head_dim <= 256 and not head_dim % 8
    return fits and device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


class KVCache:
    """Keys and values of `pages` pages of `size` tokens; on CPU memory is taken only where something was written."""

    def __init__(
        self, shape: Shape, *, pages: int, size: int, dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> None:
        self.size = size
        #: Whether FlashAttention reads it in place.
        self.flash = flash(torch.device(device), dtype, page=size, head_dim=shape.head_dim)
        #: How many tokens each layer sees, 0 for all.
        self.windows = shape.windows or (0,) * shape.layers
        shape_of_all = (shape.layers, pages * size, shape.kv_heads, shape.head_dim)
        # On a GPU memory is taken at once, and kernels that read whole pages want numbers in all of them.
        made = torch.zeros if torch.device(device).type == "cuda" else torch.empty
        self.keys = made(shape_of_all, dtype=dtype, device=device)
        self.values = made(shape_of_all, dtype=dtype, device=device)

    def rows(self, table: Sequence[int], start: int, count: int) -> list[int]:
        """Return the rows that hold `count` positions of a sequence from `start` on."""
        size = self.size
        return [table[at // size] * size + at % size for at in range(start, start + count)]

    def reader(self, table: Sequence[int], length: int) -> Callable[[int], tuple[Tensor, Tensor]]:
        """Return what gives a layer's keys and values of a sequence's first positions, [length, kv_heads, head_dim].

        Read in place where the pages lie side by side, else copied together.
        """
        pages = table[: -(-length // self.size)]
        first = pages[0] * self.size
        if pages[-1] - pages[0] == len(pages) - 1 and list(pages) == list(range(pages[0], pages[-1] + 1)):
            keys = self.keys[:, first : first + length].unbind(0)
            values = self.values[:, first : first + length].unbind(0)
            return lambda layer: (keys[layer], values[layer])
        chosen = torch.tensor(pages, device=self.keys.device)

        def gathered(pool: Tensor) -> Tensor:
            paged = pool.view(-1, self.size, *pool.shape[1:]).index_select(0, chosen)
            return paged.view(-1, *pool.shape[1:])[:length]

        return lambda layer: (gathered(self.keys[layer]), gathered(self.values[layer]))


def plan(cache: KVCache, tables: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]) -> Attend:
    """Return the attention of a step: for each sequence its page table and (first new position, end) positions."""
    return (_paged if cache.flash else _gathered)(cache, tables, spans)


def _gathered(cache: KVCache, tables: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]) -> Attend:
    readers = [cache.reader(table, end) for table, (_, end) in zip(tables, spans, strict=True)]
    counts = [end - start for start, end in spans]

    def attend_all(query: Tensor, layer: int) -> Tensor:
        window = cache.windows[layer]
        parts = [
            attend(part, *reader(layer), window=window)
            for part, reader in zip(query.split_with_sizes(counts), readers, strict=True)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return attend_all


@dataclass(frozen=True)
class Tables:
    """Where a step's sequences have their keys, as tensors on the cache's device; all int32."""

    pages: Tensor  # [sequences, pages], what is behind a sequence's last page is never read
    lengths: Tensor  # [sequences], the new tokens included
    query_starts: Tensor  # [sequences + 1], of their rows in the query
    key_starts: Tensor  # [sequences + 1], as if keys lay one sequence behind the other
    longest_query: int
    longest: int


def _paged(cache: KVCache, tables: Sequence[Sequence[int]], spans: Sequence[tuple[int, int]]) -> Attend:
    def whole(numbers: Sequence[int] | list[list[int]]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=cache.keys.device)

    ends = [end for _, end in spans]
    counts = [end - start for start, end in spans]
    widest = max(map(len, tables))
    query_starts, key_starts = (whole(list(accumulate(each, initial=0))) for each in (counts, ends))
    pages = whole([[*table, *[0] * (widest - len(table))] for table in tables])
    return paged(cache, Tables(pages, whole(ends), query_starts, key_starts, max(counts), max(ends)))


def paged(cache: KVCache, tables: Tables) -> Attend:
    """FlashAttention over the page table, causal from each sequence's end; `num_splits=1` is the same in any batch."""
    # With it comes torch's compiler, 1 CPU-second and 70 MB: what runs on a CPU needs neither.
    from torch.nn.attention.varlen import varlen_attn

    def attend_all(query: Tensor, layer: int) -> Tensor:
        window = cache.windows[layer]
        keys, values = (pool[layer].view(-1, cache.size, *pool.shape[2:]) for pool in (cache.keys, cache.values))
        found = varlen_attn(
            query, keys, values, tables.query_starts, tables.key_starts, tables.longest_query, tables.longest,
            window_size=(window - 1, 0), enable_gqa=True, seqused_k=tables.lengths, block_table=tables.pages,
            num_splits=1,
        )  # fmt: skip
        return found if isinstance(found, Tensor) else found[0]

    return attend_all


def padded(cache: KVCache, tables: Tables) -> Attend:
    """Return the reference of `paged` for one new token a sequence: every sequence as long as the table is wide."""

    def attend_all(query: Tensor, layer: int) -> Tensor:
        at = torch.arange(tables.pages.shape[1] * cache.size, device=query.device)
        seen = at < tables.lengths[:, None]
        if window := cache.windows[layer]:
            seen &= at >= tables.lengths[:, None] - window
        every = (pool[layer].view(-1, cache.size, *pool.shape[2:]) for pool in (cache.keys, cache.values))
        keys, values = (pool[tables.pages].flatten(1, 2).transpose(1, 2) for pool in every)
        # What was never written may be anything, no numbers too, and 0 times that is none.
        keys, values = (each.masked_fill(~seen[:, None, :, None], 0) for each in (keys, values))
        found = functional.scaled_dot_product_attention(
            query[:, :, None], keys, values, attn_mask=seen[:, None, None], enable_gqa=True
        )
        return found.squeeze(2)

    return attend_all


def attend(query: Tensor, keys: Tensor, values: Tensor, *, window: int = 0) -> Tensor:
    """Return the attention output [rows, heads, head_dim] of the last `rows` positions.

    `query` is [rows, heads, head_dim]; `keys` and `values` are [positions, kv_heads, head_dim], the new ones included.
    A position sees the last `window` ones, itself included; 0 lets it see all.
    """
    rows, heads, head_dim = query.shape
    if window:
        keys, values = keys[-(window + rows - 1) :], values[-(window + rows - 1) :]
    positions, kv_heads, _ = keys.shape
    keys, values = keys.transpose(0, 1), values.transpose(0, 1)
    if rows == 1:
        # The heads that share a KV head stand in as query rows: SDPA's enable_gqa took 310 us here, this 40.
        grouped = query.view(1, kv_heads, heads // kv_heads, head_dim)
        return functional.scaled_dot_product_attention(grouped, keys[None], values[None]).view(1, heads, head_dim)
    # Two batched products: 0.74 ms at 128 x 512 in bfloat16, where SDPA with a mask takes 1.7. Only what is new can be
    # hidden from itself: masking and scaling all scores took 1.06.
    grouped = (query * head_dim**-0.5).view(rows, kv_heads, -1, head_dim).permute(1, 2, 0, 3)
    scores = torch.bmm(grouped.reshape(kv_heads, -1, head_dim), keys.transpose(1, 2))
    by_row, later = scores.view(kv_heads, -1, rows, positions), query.new_ones(rows, rows, dtype=torch.bool).triu_(1)
    by_row[..., positions - rows :].masked_fill_(later, float("-inf"))
    if window:
        beyond = query.new_ones(rows, positions, dtype=torch.bool).tril_(positions - rows - window)
        by_row.masked_fill_(beyond, float("-inf"))
    mixed = torch.bmm(scores.softmax(-1), values)
    return mixed.view(kv_heads, -1, rows, head_dim).permute(2, 0, 1, 3).reshape(rows, heads, head_dim)
