"""An oracle for modules, lowered or not: operators of the IR by their references, kernel calls by these or torch's functional operators,
generated functions built by TVM unscheduled.

It shares nothing with the library's kernels, so a pass that writes a wrong kernel call is seen here.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import tvm
from maas_rt.compiler import ir
from maas_rt.compiler.passes import kernel_outputs, read_kernel_call
from tvm import relax

from tests.compiler import _unoptimized

Array = npt.NDArray[Any]

__all__ = ["kernel_result", "run_lowered"]


def run_lowered(mod: tvm.IRModule, inputs: list[Array]) -> list[Array]:
    """The outputs of `main` for these inputs, in order."""
    functions = {
        gvar: func.with_attr("global_symbol", gvar.name_hint)
        for gvar, func in mod.functions_items()
        if isinstance(func, tvm.tirx.PrimFunc)
    }
    library = _built(functions) if functions else None
    return _Interpreter(library).run(mod["main"], inputs)


def _built(functions: dict[tvm.ir.GlobalVar, tvm.tirx.PrimFunc]) -> Any:
    return tvm.compile(tvm.IRModule(functions), _unoptimized.TARGET, tir_pipeline=_unoptimized.PIPELINE)


class _Interpreter:
    def __init__(self, library: Any) -> None:
        self._library = library
        self._values: dict[relax.Var, Any] = {}
        self._symbols: dict[str, int] = {}

    def run(self, func: relax.Function, inputs: list[Array]) -> list[Array]:
        for param, value in zip(func.params, inputs, strict=True):
            self._bind_shape(param.ty, value)
            self._values[param] = value
        result = self._sequence(func.body)
        return list(result) if isinstance(result, tuple) else [result]

    def _sequence(self, seq: relax.Expr) -> Any:
        for block in seq.blocks:
            for binding in block.bindings:
                value = self._evaluate(binding.value)
                if isinstance(binding, relax.MatchCast):
                    self._bind_shape(binding.ty, value)
                self._values[binding.var] = value
        return self._evaluate(seq.body)

    def _bind_shape(self, ty: Any, value: Any) -> None:
        if isinstance(ty, relax.ShapeType):
            dims, extents = ty.values, value
        else:
            assert str(value.dtype) == str(ty.dtype), (value.dtype, ty)
            dims, extents = ty.shape.values, value.shape
        for dim, extent in zip(dims, extents, strict=True):
            if isinstance(dim, tvm.ir.Var):
                assert self._symbols.setdefault(dim.name, extent) == extent
            else:
                assert self._number(dim) == extent

    def _number(self, expr: Any) -> int:
        if isinstance(expr, int):
            return expr
        if isinstance(expr, tvm.ir.Var):
            return self._symbols[expr.name]
        if hasattr(expr, "value"):
            return int(expr.value)
        a, b = self._number(expr.a), self._number(expr.b)
        kind = type(expr).__name__
        return {"Add": a + b, "Sub": a - b, "Mul": a * b, "Max": max(a, b), "Min": min(a, b)}.get(kind) or (
            a // b if kind == "FloorDiv" else 0
        )

    def _shape(self, ty: Any) -> list[int]:
        return [self._number(dim) for dim in ty.shape.values]

    def _evaluate(self, expr: Any) -> Any:
        if isinstance(expr, tvm.ir.GenericConst):
            return expr.value.numpy()
        if isinstance(expr, tvm.ir.Var):
            return self._values[expr] if expr in self._values else self._number(expr)
        if isinstance(expr, relax.Tuple):
            return tuple(self._evaluate(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            return self._evaluate(expr.tuple_value)[expr.index]
        if isinstance(expr, relax.If):
            taken = bool(self._evaluate(expr.cond))
            return self._sequence(expr.true_branch if taken else expr.false_branch)
        if isinstance(expr, relax.ShapeExpr):
            return [self._number(dim) for dim in expr.values]
        operation = ir.read_operator(expr)
        if operation is not None and operation.operator is ir.check:
            return operation.operator.run(self._given(operation.args), operation.attrs)[0]
        if operation is not None:
            types = list(expr.ty.fields) if isinstance(expr.ty, tvm.ir.TupleType) else [expr.ty]
            results = operation.operator.run(self._given(operation.args), operation.attrs)
            return self._checked(operation.operator.name, results, types)
        call = read_kernel_call(expr)
        if call is not None:
            types = kernel_outputs(expr)
            shapes = [self._shape(ty) for ty in types]
            results = kernel_result(call.contract, self._given(call.args), call.attrs, shapes)
            return self._checked(call.contract, results, types)
        if isinstance(expr, relax.Call) and str(expr.op.name) == "relax.reshape":
            return self._evaluate(expr.args[0]).reshape(self._shape(relax.TensorType(expr.args[1])))
        if isinstance(expr, relax.Call) and str(expr.op.name) == "relax.tensor_to_shape":
            return [int(extent) for extent in self._evaluate(expr.args[0])]
        if isinstance(expr, relax.Call) and str(expr.op.name) == "relax.call_tir":
            return self._call_tir(expr)
        raise NotImplementedError(str(expr))

    def _given(self, args: list[Any]) -> list[Any]:
        return [None if arg is None else self._evaluate(arg) for arg in args]

    def _checked(self, name: str, results: list[Array], types: list[Any]) -> Any:
        """The results of a call, which have the types that the IR says."""
        for result, ty in zip(results, types, strict=True):
            assert list(result.shape) == self._shape(ty), (name, result.shape, ty)
            assert str(result.dtype) == str(ty.dtype), (name, result.dtype, ty)
        return results[0] if len(results) == 1 else tuple(results)

    def _call_tir(self, expr: relax.Call) -> Any:
        types = list(expr.ty_args[0].fields) if isinstance(expr.ty_args[0], tvm.ir.TupleType) else [expr.ty_args[0]]
        outs = [tvm.runtime.tensor(np.zeros(self._shape(ty), str(ty.dtype))) for ty in types]
        args = [self._evaluate(arg) for arg in expr.args[1]]
        tensors = [
            tvm.runtime.tensor(np.ascontiguousarray(arg).reshape(arg.shape)) if isinstance(arg, np.ndarray) else arg
            for arg in args
        ]
        self._library[expr.args[0].name_hint](*tensors, *outs)
        results = [out.numpy() for out in outs]
        return results[0] if len(results) == 1 else tuple(results)


# ---- the contracts of docs/kernels.md
# -----------------------------------------------------------------------------------------


def kernel_result(contract: str, args: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> list[Array]:
    """What a contract computes, by torch. Weights are dense here."""
    tensors = [None if arg is None else torch.from_numpy(np.array(arg)) for arg in args] + [None] * 4
    results = _CONTRACTS[contract](tensors, attrs, shapes)
    return [np.ascontiguousarray(result.numpy()) for result in (results if isinstance(results, list) else [results])]


def _one(attrs: dict[str, Any], key: str, default: Any) -> Any:
    value = attrs.get(key, default)
    return value[0] if isinstance(value, list) else value


def _activation(y: torch.Tensor, attrs: dict[str, Any]) -> torch.Tensor:
    args = attrs.get("act_args", [])
    act = attrs.get("act", "none")
    table = {
        "none": lambda: y,
        "relu": lambda: F.relu(y),
        "clip": lambda: y.clamp(*args),
        "leaky_relu": lambda: F.leaky_relu(y, *args),
        "elu": lambda: F.elu(y, *args),
        "sigmoid": lambda: torch.sigmoid(y),
        "tanh": lambda: torch.tanh(y),
        "gelu": lambda: F.gelu(y),
        "gelu_tanh": lambda: F.gelu(y, approximate="tanh"),
        "silu": lambda: F.silu(y),
        "hardswish": lambda: F.hardswish(y),
        "hardsigmoid": lambda: (args[0] * y + args[1]).clamp(0, 1),
        "softplus": lambda: torch.log1p(torch.exp(-y.abs())) + y.clamp(min=0),
        "mish": lambda: F.mish(y),
        "exp": lambda: torch.exp(y),
        "sqrt": lambda: torch.sqrt(y),
        "abs": lambda: torch.abs(y),
    }
    return table[act]()


def _epilogue(y: torch.Tensor, bias: Any, residual: Any, attrs: dict[str, Any]) -> torch.Tensor:
    if bias is not None:
        assert bias.ndim == 1 and bias.shape[0] == y.shape[-1]
        y = y + bias
    if residual is not None:
        assert residual.shape == y.shape
        return (
            _activation(y, attrs) + residual if _one(attrs, "residual_after", 0) else _activation(y + residual, attrs)
        )
    return _activation(y, attrs)


def _gemm(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    w = x[1].T if _one(attrs, "w_trans", 0) else x[1]
    assert list(w.shape) == [_one(attrs, "k", 0), _one(attrs, "n", 0)]
    return _epilogue(x[0] @ w, x[2], x[3], attrs)


def _matmul(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    a = x[0].transpose(-1, -2) if _one(attrs, "trans_a", 0) else x[0]
    b = x[1].transpose(-1, -2) if _one(attrs, "trans_b", 0) else x[1]
    return _epilogue(a @ b * _one(attrs, "alpha", 1.0), x[2], None, attrs)


def _conv2d(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    padded = F.pad(x[0].permute(0, 3, 1, 2), (left, right, top, bottom))
    assert list(x[1].shape[2:]) == attrs["kernel"] and attrs["channels"] == [x[0].shape[3], x[1].shape[0]]
    y = F.conv2d(
        padded, x[1], None, attrs.get("strides", [1, 1]), 0, attrs.get("dilations", [1, 1]), _one(attrs, "groups", 1)
    )
    return _epilogue(y.permute(0, 2, 3, 1), x[2], x[3], attrs)


def _conv_transpose2d(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    strides, dilations = attrs.get("strides", [1, 1]), attrs.get("dilations", [1, 1])
    y = F.conv_transpose2d(
        x[0].permute(0, 3, 1, 2),
        x[1],
        None,
        strides,
        0,
        attrs.get("output_padding", [0, 0]),
        _one(attrs, "groups", 1),
        dilations,
    )
    y = y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right]
    return _epilogue(y.permute(0, 2, 3, 1), x[2], None, attrs)


def _pool2d(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    """Window by window, clipped to the padded input."""
    image = x[0]
    _, height, width, _ = image.shape
    top, left, bottom, right = attrs.get("pads", [0] * 4)
    (kh, kw), (sh, sw), (dh, dw) = attrs["kernel"], attrs["strides"], attrs.get("dilations", [1, 1])
    average, counted = attrs["mode"] == "avg", _one(attrs, "count_include_pad", 0)
    out = torch.zeros(shapes[0])
    for oy in range(shapes[0][1]):
        for ox in range(shapes[0][2]):
            rows = [oy * sh - top + i * dh for i in range(kh)]
            columns = [ox * sw - left + j * dw for j in range(kw)]
            inside = [image[:, r, c] for r in rows for c in columns if 0 <= r < height and 0 <= c < width]
            padded = sum(r < height + bottom and c < width + right for r in rows for c in columns)
            stack = torch.stack(inside)
            out[:, oy, ox] = stack.sum(0) / (padded if counted else len(inside)) if average else stack.amax(0)
    return out


def _norm(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]], layer: bool) -> Any:
    residual = x[3] if layer else x[2]
    value = x[0] if residual is None else x[0] + residual
    assert residual is None or residual.shape == x[0].shape
    centred = value - value.mean(-1, keepdim=True) if layer else value
    y = centred / torch.sqrt((centred * centred).mean(-1, keepdim=True) + _one(attrs, "epsilon", 1e-5))
    if x[1] is not None:
        y = y * x[1]
    if layer and x[2] is not None:
        y = y + x[2]
    return [y, value] if len(shapes) == 2 else y


def _softmax(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    return F.log_softmax(x[0], -1) if _one(attrs, "log", 0) else F.softmax(x[0], -1)


def _by_reference(operator: ir.Operator) -> Any:
    """A contract that computes what an operator of the IR does."""

    def result(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> list[torch.Tensor]:
        args = [None if t is None else t.numpy() for t in x]
        given = {key: _one(attrs, key, None) for key in attrs}
        return [torch.from_numpy(each) for each in operator.run(args[: len(operator.inputs)], given)]

    return result


def _qkv_attention(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> list[torch.Tensor]:
    return _by_reference(ir.attention)([*(x[0][:, :, i] for i in range(3)), x[1]], attrs, shapes)  # type: ignore[no-any-return]


def _slice(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    index = [
        slice(s, s + (n - 1) * step + 1, step)
        for s, n, step in zip(attrs["starts"], shapes[0], attrs["steps"], strict=True)
    ]
    return x[0][tuple(index)]


def _pad(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    after = [o - i - b for o, i, b in zip(shapes[0], x[0].shape, attrs["before"], strict=True)]
    mode = attrs.get("mode", "constant")
    extra = {"constant_values": _one(attrs, "value", 0.0)} if mode == "constant" else {}
    return torch.from_numpy(np.pad(x[0].numpy(), list(zip(attrs["before"], after, strict=True)), mode, **extra))


def _gather(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    assert _one(attrs, "wraps", 1) or (x[1] >= 0).all()
    return torch.from_numpy(np.take(x[0].numpy(), x[1].numpy(), axis=_one(attrs, "axis", 0)))


def _resize2d(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> torch.Tensor:
    image, size = x[0].permute(0, 3, 1, 2), shapes[0][1:3]
    if attrs["mode"] == "nearest":
        return _nearest(image, size, attrs).permute(0, 2, 3, 1)
    assert attrs["coordinates"] in ("half_pixel", "align_corners", "pytorch_half_pixel")
    mode = {"linear": "bilinear", "cubic": "bicubic"}[attrs["mode"]]
    return F.interpolate(image, size, mode=mode, align_corners=attrs["coordinates"] == "align_corners").permute(
        0, 2, 3, 1
    )


def _nearest(image: torch.Tensor, size: list[int], attrs: dict[str, Any]) -> torch.Tensor:
    rounding = {
        "floor": np.floor,
        "ceil": np.ceil,
        "round_prefer_floor": lambda t: np.ceil(t - 0.5),
        "round_prefer_ceil": lambda t: np.floor(t + 0.5),
    }[attrs["nearest_rounding"]]
    picked = image
    for axis, out in zip((2, 3), size, strict=True):
        extent = image.shape[axis]
        place = np.arange(out) * extent / out
        if attrs["coordinates"] == "half_pixel":
            place = (np.arange(out) + 0.5) * extent / out - 0.5
        index = np.clip(rounding(place), 0, extent - 1).astype(np.int64)
        picked = picked.index_select(axis, torch.from_numpy(index))
    return picked


def _top_k(x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> list[torch.Tensor]:
    extent = [shapes[0][_one(attrs, "axis", -1)]]
    given = {key: _one(attrs, key, None) for key in attrs}
    return [torch.from_numpy(each) for each in ir.top_k.run([x[0].numpy(), extent], given)]


_DRAWN = {"uniform_f32": "float32", "uniform_f64": "float64", "normal_f32": "float32", "normal_f64": "float64", "bits_u64": "uint64"}  # fmt: skip


def _random(kind: str, x: list[Any], attrs: dict[str, Any], shapes: list[list[int]]) -> list[torch.Tensor]:
    given = {"kind": kind.partition("_")[0], "dtype": _DRAWN[kind], "number": _one(attrs, "number", 0)}
    draw = None if x[1] is None else x[1].numpy()
    return [torch.from_numpy(each) for each in ir.random.run([x[0].numpy(), shapes[0], draw], given)]


_CONTRACTS = {
    "gemm_f32": _gemm,
    "gemm_f32_sparse": _gemm,
    "matmul_f32": _matmul,
    "conv2d_f32": _conv2d,
    "conv2d_f32_sparse": _conv2d,
    "conv2d_winograd_f32": _conv2d,
    "depthwise_conv2d_f32": _conv2d,
    "conv_transpose2d_f32": _conv_transpose2d,
    "pool2d_f32": _pool2d,
    "max_pool2d_u8": lambda x, attrs, shapes: _pool2d(x, {"mode": "max", **attrs}, shapes).to(torch.uint8),
    "global_avg_pool_f32": lambda x, attrs, shapes: x[0].mean((1, 2)),
    "layer_norm_f32": lambda x, attrs, shapes: _norm(x, attrs, shapes, True),
    "rms_norm_f32": lambda x, attrs, shapes: _norm(x, attrs, shapes, False),
    "softmax_f32": _softmax,
    "attention_f32": _by_reference(ir.attention),
    "qkv_attention_f32": _qkv_attention,
    "transpose": lambda x, attrs, shapes: x[0].permute(attrs["perm"]),
    "concat": lambda x, attrs, shapes: torch.cat([t for t in x if t is not None], _one(attrs, "axis", 0)),
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "resize2d_f32": _resize2d,
    "top_k": _top_k,
    "dynamic_quantize_u8": _by_reference(ir.dynamic_quantize),
    **{f"random_{kind}": partial(_random, kind) for kind in _DRAWN},
}
