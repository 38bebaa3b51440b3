"""Steps of few rows in one call of C: no product, no norm and no attention of theirs pays for a call of torch."""

import ctypes
import itertools
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .attention import KVCache
from .kernels import Linear
from .weights import Shape

if TYPE_CHECKING:
    from .model import Layer

#: Query heads that may share a key head, the longest row of a matrix, and what lengths have to be multiples of.
MOST_SHARED, MOST_COLUMNS, BLOCK, LANES = 64, 16_384, 64, 16

#: The matrices of a layer, in the order of `csrc/decode.h`.
MATRICES = ("query_key_value", "output", "gate_up", "down")

_POINTER, _INT = ctypes.c_void_p, ctypes.c_int32


class _Matrix(ctypes.Structure):
    _fields_ = (*[(name, _POINTER) for name in ("codes", "scale", "low", "row_scale", "bias")],
                *[(name, _INT) for name in ("rows", "columns")])  # fmt: skip


class _Layer(ctypes.Structure):
    _fields_ = (*[(name, _POINTER) for name in ("attention_norm", "feed_norm", "query_norm", "key_norm")],
                *[(name, _Matrix) for name in MATRICES],
                ("window", _INT))  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = (("layers", ctypes.POINTER(_Layer)), ("norm", _POINTER), ("head", _Matrix),
                *[(name, _INT) for name in ("count", "hidden", "feed_forward", "heads", "kv_heads", "head_dim")],
                ("eps", ctypes.c_float))  # fmt: skip


class _Step(ctypes.Structure):
    _fields_ = (*[(name, _INT) for name in ("rows", "tails", "width", "page")], ("cache_rows", ctypes.c_int64),
                *[(name, _POINTER) for name in ("states", "cos", "sin", "target", "places", "pages", "wanted", "keys",
                                                "values", "logits")])  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled steps, None where they were not built or the processor lacks AVX-512 VNNI."""
    built = sorted(Path(__file__).parent.glob("_decode*.so"))
    if not built:
        return None
    found = ctypes.CDLL(str(built[0]))
    return found if found.decode_supported() else None


class CompiledSteps:
    """The steps of one model; they read its matrices in place, which this keeps alive."""

    def __init__(
        self, called: ctypes.CDLL, shape: Shape, layers: Sequence["Layer"], *, norm: Tensor, head: Linear
    ) -> None:
        self._called = called
        self._shape = shape
        self._kept: list[Tensor] = []
        windows = shape.windows or (0,) * shape.layers
        self._layers = (_Layer * len(layers))(
            *(self._layer(layer, window) for layer, window in zip(layers, windows, strict=True))
        )
        sizes = shape.layers, shape.hidden, shape.feed_forward, shape.heads, shape.kv_heads, shape.head_dim
        self._model = _Model(self._layers, self._floats(norm), self._matrix(head), *sizes, shape.norm_eps)

    def _layer(self, layer: "Layer", window: int) -> _Layer:
        norms = [layer.attention_norm, layer.feed_norm, layer.query_norm, layer.key_norm]
        matrices = [getattr(layer, name) for name in MATRICES]
        return _Layer(*map(self._floats, norms), *map(self._matrix, matrices), window)

    def _floats(self, tensor: Tensor | None) -> int | None:
        return None if tensor is None else self._keep(tensor.float().contiguous())

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor)
        return tensor.data_ptr()

    def _matrix(self, linear: Linear) -> _Matrix:
        packed = linear.packed
        if packed is None:
            raise ValueError("a matrix is not packed: ask `compiled` first")
        low = None if packed.low is None else self._keep(packed.low)
        scale = self._keep(packed.scale)
        scales: tuple[int | None, ...] = (None, None, scale) if low is None else (scale, low, None)
        bias = None if packed.bias is None else self._keep(packed.bias)
        return _Matrix(self._keep(packed.codes), *scales, bias, len(packed.codes), packed.columns)

    def run(
        self, states: Tensor, angles: Tensor, *, cache: KVCache, tables: Sequence[Sequence[int]],
        places: Sequence[int], target: Sequence[int], tails: Sequence[int],
    ) -> Tensor:  # fmt: skip
        """Return float32 logits of the rows `tails`; `states` are float32 embeddings, and are written over.

        `tables` are each row's pages, `places` its position, `target` its row of the cache. MemoryError when there is
        no memory.
        """
        width = max(place // cache.size for place in places) + 1
        pages = list(itertools.chain.from_iterable([*table[:width], *[0] * (width - len(table))] for table in tables))
        cos, sin = angles.real.contiguous(), angles.imag.contiguous()
        logits = torch.empty(len(tails), self._model.head.rows)
        rows = (ctypes.c_int64 * len(target))(*target)
        at, table, wanted = ((_INT * len(each))(*each) for each in (places, pages, tails))
        addresses = [ctypes.addressof(rows), *(ctypes.addressof(each) for each in (at, table, wanted))]
        step = _Step(
            len(places), len(tails), width, cache.size, cache.keys.shape[1], states.data_ptr(), cos.data_ptr(),
            sin.data_ptr(), *addresses, cache.keys.data_ptr(), cache.values.data_ptr(), logits.data_ptr(),
        )  # fmt: skip
        if self._called.decode_step(ctypes.byref(self._model), ctypes.byref(step)):
            raise MemoryError(f"no memory for a step of {len(places)} rows")
        return logits


def compiled(shape: Shape, layers: Sequence["Layer"], *, norm: Tensor, head: Linear) -> CompiledSteps | None:
    """Return the compiled steps of a model, None where there is no library for it or its matrices are floats."""
    every: list[Linear] = [head, *(getattr(layer, name) for layer in layers for name in MATRICES)]
    lengths = shape.hidden, shape.feed_forward, shape.heads * shape.head_dim
    fits = not any(length % BLOCK or length > MOST_COLUMNS for length in lengths) and not shape.head_dim % LANES
    few_share = shape.heads // shape.kv_heads <= MOST_SHARED
    called = library() if fits and few_share and all(each.packed for each in every) else None
    return CompiledSteps(called, shape, layers, norm=norm, head=head) if called else None
