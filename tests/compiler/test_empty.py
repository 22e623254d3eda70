"""Extents of 0, known or only met by a run: every family of operators gives what its framework gives."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as tf
from maas_rt.compiler import compile
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import maas_rt

F32 = np.float32
# outputs, operator, inputs, attributes; e is [0, 4], f [3, 0], x [3, 5], image [0, 2, 5, 5], steps [4, 0, 2]
NODES = [
    ("cumsum", "CumSum", "f zero", {}),
    ("nonzero", "NonZero", "e", {}),
    ("tile", "Tile", "e two_two", {}),
    ("no_tiles", "Tile", "x none_two", {}),
    ("top top_at", "TopK", "x none", {}),
    ("top_f top_f_at", "TopK", "f none", {}),
    ("expand", "Expand", "e three_none_four", {}),
    ("softmax", "Softmax", "e", {"axis": 0}),
    ("sum0", "ReduceSum", "e zero_axis", {}),
    ("mean1", "ReduceMean", "f one_axis", {}),
    ("prod", "ReduceProd", "e", {"keepdims": 0}),
    ("product", "MatMul", "f w05", {}),
    ("affine", "Gemm", "f w05 row", {}),
    ("rows", "MatMul", "e w45", {}),
    ("concat", "Concat", "e w34", {"axis": 0}),
    ("pad", "Pad", "e ones4", {}),
    ("gather", "Gather", "x no_index", {}),
    ("scatter", "ScatterElements", "x no_rows no_updates", {"axis": 0}),
    ("flatten", "Flatten", "e", {"axis": 0}),
    ("transpose", "Transpose", "e", {}),
    ("sum3", "Sum", "e e w14", {}),
    ("conv", "Conv", "image filter", {}),
    ("pool", "MaxPool", "image", {"kernel_shape": [2, 2]}),
    ("norm", "BatchNormalization", "image g g g g", {}),
    ("resize", "Resize", "image  scales", {}),
    ("resize_f", "Resize", "f  two_scales", {}),
    ("lstm lstm_h", "LSTM", "steps lw lr", {"hidden_size": 3}),
    ("gru gru_h", "GRU", "steps gw gr", {"hidden_size": 3}),
    ("rnn rnn_h", "RNN", "steps rw rr", {"hidden_size": 3}),
    ("shape", "Shape", "f", {}),
    ("quantized", "QuantizeLinear", "e scale", {}),
]  # fmt: skip


def values(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=F32).reshape(shape) / 8 - 0.5


INPUTS = {
    "e": values(0, 4),
    "f": values(3, 0),
    "x": values(3, 5),
    "image": values(0, 2, 5, 5),
    "steps": values(4, 0, 2),
}
CONSTANTS = {
    "zero": np.array(0), "two_two": np.array([2, 2]), "none_two": np.array([0, 2]), "none": np.array([0]), "three_none_four": np.array([3, 0, 4]),
    "zero_axis": np.array([0]), "one_axis": np.array([1]), "w05": values(0, 5), "row": values(5), "w45": values(4, 5), "w34": values(3, 4),
    "ones4": np.array([1, 1, 1, 1]), "no_index": np.zeros(0, np.int64), "no_rows": np.zeros((0, 5), np.int64), "no_updates": values(0, 5),
    "w14": values(1, 4), "filter": values(3, 2, 3, 3), "g": np.ones(2, F32), "scales": np.array([1, 1, 2, 2], F32), "two_scales": np.array([1, 2], F32), "lw": values(1, 12, 2),
    "lr": values(1, 12, 3), "gw": values(1, 9, 2), "gr": values(1, 9, 3), "rw": values(1, 3, 2), "rr": values(1, 3, 3), "scale": F32(0.5),
}  # fmt: skip


def test_every_family_of_onnx() -> None:
    nodes = [helper.make_node(op, ins.split(" "), outs.split(), **more) for outs, op, ins, more in NODES]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v.shape) for k, v in INPUTS.items()],
        [onnx.ValueInfoProto(name=name) for node in nodes for name in node.output],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in CONSTANTS.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto)
    wanted = ReferenceEvaluator(proto).run(None, INPUTS)
    got = maas_rt.load(compile(proto, verify=False).to_bytes()).run(INPUTS)
    for info, want in zip(proto.graph.output, wanted, strict=True):
        assert got[info.name].shape == np.shape(want) and got[info.name].dtype == np.asarray(want).dtype, info.name
        np.testing.assert_allclose(got[info.name], want, rtol=1e-5, err_msg=info.name)


@pytest.mark.parametrize("extent", ["n", 0], ids=["open", "known"])
def test_what_broadcasts_to_nothing(extent: object) -> None:
    """Expand of [n, 4] to [0, 4]: an n of 1 broadcasts, one of 0 is there already, one of 3 is refused."""
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "s"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [extent, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([0, 4]), "s")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = maas_rt.load(compile(proto, verify=False).to_bytes())
    for rows in (0, 1) if extent else (0,):
        assert model(np.zeros((rows, 4), F32)).shape == (0, 4)
    with pytest.raises(maas_rt.InvalidArgumentError):
        model(np.zeros((3, 4), F32))


NOTHING_IN_ROWS = [  # of x [n, 0] and of y [n, 2]
    ("nonzero", "NonZero", "x", {}), ("chosen", "Compress", "y no_flag", {"axis": 1}), ("flat", "Compress", "x no_flag", {}),
    ("sums", "CumSum", "x one", {}), ("products", "CumProd", "x one", {}),
]  # fmt: skip


@pytest.mark.parametrize("rows", [0, 3])
def test_rows_of_nothing(rows: int) -> None:
    """An extent that is known to be 0 beside one that varies, in what is written as loops."""
    graph = helper.make_graph(
        [helper.make_node(op, ins.split(), [out], **more) for out, op, ins, more in NOTHING_IN_ROWS],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", k]) for name, k in (("x", 0), ("y", 2))],
        [onnx.ValueInfoProto(name=out) for out, *_ in NOTHING_IN_ROWS],
        [numpy_helper.from_array(np.zeros(0, bool), "no_flag"), numpy_helper.from_array(np.array(1), "one")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 26)], ir_version=10)
    got = maas_rt.load(compile(proto, verify=False)).run({"x": np.zeros((rows, 0), F32), "y": np.zeros((rows, 2), F32)})
    shapes = {"nonzero": (2, 0), "chosen": (rows, 0), "flat": (0,), "sums": (rows, 0), "products": (rows, 0)}
    assert {name: result.shape for name, result in got.items()} == shapes


def test_what_broadcasts_to_a_number() -> None:
    graph = helper.make_graph(
        [helper.make_node("Expand", ["x", "s"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([2, 3, 2]), "s")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    model = maas_rt.load(compile(proto).to_bytes())
    for rows in (1, 3):
        x = values(rows, 2)
        np.testing.assert_array_equal(model(x), np.broadcast_to(x, (2, 3, 2)))


class Nothing(nn.Module):
    """x is [n, 4], y [2, m]."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (
            x.sum(0), x.mean(0), x.prod(0), x.cumsum(0), y.cumsum(1), x.softmax(0), y.sort(1)[0], (x > 0).any(), (x > 0).all(0), y.any(1), x.nonzero(),
            torch.cat([x, torch.ones(2, 4)]), tf.pad(x, (1, 1, 2, 0)), y @ y.T, x.T @ x, torch.stack([x, x]), x.repeat(2, 2), x.logsumexp(0),
            tf.linear(x, torch.ones(5, 4), torch.ones(5)), torch.einsum("ij,kj->ik", y, y), x[x > 9], torch.addmm(torch.ones(4), y.T @ y, y.T @ torch.ones(2, 4)),
        )  # fmt: skip


@pytest.mark.parametrize("dynamic", [None, {"x": {0: (0, 9)}, "y": {1: (0, 9)}}], ids=["known", "open"])
def test_every_family_of_torch(dynamic: object) -> None:
    module, sizes = Nothing(), (0, 0) if dynamic is None else (3, 2)
    x, y = torch.from_numpy(values(sizes[0], 4)), torch.from_numpy(values(2, sizes[1]))
    model = maas_rt.load(compile(module, {"x": x, "y": y}, dynamic=dynamic).to_bytes())
    x, y = torch.zeros(0, 4), torch.zeros(2, 0)
    for number, (got, want) in enumerate(zip(model.run({"x": x.numpy(), "y": y.numpy()}).values(), module(x, y))):
        assert got.shape == tuple(want.shape) and str(got.dtype) in str(want.dtype), number
        np.testing.assert_allclose(got, want.numpy(), err_msg=str(number))
