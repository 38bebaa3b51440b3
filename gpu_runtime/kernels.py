"""Matrix products in the weight format that is fastest for the number of rows: 4-bit or 8-bit for few, else dense."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from .weights import GROUP, FourBit, ModelFile

#: Row counts at which the two forms are raced at load.
RACED_ROWS = (1, 2, 4, 8, 12, 16, 24)
RACES = 2

Product = Callable[[Tensor], Tensor]


class Linear:
    """y = x W^T. `few`, where there is one, serves up to `few_rows` rows (set by `tune`, 0 before)."""

    def __init__(self, weight: Tensor, few: Product | None = None) -> None:
        self.weight = weight
        self.few = few
        self.few_rows = 0

    def __call__(self, rows: Tensor) -> Tensor:
        if self.few is not None and rows.shape[0] <= self.few_rows:
            return self.few(rows)
        return functional.linear(rows, self.weight)

    @classmethod
    def with_bytes(cls, weight: Tensor) -> "Linear":
        """Return the product with an 8-bit twin, one scale a row, where the weights are bfloat16."""
        return cls(weight, _eight_bit(weight) if weight.dtype == torch.bfloat16 else None)


def linear(file: ModelFile, names: Sequence[str], *, dtype: torch.dtype) -> Linear:
    """Return one product for the stacked matrices `names`; with a 4-bit twin if all are stored so and `dtype` fits."""
    weight = torch.cat([file.tensor(name).to(dtype) for name in names])
    packed = [file.four_bit(name) for name in names] if dtype == torch.bfloat16 else []
    stored = [matrix for matrix in packed if matrix is not None]
    return Linear(weight, _four_bit(stored) if stored and len(stored) == len(names) else None)


def _four_bit(matrices: Sequence[FourBit]) -> Product:
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


def _eight_bit(weight: Tensor) -> Product:
    scale = weight.abs().amax(dim=1, keepdim=True).float().clamp_(min=1e-12) / 127
    codes = (weight.float() / scale).round_().to(torch.int8)
    scales = scale.squeeze(1).to(torch.bfloat16)

    def product(rows: Tensor) -> Tensor:
        result: Tensor = torch.ops.aten._weight_int8pack_mm(rows, codes, scales)  # noqa: SLF001
        return result

    return product


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
