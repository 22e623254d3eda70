"""Run by test_recipes.py with a compiler that has the operator of tests/data/recipes: both importers compile it, and it is right."""

from __future__ import annotations

import numpy as np
import torch
from maas_rt.compiler import compile
from onnx import TensorProto, helper

import maas_rt


@torch.library.custom_op("example::squareplus", mutates_args=())
def squareplus(x: torch.Tensor, b: float = 4.0) -> torch.Tensor:
    return (x + (x * x + b).sqrt()) / 2


squareplus.register_fake(lambda x, b=4.0: torch.empty_like(x))


class Model(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return squareplus(x, 0.5) * 3


def onnx_model() -> object:
    node = helper.make_node("Squareplus", ["x"], ["y"], domain="com.example", b=0.5)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in "xy")
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.example", 1)]
    return helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=9)


if __name__ == "__main__":
    x = np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3)
    want = (x.astype(float) + np.sqrt(x.astype(float) ** 2 + 0.5)) / 2
    got = maas_rt.load(compile(Model(), (torch.from_numpy(x),)).to_bytes())(x)  # verified against torch
    np.testing.assert_allclose(got, want * 3, rtol=1e-6, atol=1e-7)
    got = maas_rt.load(compile(onnx_model(), verify=False).to_bytes())(x)  # ONNX's tools do not know the operator
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
