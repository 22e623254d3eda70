"""Tied weights: their bytes are in the file once, whatever source they come from, where one packing serves all who read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import compile
from onnx import TensorProto, helper, numpy_helper
from torch import nn

ROWS, WIDTH = 64, 48
ONCE = 4 * ROWS * WIDTH
EXAMPLE = torch.tensor([3, 63, 0])


class Language(nn.Module):
    """A table of rows, two layers that share a weight, and a head that is the table."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(ROWS, WIDTH)
        self.up, self.again = nn.Linear(WIDTH, ROWS, bias=False), nn.Linear(WIDTH, ROWS, bias=False)
        self.head = nn.Linear(WIDTH, ROWS, bias=False)
        self.again.weight = self.up.weight
        self.head.weight = self.table.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.table(tokens)
        return torch.tanh(self.up(x)) + torch.sin(self.again(x.tanh())) + self.head(x)


def language() -> Language:
    return Language().eval()


def _onnx() -> onnx.ModelProto:
    """The same; one of the two layers reads its weight through Transpose, the other as Gemm does, and a third has a copy of it."""
    module = language()
    table, up = (w.detach().numpy() for w in (module.table.weight, module.up.weight))
    tensors = [
        numpy_helper.from_array(value, name)
        for name, value in (("table", table), ("up", up), ("copy", np.ascontiguousarray(up.T)))
    ]
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["e"]),
        helper.make_node("Transpose", ["up"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "t"], ["a"]),
        helper.make_node("Tanh", ["a"], ["b"]),
        helper.make_node("Tanh", ["e"], ["f"]),
        helper.make_node("Gemm", ["f", "up"], ["c"], transB=1),
        helper.make_node("MatMul", ["f", "copy"], ["d"]),
        helper.make_node("Transpose", ["table"], ["h"], perm=[1, 0]),
        helper.make_node("MatMul", ["e", "h"], ["g"]),
        helper.make_node("Sum", ["b", "c", "d", "g"], ["y"]),
    ]
    info = [("x", TensorProto.INT64, [3]), ("y", TensorProto.FLOAT, [3, ROWS])]
    graph = helper.make_graph(nodes, "g", *([helper.make_tensor_value_info(*each)] for each in info), tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _saved(kind: str, folder: Path) -> Any:
    """The checkpoint's path: with the tied tensors once, or each under its name with bytes of its own."""
    state = language().state_dict()
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file({name: value.clone() for name, value in state.items()}, folder / "m.safetensors")
        return folder / "m.safetensors"
    torch.save(state, folder / "m.pth")
    return folder / "m.pth"


@pytest.mark.parametrize("kind", ["module", "safetensors", "checkpoint", "onnx"])
def test_tied_weights_are_stored_once(kind: str, tmp_path: Path) -> None:
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    if kind == "module":
        artifact = compile(language(), [EXAMPLE])
    elif kind == "onnx":
        artifact = compile(_onnx())
    else:
        artifact = compile(_saved(kind, tmp_path), [EXAMPLE], factory=f"{__name__}:language")
    # The table's rows, and its panels for the head; the layers' panels once.
    assert 3 * ONCE <= artifact.linear.weights.size <= 3 * ONCE + 1024
    assert artifact.manifest["verified"]["status"] == "passed"
