"""Lower a small Relax function, check every stage, and compare with what TVM alone makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tvm
from maas_rt.compiler.passes import KernelCall, lowering_passes, read_kernel_call
from maas_rt.compiler.passes.legalize import legalize
from maas_rt.compiler.spec import check_module
from tvm import relax

from tests.compiler._interpret import run_lowered

__all__ = ["build", "check", "const", "kernels", "lower", "operators", "symbol"]

Shape = Sequence[Any]


def symbol(name: str) -> Any:
    return tvm.tirx.Var(name, "int64")


def const(*shape: int, seed: int = 0, low: float = -1.0, high: float = 1.0) -> relax.Expr:
    return relax.const(np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32))


def build(body: Callable[..., Any], *params: Shape | tuple[Shape, str]) -> tvm.IRModule:
    """`main` with one parameter a shape (or (shape, dtype)); `body(emit, *params)` gives an expression or several."""
    variables = []
    for i, param in enumerate(params):
        shape, dtype = param if len(param) == 2 and isinstance(param[1], str) else (param, "float32")
        variables.append(relax.Var(f"x{i}", relax.TensorType(list(shape), dtype)))
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            result = body(builder.emit, *variables)
            results = [builder.emit(r) for r in (result if isinstance(result, (list, tuple)) else [result])]
            out = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(out)
    return builder.get()


def lower(mod: tvm.IRModule) -> tvm.IRModule:
    """All passes, the module held to its invariants behind each."""
    check_module(mod, "imported")
    with tvm.target.Target("llvm"):
        for name, stage in lowering_passes():
            mod = stage(mod)
            check_module(mod, name)
    return mod


def kernels(mod: tvm.IRModule) -> list[KernelCall]:
    calls = (read_kernel_call(binding.value) for block in mod["main"].body.blocks for binding in block.bindings)
    return [call for call in calls if call is not None]


def operators(mod: tvm.IRModule) -> Counter[str]:
    """How often each kernel is called; `generated` counts calls of generated functions, views do not count."""
    counts: Counter[str] = Counter(call.contract for call in kernels(mod))
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call) and str(binding.value.op.name) == "relax.call_tir":
                counts["generated"] += 1
    return counts


def check(
    mod: tvm.IRModule, *shapes: Shape, ints: int = 2, low: float = -1.0, high: float = 1.0, tolerance: float = 2e-5
) -> tuple[Counter[str], list[KernelCall]]:
    """Lower, run at these input shapes, compare with TVM's own lowering; the operators and the kernel calls.

    Integer inputs are drawn below `ints`.
    """
    generator = np.random.default_rng(1)
    inputs = []
    for param, shape in zip(mod["main"].params, shapes, strict=True):
        dtype = str(param.ty.dtype)
        drawn = (
            generator.integers(0, ints, shape)
            if dtype.startswith(("int", "bool"))
            else generator.uniform(low, high, shape)
        )
        inputs.append(drawn.astype(dtype))
    lowered = lower(mod)
    with tvm.target.Target("llvm"):
        plain = relax.transform.DecomposeOpsForInference()(relax.transform.CanonicalizeBindings()(mod))
        plain = legalize(plain)
    wanted, got = run_lowered(plain, inputs), run_lowered(lowered, inputs)
    assert len(wanted) == len(got)
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * max(1.0, float(np.abs(a).max(initial=0))))
    return operators(lowered), kernels(lowered)
