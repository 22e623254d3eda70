"""Run by test_recipes.py with a library that has the kernel of tests/data/recipes: a graph that calls it is compiled and run."""

from __future__ import annotations

import os
import sys

import numpy as np
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.importers import ImportedModel
from maas_rt.compiler.ir._operator import Array, operator
from maas_rt.compiler.passes.lower_operators import ROWS, Row
from tvm import relax

import maas_rt
from maas_rt import CompileError


@operator(lambda x, z, **_: [x.ty])
def scaled_add(x: Array, z: Array, *, alpha: float = 1.0, beta: float = 0.0) -> list[Array]:
    return [x + np.float32(alpha) * z]


ROWS["scaled_add"] = Row("scaled_add_f32")


def compiled(attrs: dict[str, float]) -> bytes:
    x, z = (relax.Var(name, relax.TensorType([2, 3], "float32")) for name in "xz")
    builder = relax.BlockBuilder()
    with builder.function("main", [x, z]):
        with builder.dataflow():
            y = builder.emit(scaled_add(x, z, **attrs))
            out = builder.emit_output(relax.Tuple([y]))
        builder.emit_func_output(out)
    model = ImportedModel(builder.get(), ["x", "z"], ["y"], source=None)  # type: ignore[arg-type]  # nobody verifies it
    return compile_imported(model, CompileOptions(verify=None)).to_bytes()


if __name__ == "__main__":
    x, z = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 3), np.float32)
    data = compiled({"alpha": 0.5})
    np.testing.assert_array_equal(maas_rt.load(data)(x, z), x + np.float32(0.5) * z)
    del os.environ["MAAS_RT_CHECK"]  # which would find it a stage earlier, as a fault of the pass that made the call
    try:
        compiled({"beta": 0.5})
    except CompileError as error:
        assert "scaled_add_f32 (" in str(error) and "has no attribute beta" in str(error), error
    else:
        sys.exit("an attribute that the contract does not have was taken")
    sys.stdout.buffer.write(data)
