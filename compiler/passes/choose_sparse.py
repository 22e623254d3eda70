"""Products and convolutions with constant weights to `gemm_f32_sparse`, `conv2d_f32_sparse` and `gemm_u8s8_sparse`, where so many of the weights
are zero that an estimate from past measurements says that it is faster.

The estimate counts in units of what the dense kernel takes for a row and a weight where rows are many. Its constants were fitted to `python -m bench.sparse`
of 1 to 128 rows, 192 to 3072 rows and columns of weights, and 50 to 95 % zeros, one core of Zen 5. Which kernels run a file is not known here, so that
the sparse ones have to be faster with AVX2 and with AVX-512; a convolution is a product of as many rows as it has output pixels, and faster than
Winograd's as well. The results are those of the dense kernels, of floats but for rounding, NaN and infinity
included (docs/kernels.md), so that nothing else has to be asked.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import numpy as np
import tvm
from tvm import relax

from ._dims import Dim, extents
from ._kernel_call import KernelCall, read_kernel_call, remake_kernel_call
from ._rewrite import Array, Rewriter, array_of, rewrite
from .choose_winograd import UNKNOWN, direct_of, is_winograd_able, winograd_share
from .lower_convolutions import CONV_PACKING, GEMM_PACKING
from .lower_quantized import QGEMM_PACKING

__all__ = ["DEFAULT_MACHINES", "Zeros", "choose_sparse", "dense_of", "sparse_forms", "zeros_of"]

DEFAULT_MACHINES = ("x86_64",)


@dataclass(frozen=True)
class _Cost:
    """What an entry, weights that are stored together, takes by the kernels of an instruction set."""

    one: float  # of a single row of a
    least: float  # of a tile of rows
    each: float  # of a row of it
    sums: float  # a row of sums of a block of the depth and a tile
    moved: float  # an element of a or y
    call: float  # and all of it


@dataclass(frozen=True)
class _Isa:
    """An instruction set: rows of a that meet a weight at a time, in vectors of so many, rows' worth of time that the dense kernels take
    for few rows beyond _EACH_OF_FEW of each, and what entries of 1, 4 and 16 weights take."""

    tile: int
    lanes: int
    few: float
    costs: dict[int, _Cost]


# By machine; of a file for several all are asked. A machine on which nobody measured keeps dense kernels.
_ISAS = {"x86_64": (
    _Isa(32, 8, 2.5, {1: _Cost(25.5, 26, 1.5, 150, 8, 150e3), 4: _Cost(27, 62, 4.4, 150, 8, 150e3), 16: _Cost(97, 175, 17.8, 0, 28, 150e3)}),
    _Isa(64, 16, 3.5, {1: _Cost(35, 43, 2.0, 350, 8, 150e3), 4: _Cost(50, 107, 4.4, 350, 8, 150e3), 16: _Cost(215, 470, 15.8, 0, 50, 150e3)}),
)}  # fmt: skip
_SHAPES = {1: (1, 1), 4: (1, 4), 16: (4, 4)}  # k's and columns of w of an entry, by its weights
_FLOATS, _BYTES = (1, 4), (16,)
_EACH_OF_FEW = 0.7
_MOVED_AT_LEAST = 8  # rows
_GATHERED = 2  # times what is moved of a convolution, whose rows are gathered
_FEWEST_CHANNELS = 16  # of a tap, which is copied by itself
# Of the time by choose_winograd's estimate, whose caches are cold; on Zen 5 64 to 512 channels took 0.64 to 0.9 of it.
_WINOGRAD = 0.65
_MOST_DENSE = 0.6  # share of the weights that are stored: with more no packing is faster
_PLACES = 256  # of entries in a block of the depth, at whose end sums are stored
_GAIN = 0.9  # of the dense kernel's time: less is needed
_CONVOLUTIONS = ("conv2d_f32", "conv2d_f32_sparse")
_PRODUCTS = ("gemm_f32", "gemm_u8s8")
_W_ZERO = 7  # where gemm_u8s8 takes zero points of the weights
_OF_BYTES = "x_scale"  # an attribute of a gemm_u8s8 whose residual is bytes, which the sparse one does not take


@dataclass(frozen=True)
class Zeros:
    """What is left of a weight [k, n] without its zeros: entries, by how many weights are stored together. Of larger entries only
    where there may be few enough."""

    k: int
    n: int
    entries: dict[int, int]

    @classmethod
    def of(cls, weight: Array, transposed: bool) -> Zeros:
        kept = np.asarray(weight != 0)
        kept = kept.T if transposed else kept
        k, n = kept.shape
        few = np.count_nonzero(kept) <= _MOST_DENSE * kept.size
        kinds = (_BYTES if weight.dtype == np.int8 else _FLOATS) if few else ()
        return cls(k, n, {weights: _count(kept, *_SHAPES[weights]) for weights in kinds})

    @property
    def many(self) -> bool:
        """Whether a sparse kernel may be faster at all."""
        return any(weights * count <= _MOST_DENSE * self.k * self.n for weights, count in self.entries.items())

    def quickest(
        self, rows: int, share: float = 1.0, gathered: bool = False, machines: Collection[str] = DEFAULT_MACHINES
    ) -> int | None:
        """The weights of an entry with which it is faster than this share of the dense kernel's time, on each of these machines; None where
        there are none, or nothing was measured on one of them."""
        if not self.many or not _ISAS.keys() >= set(machines):
            return None
        isas = [isa for machine in machines for isa in _ISAS[machine]]
        moves = _GATHERED if gathered else 1
        shares = {weights: max(self._share(rows, weights, moves, isa) for isa in isas) for weights in self.entries}
        best = min(shares, key=lambda weights: shares[weights])
        return best if shares[best] < _GAIN * share else None

    def _share(self, rows: int, weights: int, moves: int, isa: _Isa) -> float:
        """Of the dense kernel's time."""
        dense = max(rows, isa.few + _EACH_OF_FEW * rows) * self.k * self.n
        return self._cost(rows, weights, moves, isa) / dense

    def _cost(self, rows: int, weights: int, moves: int, isa: _Isa) -> float:
        (deep, width), cost = _SHAPES[weights], isa.costs[weights]
        full, rest = divmod(rows, isa.tile)
        last = cost.one if rows == 1 else max(cost.least, cost.each * -(-rest // isa.lanes) * isa.lanes) if rest else 0
        sums = -(-rows // isa.tile) * -(-self.k // (_PLACES * deep)) * -(-self.n // width)
        moved = max(rows, _MOVED_AT_LEAST) * (self.k + self.n) * moves
        each = full * isa.tile * cost.each + last
        return self.entries[weights] * each + cost.sums * sums + cost.moved * moved + cost.call


def _count(kept: Array, deep: int, width: int) -> int:
    """Blocks of so many rows and columns that hold a weight."""
    k, n = kept.shape
    padded = np.pad(kept, ((0, -k % deep), (0, -n % width))) if k % deep or n % width else kept
    return int(np.count_nonzero(padded.reshape(-(-k // deep), deep, -(-n // width), width).any(axis=(1, 3))))


def choose_sparse(mod: tvm.IRModule, machines: Collection[str] = DEFAULT_MACHINES) -> tvm.IRModule:
    """`machines`: those of the file's targets, as `uname -m` says them."""
    return rewrite(mod, partial(_choose, machines))


def _choose(machines: Collection[str], rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
    call = read_kernel_call(value)
    call = direct_of(call) if call is not None else None
    if call is None or call.contract not in ("gemm_f32", "gemm_u8s8", "conv2d_f32"):
        return None
    zeros = zeros_of(call)
    if zeros is None:
        return None
    if call.contract == "conv2d_f32":
        entry = zeros.quickest(_rows(extents(var)), _other_share(call, extents(var)), True, machines)
    else:
        entry = zeros.quickest(_rows(extents(call.args[0])), machines=machines)
    return None if entry is None else remake_kernel_call(_sparse_of(call, entry), var.ty)


def _other_share(call: KernelCall, shape: list[Dim]) -> float:
    """Of the direct convolution's time, what the best way takes that knows no zeros."""
    weight = array_of(call.args[1])
    if weight is None or not is_winograd_able(call):
        return 1.0
    n, height, width, _ = (extent if isinstance(extent, int) else None for extent in shape)
    out, channels = weight.shape[:2]
    return min(1.0, _WINOGRAD * winograd_share(n or 1, height or UNKNOWN, width or UNKNOWN, channels, out))


def _rows(shape: list[Dim]) -> int:
    """Of a, or pixels of an image; of a batch that only a run knows 1 is taken."""
    known = [extent if isinstance(extent, int) else UNKNOWN if axis else 1 for axis, extent in enumerate(shape[:-1])]
    return prod(known)


def zeros_of(call: KernelCall) -> Zeros | None:
    """Those of the constant weight of a dense or sparse product or convolution; None if it has none, zero points or a residual of bytes
    beside it, groups or few channels."""
    weight = array_of(call.args[1])
    if weight is not None and call.contract in _CONVOLUTIONS:
        grouped = call.attrs.get("groups", [1]) != [1]
        if grouped or weight.shape[1] < _FEWEST_CHANNELS or not np.isfinite(weight).all():
            return None
        return Zeros.of(weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)), False)
    if weight is None or any(arg is not None for arg in call.args[_W_ZERO:]) or _OF_BYTES in call.attrs:
        return None
    return Zeros.of(weight, call.attrs.get("w_trans") == [1])


def sparse_forms(call: KernelCall) -> list[KernelCall]:
    """A dense product or convolution by each sparse kernel that may be faster at all: enough of the weights are zero."""
    zeros = zeros_of(call) if call.contract in (*_PRODUCTS, *_CONVOLUTIONS) else None
    return [_sparse_of(call, entry) for entry in zeros.entries] if zeros is not None and zeros.many else []


def _sparse_of(call: KernelCall, entry: int) -> KernelCall:
    """A dense product or convolution by the sparse kernel for entries of so many weights; how the dense one is blocked says nothing here."""
    if call.contract == "gemm_u8s8":
        return replace(call, contract="gemm_u8s8_sparse", args=call.args[:_W_ZERO], packing="gemm_u8s8_sparse_v1")
    attrs = {**call.attrs, "block": [entry]}
    if call.contract == "conv2d_f32":
        attrs.pop("groups", None)
        return replace(call, contract="conv2d_f32_sparse", attrs=attrs, packing="conv2d_f32_sparse_v1", hint="")
    return replace(call, contract="gemm_f32_sparse", attrs=attrs, packing="gemm_f32_sparse_v1", hint="")


def dense_of(call: KernelCall) -> KernelCall:
    """The reverse; other calls are returned as they are."""
    if call.contract == "gemm_u8s8_sparse":
        return replace(call, contract="gemm_u8s8", packing=QGEMM_PACKING)
    if call.contract not in ("gemm_f32_sparse", "conv2d_f32_sparse"):
        return call
    attrs = {key: value for key, value in call.attrs.items() if key != "block"}
    if call.contract == "conv2d_f32_sparse":
        return replace(call, contract="conv2d_f32", attrs={**attrs, "groups": [1]}, packing=CONV_PACKING)
    return replace(call, contract="gemm_f32", attrs=attrs, packing=GEMM_PACKING)
