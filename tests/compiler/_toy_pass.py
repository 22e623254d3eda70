"""Run by test_recipes.py with a compiler that has the pass of tests/data/recipes: it is in the order, changes what it should, and no number."""

from __future__ import annotations

import numpy as np
import torch
import tvm
from maas_rt.compiler import compile
from maas_rt.compiler.passes import lowering_passes
from maas_rt.compiler.passes.drop_abs import drop_abs
from tvm import relax

import maas_rt


def absolutes(mod: tvm.IRModule) -> int:
    return str(mod).count("R.abs(")


def module() -> tvm.IRModule:
    x = relax.Var("x", relax.TensorType([2, 3], "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            square = builder.emit(relax.op.abs(builder.emit(relax.op.multiply(x, x))))
            other = builder.emit(relax.op.abs(builder.emit(relax.op.sin(x))))
            out = builder.emit_output(relax.Tuple([builder.emit(relax.op.add(square, other))]))
        builder.emit_func_output(out)
    return builder.get()


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * x).abs() + x.sin().abs()


if __name__ == "__main__":
    assert absolutes(module()) == 2 and absolutes(drop_abs(module())) == 1
    assert "drop abs" in [name for name, _ in lowering_passes()]
    x = np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3)
    got = maas_rt.load(compile(Model(), (torch.from_numpy(x),)).to_bytes())(x)
    np.testing.assert_allclose(got, x * x + np.abs(np.sin(x)), rtol=1e-6)
