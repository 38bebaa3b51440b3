"""Reads a GGUF file: the model's shape, its vocabulary and its tensors, dequantised on demand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from tailbudget.instrument.errors import UserError

from .rope import stretched
from .weights import FourBit, ModelFile, Shape, Vocabulary

#: Architecture -> whether the pairs that RoPE turns are the halves of a head. Converters permute llama's alone.
ARCHITECTURES = {"llama": False, "qwen2": True, "qwen3": True}
#: Stored type -> float32, for those that are no quantisation; the gguf package dequantises the others.
FLOATS: dict[str, Callable[[Tensor], Tensor]] = {
    "F32": lambda data: data.float(),
    "F16": lambda data: data.float(),
    "BF16": lambda data: data.contiguous().view(torch.bfloat16).float(),
}


class GgufFile(ModelFile):
    """An opened GGUF file of the Llama family; UserError when it is anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            reader = GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError, OverflowError) as error:
            raise UserError(f"{path} is no readable GGUF file ({error}): fetch or convert the model again") from error
        self._fields = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._architecture = str(self._fields.get("general.architecture"))
        if self._architecture not in ARCHITECTURES:
            expected = ", ".join(map(repr, ARCHITECTURES))
            raise UserError(f"{path} has the architecture {self._architecture!r}: expected one of {expected}")
        if self._of_model("expert_count", 0):
            raise UserError(f"{path} is a mixture of experts: expected a dense model")
        self.halves = ARCHITECTURES[self._architecture]
        self.shape = self._shape()
        self.vocabulary = self._vocabulary()

    def _field(self, name: str, default: Any = None) -> Any:
        value = self._fields.get(name, default)
        if value is None:
            raise UserError(f"{self.path} lacks the field {name!r}: convert the model again with a current converter")
        return value

    def _of_model(self, name: str, default: Any = None) -> Any:
        return self._field(f"{self._architecture}.{name}", default)

    def _shape(self) -> Shape:
        heads, hidden = int(self._of_model("attention.head_count")), int(self._of_model("embedding_length"))
        head_dim = int(self._of_model("attention.key_length", hidden // heads))
        turned = int(self._of_model("rope.dimension_count", head_dim))
        if turned != head_dim:
            raise UserError(f"{self.path} turns {turned} of {head_dim} dimensions of a head: expected all of them")
        base = float(self._of_model("rope.freq_base", 10_000.0))
        divisors, amplitude, context = self._rope(base, head_dim, int(self._of_model("context_length")))
        layers, window = int(self._of_model("block_count")), int(self._of_model("attention.sliding_window", 0))
        return Shape(
            layers=layers,
            hidden=hidden,
            feed_forward=int(self._of_model("feed_forward_length")),
            heads=heads,
            kv_heads=int(self._of_model("attention.head_count_kv", heads)),
            head_dim=head_dim,
            vocabulary=len(self._field("tokenizer.ggml.tokens")),
            max_context=context,
            rope_base=base,
            norm_eps=float(self._of_model("attention.layer_norm_rms_epsilon")),
            rope_divisors=divisors,
            rope_amplitude=amplitude,
            windows=(window,) * layers if window else (),
        )

    def _rope(self, base: float, head_dim: int, context: int) -> tuple[tuple[float, ...], float, int]:
        """Return what RoPE's frequencies are divided by, its amplitude, and the longest context."""
        if "rope_freqs.weight" in self:  # Llama 3's scaling, computed by the converter
            return tuple(self.read("rope_freqs.weight").tolist()), 1.0, context
        kind = str(self._of_model("rope.scaling.type", "none"))
        if self._of_model("rope.scaling.yarn_log_multiplier", 0.0):
            raise UserError(f"{self.path} has a YaRN of its own (yarn_log_multiplier): expected the paper's")
        said = {theirs: self._of_model(f"rope.scaling.{name}", 0) for theirs, name in ROPE_FIELDS.items()}
        rope = {"rope_type": "default" if kind == "none" else kind} | {
            name: each for name, each in said.items() if each
        }
        divisors, amplitude, longest = stretched(rope, base=base, head_dim=head_dim, context=context, of=self.path)
        if kind == "yarn":  # llama.cpp multiplies the paper's attention factor by these
            for name in ("attn_factor", "yarn_attn_factor"):
                amplitude *= float(self._of_model(f"rope.scaling.{name}", 1.0))
        return divisors, amplitude, longest

    def _vocabulary(self) -> Vocabulary:
        tokens = list(self._field("tokenizer.ggml.tokens"))
        kind = str(self._field("tokenizer.ggml.model"))
        start, end = self._fields.get("tokenizer.ggml.bos_token_id"), int(self._field("tokenizer.ggml.eos_token_id"))
        # What converters leave out is what SentencePiece's models do, and byte-level ones do not.
        starts = bool(self._fields.get("tokenizer.ggml.add_bos_token", kind == "llama")) and start is not None
        texts = {"bos_token": tokens[int(start)] if start is not None else "", "eos_token": tokens[end]}
        return Vocabulary(
            kind=kind,
            split=str(self._fields.get("tokenizer.ggml.pre", "")),
            tokens=tokens,
            types=list(self._fields.get("tokenizer.ggml.token_type", [1] * len(tokens))),
            merges=list(self._field("tokenizer.ggml.merges", [] if kind == "llama" else None)),
            end_ids=frozenset({end} | {int(self._field(name)) for name in END_FIELDS if name in self._fields}),
            start_id=int(start) if starts and start is not None else None,
            chat_template=self._fields.get("tokenizer.chat_template"),
            scores=list(self._fields.get("tokenizer.ggml.scores", [])),
            prefix_space=bool(self._fields.get("tokenizer.ggml.add_space_prefix", kind == "llama")),
            template_texts=texts,
        )

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def read(self, name: str) -> Tensor:
        """Return a tensor as it is in the file, as float32, rows first; UserError when it is missing or unreadable."""
        stored = self._stored(name)
        kind = stored.tensor_type.name
        if convert := FLOATS.get(kind):
            return convert(torch.from_numpy(stored.data.copy()))
        if found := self.read_four_bit(name):
            return found.dense()
        try:
            return torch.from_numpy(dequantize(stored.data, stored.tensor_type))
        except NotImplementedError as error:
            raise UserError(
                f"{self.path} holds {name} in {kind}, which is not read: convert the model to Q8_0, Q4_K or BF16"
            ) from error

    def read_four_bit(self, name: str) -> FourBit | None:
        """Return a matrix in its stored 4-bit form, or None when it is stored in another."""
        stored = self._stored(name)
        unpack = FOUR_BIT.get(stored.tensor_type.name)
        return unpack(torch.from_numpy(stored.data.copy())) if unpack else None

    def _stored(self, name: str) -> Any:
        if name not in self._tensors:
            raise UserError(f"{self.path} lacks the tensor {name!r}: convert the model again")
        return self._tensors[name]


#: Name of a RoPE setting in configurations -> GGUF's.
ROPE_FIELDS = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context_length",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}
#: Fields that name further tokens at which an answer ends.
END_FIELDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")


def _nibbles(packed: Tensor) -> Tensor:
    """Return the codes of groups of 32: the low halves of their 16 bytes come before the high halves."""
    return torch.cat((packed & 15, packed >> 4), dim=-1).to(torch.int32)


def _halves(data: Tensor) -> Tensor:
    return data.contiguous().view(torch.float16).float()


def _q4_0(data: Tensor) -> FourBit:
    """Blocks of 18 bytes: a float16 scale, then 16 bytes of codes around 8."""
    blocks = data.view(data.shape[0], -1, 18)
    scale = _halves(blocks[..., :2])[..., 0]
    return FourBit(_nibbles(blocks[..., 2:]).flatten(1), scale, -8 * scale)


def _q4_1(data: Tensor) -> FourBit:
    """Blocks of 20 bytes: scale and low as float16, then 16 bytes of codes."""
    blocks = data.view(data.shape[0], -1, 20)
    scale, low = _halves(blocks[..., :4]).unbind(-1)
    return FourBit(_nibbles(blocks[..., 4:]).flatten(1), scale.contiguous(), low.contiguous())


def _q4_k(data: Tensor) -> FourBit:
    """Blocks of 144 bytes for 256 numbers: two float16, 8 scales and 8 lows of 6 bits in 12 bytes, 128 of codes.

    The upper two bits of the first eight packed bytes belong to the last four scales and lows.
    """
    blocks = data.view(data.shape[0], -1, 144)
    of_scales, of_lows = _halves(blocks[..., :4])[..., None, :].unbind(-1)
    first, second, mixed = blocks[..., 4:16].reshape(*blocks.shape[:2], 3, 4).unbind(-2)
    scales = torch.cat((first & 63, mixed & 15 | first >> 2 & 48), dim=-1).float() * of_scales
    lows = torch.cat((second & 63, mixed >> 4 | second >> 2 & 48), dim=-1).float() * of_lows
    codes = _nibbles(blocks[..., 16:].reshape(*blocks.shape[:2], 4, 32))
    return FourBit(codes.flatten(1), scales.flatten(1), -lows.flatten(1))


FOUR_BIT: dict[str, Callable[[Tensor], FourBit]] = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q4_K": _q4_k}
