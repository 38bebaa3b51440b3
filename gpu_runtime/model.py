"""The Llama model: a ragged forward pass over decode rows and prompt chunks together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tailbudget.instrument.errors import UserError

from .attention import Attend, KVCache, plan
from .decode import MATRICES, compiled
from .kernels import COMPUTED, FORMS, Linear, forget_few, head, linear, tune
from .settings import Form
from .weights import ModelFile, Shape

#: Rows up to which a step is compiled C where it can be: beyond, dense bfloat16 products are faster.
COMPILED_ROWS = 32


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
    #: Norms of each head's query and key, where the model has them: [head_dim].
    query_norm: Tensor | None
    key_norm: Tensor | None


class Llama:
    """Weights in the form chosen at load; `forward` is the only way in. Not thread-safe.

    UserError when the device has no kernels for the form.
    """

    def __init__(self, file: ModelFile, *, form: Form = "auto", device: str | torch.device = "cpu") -> None:
        self.shape: Shape = file.shape
        self.device = torch.device(device)
        if form not in FORMS[self.device.type]:
            expected = ", ".join(FORMS[self.device.type])
            raise UserError(f"dtype is {form!r}: expected one of {expected} on {self.device.type}")
        self.dtype = COMPUTED[form]
        self.layers = [self._layer(file, index, form) for index in range(file.shape.layers)]
        self._norm = self._placed(file, "output_norm.weight")
        self._embedding = self._placed(file, "token_embd.weight")
        tied = "output.weight" not in file
        self._head = head(file, "token_embd" if tied else "output", form=form, device=self.device)
        self._turns = _turns(file.shape).to(self.device)
        roles = [[getattr(layer, role) for layer in self.layers] for role in MATRICES] + [[self._head]]
        #: Steps of up to `few_rows` rows in one call of C, where that can be had.
        self.compiled = compiled(self.shape, self.layers, norm=self._norm, head=self._head)
        self.few_rows = COMPILED_ROWS
        for alike in roles:
            if self.compiled:
                forget_few(alike)
            else:
                tune(alike)

    def _placed(self, file: ModelFile, name: str) -> Tensor:
        return file.tensor(name).to(self.device, self.dtype)

    def _layer(self, file: ModelFile, index: int, form: Form) -> Layer:
        def matrix(*names: str) -> Linear:
            return linear(file, [f"blk.{index}.{name}" for name in names], form=form, device=self.device)

        def norm(name: str) -> Tensor | None:
            whole = f"blk.{index}.{name}.weight"
            return self._placed(file, whole) if whole in file else None

        return Layer(
            attention_norm=self._placed(file, f"blk.{index}.attn_norm.weight"),
            query_norm=norm("attn_q_norm"),
            key_norm=norm("attn_k_norm"),
            query_key_value=matrix("attn_q", "attn_k", "attn_v"),
            output=matrix("attn_output"),
            feed_norm=self._placed(file, f"blk.{index}.ffn_norm.weight"),
            gate_up=matrix("ffn_gate", "ffn_up"),
            down=matrix("ffn_down"),
        )

    def cache(self, *, pages: int, size: int) -> KVCache:
        """Return an empty cache of `pages` pages of `size` tokens."""
        return KVCache(self.shape, pages=pages, size=size, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def forward(self, segments: Sequence[Segment], cache: KVCache) -> Tensor:
        """Write the segments' keys and values; return float32 logits after each token of their tails, in order."""
        tails, rows, positions = _rows(segments, cache)
        tokens = torch.tensor([token for segment in segments for token in segment.tokens], device=self.device)
        places = torch.tensor(positions, device=self.device)
        if self.compiled and len(rows) <= self.few_rows:
            tables = [segment.pages for segment in segments for _ in segment.tokens]
            return self.compiled.run(
                self._embedding[tokens].float(), self._angles(places), cache=cache, tables=tables, places=positions,
                target=rows, tails=tails,
            )  # fmt: skip
        target = torch.tensor(rows, device=self.device)
        spans = [(segment.start, segment.start + len(segment.tokens)) for segment in segments]
        attend = plan(cache, [segment.pages for segment in segments], spans)
        hidden = self.states(tokens, places, target, cache=cache, attend=attend)
        return self.logits(hidden[torch.tensor(tails, dtype=torch.long, device=self.device)])

    def states(self, tokens: Tensor, places: Tensor, target: Tensor, *, cache: KVCache, attend: Attend) -> Tensor:
        """Return the last layer's states [tokens, hidden] of tokens at `places` whose cache rows are `target`."""
        angles = self._angles(places)[:, None]
        hidden = self._embedding[tokens]
        for index, layer in enumerate(self.layers):
            query, key, value = self._project(layer, hidden, angles)
            cache.keys[index].index_copy_(0, target, key)
            cache.values[index].index_copy_(0, target, value)
            hidden = hidden + layer.output(attend(query, index).flatten(1))
            gate, up = layer.gate_up(self._normed(hidden, layer.feed_norm)).chunk(2, dim=-1)
            hidden = hidden + layer.down(functional.silu(gate).mul_(up))
        return hidden

    def _angles(self, places: Tensor) -> Tensor:
        """Return a e^(i place theta) with RoPE's amplitude a, complex64 [places, head_dim / 2]."""
        turns = places[:, None] * self._turns
        return torch.polar(torch.full_like(turns, self.shape.rope_amplitude), turns).to(torch.complex64)

    def logits(self, states: Tensor) -> Tensor:
        """Return float32 logits [tokens, vocabulary] after states of the last layer."""
        return self._head(self._normed(states, self._norm)).float()

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, (self.shape.hidden,), weight, self.shape.norm_eps)

    def _project(self, layer: Layer, hidden: Tensor, angles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shape = self.shape
        mixed = layer.query_key_value(self._normed(hidden, layer.attention_norm)).view(len(hidden), -1, shape.head_dim)
        query, key, value = mixed.split_with_sizes((shape.heads, shape.kv_heads, shape.kv_heads), dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            query = functional.rms_norm(query, (shape.head_dim,), layer.query_norm, shape.norm_eps)
            key = functional.rms_norm(key, (shape.head_dim,), layer.key_norm, shape.norm_eps)
            turned = torch.cat((query, key), dim=1)
        else:
            turned = mixed[:, : shape.heads + shape.kv_heads]
        query, key = _rotate(turned, angles).split_with_sizes((shape.heads, shape.kv_heads), dim=1)
        return query, key, value


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


def _turns(shape: Shape) -> Tensor:
    """Return by how many radians RoPE turns each pair of a head from one position to the next, float64."""
    half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
    return shape.rope_base**-half / torch.tensor(shape.rope_divisors or 1.0, dtype=torch.float64)


def _rotate(heads: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring pairs as complex numbers: files are read so that they are neighbours."""
    pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * angles).flatten(-2).to(heads.dtype)
