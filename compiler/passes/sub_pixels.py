"""Transposed convolutions of 8 bits as convolutions whose channels are the sub-pixels of the result.

A result of stride s is s interleaved images by axis, each a convolution of the input by every s-th tap: one convolution makes them all as
channels, and a transpose of bytes puts them where they belong. W. Shi et al., "Is the deconvolution layer the same as a convolutional
layer?" (2016). Where the stride does not divide the filter, taps of 0 fill it up.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ..ir import Encoded
from ._dims import Dim, extents, same
from ._encoded import encoded
from ._ops import constant, permute, reshape
from ._rewrite import Array, Rewriter, array_of, call_of, is_call, rewrite
from .lower_quantized import conv_contract

__all__ = ["SubPixels", "as_sub_pixels", "sub_pixels"]

TRANSPOSED = {"relax.nn.conv1d_transpose": "W", "relax.nn.conv2d_transpose": "HW", "relax.nn.conv3d_transpose": "DHW"}
_CONVOLUTIONS = {1: relax.op.nn.conv1d, 2: relax.op.nn.conv2d, 3: relax.op.nn.conv3d}
_MOST_WORK = 4  # times that of the filter's own taps
_ACTIVATIONS = tuple(
    f"relax.{name}" for name in ("nn.relu", "nn.relu6", "nn.leakyrelu", "nn.silu", "clip", "sigmoid", "tanh")
)


@dataclass(frozen=True)
class SubPixels:
    """The convolution that a transposed one becomes; by spatial axis: sub-pixels, taps that each sees, padding of the input, and the
    places that are cut off the result's front."""

    strides: tuple[int, ...]
    taps: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    crop: tuple[int, ...]
    groups: int

    @classmethod
    def of(cls, call: relax.Call) -> SubPixels | str:
        """Of a transposed convolution with filters of known extents; a clause that says why where there is none."""
        attrs, space = call.attrs, TRANSPOSED[str(call.op.name)]
        if str(attrs.data_layout) != f"NC{space}" or str(attrs.kernel_layout) != f"IO{space}":
            return f"its layout is another than NC{space}"
        kernel = [int(d) for d in call.args[1].ty.shape.values[2:]]
        strides, dilations, extra = (
            [int(v) for v in of] for of in (attrs.strides, attrs.dilation, attrs.output_padding)
        )
        padding = [int(p) for p in attrs.padding]
        front, back = padding[: len(kernel)], padding[len(kernel) :]
        if any(d != 1 and k != 1 for d, k in zip(dilations, kernel)):
            return "its taps are dilated"
        taps = [-(-k // s) for k, s in zip(kernel, strides)]
        if math.prod(strides) * math.prod(taps) > _MOST_WORK * math.prod(kernel):
            return "its stride leaves most of the result without a tap"
        before = [t - 1 - p // s for t, p, s in zip(taps, front, strides)]
        after = [(k - 1 - p + e) // s for k, p, e, s in zip(kernel, back, extra, strides)]
        if min(*before, *after) < 0:
            return "its padding is wider than its filter"
        crop = [p % s for p, s in zip(front, strides)]
        return cls(tuple(strides), tuple(taps), tuple(before), tuple(after), tuple(crop), int(attrs.groups))

    def filters_shape(self, shape: Sequence[int]) -> list[int]:
        """That of `filters`, of a weight of this shape."""
        return [math.prod(self.strides) * self.groups * shape[1], shape[0] // self.groups, *self.taps]

    def filters(self, weight: npt.NDArray[np.generic]) -> Array:
        """[I, O / groups, kernel...] as [outputs, I / groups, taps...]; outputs count groups, then sub-pixels, then the group's channels."""
        axes = range(len(self.taps))
        channels, per_group, *kernel = weight.shape
        missing = [(0, t * s - k) for t, s, k in zip(self.taps, self.strides, kernel)]
        full = np.pad(weight, [(0, 0), (0, 0), *missing])
        split = [n for t, s in zip(self.taps, self.strides) for n in (t, s)]
        apart = full.reshape(self.groups, channels // self.groups, per_group, *split)
        apart = np.flip(apart, tuple(3 + 2 * a for a in axes))
        order = [0, *(4 + 2 * a for a in axes), 2, 1, *(3 + 2 * a for a in axes)]
        return np.ascontiguousarray(apart.transpose(order).reshape(self.filters_shape(weight.shape)))

    def channels(self, numbers: Array) -> Array:
        """A number for each channel of the result, [groups, O / groups], as one for each output of the convolution."""
        wide = numbers[:, None, :]
        return np.ascontiguousarray(
            np.broadcast_to(wide, (self.groups, math.prod(self.strides), numbers.shape[1])).reshape(-1)
        )

    def convolve(self, rw: Rewriter, x: relax.Expr, filters: relax.Expr, name: str) -> relax.Expr:
        convolution = _CONVOLUTIONS[len(self.taps)]
        padding = [*self.before, *self.after]
        return rw.emit(convolution(x, filters, [1] * len(self.taps), padding, groups=self.groups), name)

    def spread(self, rw: Rewriter, y: relax.Expr, shape: list[Dim]) -> relax.Expr:
        """The convolution's result (or anything of its elements) as [N, O, spatial...] of this shape."""
        axes = len(self.taps)
        batch, _, *places = extents(y)
        last = rw.emit(permute(y, [0, *range(2, axes + 2), 1]))
        per_group = shape[1] // self.groups
        apart = rw.emit(reshape(last, [batch, *places, self.groups, *self.strides, per_group]))
        pairs = [axis for a in range(axes) for axis in (1 + a, 2 + axes + a)]
        woven = rw.emit(permute(apart, [0, *pairs, 1 + axes, 2 + 2 * axes]))
        wide = [m * s for m, s in zip(places, self.strides)]
        result = rw.emit(permute(rw.emit(reshape(woven, [batch, *wide, shape[1]])), [0, axes + 1, *range(1, axes + 1)]))
        cut = [a for a in range(axes) if self.crop[a] or not same(wide[a], shape[2 + a])]
        if not cut:
            return result
        ends = [self.crop[a] + shape[2 + a] for a in cut]
        return rw.emit(
            relax.op.strided_slice(result, [2 + a for a in cut], [self.crop[a] for a in cut], ends, assume_inbound=True)
        )


def sub_pixels(mod: tvm.IRModule) -> tvm.IRModule:
    """Of transposed convolutions whose filters and activations are of 8 bits."""

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if not is_call(value, *TRANSPOSED):
            return None
        known = encoded(rw, value.args[1])
        parts = None if known is None else known.at(1)
        if known is None or parts is None or rw.call(value.args[0], "relax.dequantize") is None:
            return None
        way, (scale, _) = SubPixels.of(value), parts
        centred = known.values.astype(np.int16) - known.zeros.astype(np.int16)
        if isinstance(way, str) or centred.size == 0 or centred.min() < -128 or centred.max() > 127:
            return None
        if conv_contract(way.filters_shape(centred.shape), way.groups) is None:
            return None
        values = way.filters(centred.astype(np.int8))
        scales = way.channels(np.broadcast_to(scale, (way.groups, known.values.shape[1])))
        filters = Encoded.along(values, scales, np.zeros((), np.int8), 0)
        return _rewritten(rw, var, value, way, filters.call())

    return rewrite(mod, rule)


def as_sub_pixels(mod: tvm.IRModule, chosen: Collection[relax.Var]) -> tvm.IRModule:
    """Of the layers `chosen` those that are transposed convolutions with constant filters; the convolutions keep their names."""

    def rule(rw: Rewriter, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in chosen or not is_call(value, *TRANSPOSED):
            return None
        way, weight = SubPixels.of(value), array_of(value.args[1])
        if isinstance(way, str) or weight is None:
            return None
        return _rewritten(rw, var, value, way, constant(way.filters(weight)))

    return rewrite(mod, rule)


def _rewritten(rw: Rewriter, var: relax.Var, value: relax.Call, way: SubPixels, filters: relax.Expr) -> relax.Expr:
    """The convolution, a bias and an activation that alone read it (so that its kernel takes them in), and the transpose."""
    shape, name = extents(var), str(var.name)
    y, last = way.convolve(rw, value.args[0], rw.emit(filters), name), var
    while (user := _only_user(rw, last)) is not None:
        following, use = user
        if (bias := _bias_of(use, last, shape)) is not None:
            wide = way.channels(bias.reshape(way.groups, -1)).reshape(-1, *[1] * len(way.taps))
            y = rw.emit(relax.op.add(y, constant(wide)), str(following.name))
        elif is_call(use, *_ACTIVATIONS):
            y = rw.emit(call_of(str(use.op.name), [y, *use.args[1:]], use.attrs), str(following.name))
        else:
            break
        last = following
    result = way.spread(rw, y, shape)
    if last is not var:
        rw.alias(last, result)
    return result


def _only_user(rw: Rewriter, var: relax.Var) -> tuple[relax.Var, relax.Call] | None:
    users = rw.users(var)
    if len(users) != 1 or rw.original_use_count(var) != 1 or not is_call(users[0][1]):
        return None
    return users[0]


def _bias_of(use: relax.Call, of: relax.Var, shape: list[Dim]) -> Array | None:
    """A constant of channels that is added to `of`, float32 [O]."""
    if not is_call(use, "relax.add"):
        return None
    array = array_of(use.args[1] if use.args[0].same_as(of) else use.args[0])
    rank = len(shape)
    if array is None or array.dtype != np.float32 or array.ndim > rank or array.ndim < rank - 1:
        return None
    axis = array.ndim - rank + 1
    if array.shape[axis] != shape[1] or array.size != shape[1]:
        return None
    return array.reshape(-1)
