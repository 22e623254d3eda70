"""Convolution and pooling over volumes as the same over images.

Of a channels-last volume [N, D, H, W, C] the planes that one plane of the result sees are laid side by side as channels:
[N * D', H, W, kd * C], which a convolution over images then reads. Pooling is one over planes and one over the depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import tvm
from tvm import relax

from ..ir import Encoded
from ._dims import Dim, extents
from ._ops import constant, reshape
from ._rewrite import Array, Rewriter, scalar_of

__all__ = ["Bytes", "convolve_volume", "pool_volume"]


@dataclass(frozen=True)
class Bytes:
    """Scale and zero point of the activation and of the weights (of each output, or of all) of a convolution, where both are numbers of 8 bits."""

    activation: tuple[relax.Expr, relax.Expr]
    weight: tuple[Array, Array]


def convolve_volume(
    rw: Rewriter, x: relax.Expr, weight: Array, attrs: tvm.ir.Attrs, of: Bytes | None = None
) -> relax.Expr | None:
    """nn.conv3d of `x`, [N, D, H, W, C], by `weight`, [O, C / groups, kd, kh, kw], as [N, D', H', W', O]; None where the
    depth is not known. Planes of bytes are laid side by side as bytes."""
    strides, dilations = [int(s) for s in attrs.strides], [int(d) for d in attrs.dilation]
    front, top, left, back, bottom, right = (int(p) for p in attrs.padding)
    out, depth, kd, kh, kw = weight.shape
    groups = int(attrs.groups)
    zero = 0.0 if of is None else scalar_of(of.activation[1]) or 0.0
    planes = _planes(rw, x, kd, strides[0], dilations[0], (front, back), zero)
    if planes is None:
        return None
    batch, count, height, width, channels = extents(planes[0])
    if kd == 1:
        seen = planes[0]
    else:  # each group's channels of all planes next to each other
        by_group = [batch, count, height, width, groups, depth]
        seen = rw.emit(relax.op.concat([rw.emit(reshape(plane, by_group)) for plane in planes], 5))
    images = rw.emit(reshape(seen, [batch * count, height, width, channels * kd]))
    flat = weight.transpose(0, 2, 1, 3, 4).reshape(out, kd * depth, kh, kw)
    filters = constant(flat)
    if of is not None:
        images = rw.emit(relax.op.dequantize(images, *of.activation, axis=-1, out_dtype="float32"))
        filters = rw.emit(Encoded.along(flat, *of.weight, axis=0).call())
    result = rw.emit(
        relax.op.nn.conv2d(
            images, filters, strides[1:], [top, left, bottom, right], dilations[1:], groups, "NHWC", "OIHW"
        )
    )
    return reshape(result, [batch, count, *extents(result)[1:3], out])


def pool_volume(rw: Rewriter, x: relax.Expr, op: Callable[..., relax.Expr], attrs: tvm.ir.Attrs) -> relax.Expr:
    """Pooling of `x`, [N, D, H, W, C], by `op`, nn.max_pool2d or nn.avg_pool2d, as [N, D', H', W', C]."""
    windows = [[int(v) for v in of] for of in (attrs.pool_size, attrs.strides, attrs.dilation)]
    front, top, left, back, bottom, right = (int(p) for p in attrs.padding)

    def pool(images: relax.Expr, windows: list[list[int]], padding: list[int]) -> relax.Expr:
        kernel, strides, dilations = windows
        if not any(padding) and set(kernel + strides) == {1}:
            return images
        ceil, count = bool(attrs.ceil_mode), bool(attrs.count_include_pad)
        return rw.emit(op(images, kernel, strides, padding, dilations, ceil, count, "NHWC"))

    batch, depth, *plane, channels = extents(x)
    images = rw.emit(reshape(x, [batch * depth, *plane, channels]))
    images = pool(images, [of[1:] for of in windows], [top, left, bottom, right])
    plane = extents(images)[1:3]
    stack = rw.emit(reshape(images, [batch, depth, plane[0] * plane[1], channels]))
    stack = pool(stack, [[of[0], 1] for of in windows], [front, 0, back, 0])
    return reshape(stack, [batch, extents(stack)[1], *plane, channels])


def _planes(
    rw: Rewriter, x: relax.Expr, kernel: int, stride: int, dilation: int, padding: tuple[int, int], zero: float
) -> list[relax.Expr] | None:
    """For each position of a filter over the depth of [N, D, ...] the planes that it sees, [N, D', ...]."""
    depth: Dim = extents(x)[1]
    if not isinstance(depth, int):
        return None
    if any(padding):
        x = rw.emit(relax.op.nn.pad(x, [0, 0, *padding, 0, 0, 0, 0, 0, 0], "constant", zero))
    padded = depth + sum(padding)
    count = (padded - (kernel - 1) * dilation - 1) // stride + 1
    if count < 1:
        return None
    if count == padded:
        return [x]
    starts = [tap * dilation for tap in range(kernel)]
    ends = [start + (count - 1) * stride + 1 for start in starts]
    return [rw.emit(relax.op.strided_slice(x, [1], [a], [b], [stride])) for a, b in zip(starts, ends, strict=True)]
