"""Runs an imported (not yet lowered) Relax module: TVM's own virtual machine, kernel calls by torch's operators.

The oracle of the importers' tests alone: nothing that ships runs on TVM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import tvm
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.importers import ImportedModel
from maas_rt.compiler.importers.torch.module import import_module
from tvm import relax, tirx
from tvm.tirx.analysis import undefined_vars

import maas_rt
from tests.compiler._interpret import kernel_result

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
    _register_kernels()
    machine = relax.VirtualMachine(relax.build(model.mod, target="llvm", relax_pipeline=_pipeline()), tvm.cpu())
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
    return any(isinstance(b, relax.MatchCast) and isinstance(b.value, relax.ShapeExpr) for b in bindings)


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


def _register_kernels() -> None:
    for contract in ("lstm_f32", "gru_f32", "attention_f32", "top_k"):
        tvm.register_global_func(f"mrt.{contract}", _kernel(contract), override=True)


def _kernel(contract: str) -> Callable[..., None]:
    def call(*values: Any) -> None:
        place = next(i for i, value in enumerate(values) if isinstance(value, str))
        meta = json.loads(values[place])
        tensors, outs = [v.numpy() for v in values[:place]], values[place + 1 :]
        for position in meta["absent"]:
            tensors.insert(position, None)
        shapes = [list(out.shape) for out in outs]
        recurrent = contract in ("lstm_f32", "gru_f32")
        results = (
            _recurrent(tensors, meta["attrs"]) if recurrent else kernel_result(contract, tensors, meta["attrs"], shapes)
        )
        for out, result in zip(outs, results):
            out.copyfrom(result)

    return call


def _recurrent(tensors: list[Any], attrs: dict[str, Any]) -> list[Array]:
    """One layer by torch's own function: x, w, r, bias?, h0?, c0? as in docs/kernels.md, gates in torch's order."""
    x, w, r, bias, h0, c0 = [
        None if t is None else torch.from_numpy(np.array(t)) for t in [*tensors, None, None, None][:6]
    ]
    directions, hidden = w.shape[0], r.shape[2]
    lstm = attrs["gates"] == "ifgo"
    assert attrs["gates"] in ("ifgo", "rzn") and attrs["hidden"] == [hidden]
    assert attrs["direction"] == ("bidirectional" if directions == 2 else "forward")
    params: list[torch.Tensor] = []
    for d in range(directions):
        params += [w[d], r[d], *([] if bias is None else bias[d].chunk(2))]
    zeros = torch.zeros(directions, x.shape[1], hidden)
    h0, c0 = zeros if h0 is None else h0, zeros if c0 is None else c0
    options = (params, bias is not None, 1, 0.0, False, directions == 2, False)
    results = torch.lstm(x, (h0, c0), *options) if lstm else torch.gru(x, h0, *options)
    return [result.numpy() for result in results]
