"""Matrix products in the weight format that was chosen at load: floats, or 8 and 4 bits with kernels for few rows."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from tailbudget.instrument.errors import UserError

from .settings import Form
from .weights import GROUP, FourBit, ModelFile

#: Form -> the type that is computed in.
COMPUTED: dict[Form, torch.dtype] = {
    "auto": torch.bfloat16,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "int8": torch.bfloat16,
    "int4": torch.bfloat16,
}
#: Forms that a kind of device has kernels for.
FORMS: dict[str, tuple[Form, ...]] = {
    "cpu": ("auto", "float32", "bfloat16", "int8", "int4"),
    "cuda": ("auto", "float32", "bfloat16", "float16"),
}
#: Row counts at which the two products of a matrix are raced at load.
RACED_ROWS = (1, 2, 4, 8, 12, 16, 24)
RACES = 2

Product = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Packed:
    """A matrix as `csrc/decode.h` has it: 4 bits with `scale` and `low` a group, or 8 with one `scale` a row."""

    codes: Tensor  # uint8 [rows, columns / 2] or [rows, columns]
    scale: Tensor  # float16 [rows, columns / 32] or float32 [rows]
    low: Tensor | None  # float16 [rows, columns / 32]
    bias: Tensor | None  # float32 [rows]
    columns: int

    @classmethod
    def of_four_bit(cls, matrices: Sequence[FourBit], bias: Tensor | None) -> "Packed":
        """Return stacked matrices; a byte i of a pair of groups holds its i-th code and the one 32 behind."""
        codes = torch.cat([matrix.codes.to(torch.uint8) for matrix in matrices])
        first, second = _taking_turns(codes).view(len(codes), -1, 2, GROUP).unbind(2)
        scale, low = (torch.cat(each).half() for each in zip(*((m.scale, m.low) for m in matrices), strict=True))
        wide = None if bias is None else bias.float()
        return cls((first | second << 4).flatten(1).contiguous(), scale, low, wide, codes.shape[1])


class Linear:
    """y = x W^T + b. `few`, where there is one, serves up to `few_rows` rows (set by `tune`, 0 before)."""

    def __init__(
        self,
        weight: Tensor,
        few: Product | None = None,
        bias: Tensor | None = None,
        packed: Packed | None = None,
    ) -> None:
        self.weight = weight
        self.few = few
        self.bias = bias
        self.packed = packed
        self.few_rows = 0

    def __call__(self, rows: Tensor) -> Tensor:
        if self.few is not None and rows.shape[0] <= self.few_rows:
            found = self.few(rows)
            return found if self.bias is None else found + self.bias
        return functional.linear(rows, self.weight, self.bias)


def linear(file: ModelFile, names: Sequence[str], *, form: Form, device: torch.device) -> Linear:
    """Return one product for the stacked matrices `names`, with their biases where the file has them."""
    dtype = COMPUTED[form]
    biases = [file.tensor(f"{name}.bias").to(device, dtype) for name in names if f"{name}.bias" in file]
    bias = torch.cat(biases) if biases else None
    if form == "int8":
        return _with_bytes(torch.cat([file.tensor(f"{name}.weight") for name in names]), bias)
    if device.type == "cpu" and form in ("auto", "int4"):
        stored = [file.four_bit(f"{name}.weight") for name in names]
        packed = [matrix for matrix in stored if matrix]
        if form == "int4" and len(packed) < len(names):
            packed = [four_bit(file.tensor(f"{name}.weight")) for name in names]
        if len(packed) == len(names):
            weight = torch.cat([matrix.dense().to(dtype) for matrix in packed])
            whole = weight.shape[1] % (2 * GROUP) == 0
            return Linear(weight, _four_bit_product(packed), bias, Packed.of_four_bit(packed, bias) if whole else None)
    return Linear(torch.cat([file.tensor(f"{name}.weight").to(device, dtype) for name in names]), bias=bias)


def head(file: ModelFile, name: str, *, form: Form, device: torch.device) -> Linear:
    """Return the product of the head: in 8 bits where the form is no float, unless the file has it in 4."""
    weight = f"{name}.weight"
    if device.type == "cpu" and form in ("auto", "int8", "int4") and not file.four_bit(weight):
        return _with_bytes(file.tensor(weight))
    return linear(file, [name], form=form, device=device)


def four_bit(weight: Tensor) -> FourBit:
    """Return a matrix in 4 bits, groups spread from their smallest to their largest number; UserError if none fit."""
    if weight.shape[1] % GROUP:
        raise UserError(f"int4 needs rows of a multiple of {GROUP}, this model has {weight.shape[1]}: choose int8")
    groups = weight.float().view(len(weight), -1, GROUP)
    low, high = groups.aminmax(dim=-1)
    scale = (high - low) / 15
    codes = ((groups - low[..., None]) / scale[..., None].clamp_min(1e-12)).round_().to(torch.int32)
    return FourBit(codes.flatten(1), scale, low)


def _four_bit_product(matrices: Sequence[FourBit]) -> Product:
    codes = torch.cat([matrix.codes for matrix in matrices])
    scale = torch.cat([matrix.scale for matrix in matrices])
    # The kernel computes (code - 8) * scale + zero.
    zero = torch.cat([matrix.low for matrix in matrices]) + 8 * scale
    scales_and_zeros = torch.stack((scale, zero), dim=-1).transpose(0, 1).to(torch.bfloat16).contiguous()
    # The second number has no effect on CPU. These kernels have no public names.
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)  # noqa: SLF001

    def product(rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(  # noqa: SLF001
            rows, packed, GROUP, scales_and_zeros
        )
        return result

    return product


def _with_bytes(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """Return a product in 8 bits with one scale a row; the dense twin for many rows has the same numbers."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(127).to(torch.bfloat16).float()
    codes = (weight / scale).round_().clamp_(-127, 127).to(torch.int8)
    scales = scale.squeeze(1).to(torch.bfloat16)

    def product(rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten._weight_int8pack_mm(rows, codes, scales)  # noqa: SLF001
        return result

    unsigned = (codes.to(torch.int16) + 128).to(torch.uint8)
    packed = None
    if weight.shape[1] % (2 * GROUP) == 0:
        wide = None if bias is None else bias.float()
        packed = Packed(_taking_turns(unsigned), scale.squeeze(1), None, wide, weight.shape[1])
    return Linear((codes * scale).to(torch.bfloat16), product, bias, packed)


def _taking_turns(codes: Tensor) -> Tensor:
    """Return codes with each two groups of a row taking turns: four of the first, four of the second, and so on."""
    return codes.view(len(codes), -1, 2, GROUP // 4, 4).transpose(2, 3).flatten(1)


def forget_few(linears: Sequence[Linear]) -> None:
    """Let go of products for few rows that nobody will ask for."""
    for each in linears:
        each.few = None


def tune(linears: Sequence[Linear]) -> None:
    """Set `few_rows` of alike products: up to how many rows their `few` beats the dense product on this machine.

    Raced, since it differs between machines, and over all layers in turn, since a single matrix stays in the cache:
    there bfloat16 looks faster from 8 rows on, while reading all of it from memory takes three times as long.
    """
    twins = [(each.few, partial(functional.linear, weight=each.weight)) for each in linears if each.few]
    best = 0
    for count in RACED_ROWS if twins else ():
        rows = torch.ones(count, linears[0].weight.shape[1], dtype=linears[0].weight.dtype)
        if _cpu_s([few for few, _ in twins], rows) >= _cpu_s([dense for _, dense in twins], rows):
            break
        best = count
    for each in linears:
        each.few_rows = best


def _cpu_s(products: Sequence[Product], rows: Tensor) -> float:
    """Return the least CPU time of a few rounds: other processes do not count."""
    times = []
    for _ in range(RACES):
        start = time.thread_time()
        for product in products:
            product(rows)
        times.append(time.thread_time() - start)
    return min(times)
