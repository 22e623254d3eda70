"""Runs an imported (not yet lowered) Relax module: TVM's own virtual machine, operators of the IR by their references.

The oracle of the importers' tests alone: nothing that ships runs on TVM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tvm
from maas_rt.compiler import ir
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.importers import ImportedModel
from maas_rt.compiler.importers.torch.module import import_module
from tvm import relax, tirx
from tvm.tirx.analysis import undefined_vars

import maas_rt
from tests.compiler import _unoptimized

Array = npt.NDArray[Any]

__all__ = ["Functions", "compare", "import_functions", "relative_error", "run_imported"]


class Functions(torch.nn.Module):
    """Many small functions of the same inputs as one module: an export takes seconds, an operator microseconds."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = dict(functions)

    def forward(self, *inputs: torch.Tensor) -> dict[str, Any]:
        return {name: function(*inputs) for name, function in self.functions.items()}


def import_functions(
    functions: Mapping[str, Callable[..., Any]], inputs: tuple[Any, ...], dynamic: Any = None
) -> ImportedModel:
    return import_module(Functions(functions), inputs, dynamic=dynamic)


def run_imported(model: ImportedModel, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs by name; states start from their initial values. A dimension 2*s of an input, which TVM's machine cannot solve for s,
    takes the whole compiler instead, and so does a check of sizes, for which it has no room."""
    if not model.states and (_has_derived_dims(model) or _checks_sizes(model)):
        artifact = compile_imported(model, CompileOptions(targets=("native",), verify=None))
        result: dict[str, Array] = maas_rt.load(artifact.to_bytes()).run(dict(inputs))
        return result
    _register_operators()
    built = relax.build(
        model.mod, target=_unoptimized.TARGET, relax_pipeline=_pipeline(), tir_pipeline=_unoptimized.PIPELINE
    )
    machine = relax.VirtualMachine(built, tvm.cpu())
    given = [inputs[name] for name in model.input_names] + [state.initial for state in model.states]
    results = machine["main"](*[tvm.runtime.tensor(np.ascontiguousarray(a).reshape(a.shape)) for a in given])
    names = [*model.output_names, *(f"state:{state.name}" for state in model.states)]
    return {name: result.numpy() for name, result in zip(names, results)}


def _has_derived_dims(model: ImportedModel) -> bool:
    dims = [dim for param in model.mod["main"].params for dim in param.ty.shape.values]
    alone = {dim for dim in dims if isinstance(dim, tirx.Var)}
    return any(var not in alone for dim in dims for var in undefined_vars(dim))


def _checks_sizes(model: ImportedModel) -> bool:
    bindings = [binding for block in model.mod["main"].body.blocks for binding in block.bindings]
    checked = [
        b.value.args[0]
        for b in bindings
        if ir.read_operator(b.value) and ir.read_operator(b.value).operator is ir.check
    ]
    compared = [b.value for b in bindings if isinstance(b, relax.MatchCast)]
    return any(isinstance(each, relax.ShapeExpr) for each in [*checked, *compared])


def _pipeline() -> Any:
    """TVM's default without its memory planner, which lets the two branches of an `If` share storage that only one allocates."""
    t = relax.transform
    passes = [
        relax.backend.DispatchSortScan,
        t.LegalizeOps,
        t.RewriteDataflowReshape,
        t.ToNonDataflow,
        t.RemovePurityChecking,
    ]
    passes += [t.CallTIRRewrite, t.LowerAllocTensor, t.KillAfterLastUse, t.LowerRuntimeBuiltin, t.ComputePrimValue]
    passes += [t.VMShapeLower, t.AttachGlobalSymbol]
    return tvm.transform.Sequential([make() for make in passes])


def compare(model: ImportedModel, inputs: Mapping[str, Array] | None = None, bound: float = 1e-5) -> dict[str, str]:
    """What differs from torch, by output: dtype, shape, or worst error against the output's scale. Empty if nothing does."""
    inputs = model.example_inputs if inputs is None else inputs
    assert inputs is not None
    expected, found = model.source.run(inputs), run_imported(model, inputs)
    assert set(expected) <= set(found)
    wrong = {}
    for name, value in expected.items():
        other = found[name]
        if value.dtype != other.dtype or value.shape != other.shape:
            wrong[name] = f"{other.dtype}{list(other.shape)} instead of {value.dtype}{list(value.shape)}"
        elif not relative_error(other, value) <= bound:
            wrong[name] = (
                f"differs by {relative_error(other, value):.3g}: {other.ravel()[:6]} instead of {value.ravel()[:6]}"
            )
    return wrong


def relative_error(found: Array, expected: Array) -> float:
    """Worst element against the output's scale; whole numbers and bools must be equal."""
    if found.size == 0:
        return 0.0
    if found.dtype.kind in "iub":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)) or not np.array_equal(np.isinf(a), np.isinf(b)):
        return float("inf")
    finite = np.isfinite(b)
    if not np.array_equal(a[~finite & ~np.isnan(b)], b[~finite & ~np.isnan(b)]):
        return float("inf")
    scale = max(float(np.abs(b[finite]).max(initial=0.0)), 1e-6)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / scale


@cache
def _register_operators() -> None:
    """TVM's machine calls the reference of each operator."""
    for name, operator in ir.OPERATORS.items():
        tvm.register_global_func(f"reference.{name}", _reference(operator))
        tvm.ir.register_op_attr(f"maas.{name}", "FLegalize", _legalized)
    tvm.ir.register_op_attr("maas.check", "FDataDependent", True)  # or it would be left where its shape is not known


def _legalized(_builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    read = ir.read_operator(call)
    assert read is not None
    if read.operator is ir.check:
        return relax.op.call_pure_packed("vm.builtin.tensor_to_shape", read.args[0], ty_args=[call.ty])
    there = [arg for arg in read.args if arg is not None]
    meta = json.dumps({"absent": [i for i, arg in enumerate(read.args) if arg is None], "attrs": read.attrs})
    types = list(call.ty.fields) if isinstance(call.ty, tvm.ir.TupleType) else call.ty
    args = relax.Tuple([*there, tvm.ir.StringImm(meta)])
    return relax.op.call_dps_packed(f"reference.{read.operator.name}", args, types)


def _reference(operator: ir.Operator) -> Callable[..., None]:
    def call(*values: Any) -> None:
        place = next(i for i, value in enumerate(values) if isinstance(value, str))
        meta = json.loads(values[place])
        args = [v.numpy() if isinstance(v, tvm.runtime.Tensor) else list(v) for v in values[:place]]
        for position in meta["absent"]:
            args.insert(position, None)
        for out, result in zip(values[place + 1 :], operator.run(args, meta["attrs"]), strict=True):
            out.copyfrom(np.ascontiguousarray(result))

    return call
