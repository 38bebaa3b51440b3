"""Reads a GGUF file: the model's shape, its vocabulary and its tensors, dequantised on demand."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from torch import Tensor

from tailbudget.instrument.errors import UserError

#: Elements that share a scale, in both quantised formats.
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


@dataclass(frozen=True)
class Vocabulary:
    """What the tokenizer is rebuilt from: texts and types by token id, merges in order, the end token, the template."""

    kind: str
    split: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    end_id: int
    start_id: int | None
    chat_template: str | None


@dataclass(frozen=True)
class FourBit:
    """A Q4_1 matrix as it is stored: w = code * scale + low, one scale and low for each group of 32 in a row."""

    codes: Tensor  # int32 [rows, columns], 0..15
    scale: Tensor  # float32 [rows, columns / 32]
    low: Tensor  # float32 [rows, columns / 32]


class ModelFile:
    """An opened GGUF file of the llama architecture; UserError when it is anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError, OverflowError) as error:
            raise UserError(f"{path} is no readable GGUF file ({error}): fetch or convert the model again") from error
        self._fields = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        architecture = self._fields.get("general.architecture")
        if architecture != "llama":
            raise UserError(f"{path} has the architecture {architecture!r}: expected 'llama', the only one served")
        unknown = {tensor.tensor_type.name for tensor in reader.tensors} - DEQUANTISE.keys()
        if unknown:
            raise UserError(
                f"{path} holds tensors in {', '.join(sorted(unknown))}: expected {', '.join(DEQUANTISE)} only"
            )
        self.shape = self._shape()
        self.vocabulary = self._vocabulary()

    def _field(self, name: str, default: Any = None) -> Any:
        value = self._fields.get(name, default)
        if value is None:
            raise UserError(f"{self.path} lacks the field {name!r}: convert the model again with a current converter")
        return value

    def _shape(self) -> Shape:
        heads = int(self._field("llama.attention.head_count"))
        hidden = int(self._field("llama.embedding_length"))
        return Shape(
            layers=int(self._field("llama.block_count")),
            hidden=hidden,
            feed_forward=int(self._field("llama.feed_forward_length")),
            heads=heads,
            kv_heads=int(self._field("llama.attention.head_count_kv", heads)),
            head_dim=int(self._field("llama.rope.dimension_count", hidden // heads)),
            vocabulary=len(self._field("tokenizer.ggml.tokens")),
            max_context=int(self._field("llama.context_length")),
            rope_base=float(self._field("llama.rope.freq_base", 10_000.0)),
            norm_eps=float(self._field("llama.attention.layer_norm_rms_epsilon")),
        )

    def _vocabulary(self) -> Vocabulary:
        tokens = list(self._field("tokenizer.ggml.tokens"))
        starts = bool(self._fields.get("tokenizer.ggml.add_bos_token", False))
        return Vocabulary(
            kind=str(self._field("tokenizer.ggml.model")),
            split=str(self._fields.get("tokenizer.ggml.pre", "")),
            tokens=tokens,
            types=list(self._fields.get("tokenizer.ggml.token_type", [1] * len(tokens))),
            merges=list(self._field("tokenizer.ggml.merges")),
            end_id=int(self._field("tokenizer.ggml.eos_token_id")),
            start_id=int(self._field("tokenizer.ggml.bos_token_id")) if starts else None,
            chat_template=self._fields.get("tokenizer.chat_template"),
        )

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def tensor(self, name: str) -> Tensor:
        """Return a tensor as float32, rows first; UserError when the file lacks it."""
        stored = self._stored(name)
        convert = DEQUANTISE[stored.tensor_type.name]
        return convert(torch.from_numpy(stored.data.copy()))

    def four_bit(self, name: str) -> FourBit | None:
        """Return a matrix in its stored 4-bit form, or None when it is stored in another."""
        stored = self._stored(name)
        return _q4_1(torch.from_numpy(stored.data.copy())) if stored.tensor_type.name == "Q4_1" else None

    def _stored(self, name: str) -> Any:
        if name not in self._tensors:
            raise UserError(f"{self.path} lacks the tensor {name!r}: convert the model again")
        return self._tensors[name]


def _q4_1(data: Tensor) -> FourBit:
    """Blocks of 20 bytes: scale and low as float16, then 16 bytes whose low halves come before their high halves."""
    blocks = data.view(data.shape[0], -1, 20)
    halves = blocks[..., :4].contiguous().view(torch.float16).float()
    packed = blocks[..., 4:]
    codes = torch.cat((packed & 15, packed >> 4), dim=-1)
    return FourBit(codes.flatten(1).to(torch.int32), halves[..., 0].contiguous(), halves[..., 1].contiguous())


def _dequantise_q4_1(data: Tensor) -> Tensor:
    matrix = _q4_1(data)
    groups = matrix.codes.view(*matrix.scale.shape, GROUP).float()
    return (groups * matrix.scale[..., None] + matrix.low[..., None]).flatten(1)


def _dequantise_q8_0(data: Tensor) -> Tensor:
    """Blocks of 34 bytes: a float16 scale, then 32 signed bytes."""
    blocks = data.view(data.shape[0], -1, 34)
    scale = blocks[..., :2].contiguous().view(torch.float16).float()
    return (blocks[..., 2:].contiguous().view(torch.int8).float() * scale).flatten(1)


#: Stored type -> float32. F32 and F16 arrive as floats, the others as bytes.
DEQUANTISE: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": lambda data: data.float(),
    "F16": lambda data: data.float(),
    "BF16": lambda data: data.contiguous().view(torch.bfloat16).float(),
    "Q8_0": _dequantise_q8_0,
    "Q4_1": _dequantise_q4_1,
}
