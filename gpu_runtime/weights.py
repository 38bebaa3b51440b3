"""What a model file has to give: its shape, its vocabulary, and its tensors under GGUF's names."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

#: Elements of a row that share a scale, in 4-bit matrices.
GROUP = 32


@dataclass(frozen=True)
class Shape:
    """The shape of a Llama model; lengths in elements, `rope_base` and `norm_eps` as in its file."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_context: int
    rope_base: float
    norm_eps: float
    #: What RoPE's frequencies are divided by, one number a pair; empty where they are as they are.
    rope_divisors: tuple[float, ...] = ()
    #: What RoPE multiplies queries and keys by: YaRN's attention factor.
    rope_amplitude: float = 1.0
    #: How many tokens each layer sees, its own included, 0 for all; empty where all layers see all.
    windows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """What the tokenizer is rebuilt from: texts and types by token id, merges or scores, or a whole `tokenizer.json`.

    `kind` is `gpt2` for byte-level BPE, `llama` for SentencePiece's with single bytes as `<0x0A>`. `template_texts` are
    what chat templates call `bos_token` and `eos_token`.
    """

    kind: str
    split: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    end_ids: frozenset[int]
    start_id: int | None
    chat_template: str | None
    scores: list[float] = field(default_factory=list)
    prefix_space: bool = False
    encoder_json: str = ""
    template_texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FourBit:
    """A 4-bit matrix: w = code * scale + low, one scale and low for each group of 32 in a row."""

    codes: Tensor  # int32 [rows, columns], 0..15
    scale: Tensor  # float32 [rows, columns / 32]
    low: Tensor  # float32 [rows, columns / 32]

    def rows(self, order: Tensor) -> "FourBit":
        """Return the matrix with its rows in another order."""
        return FourBit(self.codes[order], self.scale[order], self.low[order])

    def dense(self) -> Tensor:
        """Return the matrix as float32."""
        groups = self.codes.view(*self.scale.shape, GROUP).float()
        return (groups * self.scale[..., None] + self.low[..., None]).flatten(1)


class ModelFile(ABC):
    """An opened model. Tensors have GGUF's names, and the pairs that RoPE turns are neighbours in every head."""

    path: Path
    shape: Shape
    vocabulary: Vocabulary
    #: Whether this file's pairs are the halves of a head instead, as transformers has them.
    halves: bool

    @abstractmethod
    def __contains__(self, name: str) -> bool: ...

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """Return a tensor as it is in the file, as float32, rows first; UserError when the file lacks it."""

    def read_four_bit(self, name: str) -> FourBit | None:
        """Return a matrix in its stored 4-bit form, or None when it is stored in another."""
        del name
        return None

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as float32, rows first; UserError when the file lacks it."""
        found = self.read(name)
        return found if (order := self._order(name, len(found))) is None else found[order]

    def four_bit(self, name: str) -> FourBit | None:
        """Return a matrix in its stored 4-bit form, or None when it is stored in another."""
        found = self.read_four_bit(name)
        order = self._order(name, len(found.codes)) if found else None
        return found.rows(order) if found and order is not None else found

    def _order(self, name: str, rows: int) -> Tensor | None:
        """Return the rows of a query's or key's tensor so that halves become neighbours: 0, d/2, 1, d/2 + 1, ..."""
        if not self.halves or name.split(".")[-2] not in ("attn_q", "attn_k", "attn_q_norm", "attn_k_norm"):
            return None
        head = torch.arange(self.shape.head_dim).view(2, -1).T.flatten()
        starts = torch.arange(0, rows, self.shape.head_dim)
        return (starts[:, None] + head).flatten()


def open_model(path: Path) -> ModelFile:
    """Return the model of a GGUF file or of a folder with safetensors; UserError when it is anything else."""
    if path.is_dir():
        from .safetensors_folder import SafetensorsFolder

        return SafetensorsFolder(path)
    from .gguf_file import GgufFile

    return GgufFile(path)
