"""The shapes of kernels' outputs, which only the compiler needs; all else of a contract is the library's to say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import relax

from ..passes._dims import Dim, extents, same, same_shape

__all__ = ["SHAPES", "ShapeError", "output_shapes"]

Shape = list[Dim]
Args = Sequence["relax.Expr | None"]
Attrs = dict[str, Any]


class ShapeError(ValueError):
    """Inputs of a contract that do not fit each other."""


def _one(attrs: Attrs, key: str, default: int) -> int:
    return int(attrs[key][0]) if key in attrs else default


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ShapeError(message)


def _gemm(args: Args, attrs: Attrs) -> list[Shape | None]:
    n, k = _one(attrs, "n", -1), _one(attrs, "k", -1)
    weight = extents(args[1])
    _need(weight == ([n, k] if _one(attrs, "w_trans", 0) else [k, n]), f"weight {weight} of n {n}, k {k}")
    a = extents(args[0])
    _need(bool(a) and same(a[-1], k), f"a {a} of k {k}")
    return [[*a[:-1], n]]


def _matmul(args: Args, attrs: Attrs) -> list[Shape | None]:
    a, b = extents(args[0]), extents(args[1])
    _need(len(a) >= 2 and len(b) >= 2, "operands of matmul with fewer than two axes")
    rows = a[-1] if _one(attrs, "trans_a", 0) else a[-2]
    columns = b[-2] if _one(attrs, "trans_b", 0) else b[-1]
    batch: Shape | None = a[:-2] if same_shape(a[:-2], b[:-2]) or len(b) == 2 else (b[:-2] if len(a) == 2 else None)
    return [None if batch is None else [*batch, rows, columns]]


def _window(extent: Dim, kernel: int, stride: int, before: int, after: int, dilation: int) -> Dim:
    return (extent + (before + after - dilation * (kernel - 1) - 1)) // stride + 1


def _conv(args: Args, attrs: Attrs) -> list[Shape | None]:
    n, height, width, channels = extents(args[0])
    (kh, kw), (depth, out), groups = attrs["kernel"], attrs["channels"], _one(attrs, "groups", 1)
    (sh, sw), (dh, dw) = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    _need(same(channels, depth), f"{channels} channels where the attributes say {depth}")
    _need(extents(args[1]) == [out, depth // groups, kh, kw], f"weight {extents(args[1])}")
    rows, columns = _window(height, kh, sh, top, bottom, dh), _window(width, kw, sw, left, right, dw)
    return [[n, rows, columns, out] if isinstance(height, int) and isinstance(width, int) else None]


def _conv_transpose(args: Args, attrs: Attrs) -> list[Shape | None]:
    n, height, width, channels = extents(args[0])
    (kh, kw), (depth, out), groups = attrs["kernel"], attrs["channels"], _one(attrs, "groups", 1)
    (sh, sw), (dh, dw) = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    extra_h, extra_w = attrs.get("output_padding", [0, 0])
    _need(same(channels, depth), f"{channels} channels where the attributes say {depth}")
    _need(extents(args[1]) == [depth, out // groups, kh, kw], f"weight {extents(args[1])}")
    rows = (height - 1) * sh - top - bottom + dh * (kh - 1) + extra_h + 1
    columns = (width - 1) * sw - left - right + dw * (kw - 1) + extra_w + 1
    return [[n, rows, columns, out]]


def _pool(args: Args, attrs: Attrs) -> list[Shape | None]:
    _need(len(extents(args[0])) == 4, "pooling of other than four axes")
    return [None]  # ceil mode is in the output's shape


def _global_pool(args: Args, attrs: Attrs) -> list[Shape | None]:
    n, _, _, channels = extents(args[0])
    return [[n, channels]]


def _norm(args: Args, attrs: Attrs) -> list[Shape | None]:
    x = extents(args[0])
    for vector in args[1:]:
        _need(
            vector is None or same_shape(extents(vector), x[-1:]) or same_shape(extents(vector), x),
            "a vector of the wrong length",
        )
    return [x, x]


def _same(args: Args, attrs: Attrs) -> list[Shape | None]:
    return [extents(args[0])]


def _dynamic_quantize(args: Args, attrs: Attrs) -> list[Shape | None]:
    return [extents(args[0]), [], []]


def _attention(args: Args, attrs: Attrs) -> list[Shape | None]:
    q, v = extents(args[0]), extents(args[2])
    _need(len(q) == len(v) == 4, "attention of other than four axes")
    return [[*q[:3], v[3]]]


def _qkv(args: Args, attrs: Attrs) -> list[Shape | None]:
    x = extents(args[0])
    _need(len(x) == 5 and same(x[2], 3), f"qkv of shape {x}")
    return [[*x[:2], *x[3:]]]


def _transpose(args: Args, attrs: Attrs) -> list[Shape | None]:
    x = extents(args[0])
    _need(sorted(attrs["perm"]) == list(range(len(x))), f"perm {attrs['perm']} of {len(x)} axes")
    return [[x[axis] for axis in attrs["perm"]]]


def _concat(args: Args, attrs: Attrs) -> list[Shape | None]:
    shapes, axis = [extents(arg) for arg in args], _one(attrs, "axis", 0)
    total = shapes[0][axis]
    for shape in shapes[1:]:
        total = total + shape[axis]
    return [[*shapes[0][:axis], total, *shapes[0][axis + 1 :]]]


def _gather(args: Args, attrs: Attrs) -> list[Shape | None]:
    x, axis = extents(args[0]), _one(attrs, "axis", 0)
    return [[*x[:axis], *extents(args[1]), *x[axis + 1 :]]]


def _gather_columns(args: Args, attrs: Attrs) -> list[Shape | None]:
    return [[*extents(args[0]), _one(attrs, "k", -1)]]


def _top_k(args: Args, attrs: Attrs) -> list[Shape | None]:
    x, axis = extents(args[0]), _one(attrs, "axis", -1)
    _need(-len(x) <= axis < len(x), f"axis {axis} of {len(x)}")
    return [None, None]  # the extent along the axis is the number that is asked for


# Of contracts that are not here, only what the library says is checked.
SHAPES: dict[str, Callable[[Args, Attrs], list[Shape | None]]] = {
    "attention_f32": _attention,
    "concat": _concat,
    "conv2d_f32": _conv,
    "conv2d_f32_sparse": _conv,
    "conv2d_u8s8": _conv,
    "conv2d_winograd_f32": _conv,
    "conv_transpose2d_f32": _conv_transpose,
    "depthwise_conv2d_f32": _conv,
    "depthwise_conv2d_u8s8": _conv,
    "dynamic_quantize_u8": _dynamic_quantize,
    "gather": _gather,
    "gather_f32q": _gather_columns,
    "gemm_f32": _gemm,
    "gemm_f32_sparse": _gemm,
    "gemm_f32h": _gemm,
    "gemm_f32q": _gemm,
    "gemm_s8q4": _gemm,
    "gemm_u8s8": _gemm,
    "gemm_u8s8_sparse": _gemm,
    "global_avg_pool_f32": _global_pool,
    "layer_norm_f32": _norm,
    "lookup": _same,
    "matmul_f32": _matmul,
    "matmul_u8": _matmul,
    "max_pool2d_u8": _pool,
    "pool2d_f32": _pool,
    "qkv_attention_f32": _qkv,
    "rms_norm_f32": _norm,
    "softmax_f32": _same,
    "top_k": _top_k,
    "transpose": _transpose,
}


def output_shapes(contract: str, args: Args, attrs: Attrs) -> list[Shape | None]:
    """The shape of each output, None where it does not follow from the inputs. Raises ShapeError where they do not fit."""
    return SHAPES[contract](args, attrs) if contract in SHAPES else []
