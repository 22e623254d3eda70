"""What can be tried at a step: other algorithms for the same convolution, and other blockings of a product."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ..importers import SymbolSpec
from ..passes._dims import evaluated, extents, shape_of
from ..passes._kernel_call import KernelCall, kernel_outputs, read_kernel_call
from ..passes._rewrite import array_of
from ..passes.choose_sparse import dense_of, sparse_forms, zeros_of
from ..passes.choose_winograd import TILES, UNKNOWN, direct_of, is_winograd_able, winograd_of
from ._generated import GENERATED, MOST_OPERATIONS, is_expressible

__all__ = ["Sizes", "Task", "algorithms", "argument_types", "blockings", "label", "task_of"]

TUNED = (
    "conv2d_f32", "conv2d_f32_sparse", "conv2d_winograd_f32", "gemm_f32", "gemm_f32_sparse", "gemm_u8s8", "gemm_u8s8_sparse",
)  # fmt: skip
_PRODUCTS = ("gemm_f32", "gemm_f32_sparse", "gemm_u8s8", "gemm_u8s8_sparse")
_OF_BYTES = _PRODUCTS[2:]
_NOT_BLOCKED = ("conv2d_f32_sparse", "gemm_f32_sparse", *_OF_BYTES)  # otherwise than it is
_PRODUCT_HINTS = ("depth=256", "depth=768", "rows_kib=128", "rows_kib=512")
_WINOGRAD_HINTS = ("block_kib=320", "block_kib=1280", "block_kib=2560")


@dataclass(frozen=True)
class Task:
    """One step, or several alike: the call as the estimates have it, and its extents with a number for each symbol."""

    call: KernelCall
    x: tuple[int, ...]
    y: tuple[int, ...]
    dtype: str = "float32"  # of y

    @property
    def weight(self) -> npt.NDArray[Any]:
        weight = array_of(self.call.args[1])
        assert weight is not None  # task_of makes no other
        return weight

    @property
    def flops(self) -> float:
        """Every weight meets every row, or pixel."""
        return 2.0 * float(np.prod(self.y[:-1], dtype=np.float64)) * self.weight.size

    @cached_property
    def key(self) -> dict[str, Any]:
        """What a time depends on besides the machine; steps with the same key are one task."""
        direct = _plain(self.call)
        zeros = zeros_of(direct) if sparse_forms(direct) else None
        return {
            "contract": direct.contract,
            "attrs": direct.attrs,
            "x": list(self.x),
            "y": list(self.y),
            "operands": [arg is not None for arg in self.call.args[2:]],
            "winograd": is_winograd_able(direct),
            **({"entries": zeros.entries} if zeros is not None else {}),
            **({"dtype": self.dtype} if self.dtype != "float32" else {}),
        }

    @cached_property
    def text(self) -> str:
        return json.dumps(self.key, sort_keys=True)


class Sizes:
    """Numbers for extents that only a run knows: a symbol that is the first extent of one of main's inputs, a batch, counts as 1, any
    other as 32, or the nearest that its bounds admit."""

    def __init__(self, main: relax.Function, symbols: Mapping[str, SymbolSpec]) -> None:
        first = [shape[0] for param in main.params if (shape := shape_of(param))]
        self._batches = {str(dim.name) for dim in first if isinstance(dim, tvm.tirx.Var)}
        self._symbols = symbols

    def number(self, dim: Any) -> int:
        return evaluated(
            dim, lambda name: self._symbols.get(name, SymbolSpec()).nearest(1 if name in self._batches else UNKNOWN)
        )


def task_of(expr: relax.Expr, sizes: Sizes) -> Task | None:
    """The task that a kernel call is; None where there is nothing to choose."""
    call = read_kernel_call(expr)
    if call is None or call.contract not in TUNED or array_of(call.args[1]) is None:
        return None
    if call.contract in _OF_BYTES and not sparse_forms(_plain(call)):
        return None
    x = tuple(sizes.number(dim) for dim in extents(call.args[0]))
    columns = call.attrs["n" if call.contract in _PRODUCTS else "channels"][-1]
    y = (*x[:-1], int(columns)) if call.contract in _PRODUCTS else (x[0], *_spatial(call, x), int(columns))
    return None if 0 in x or 0 in y else Task(call, x, y, str(kernel_outputs(expr)[0].dtype))


def algorithms(task: Task) -> list[KernelCall]:
    """The call as it is, then the other contracts that give the same result, without hints; of a small step generated code, too."""
    others = [direct := _plain(task.call)]
    if is_winograd_able(direct):
        others += [winograd_of(direct, tile) for tile in TILES]
    others += sparse_forms(direct)
    if task.flops <= MOST_OPERATIONS and is_expressible(direct):
        others.append(replace(direct, contract=GENERATED))
    return [task.call, *(other for other in others if label(other) != label(task.call))]


def _plain(call: KernelCall) -> KernelCall:
    """The contract that takes any weights."""
    return dense_of(direct_of(call))


def blockings(call: KernelCall) -> list[KernelCall]:
    """The call, then the same with other blockings."""
    if call.contract in (GENERATED, *_NOT_BLOCKED):
        return [call]
    hints = _WINOGRAD_HINTS if call.contract == "conv2d_winograd_f32" else _PRODUCT_HINTS
    return [call, *(replace(call, hint=hint) for hint in hints)]


def label(call: KernelCall) -> str:
    """A candidate's name among those of its task: "conv2d_winograd_f32 tile=4 block_kib=320"."""
    attrs = [f"{key}={call.attrs[key][0]}" for key in ("tile", "block") if key in call.attrs]
    return " ".join([call.contract, *attrs, *([call.hint] if call.hint else [])])


def _spatial(call: KernelCall, x: Sequence[int]) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    kernel, strides, pads, dilations = (
        [int(value) for value in call.attrs[key]] for key in ("kernel", "strides", "pads", "dilations")
    )
    sizes = [
        max(0, (x[1 + i] + pads[i] + pads[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1)
        for i in (0, 1)
    ]
    return sizes[0], sizes[1]


def argument_types(task: Task) -> list[relax.TensorType | None]:
    """Of each operand a type with numbers; None where the operand is absent."""
    shapes = {0: task.x, 4 if task.call.contract in _OF_BYTES else 3: task.y}  # the residual is like y
    return [
        None if arg is None else relax.TensorType(shapes.get(position) or extents(arg), str(arg.ty.dtype))
        for position, arg in enumerate(task.call.args)
    ]
