"""Products with constant weights to `gemm_f32_sparse`, where so many of the weights are zero that an estimate from past measurements says that
it is faster.

The estimate counts in units of what the dense kernel takes for a row and a weight. Its constants were fitted to `python -m bench.sparse` of 1 to 128
rows, 192 to 3072 rows and columns of weights, and 40 to 95 % zeros, one core of Zen 5, to the slower of the AVX2 and AVX-512 kernels: which
of them runs a file is not known here. The results are those of the dense kernel but for rounding, NaN and infinity included
(docs/kernels.md), so that nothing else has to be asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np
import tvm
from tvm import relax

from ._dims import Dim, extents
from ._kernel_call import KernelCall, read_kernel_call, remake_kernel_call
from ._rewrite import Array, Rewriter, array_of, rewrite
from .choose_winograd import UNKNOWN
from .lower_convolutions import GEMM_PACKING

__all__ = ["SPARSE_BLOCKS", "Zeros", "choose_sparse", "dense_of", "is_sparse_able", "sparse_of", "zeros_of"]

PACKING = "gemm_f32_sparse_v1"
SPARSE_BLOCKS = (1, 4)  # columns of w that are stored together

_MOST_DENSE = 0.6  # share of the weights that are stored: with more no packing is faster
_FEWEST = 3  # rows, of which the dense kernel takes as long for fewer: it reads the weights
_TILE = 32  # rows of a that meet a weight at a time
_DEPTH = 256  # of a block, at whose end sums are stored
_ENTRY = {1: (45.0, 2.1), 4: (100.0, 6.0)}  # of a tile: at least, and a row of it
_SUMS, _MOVED = 150.0, 8.0  # a row of sums of a block and tile; an element of a or y
_GAIN = 0.9  # of the dense kernel's time: less is needed


@dataclass(frozen=True)
class Zeros:
    """What is left of a weight [k, n] without its zeros: entries by columns that are stored together, single ones alone where they are too many."""

    k: int
    n: int
    entries: dict[int, int]

    @classmethod
    def of(cls, weight: Array, transposed: bool) -> Zeros:
        kept = np.asarray(weight != 0)
        kept = kept.T if transposed else kept
        k, n = kept.shape
        entries = {1: int(np.count_nonzero(kept))}
        for block in SPARSE_BLOCKS[1:] if entries[1] <= _MOST_DENSE * kept.size else ():
            padded = np.pad(kept, ((0, 0), (0, -n % block)))
            entries[block] = int(np.count_nonzero(padded.reshape(k, -1, block).any(axis=-1)))
        return cls(k, n, entries)

    @property
    def many(self) -> bool:
        """Whether a sparse kernel may be faster at all."""
        return any(block * count <= _MOST_DENSE * self.k * self.n for block, count in self.entries.items())

    def quickest(self, rows: int) -> int | None:
        """The block that is faster than the dense kernel; None where none is."""
        if not self.many:
            return None
        best = min(self.entries, key=lambda block: self._cost(rows, block))
        dense = float(max(rows, _FEWEST) * self.k * self.n)
        return best if self._cost(rows, best) < _GAIN * dense else None

    def _cost(self, rows: int, block: int) -> float:
        least, each = _ENTRY[block]
        full, rest = divmod(rows, _TILE)
        entry = full * max(least, each * _TILE) + (max(least, each * rest) if rest else 0)
        sums = -(-rows // _TILE) * -(-self.k // _DEPTH) * -(-self.n // block)
        return self.entries[block] * entry + _SUMS * sums + _MOVED * rows * (self.k + self.n)


def choose_sparse(mod: tvm.IRModule) -> tvm.IRModule:
    return rewrite(mod, _choose)


def _choose(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    call = read_kernel_call(value)
    if call is None or call.contract != "gemm_f32":
        return None
    zeros = zeros_of(call)
    block = zeros.quickest(_rows(extents(call.args[0]))) if zeros is not None else None
    return None if block is None else remake_kernel_call(sparse_of(call, block), var.ty)


def _rows(shape: list[Dim]) -> int:
    """Of a; of a batch that only a run knows 1 is taken."""
    known = [extent if isinstance(extent, int) else UNKNOWN if axis else 1 for axis, extent in enumerate(shape[:-1])]
    return prod(known)


def zeros_of(call: KernelCall) -> Zeros | None:
    """Those of the constant weight of a dense or sparse product; None if it has none."""
    weight = array_of(call.args[1])
    return None if weight is None else Zeros.of(weight, call.attrs.get("w_trans") == [1])


def is_sparse_able(call: KernelCall) -> bool:
    """Whether it is a product of floats of whose weights enough are zero to try the sparse kernels."""
    zeros = zeros_of(call) if call.contract in ("gemm_f32", "gemm_f32_sparse") else None
    return zeros is not None and zeros.many


def sparse_of(call: KernelCall, block: int) -> KernelCall:
    """A dense product by the sparse kernel for blocks of so many columns; what blocks a dense one says nothing here."""
    attrs = {**call.attrs, "block": [block]}
    return replace(call, contract="gemm_f32_sparse", attrs=attrs, packing=PACKING, hint="")


def dense_of(call: KernelCall) -> KernelCall:
    """The reverse; other calls are returned as they are."""
    if call.contract != "gemm_f32_sparse":
        return call
    attrs = {key: value for key, value in call.attrs.items() if key != "block"}
    return replace(call, contract="gemm_f32", attrs=attrs, packing=GEMM_PACKING)
