"""A module without some of its channels: constants cut, shapes recomputed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from ..passes._dims import extents, shape_of
from ..passes._ops import constant, slice_of
from ..passes._rewrite import array_of, is_call
from ._channels import ELEMENTWISE, Channels, reads_weight

__all__ = ["Refit", "shrink"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Refit:
    """A layer's weight, of its old shape, and what is to be added to its outputs."""

    weight: Array
    bias: Array


def shrink(
    mod: tvm.IRModule, graph: Channels, gone: Collection[int], refits: Mapping[relax.Var, Refit]
) -> tvm.IRModule:
    """`mod` without the channels whose labels have a root in `gone`."""
    return _Shrink(graph, gone, refits).run(mod)


class _Shrink:
    """One walk over the main function."""

    def __init__(self, graph: Channels, gone: Collection[int], refits: Mapping[relax.Var, Refit]) -> None:
        self._graph = graph
        self._gone = np.array(sorted(gone), np.int64)
        self._refits = refits
        self._builder = relax.BlockBuilder()
        self._bindings: list[relax.Binding] = []
        self._env: dict[relax.Var, relax.Expr] = {}

    def run(self, mod: tvm.IRModule) -> tvm.IRModule:
        func = mod["main"]
        for block in func.body.blocks:
            for binding in block.bindings:
                var = binding.var
                self._env[var] = self._bind(self._value(var, binding.value), str(var.name), var.same_as(func.body.body))
        last = self._of(func.body.body)
        seq = relax.SeqExpr([relax.DataflowBlock(self._bindings)], last)
        relax.expr._update_type(seq, last.ty)
        changed = mod.clone()
        made = relax.Function(func.params, seq, None, func.is_pure, func.attrs, func.span)
        changed.update_func(mod.get_global_var("main"), made)
        return changed

    def _bind(self, value: relax.Expr, name: str, last: bool = False) -> relax.Expr:
        value = self._builder.normalize(value)
        var = relax.Var(name, value.ty) if last else relax.DataflowVar(name, value.ty)
        self._bindings.append(relax.VarBinding(var, value))
        return var

    def _of(self, expr: relax.Expr) -> relax.Expr:
        if isinstance(expr, relax.Var):
            return self._env.get(expr, expr)
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([self._of(field) for field in expr.fields])
        return expr

    def _value(self, var: relax.Var, value: relax.Expr) -> relax.Expr:
        if isinstance(value, relax.TupleGetItem):
            return relax.TupleGetItem(self._of(value.tuple_value), value.index)
        if not is_call(value):
            return self._of(value)
        args = [self._of(arg) for arg in value.args]
        if reads_weight(value):
            return self._layer(var, value, args[0])
        name, labels = str(value.op.name), self._graph.of(var)
        if name == "relax.reshape":
            shape = [
                dim if along is None else int(self._stays(along).sum()) for dim, along in zip(extents(var), labels)
            ]
            return relax.op.reshape(args[0], relax.ShapeExpr(shape))
        if name == "relax.strided_slice":
            return self._slice(value, args[0])
        if name in ELEMENTWISE:
            args = [self._cut(arg, labels) if array_of(arg) is not None else arg for arg in args]
        return tvm.ir.Call(value.op, args, value.attrs, list(value.ty_args), value.span)

    def _stays(self, labels: npt.NDArray[np.int64] | None, count: int = 0) -> npt.NDArray[np.bool_]:
        if labels is None:
            return np.ones(count, bool)
        return ~np.isin(self._graph.roots(labels), self._gone)

    def _cut(self, expr: relax.Expr, labels: Any) -> relax.Expr:
        """A constant that is combined element by element with what has these labels."""
        array = array_of(expr)
        assert array is not None
        for axis in range(-min(array.ndim, len(labels)), 0):
            if labels[axis] is not None and array.shape[axis] > 1:
                array = np.compress(self._stays(labels[axis]), array, axis)
        return expr if array.shape == tuple(shape_of(expr) or ()) else constant(np.ascontiguousarray(array))

    def _layer(self, var: relax.Var, value: relax.Call, x: relax.Expr) -> relax.Expr:
        refit = self._refits.get(var)
        weight = array_of(value.args[1]) if refit is None else refit.weight
        assert weight is not None
        is_product = is_call(value, "relax.matmul")
        axis = -1 if is_product else 1
        outputs = self._stays(self._graph.of(var)[axis])
        weight = np.compress(outputs, weight, 1 if is_product else 0)
        groups = 1 if is_product else int(value.attrs.groups)
        if groups == 1:
            read = self._graph.of(value.args[0])[axis]
            weight = np.compress(
                self._stays(read, weight.shape[0 if is_product else 1]), weight, 0 if is_product else 1
            )
        made = constant(np.ascontiguousarray(weight))
        if is_product:
            call = tvm.ir.Call(value.op, [x, made], value.attrs, list(value.ty_args), value.span)
        else:
            attrs = value.attrs
            left = groups * int(outputs.sum()) // len(outputs) if groups > 1 else 1
            convolution = {3: relax.op.nn.conv1d, 4: relax.op.nn.conv2d, 5: relax.op.nn.conv3d}[weight.ndim]
            call = convolution(
                x, made, attrs.strides, attrs.padding, attrs.dilation, left, attrs.data_layout, attrs.kernel_layout
            )
        if refit is None:
            return call
        bias = refit.bias[outputs]
        spread = bias if is_product else bias.reshape(-1, *[1] * (weight.ndim - 2))
        return relax.op.add(self._bind(call, str(var.name)), constant(np.ascontiguousarray(spread)))

    def _slice(self, value: relax.Call, x: relax.Expr) -> relax.Expr:
        axes, begins, ends, strides = [], [], [], []
        labels = self._graph.of(value.args[0])
        for axis, begin, end, stride in slice_of(value):
            along = labels[axis]
            if along is not None:
                stays = self._stays(along)
                size = len(along)
                begin, end = (int(stays[: slice(0, at).indices(size)[1]].sum()) for at in (begin, end))
            axes.append(axis)
            begins.append(begin)
            ends.append(end)
            strides.append(stride)
        if any(part is None for part in (*begins, *ends, *strides)):
            return tvm.ir.Call(value.op, [x, *value.args[1:]], value.attrs, list(value.ty_args), value.span)
        return relax.op.strided_slice(x, axes, begins, ends, strides, bool(value.attrs.assume_inbound))
