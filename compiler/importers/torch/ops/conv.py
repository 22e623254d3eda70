"""Convolutions of one, two and three dimensions, plain, grouped and transposed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import relax

from .._context import Context, Expr
from .._registry import converts

OP = relax.op
_PLAIN = {1: OP.nn.conv1d, 2: OP.nn.conv2d, 3: OP.nn.conv3d}
_TRANSPOSED = {1: OP.nn.conv1d_transpose, 2: OP.nn.conv2d_transpose, 3: OP.nn.conv3d_transpose}


def per_axis(value: Any, rank: int) -> list[int]:
    """A number or a short list of torch's as one number for each axis."""
    values = [value] if isinstance(value, int) else list(value)
    return values * rank if len(values) == 1 else values


def _batched(c: Context, x: Expr, rank: int) -> tuple[Expr, bool]:
    """x with a batch axis, and whether it had none."""
    unbatched = c.rank(x) == rank + 1
    return (c.reshape(x, [1, *c.shape(x)]) if unbatched else x), unbatched


def _biased(c: Context, y: Expr, bias: Expr | None, rank: int) -> Expr:
    if bias is None:
        return y
    return c.emit(OP.add(y, c.reshape(bias, [1, c.shape(bias)[0], *[1] * rank])))


def _finished(c: Context, y: Expr, dtype: str, unbatched: bool) -> Expr:
    return c.cast(c.reshape(y, c.shape(y)[1:]) if unbatched else y, dtype)


def convolution(
    c: Context, x: Expr, weight: Expr, bias: Expr | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Expr:
    """x [N, C, ...], weight [O, C / groups, ...], bias [O]; half precision is accumulated in float32."""
    rank, dtype = c.rank(weight) - 2, c.dtype(x)
    x, unbatched = _batched(c, x, rank)
    strides, dilations = per_axis(stride, rank), per_axis(dilation, rank)
    pads = _pads(c, padding, strides, dilations, c.static_shape(weight)[2:])
    if dtype in ("float16", "bfloat16"):
        x, weight = c.cast(x, "float32"), c.cast(weight, "float32")
        bias = None if bias is None else c.cast(bias, "float32")
    y = c.emit(_PLAIN[rank](x, weight, strides, pads, dilations, groups))
    return _finished(c, _biased(c, y, bias, rank), dtype, unbatched)


def _pads(c: Context, padding: Any, strides: list[int], dilations: list[int], kernel: Sequence[int]) -> list[int]:
    """Padding before each axis, then behind each."""
    if padding == "valid":
        return [0] * (2 * len(kernel))
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, kernel)]
        before = [t // 2 for t in total]
        return before + [t - b for t, b in zip(total, before)]
    amounts = per_axis(padding, len(kernel))
    return amounts * 2


@converts("aten.conv1d.default", "aten.conv2d.default", "aten.conv3d.default", "aten.conv1d.padding", "aten.conv2d.padding",
          "aten.conv3d.padding")  # fmt: skip
def conv(c: Context, input: Expr, weight: Expr, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
         groups: int = 1) -> Expr:  # fmt: skip
    return convolution(c, input, weight, bias, stride, padding, dilation, groups)


def transposed(
    c: Context,
    x: Expr,
    weight: Expr,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Expr:
    """x [N, C, ...], weight [C, O / groups, ...]; grouped ones are computed a group at a time."""
    rank, dtype = c.rank(weight) - 2, c.dtype(x)
    x, unbatched = _batched(c, x, rank)
    if dtype in ("float16", "bfloat16"):
        x, weight = c.cast(x, "float32"), c.cast(weight, "float32")
        bias = None if bias is None else c.cast(bias, "float32")
    strides, dilations = per_axis(stride, rank), per_axis(dilation, rank)
    pads, extra = per_axis(padding, rank) * 2, per_axis(output_padding, rank)
    if rank != 2 and any(d != 1 for d in dilations):
        weight, dilations = _dilated(c, weight, dilations), [1] * rank
    y = c.emit(_TRANSPOSED[rank](x, weight, strides, pads, extra, dilations, groups))
    return _finished(c, _biased(c, y, bias, rank), dtype, unbatched)


def _dilated(c: Context, weight: Expr, dilations: list[int]) -> Expr:
    """The kernel with zeros between its elements."""
    for axis, dilation in enumerate(dilations, 2):
        if dilation != 1:
            before, (size, *after) = c.shape(weight)[:axis], c.static_shape(weight)[axis:]
            apart = c.reshape(weight, [*before, size, 1, *after])
            widths = [0] * (2 * (axis + 1)) + [0, dilation - 1] + [0] * (2 * len(after))
            spaced = c.reshape(c.emit(OP.nn.pad(apart, widths, "constant", 0.0)), [*before, size * dilation, *after])
            weight = c.slice(spaced, axis, 0, (size - 1) * dilation + 1)
    return weight


@converts("aten.conv_transpose1d.default", "aten.conv_transpose2d.input", "aten.conv_transpose3d.input")
def conv_transpose(c: Context, input: Expr, weight: Expr, bias: Any = None, stride: Any = 1, padding: Any = 0,
                   output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Expr:  # fmt: skip
    return transposed(c, input, weight, bias, stride, padding, output_padding, groups, dilation)


@converts("aten.convolution.default", "aten._convolution.default")
def any_convolution(c: Context, input: Expr, weight: Expr, bias: Any, stride: Any, padding: Any, dilation: Any,
                    transposed: bool = False, output_padding: Any = 0, groups: int = 1,
                    benchmark: Any = None, deterministic: Any = None, cudnn_enabled: Any = None, allow_tf32: Any = None) -> Expr:  # fmt: skip
    if transposed:
        return _transposed(c, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return convolution(c, input, weight, bias, stride, padding, dilation, groups)


_transposed = transposed
