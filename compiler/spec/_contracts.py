"""The kernel contracts of docs/kernels.md as data: arity, dtypes, attributes, packings, output shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tvm import relax

from ..passes._dims import Dim, extents, same, same_shape

__all__ = ["CONTRACTS", "Contract", "ShapeError"]

Shape = list[Dim]
Args = Sequence["relax.Expr | None"]
Attrs = dict[str, Any]
_EPILOGUE = frozenset({"act", "act_args", "residual_after"})
_CONV = frozenset({"strides", "pads", "dilations", "groups", "kernel", "channels"}) | _EPILOGUE


class ShapeError(ValueError):
    """Inputs of a contract that do not fit each other."""


@dataclass(frozen=True)
class Contract:
    """`required` inputs come first, then optional ones up to `most` (None: any number); `shapes`: of the outputs.

    `float32` says whether all tensors are float32 (True) or of any dtype (False).
    """

    required: int
    most: int | None
    shapes: Callable[[Args, Attrs], list[Shape | None]]
    attrs: frozenset[str] = frozenset()
    packing: str = ""
    float32: bool = True
    outputs: tuple[int, ...] = (1,)
    other_dtypes: dict[int, tuple[str, ...]] = field(default_factory=dict)  # input -> dtypes, where not float32
    out_dtypes: tuple[str, ...] = ()  # of the outputs, where not only float32 (or the first input's)


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


def _top_k(args: Args, attrs: Attrs) -> list[Shape | None]:
    x, axis = extents(args[0]), _one(attrs, "axis", -1)
    _need(-len(x) <= axis < len(x), f"axis {axis} of {len(x)}")
    return [None, None]  # the extent along the axis is the number that is asked for


def _unchecked(args: Args, attrs: Attrs) -> list[Shape | None]:
    return [None, None, None]


_RNN = frozenset({"hidden", "direction", "gates"})

_RANDOM = {  # what follows the family's name, and the dtype of what is drawn
    "uniform_f32": "float32",
    "uniform_f64": "float64",
    "normal_f32": "float32",
    "normal_f64": "float64",
    "bits_u64": "uint64",
}
_QUANTIZED = frozenset({"a_zero", "a_max", "y_scale", "y_zero", "y_max"})
_U8S8: dict[int, tuple[str, ...]] = {0: ("uint8",), 1: ("int8",), 6: ("uint8",), 7: ("int8",)}
_EIGHT_BITS = ("uint8", "int8")
_BYTES = ("float32", *_EIGHT_BITS, "int32")
_ORDERED = (
    "bool",
    "float16",
    "bfloat16",
    "float32",
    "float64",
    *(f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)),
)

CONTRACTS: dict[str, Contract] = {
    "gemm_u8s8": Contract(
        3,
        8,
        _gemm,
        _EPILOGUE | _QUANTIZED | {"n", "k", "w_trans"},
        "gemm_u8s8_nr16_v2",
        other_dtypes=_U8S8,
        out_dtypes=_BYTES,
    ),
    "conv2d_u8s8": Contract(
        3, 8, _conv, _CONV | _QUANTIZED, "conv2d_u8s8_nr16_v2", other_dtypes=_U8S8, out_dtypes=_BYTES
    ),
    "depthwise_conv2d_u8s8": Contract(
        3,
        7,
        _conv,
        _CONV | _QUANTIZED | {"w_wide"},
        "depthwise_u8s8_c8_v1",
        other_dtypes={**_U8S8, 1: ("int8", "int16")},
        out_dtypes=_BYTES,
    ),
    "matmul_u8": Contract(
        2,
        5,
        _matmul,
        frozenset({"a_zero", "b_zero", "scale", "y_scale", "y_zero", "y_max"}),
        other_dtypes={0: ("uint8",), 1: ("uint8",), 3: ("uint8",), 4: ("uint8",)},
        out_dtypes=_BYTES,
    ),
    "dynamic_quantize_u8": Contract(1, 1, _dynamic_quantize, outputs=(3,), out_dtypes=("uint8", "float32")),
    "gemm_f32q": Contract(
        3,
        6,
        _gemm,
        _EPILOGUE | {"n", "k", "w_trans", "bits", "group"},
        "gemm_f32q_nr16_v1",
        other_dtypes={1: ("int8",), 3: ("int8",)},
    ),
    "gemm_f32": Contract(2, 4, _gemm, _EPILOGUE | {"n", "k", "w_trans"}, "gemm_f32_nr16_v1"),
    "matmul_f32": Contract(2, 3, _matmul, _EPILOGUE | {"trans_a", "trans_b", "alpha"}),
    "conv2d_f32": Contract(2, 4, _conv, _CONV, "conv2d_f32_nr16_v1"),
    "conv2d_winograd_f32": Contract(2, 4, _conv, _CONV | {"tile"}, "conv2d_winograd_f32_nr16_v1"),
    "depthwise_conv2d_f32": Contract(2, 4, _conv, _CONV, "depthwise_f32_c8_v1"),
    "conv_transpose2d_f32": Contract(2, 3, _conv_transpose, _CONV | {"output_padding"}, "conv_transpose2d_f32_v1"),
    "pool2d_f32": Contract(
        1, 1, _pool, frozenset({"mode", "kernel", "strides", "pads", "dilations", "count_include_pad"})
    ),
    "max_pool2d_u8": Contract(
        1,
        1,
        _pool,
        frozenset({"kernel", "strides", "pads", "dilations"}),
        other_dtypes={0: ("uint8",)},
        out_dtypes=("uint8",),
    ),
    "global_avg_pool_f32": Contract(1, 1, _global_pool),
    "layer_norm_f32": Contract(1, 4, _norm, frozenset({"epsilon"}), outputs=(1, 2)),
    "rms_norm_f32": Contract(1, 3, _norm, frozenset({"epsilon"}), outputs=(1, 2)),
    "softmax_f32": Contract(1, 1, _same, frozenset({"log"})),
    "attention_f32": Contract(3, 4, _attention, frozenset({"scale", "causal", "safe", "layout"})),
    "qkv_attention_f32": Contract(1, 2, _qkv, frozenset({"scale", "causal", "safe"})),
    "lstm_f32": Contract(3, 7, _unchecked, _RNN, "rnn_f32_nr16_v1", outputs=(1, 2, 3), other_dtypes={6: ("int32",)}),
    "lstm_u8s8": Contract(
        3,
        11,
        _unchecked,
        _RNN,
        "rnn_u8s8_nr16_v1",
        outputs=(1, 2, 3),
        other_dtypes={1: ("int8",), 2: ("int8",), 6: ("int32",), 9: ("int8",), 10: ("int8",)},
    ),
    "gru_f32": Contract(
        3,
        6,
        _unchecked,
        _RNN | {"linear_before_reset"},
        "rnn_f32_nr16_v1",
        outputs=(1, 2),
        other_dtypes={5: ("int32",)},
    ),
    "transpose": Contract(1, 1, _transpose, frozenset({"perm"}), float32=False),
    "concat": Contract(1, None, _concat, frozenset({"axis"}), float32=False),
    "slice": Contract(1, 1, _unchecked, frozenset({"starts", "steps"}), float32=False),
    "pad": Contract(1, 1, _unchecked, frozenset({"before", "value", "mode"}), float32=False),
    "gather": Contract(2, 2, _gather, frozenset({"axis"}), float32=False, other_dtypes={1: ("int32", "int64")}),
    "lookup": Contract(
        2, 2, _same, float32=False, other_dtypes={0: _EIGHT_BITS, 1: _EIGHT_BITS}, out_dtypes=_EIGHT_BITS
    ),
    "top_k": Contract(
        1, 1, _top_k, frozenset({"axis", "largest", "pick", "k"}), float32=False, outputs=(2,), out_dtypes=_ORDERED
    ),
    **{
        f"random_{kind}": Contract(
            1,
            2,
            _unchecked,
            frozenset({"number"}),
            other_dtypes={0: ("uint64",), 1: ("int64",)},
            out_dtypes=(dtype,),
        )
        for kind, dtype in _RANDOM.items()
    },
    "resize2d_f32": Contract(
        1, 1, _unchecked, frozenset({"mode", "coordinates", "nearest_rounding", "cubic_a", "scales"})
    ),
}
