"""The Llama model: a ragged forward pass over decode rows and prompt chunks together."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor
from torch.nn import functional

from .attention import KVCache, plan
from .kernels import Linear, linear, tune
from .weights import ModelFile, Shape


@dataclass(frozen=True)
class Segment:
    """New tokens of one sequence: the pages of its KV, the first new position, the token ids."""

    pages: Sequence[int]
    start: int
    tokens: Sequence[int]
    #: How many of the last tokens are wanted with their logits.
    tail: int = 0


@dataclass(frozen=True)
class Layer:
    """One block; `query_key_value` and `gate_up` are stacked so that each is one product."""

    attention_norm: Tensor
    query_key_value: Linear
    output: Linear
    feed_norm: Tensor
    gate_up: Linear
    down: Linear


class Llama:
    """Weights in the form chosen at load; `forward` is the only way in. Not thread-safe."""

    def __init__(self, file: ModelFile, *, dtype: torch.dtype) -> None:
        self.shape: Shape = file.shape
        self.dtype = dtype
        self.layers = [_layer(file, index, dtype) for index in range(file.shape.layers)]
        self._norm = file.tensor("output_norm.weight").to(dtype)
        self._embedding = file.tensor("token_embd.weight").to(dtype)
        self.device = self._embedding.device
        untied = linear(file, ["output.weight"], dtype=dtype) if "output.weight" in file else None
        self._head = untied or Linear.with_bytes(self._embedding)
        self._angles = _angles(file.shape)
        for role in (attrgetter("query_key_value"), attrgetter("output"), attrgetter("gate_up"), attrgetter("down")):
            tune([role(layer) for layer in self.layers])
        tune([self._head])

    def cache(self, *, pages: int, size: int) -> KVCache:
        """Return an empty cache of `pages` pages of `size` tokens."""
        return KVCache(self.shape, pages=pages, size=size, dtype=self.dtype)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], cache: KVCache) -> Tensor:
        """Write the segments' keys and values; return float32 logits after each token of their tails, in order."""
        tokens = torch.tensor([token for segment in segments for token in segment.tokens])
        tails, rows, positions = _rows(segments, cache)
        angles = self._angles[torch.tensor(positions)].unsqueeze(1)
        target = torch.tensor(rows)
        spans = [(segment.start, segment.start + len(segment.tokens)) for segment in segments]
        attend = plan(cache, [segment.pages for segment in segments], spans)
        hidden = self._embedding[tokens]
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(layer, hidden, angles)
            cache.keys[index].index_copy_(0, target, key)
            cache.values[index].index_copy_(0, target, value)
            hidden = hidden + layer.output(attend(query, index).flatten(1))
            gate, up = layer.gate_up(self._normed(hidden, layer.feed_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(functional.silu(gate).mul_(up))
        last = hidden[torch.tensor(tails, dtype=torch.long)]
        return self._head(self._normed(last, self._norm)).float()

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, (self.shape.hidden,), weight, self.shape.norm_eps)

    def _project(self, layer: Layer, hidden: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        mixed = layer.query_key_value(self._normed(hidden, layer.attention_norm)).view(len(hidden), -1, shape.head_dim)
        turned = _rotate(mixed[:, : shape.heads + shape.kv_heads], angles)
        return turned[:, : shape.heads], turned[:, shape.heads :], mixed[:, shape.heads + shape.kv_heads :]


def _rows(segments: Sequence[Segment], cache: KVCache) -> tuple[list[int], list[int], list[int]]:
    """Return the indexes of the segments' tails in the batch, and the cache row and the position of every token."""
    tails: list[int] = []
    rows: list[int] = []
    positions: list[int] = []
    for segment in segments:
        count = len(segment.tokens)
        rows.extend(cache.rows(segment.pages, segment.start, count))
        positions.extend(range(segment.start, segment.start + count))
        tails.extend(range(len(rows) - segment.tail, len(rows)))
    return tails, rows, positions


def _angles(shape: Shape) -> Tensor:
    """Return e^(i position theta), complex64 [max_context, head_dim / 2]."""
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    turns = torch.arange(shape.max_context, dtype=torch.float64)[:, None] * shape.rope_base**-half
    return torch.polar(torch.ones_like(turns), turns).to(torch.complex64)


def _rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring pairs as complex numbers.

    GGUF stores the query and key rows of llama files so that the pairs of RoPE are neighbours. Scores do not depend
    on the order of the pairs, so the rows are left as they are.
    """
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles).flatten(-2).to(heads.dtype)


def _layer(file: ModelFile, index: int, dtype: torch.dtype) -> Layer:
    def matrix(*names: str) -> Linear:
        return linear(file, [f"blk.{index}.{name}.weight" for name in names], dtype=dtype)

    return Layer(
        attention_norm=file.tensor(f"blk.{index}.attn_norm.weight").to(dtype),
        query_key_value=matrix("attn_q", "attn_k", "attn_v"),
        output=matrix("attn_output"),
        feed_norm=file.tensor(f"blk.{index}.ffn_norm.weight").to(dtype),
        gate_up=matrix("ffn_gate", "ffn_up"),
        down=matrix("ffn_down"),
    )
