"""Convolution, matrix products and what belongs to them."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import relax, te, tirx

from .._dims import Dim
from .._exprs import constant, dims_of, dtype_of, shape_expr
from .._node import Node
from .._registry import op
from .._values import is_float, numpy_dtype
from ._te import imm
from .making import pad_tensor

# ---- windows

_AUTO_PADS = ("", "VALID", "SAME_UPPER", "SAME_LOWER")


def window_pads(
    n: Node, spatial: tuple[Dim, ...], kernel: list[int], strides: list[int], dilations: list[int]
) -> tuple[list[Dim], list[Dim]]:
    """(before, after) of each spatial axis, from `pads` or `auto_pad`."""
    rank = len(kernel)
    auto = n.choice("auto_pad", "NOTSET", *_AUTO_PADS)
    if auto in ("NOTSET", ""):
        pads = n.ints_attr("pads", [0] * (2 * rank))
        if len(pads) != 2 * rank:
            raise n.broken(f"has {len(pads)} pads for {rank} spatial axes")
        if min(pads, default=0) < 0:
            raise n.broken(f"has pads below 0: {pads}")
        return list(pads[:rank]), list(pads[rank:])
    if auto == "VALID":
        return [0] * rank, [0] * rank
    before: list[Dim] = []
    after: list[Dim] = []
    for d, k, s, dil in zip(spatial, kernel, strides, dilations, strict=True):
        out = n.math.ceildiv(d, s)
        total = n.math.max(n.math.sub(n.math.add(n.math.mul(n.math.sub(out, 1), s), (k - 1) * dil + 1), d), 0)
        half = n.math.floordiv(total, 2)
        rest = n.math.sub(total, half)
        before.append(half if auto == "SAME_UPPER" else rest)
        after.append(rest if auto == "SAME_UPPER" else half)
    return before, after


def window_attrs(n: Node, rank: int, kernel: list[int]) -> tuple[list[int], list[int]]:
    """(strides, dilations), checked."""
    strides = n.ints_attr("strides", [1] * rank)
    dilations = n.ints_attr("dilations", [1] * rank)
    if len(strides) != rank or len(dilations) != rank or len(kernel) != rank:
        raise n.broken(f"has strides {strides}, dilations {dilations}, kernel {kernel} for {rank} spatial axes")
    if any(v < 1 for v in (*strides, *dilations, *kernel)):
        raise n.broken("has strides, dilations or a kernel below 1")
    return strides, dilations


def window_room(n: Node, extent: Dim, before: Dim, after: Dim, reach: int) -> Dim:
    """How far a window of `reach` elements can be moved over an axis and its padding."""
    padded = n.math.add(n.math.add(extent, before), after)
    room = n.math.sub(padded, reach)
    if isinstance(room, int) and room < 0:
        raise n.broken(f"has a window of {reach} over {padded} elements, padding included")
    return room


def _all_int(values: list[Dim]) -> bool:
    return all(isinstance(v, int) for v in values)


# ---- convolution


@op("Conv", since=[1, 11, 22])
def conv(n: Node) -> Any:
    n.float_only()
    rank = n.rank(0) - 2
    weight = n.shape(1)
    if rank < 1 or len(weight) != rank + 2 or not _all_int(list(weight)):
        raise n.broken(f"has data of rank {n.rank(0)} and weights of shape {list(weight)}")
    kernel = n.ints_attr("kernel_shape", list(weight[2:]))
    if kernel != list(weight[2:]):
        raise n.broken(f"states kernel_shape {kernel} for weights of shape {list(weight)}")
    groups = n.int_attr("group", 1)
    n.math.require_same(n.shape(0)[1], weight[1] * groups)
    if groups < 1 or weight[0] % groups:
        raise n.broken(f"has {weight[0]} output channels in {groups} groups")
    strides, dilations = window_attrs(n, rank, kernel)
    before, after = window_pads(n, n.shape(0)[2:], kernel, strides, dilations)
    out = convolution(n, n.x(0), n.x(1), strides, before, after, dilations, groups)
    return add_channel_bias(n, out, n.x(2)) if n.has(2) else out


def add_channel_bias(n: Node, x: Any, bias: Any) -> Any:
    dims = [1] * len(dims_of(x))
    dims[1] = dims_of(bias)[0]
    return n.emit(relax.op.add(x, reshape_const(n, bias, dims)))


def reshape_const(n: Node, x: Any, dims: list[Dim]) -> Any:
    """Reshape, at once where x is a constant."""
    data = getattr(x, "value", None)
    if data is not None and all(isinstance(d, int) for d in dims):
        return constant(np.ascontiguousarray(data.numpy().reshape(dims)))
    return n.reshape(x, dims)


def convolution(
    n: Node, x: Any, w: Any, strides: list[int], before: list[Dim], after: list[Dim], dilations: list[int], groups: int
) -> Any:
    """N-dimensional convolution of NC... with OI...; half types are computed in float32."""
    dtype = dtype_of(x)
    if dtype in ("float16", "bfloat16"):
        return n.cast(
            convolution(n, n.cast(x, "float32"), n.cast(w, "float32"), strides, before, after, dilations, groups), dtype
        )
    rank = len(strides)
    for extent, k, first, last, dilation in zip(dims_of(x)[2:], dims_of(w)[2:], before, after, dilations, strict=True):
        window_room(n, extent, first, last, (k - 1) * dilation + 1)
    if not _all_int([*before, *after]) or any(p < 0 for p in (*before, *after)):
        x = pad_tensor(n, x, [0, 0, *before], [0, 0, *after], "constant", np.zeros((), numpy_dtype(dtype_of(x))))
        before, after = [0] * rank, [0] * rank
    if rank == 1:
        # A line is an image of height 1: one set of kernels serves both.
        dims, weight = dims_of(x), dims_of(w)
        x4 = n.reshape(x, [dims[0], dims[1], 1, dims[2]])
        w4 = reshape_const(n, w, [weight[0], weight[1], 1, weight[2]])
        y = convolution(n, x4, w4, [1, *strides], [0, *before], [0, *after], [1, *dilations], groups)
        out = dims_of(y)
        return n.reshape(y, [out[0], out[1], out[3]])
    if rank == 2 and dtype in ("float32", "int32"):
        return n.emit(relax.op.nn.conv2d(x, w, strides, [*before, *after], dilations, groups))
    if rank == 3 and dtype == "float32" and (groups == 1 or _becomes_images(x, w)):
        return n.emit(relax.op.nn.conv3d(x, w, strides, [*before, *after], dilations, groups))
    return _convolution_te(n, x, w, strides, before, after, dilations, groups)


def _becomes_images(x: Any, w: Any) -> bool:
    """Whether a pass makes a convolution over volumes one over images, which TVM's own lowering does not do for groups."""
    return getattr(w, "value", None) is not None and isinstance(dims_of(x)[2], int)


def _convolution_te(
    n: Node, x: Any, w: Any, strides: list[int], before: list[Dim], after: list[Dim], dilations: list[int], groups: int
) -> Any:
    """Any rank and type, by the formula."""
    if any(p != 0 for p in (*before, *after)):
        x = pad_tensor(n, x, [0, 0, *before], [0, 0, *after], "constant", np.zeros((), numpy_dtype(dtype_of(x))))
    dims, weight = dims_of(x), dims_of(w)
    spatial = [
        n.math.add(n.math.floordiv(n.math.sub(d, (k - 1) * dil + 1), s), 1)
        for d, k, s, dil in zip(dims[2:], weight[2:], strides, dilations, strict=True)
    ]
    per_out, per_in = weight[0] // groups, weight[1]

    def body(t: Any, v: Any, out: Any) -> Any:
        ks = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(weight[2:])]
        c = te.reduce_axis((0, per_in), name="c")

        def element(b: Any, o: Any, *at: Any) -> Any:
            where = [i * s + k * d for i, s, k, d in zip(at, strides, ks, dilations, strict=True)]
            return te.sum(t(b, tirx.floordiv(o, per_out) * per_in + c, *where) * v(o, c, *ks), axis=[c, *ks])

        return te.compute(out, element, name="conv")

    return n.te(body, x, w, shape_expr([dims[0], weight[0], *spatial]), name="conv")


@op("ConvTranspose", since=[1, 11, 22])
def conv_transpose(n: Node) -> Any:
    n.float_only()
    x, w = n.x(0), n.x(1)
    dtype = n.dtype(0)
    if dtype in ("float16", "bfloat16"):
        x, w = n.cast(x, "float32"), n.cast(w, "float32")
    dims, weight = dims_of(x), dims_of(w)
    rank = len(dims) - 2
    if rank < 1 or len(weight) != rank + 2 or not _all_int(list(weight)):
        raise n.broken(f"has data of rank {len(dims)} and weights of shape {list(weight)}")
    kernel = n.ints_attr("kernel_shape", list(weight[2:]))
    groups = n.int_attr("group", 1)
    strides, dilations = window_attrs(n, rank, kernel)
    extra = n.ints_attr("output_padding", [0] * rank)
    if len(extra) != rank or min(extra, default=0) < 0:
        raise n.broken(f"has output_padding {extra}, expected {rank} numbers from 0 on")
    if groups < 1 or weight[0] % groups:
        raise n.broken(f"has {groups} groups of {weight[0]} channels")
    n.math.require_same(dims[1], weight[0])
    before, after = _transposed_pads(n, dims[2:], kernel, strides, dilations, extra)
    simple = dtype_of(x) == "float32" and _all_int([*before, *after]) and all(p >= 0 for p in (*before, *after))
    simple = simple and all(e < s for e, s in zip(extra, strides, strict=True))
    # That operator multiplies zeros between the inputs, too, which would make NaN of weights that are no finite numbers.
    known = n.value(1).const
    simple = simple and (known is None or bool(np.isfinite(known.astype(np.float64)).all()))
    if simple and rank == 1:
        y = relax.op.nn.conv2d_transpose(
            n.reshape(x, [dims[0], dims[1], 1, dims[2]]),
            reshape_const(n, w, [weight[0], weight[1], 1, weight[2]]),
            [1, *strides], [0, *before, 0, *after], [0, *extra], [1, *dilations], groups,
        )  # fmt: skip
        y = n.emit(y)
        out = dims_of(y)
        y = n.reshape(y, [out[0], out[1], out[3]])
    elif simple and rank == 2:
        y = n.emit(relax.op.nn.conv2d_transpose(x, w, strides, [*before, *after], extra, dilations, groups))
    else:
        y = _conv_transpose_te(n, x, w, strides, before, after, dilations, extra, groups)
    if n.has(2):
        y = add_channel_bias(n, y, n.cast(n.x(2), dtype_of(y)))
    return n.cast(y, dtype)


def _transposed_pads(
    n: Node, spatial: tuple[Dim, ...], kernel: list[int], strides: list[int], dilations: list[int], extra: list[int]
) -> tuple[list[Dim], list[Dim]]:
    rank = len(kernel)
    auto = n.choice("auto_pad", "NOTSET", *_AUTO_PADS)
    shape = n.ints_attr("output_shape", None)
    if shape is not None and len(shape) not in (rank, rank + 2):
        raise n.broken(f"has output_shape {shape}, expected {rank} numbers")
    if shape is None and auto in ("NOTSET", "", "VALID"):
        pads = n.ints_attr("pads", [0] * (2 * rank)) if auto != "VALID" else [0] * (2 * rank)
        if len(pads) != 2 * rank:
            raise n.broken(f"has pads {pads}, expected {2 * rank} numbers")
        return list(pads[:rank]), list(pads[rank:])
    before: list[Dim] = []
    after: list[Dim] = []
    for i in range(rank):
        full = n.math.add(
            n.math.mul(n.math.sub(spatial[i], 1), strides[i]), extra[i] + (kernel[i] - 1) * dilations[i] + 1
        )
        want = shape[i + len(shape) - rank] if shape is not None else n.math.mul(spatial[i], strides[i])
        total = n.math.sub(full, want)
        half = n.math.floordiv(total, 2)
        rest = n.math.sub(total, half)
        # The specification gives the odd element to the end for SAME_UPPER, to the beginning otherwise.
        before.append(half if auto == "SAME_UPPER" else rest)
        after.append(rest if auto == "SAME_UPPER" else half)
    return before, after


def _conv_transpose_te(
    n: Node,
    x: Any,
    w: Any,
    strides: list[int],
    before: list[Dim],
    after: list[Dim],
    dilations: list[int],
    extra: list[int],
    groups: int,
) -> Any:
    """Any rank: each output element gathers the inputs whose window covers it."""
    dims, weight = dims_of(x), dims_of(w)
    per_in, per_out = weight[0] // groups, weight[1]
    spatial = []
    for i, d in enumerate(dims[2:]):
        full = n.math.add(n.math.mul(n.math.sub(d, 1), strides[i]), extra[i] + (weight[2 + i] - 1) * dilations[i] + 1)
        spatial.append(n.math.sub(n.math.sub(full, before[i]), after[i]))

    def body(t: Any, v: Any, out: Any, pads: Any) -> Any:
        ks = [te.reduce_axis((0, k), name=f"k{i}") for i, k in enumerate(weight[2:])]
        c = te.reduce_axis((0, per_in), name="c")

        def element(b: Any, o: Any, *at: Any) -> Any:
            group = tirx.floordiv(o, per_out)
            inside, where = [], []
            for i, (p, k) in enumerate(zip(at, ks, strict=True)):
                reach = p + pads[i] - k * dilations[i]
                source = tirx.floordiv(reach, strides[i])
                inside += [tirx.floormod(reach, strides[i]) == 0, source >= 0, source < t.shape[2 + i]]
                where.append(source)
            value = t(b, group * per_in + c, *where) * v(group * per_in + c, tirx.floormod(o, per_out), *ks)
            return te.sum(tirx.if_then_else(tirx.all(*inside), value, imm(0, str(t.dtype))), axis=[c, *ks])

        return te.compute(out, element, name="conv_transpose")

    return n.te(
        body, x, w, shape_expr([dims[0], per_out * groups, *spatial]), shape_expr(before), name="conv_transpose"
    )


# ---- matrix products


@op("MatMul", since=[1, 9, 13])
def matmul(n: Node) -> Any:
    return product(n, n.x(0), n.x(1))


def product(n: Node, a: Any, b: Any) -> Any:
    """numpy.matmul; half types accumulate in float32."""
    dtype = dtype_of(a)
    if dtype_of(b) != dtype:
        raise n.broken(f"multiplies {dtype} by {dtype_of(b)}")
    p, q = dims_of(a), dims_of(b)
    if not p or not q:
        raise n.broken("multiplies a scalar")
    inner = n.math.require_same(p[-1], q[-2] if len(q) > 1 else q[0])
    batch = n.math.broadcast(p[:-2], q[:-2])
    a = n.graph.align(a, [*batch[len(batch) - len(p[:-2]) :], *p[-2:-1], inner])
    b = n.graph.align(b, [*batch[len(batch) - len(q[:-2]) :], inner, *q[-1:]] if len(q) > 1 else [inner])
    if dtype in ("float16", "bfloat16"):
        return n.cast(n.emit(relax.op.matmul(n.cast(a, "float32"), n.cast(b, "float32"))), dtype)
    return n.emit(relax.op.matmul(a, b))


@op("Gemm", since=[1, 6, 7, 9, 11, 13])
def gemm(n: Node) -> Any:
    alpha, beta = n.float_attr("alpha", 1.0), n.float_attr("beta", 1.0)
    dtype = n.dtype(0)
    if n.rank(0) != 2 or n.rank(1) != 2:
        raise n.broken(f"multiplies ranks {n.rank(0)} and {n.rank(1)}")
    if not is_float(dtype) and (alpha != 1.0 or beta != 1.0):
        raise n.refuse(f"on {dtype} with alpha or beta")
    a = n.emit(relax.op.permute_dims(n.x(0), [1, 0])) if n.flag("transA") else n.x(0)
    weight = n.value(1)
    if n.flag("transB"):
        b = (
            constant(np.ascontiguousarray(weight.const.T))
            if weight.const is not None
            else n.emit(relax.op.permute_dims(n.x(1), [1, 0]))
        )
    else:
        b = n.x(1)
    y = product(n, a, b)
    if alpha != 1.0:
        y = n.emit(relax.op.multiply(y, n.scalar_const(alpha, dtype)))
    if not n.has(2):
        return y
    c = n.x(2)
    n.math.require_broadcast(dims_of(c), dims_of(y))
    if beta != 1.0:
        c = n.emit(relax.op.multiply(c, n.scalar_const(beta, dtype)))
    return relax.op.add(*n.align(y, c))
