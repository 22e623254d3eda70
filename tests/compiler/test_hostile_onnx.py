"""Hostile ONNX files: one sentence that names the place, in bounded time and memory, and nothing written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile as compile_model
from onnx import AttributeProto, TensorProto, helper

import maas_rt
from tests.compiler._limited import compile_limited
from tests.compiler.test_import_onnx import floats, model, node

F, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Nodes = list[Any]


def tensor(name: str, dims: list[int], kind: int = F, **data: Any) -> TensorProto:
    return TensorProto(name=name, data_type=kind, dims=dims, **data)


def with_tensor(stored: TensorProto) -> onnx.ModelProto:
    """y = x + w, where w is `stored`."""
    proto = model([node("Add", "x w", "y")], {"x": (F, [2])}, ["y"])
    proto.graph.initializer.append(stored)
    return proto


def unary(op: str, constants: dict[str, Any], inputs: str = "x", **attributes: Any) -> onnx.ModelProto:
    """y = op(inputs), x being float [2, 3]."""
    return model([node(op, inputs, "y", **attributes)], {"x": (F, [2, 3])}, ["y"], constants)


def graph(nodes: Nodes, inputs: list[Any], outputs: list[str]) -> onnx.GraphProto:
    return helper.make_graph(nodes, "inner", inputs, [onnx.ValueInfoProto(name=name) for name in outputs])


def loop(trips: int, nodes: Nodes, outputs: str = "c w", carried: str = "x") -> onnx.ModelProto:
    """A Loop of a constant number of trips that carries x."""
    body = graph(
        nodes,
        [helper.make_tensor_value_info(n, k, d) for n, k, d in (("i", I64, []), ("c", BOOL, []), ("v", F, [2]))],
        outputs.split(),
    )
    results = " ".join(f"r{k}" for k in range(len(outputs.split()) - 1))
    return model(
        [node("Loop", f"trips true {carried}", results, body=body)],
        {"x": (F, [2])},
        results.split(),
        {"trips": np.int64(trips), "true": np.array(True)},
    )


def one(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.ModelProto:
    """One node over x [2, 3], the integers n [2] and the scalars of each type."""
    kinds = {"x": (F, [2, 3]), "n": (I64, [2]), "flag": (BOOL, [])}
    return model(
        [helper.make_node(op, ["" if i == "-" else i for i in inputs.split()], outputs.split(), name=op, **attributes)],
        kinds,
        outputs.split(),
    )


def _at(opset: int, made: onnx.NodeProto) -> onnx.ModelProto:
    """One node over q [1, 2, 3, 4], of this operator set."""
    return edited(
        model([made], {"q": (F, [1, 2, 3, 4])}, ["y"]), lambda m: setattr(m.opset_import[0], "version", opset)
    )


def _ranks(op: str, inputs: str, kind: int = F, /, **dims: list[int]) -> onnx.ModelProto:
    """One node over run-time inputs of these shapes; i and s are integers."""
    kinds = {name: (I64 if name in "is" else kind, shape) for name, shape in dims.items()}
    return edited(model([node(op, inputs, "y")], kinds, ["y"]), lambda m: setattr(m.opset_import[0], "version", 24))


def functions(calls: dict[str, list[str]]) -> onnx.ModelProto:
    """Model-local functions of which each calls those of its list, one after the other."""
    bodies = []
    for name, called in calls.items():
        values = ["a", *[f"v{k}" for k in range(len(called))]]
        nodes = [helper.make_node(c, [values[k]], [values[k + 1]], domain="local") for k, c in enumerate(called)]
        bodies.append(
            helper.make_function("local", name, ["a"], [values[-1]], nodes, [helper.make_opsetid("local", 1)])
        )
    call = helper.make_node(next(iter(calls)), ["x"], ["y"], name="call", domain="local")
    return model([call], {"x": (F, [2])}, ["y"], functions=bodies)


def edited(proto: onnx.ModelProto, edit: Callable[[onnx.ModelProto], Any]) -> onnx.ModelProto:
    edit(proto)
    return proto


def relu() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], {"x": (F, [2])}, ["y"])


def _inputless(proto: onnx.ModelProto) -> None:
    proto.graph.input[0].type.Clear()


def _huge_input(dims: list[int]) -> Callable[[], onnx.ModelProto]:
    return lambda: model([node("Relu", "x", "y")], {"x": (F, dims)}, ["y"])


# What each refusal must name, and the model.
REFUSED: dict[str, tuple[str, Callable[[], onnx.ModelProto]]] = {
    "a mask of integers": (
        "mask of uint8",
        lambda: model(
            [node("Attention", "q q q m", "y", is_causal=1)],
            {"q": (F, [2, 2, 4, 8]), "m": (TensorProto.UINT8, [4, 4])},
            ["y"],
            opset=24,
        ),
    ),
    # names
    "reads itself": ("'loop'", lambda: model([helper.make_node("Relu", ["y"], ["y"], name="loop")], {"x": (F, [2])}, ["y"])),
    "output is an input too": ("'x'", lambda: model([node("Relu", "x", "x")], {"x": (F, [2])}, ["x"])),
    "same output twice in a node": ("'y'", lambda: one("Split", "x", "y y", num_outputs=2)),
    "dangling in a subgraph": (
        "'nothing'",
        lambda: one("If", "flag", then_branch=graph([node("Relu", "nothing", "t")], [], ["t"]), else_branch=graph([node("Neg", "x", "t")], [], ["t"])),
    ),
    "output of a subgraph that nothing makes": (
        "'nothing'", lambda: one("If", "flag", then_branch=graph([], [], ["nothing"]), else_branch=graph([], [], ["x"])),
    ),
    "cycle in a subgraph": (
        "'If/then/Relu_a'",
        lambda: one("If", "flag", then_branch=graph([node("Relu", "b", "a"), node("Relu", "a", "b")], [], ["b"]), else_branch=graph([], [], ["x"])),
    ),
    "duplicate in a subgraph": (
        "'t'",
        lambda: one("If", "flag", then_branch=graph([node("Relu", "x", "t"), node("Neg", "x", "t")], [], ["t"]), else_branch=graph([], [], ["x"])),
    ),
    # sizes of constants
    "raw data too short": ("'w'", lambda: with_tensor(tensor("w", [1000], raw_data=b"\0" * 8))),
    "raw data too long": ("'w'", lambda: with_tensor(tensor("w", [2], raw_data=b"\0" * 80))),
    "no data": ("'w'", lambda: with_tensor(tensor("w", [2]))),
    "typed data too short": ("'w'", lambda: with_tensor(tensor("w", [3], float_data=[1.0, 2.0]))),
    "data in the wrong field": ("'w'", lambda: with_tensor(tensor("w", [2], int32_data=[1, 2]))),
    "product beyond int64": ("'w'", lambda: with_tensor(tensor("w", [2**32, 2**32, 2**32], raw_data=b""))),
    "product that wraps to what is there": ("'w'", lambda: with_tensor(tensor("w", [2**62, 4, 2], raw_data=b""))),
    "product that wraps, with a zero": ("'w'", lambda: with_tensor(tensor("w", [2**62, 2**62, 0], raw_data=b""))),
    "negative dims whose product is positive": ("'w'", lambda: with_tensor(tensor("w", [-1, -2], raw_data=b"\0" * 8))),
    "strings of another number": ("'w'", lambda: with_tensor(tensor("w", [2], TensorProto.STRING, string_data=[b"a"]))),
    "undefined element type": ("'w'", lambda: with_tensor(tensor("w", [2], TensorProto.UNDEFINED, raw_data=b"\0" * 8))),
    "a Constant that lies": ("'lies'", lambda: model([helper.make_node("Constant", [], ["y"], value=tensor("lies", [9], raw_data=b"\0"))], {"x": (F, [2])}, ["y"])),
    "sparse indices outside": ("sparse", lambda: _sparse([99])),
    "sparse indices negative": ("sparse", lambda: _sparse([-1])),
    "sparse of beyond all memory": ("sparse", lambda: _sparse([0], [2**40, 2**40])),
    # declared shapes
    "input without a type": ("'x'", lambda: edited(relu(), _inputless)),
    # the node itself
    "attribute of another type": ("'axis'", lambda: one("Softmax", "x", axis="last")),
    "attribute list for a number": ("'axis'", lambda: one("Concat", "x x", axis=[0])),
    "graph for a number": ("'axis'", lambda: one("Softmax", "x", axis=graph([], [], ["x"]))),
    "number for a graph": ("'then_branch'", lambda: one("If", "flag", then_branch=1, else_branch=graph([], [], ["x"]))),
    "tensor of another type in Constant": ("Constant", lambda: model([helper.make_node("Constant", [], ["y"], name="Constant", value=1.5)], {"x": (F, [2])}, ["y"])),
    "If without a branch": ("'else_branch'", lambda: one("If", "flag", then_branch=graph([], [], ["x"]))),
    "Cast without a type": ("'to'", lambda: one("Cast", "x")),
    "Cast to nowhere": ("'Cast'", lambda: one("Cast", "x", to=77)),
    "Concat without an axis": ("'axis'", lambda: one("Concat", "x x")),
    "Loop without a body": ("'body'", lambda: one("Loop", "- flag x")),
    "Constant without a value": ("Constant", lambda: model([helper.make_node("Constant", [], ["y"], name="Constant")], {"x": (F, [2])}, ["y"])),
    "Einsum without an equation": ("'equation'", lambda: one("Einsum", "x x")),
    "too few inputs": ("'MatMul'", lambda: one("MatMul", "x")),
    "no inputs": ("'Add'", lambda: one("Add", "")),
    "too many inputs": ("'Relu'", lambda: one("Relu", "x x x")),
    "too many outputs": ("'Relu'", lambda: one("Relu", "x", "y z")),
    "no outputs": ("'Relu'", lambda: model([helper.make_node("Relu", ["x"], [], name="Relu")], {"x": (F, [2])}, ["y"])),
    "wrong rank": ("'Conv'", lambda: one("Conv", "x x")),
    "wrong type": ("'Add'", lambda: one("Add", "x n")),
    "integers where floats belong": ("'Softmax'", lambda: one("Softmax", "n")),
    "floats where integers belong": ("'Gather'", lambda: one("Gather", "x x")),
    "floats where a flag belongs": ("'If'", lambda: one("If", "x", then_branch=graph([], [], ["x"]), else_branch=graph([], [], ["x"]))),
    "axis beyond the rank": ("'Concat'", lambda: one("Concat", "x x", axis=2**40)),
    "permutation that is none": ("'Transpose'", lambda: one("Transpose", "x", perm=[0, 0])),
    "a graph with too many outputs": ("'Relu'", lambda: one("Relu", "x", " ".join(f"y{k}" for k in range(100)))),
    "Loop that carries more than its body gives": ("'Loop'", lambda: one("Loop", "- flag x x", "a b", body=graph([], [], ["c"]))),
    "Loop whose body takes other inputs": ("'Loop'", lambda: one("Loop", "n flag x", "a", body=graph([node("Relu", "x", "w"), node("Not", "flag", "c")], [], ["c", "w"]))),
    "Loop of an empty body": ("'Loop'", lambda: one("Loop", "n flag x", "a", body=graph([], [], []))),
    "Scan of more than it has": ("'Scan'", lambda: one("Scan", "x", "a", num_scan_inputs=5, body=graph([], [], ["x"]))),
    "Scan of a negative number": ("'Scan'", lambda: one("Scan", "x", "a", num_scan_inputs=-1, body=graph([], [], ["x"]))),
    "a flag that is neither": ("'keepdims'", lambda: one("ReduceMax", "x", keepdims=2)),
    "a flag that is neither, of constants": ("'keepdims'", lambda: model(
        [node("Constant", "", "w", value_floats=[1.0, 2.0]), node("ReduceMax", "w", "y", keepdims=2)], {"x": (F, [2])}, ["y"])),
    "axes that ReverseSequence does not have": ("'ReverseSequence'", lambda: one("ReverseSequence", "x n", time_axis=4)),
    "LRN over no channels": ("'LRN'", lambda: one("LRN", "x", size=0)),
    "as many axes as memory has bytes": (
        "ReduceSum", lambda: model([node("ReduceSum", "x axes", "y")], {"x": (F, [2, 3]), "axes": (I64, [2**20])}, ["y"]),
    ),
    "Col2Im of blocks of nothing": (
        "'Col2Im_y'",
        lambda: model([node("Col2Im", "x image block", "y")], {"x": (F, [1, 4, 4])}, ["y"], {"image": np.array([3, 3]), "block": np.array([0, 2])}),
    ),
    "STFT of a vector": ("'STFT_y'", lambda: model([node("STFT", "w step w", "y")], {"x": (F, [2])}, ["y"], {"w": floats(16), "step": np.int64(4)})),
    "an input that nothing reads, beyond all memory": ("'z'", lambda: model([node("Relu", "x", "y")], {"x": (F, [2]), "z": (F, [2**62])}, ["y"])),
    # operator sets
    "operator set of the future": ("999", lambda: edited(relu(), lambda m: setattr(m.opset_import[0], "version", 999))),
    "operator set zero": ("0", lambda: edited(relu(), lambda m: setattr(m.opset_import[0], "version", 0))),
    "operator set below zero": ("-3", lambda: edited(relu(), lambda m: setattr(m.opset_import[0], "version", -3))),
    "unknown domain": ("nowhere::Relu", lambda: model([helper.make_node("Relu", ["x"], ["y"], domain="nowhere")], {"x": (F, [2])}, ["y"])),
    "an operator that came later": ("Gelu", lambda: edited(one("Gelu", "x"), lambda m: setattr(m.opset_import[0], "version", 11))),
    "empty operator name": ("'nameless'", lambda: model([helper.make_node("", ["x"], ["y"], name="nameless")], {"x": (F, [2])}, ["y"])),
    # functions
    "function that calls itself": ("'A'", lambda: functions({"A": ["A"]})),
    "functions that call each other": ("'A'", lambda: functions({"A": ["B"], "B": ["A"]})),
    "functions that double": ("nodes", lambda: functions({f"F{k}": [f"F{k + 1}"] * 2 if k < 40 else [] for k in range(41)})),
    "function defined twice": ("'A'", lambda: edited(functions({"A": []}), lambda m: m.functions.append(m.functions[0]))),
    "Identity of nothing in a function": ("'Identity'", lambda: edited(functions({"A": []}), lambda m: m.functions[0].node.insert(0, helper.make_node("Identity", [], ["z"])))),
    "Identity of an input that is left out": ("lacks input 0", lambda: edited(relu(), lambda m: m.graph.node[0].CopyFrom(helper.make_node("Identity", [""], m.graph.node[0].output)))),
    "Slice without ends": ("lacks input 2", lambda: model([helper.make_node("Slice", ["x", "s", "", "a"], ["y"])], {"x": (F, [4])}, ["y"], {"s": np.array([1]), "a": np.array([0])})),
    # what another version has, and another type than was promised
    "an attribute that came later": ("'right_window_size', which the operator does not have in operator set 23", lambda: _at(23, node("Attention", "q q q", "y", right_window_size=0))),
    "an attribute of nothing": ("'axes', which the operator", lambda: one("Softmax", "x", axes=1)),
    "Cast that saturates twice": ("'saturate' is 2, expected 0 or 1", lambda: _at(25, node("Cast", "q", "y", to=TensorProto.DOUBLE, saturate=2))),
    "an output of another type": ("'y' is declared double, and its node makes float32", lambda: edited(relu(), lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.DOUBLE, [2])))),
    # words that no operator set has
    "ScatterElements by no reduction": ("reduction 'nearest'", lambda: unary("ScatterElements", {"i": np.array([[0, 1]]), "u": floats(1, 2)}, "x i u", reduction="nearest")),
    "ScatterND by no reduction": ("reduction ''", lambda: unary("ScatterND", {"i": np.array([[0]]), "u": floats(1, 3)}, "x i u", reduction="")),
    "Gelu by no approximation": ("'erf', expected none, tanh", lambda: unary("Gelu", {}, "x", approximate="erf")),
    "DepthToSpace in no order": ("mode 'RDC'", lambda: model([node("DepthToSpace", "x", "y", blocksize=2, mode="RDC")], {"x": (F, [1, 4, 4, 4])}, ["y"])),
    "Pad by what is no value": ("mode 'mean'", lambda: model([node("Pad", "x s", "y", mode="mean")], {"x": (F, [2, 3]), "s": (I64, [4])}, ["y"])),
    "Attention capped below nothing": ("'softcap' is -inf", lambda: _at(23, node("Attention", "q q q", "y", softcap=-np.inf))),
    "ConvTranspose padded in no way": ("auto_pad 'SAME'", lambda: _transposed(auto_pad="SAME")),
    "Resize in no mode": ("mode 'bilinear'", lambda: model([helper.make_node("Resize", ["x", "", "s"], ["y"], mode="bilinear")], {"x": (F, [2, 3])}, ["y"], {"s": np.float32([1, 2])})),
    # inputs of a rank that the operator does not take
    "Reshape to a number": ("'Reshape_y'", lambda: _ranks("Reshape", "x s", x=[2, 3], s=[])),
    "Squeeze of more axes than there are": ("drops 7 axes", lambda: _ranks("Squeeze", "x s", x=[2, 3], s=[7])),
    "Compress by a number": ("input 1 of rank 0, expected 1", lambda: edited(_ranks("Compress", "x s", x=[2, 3], s=[]), lambda m: setattr(m.graph.input[1].type.tensor_type, "elem_type", BOOL))),
    "ScatterElements at other ranks": ("input 1 of rank 1, expected 2", lambda: _ranks("ScatterElements", "x i u", x=[3, 3], i=[1], u=[1, 2])),
    "ScatterND at a number": ("depth None", lambda: _ranks("ScatterND", "x i u", x=[3, 3], i=[], u=[3])),
    "GatherElements at a number": ("input 1 of rank 0, expected 2", lambda: _ranks("GatherElements", "x i", x=[3, 3], i=[])),
    "Celu by 0": ("has alpha 0.0", lambda: unary("Celu", {}, alpha=0.0)),
    "Celu by infinity": ("has alpha -inf", lambda: unary("Celu", {}, alpha=float("-inf"))),
    # onnx's own inference ends the process that asks it of these
    "LayerNormalization along no axis": ("axis 2147483648 is out of range", lambda: unary("LayerNormalization", {"w": floats(3)}, "x w", axis=2**31)),
    "GatherND of batches below 0": ("-6 batch dimensions", lambda: unary("GatherND", {"i": np.array([[1, 0]])}, "x i", batch_dims=-6)),
    "GatherND of more batches than there are": ("2 batch dimensions", lambda: unary("GatherND", {"i": np.array([[1, 0]])}, "x i", batch_dims=2)),
    "Split into more parts than it names": ("1 outputs for 2 parts", lambda: unary("Split", {}, "x", num_outputs=2)),
    "GatherND of a number": ("'GatherND_y'", lambda: _ranks("GatherND", "x i", x=[], i=[1, 1])),
    "LSTM by a matrix": ("input 1 of rank 2, expected 3", lambda: _ranks("LSTM", "x w r", x=[2, 1, 3], w=[8, 3], r=[1, 8, 2])),
    "Conv with a number for its bias": ("input 2 of rank 0, expected 1", lambda: _ranks("Conv", "x w b", x=[1, 2, 4, 4], w=[3, 2, 1, 1], b=[])),
    "ConvInteger of a vector": ("'ConvInteger_y'", lambda: _ranks("ConvInteger", "q w", TensorProto.UINT8, q=[7], w=[3, 2, 2, 2])),
    "RoiAlign of a matrix": ("'RoiAlign_y'", lambda: _ranks("RoiAlign", "x r i", x=[2, 2], r=[1, 4], i=[1])),
    "TensorScatter of a vector": ("'TensorScatter_y'", lambda: _ranks("TensorScatter", "x u", x=[1, 2, 3, 4], u=[7])),
    "Det of a vector": ("'Det_y'", lambda: _ranks("Det", "x", x=[7])),
    "AffineGrid of a number": ("input 0 of rank 0, expected 3", lambda: _ranks("AffineGrid", "x s", x=[], s=[4])),
    "EyeLike of a vector": ("'EyeLike_y'", lambda: _ranks("EyeLike", "x", x=[7])),
    "HannWindow of no size": ("HannWindow", lambda: _ranks("HannWindow", "s", s=[0])),
    "STFT in no steps": ("a frame_step of 0 numbers", lambda: _ranks("STFT", "x s w", x=[1, 16, 1], s=[0], w=[8])),
    "ConstantOfShape of a matrix": ("input 0 of rank 2, expected 1", lambda: unary("ConstantOfShape", {"s": np.array([[2, 2]])}, "s")),
    # extents that do not fit each other
    "RoiAlign of an image too few": ("extents 1 and 3 differ", lambda: _ranks("RoiAlign", "x r i", x=[1, 1, 4, 4], r=[3, 4], i=[1])),
    "GatherElements of more rows": ("at most 2 is possible", lambda: edited(_ranks("GatherElements", "x i", x=[2, 3], i=[4, 3]), lambda m: m.graph.node[0].attribute.append(helper.make_attribute("axis", 1)))),
    "ScatterElements to more columns": ("at most 3 is possible", lambda: _ranks("ScatterElements", "x i u", x=[2, 3], i=[2, 4], u=[2, 4])),
    "TensorScatter of more rows": ("at most 3 is possible", lambda: _ranks("TensorScatter", "x u", x=[1, 2, 3, 4], u=[1, 2, 5, 4])),
    "TensorScatter for other batches": ("extents 1 and 2 differ", lambda: _ranks("TensorScatter", "x u i", x=[2, 2, 3, 4], u=[2, 2, 1, 4], i=[1])),
    "ReverseSequence of a length too few": ("extents 2 and 3 differ", lambda: _ranks("ReverseSequence", "x i", x=[4, 3], i=[2])),
    "DeformConv of other offsets": ("extents 6 and 8 differ", lambda: _ranks("DeformConv", "x w o", x=[1, 1, 3, 3], w=[1, 1, 2, 2], o=[1, 6, 2, 2])),
    "DeformConv of fewer offsets": ("extents 1 and 2 differ", lambda: _ranks("DeformConv", "x w o", x=[1, 1, 3, 3], w=[1, 1, 2, 2], o=[1, 8, 1, 2])),
    "GridSample of other batches": ("extents 2 and 1 differ", lambda: _ranks("GridSample", "x g", x=[1, 1, 3, 3], g=[2, 2, 2, 2])),
    "MaxUnpool of other places": ("extents 3 and 2 differ", lambda: edited(_ranks("MaxUnpool", "x i", x=[1, 1, 2, 2], i=[1, 1, 2, 3]), lambda m: m.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", [2, 2])))),
    "NonMaxSuppression of fewer scores": ("extents 4 and 6 differ", lambda: _ranks("NonMaxSuppression", "b c", b=[1, 6, 4], c=[1, 1, 4])),
    "OneHot between three values": ("extents 3 and 2 differ", lambda: unary("OneHot", {"d": np.array(3), "v": np.array([0.0, 1.0, 2.0], np.float32)}, "x d v")),
    "LSTM of other widths": ("extents 8 and 12 differ", lambda: _ranks("LSTM", "x w r", x=[2, 1, 3], w=[1, 12, 3], r=[1, 8, 3])),
    "NegativeLogLikelihoodLoss of other targets": ("extents 2 and 3 differ", lambda: _ranks("NegativeLogLikelihoodLoss", "x i", x=[3, 4], i=[2])),
    # what does not broadcast the one way, and vectors of another length
    "Gemm plus more rows": ("extents 4 and 1 differ", lambda: _ranks("Gemm", "a b c", a=[1, 4], b=[4, 5], c=[4, 5])),
    "Gemm plus a higher rank": ("[2, 1, 5] does not broadcast to [3, 5]", lambda: _ranks("Gemm", "a b c", a=[3, 4], b=[4, 5], c=[2, 1, 5])),
    "LayerNormalization by a higher rank": ("does not broadcast to [3, 4]", lambda: _ranks("LayerNormalization", "x w", x=[3, 4], w=[1, 3, 4])),
    "RMSNormalization by more rows": ("extents 3 and 1 differ", lambda: _ranks("RMSNormalization", "x w", x=[1, 4], w=[3, 4])),
    "BatchNormalization by one": ("extents 1 and 3 differ", lambda: _ranks("BatchNormalization", "x g g v g", x=[2, 3, 4], g=[3], v=[1])),
    "InstanceNormalization by one": ("extents 1 and 3 differ", lambda: _ranks("InstanceNormalization", "x g v", x=[2, 3, 4], g=[3], v=[1])),
    "GroupNormalization by groups": ("extents 2 and 4 differ", lambda: edited(_ranks("GroupNormalization", "x v g", x=[2, 4, 5], v=[2], g=[4]), lambda m: m.graph.node[0].attribute.append(helper.make_attribute("num_groups", 2)))),
    "Conv with one bias": ("extents 1 and 3 differ", lambda: _ranks("Conv", "x w b", x=[1, 2, 4, 4], w=[3, 2, 1, 1], b=[1])),
    "ConvTranspose with one bias": ("extents 1 and 3 differ", lambda: _ranks("ConvTranspose", "x w b", x=[1, 2, 4, 4], w=[2, 3, 1, 1], b=[1])),
    "Clip by a matrix": ("input 1 of shape [1, 1], expected one number", lambda: _ranks("Clip", "x a", x=[2, 3], a=[1, 1])),
    "TopK of two counts": ("extents 2 and 1 differ", lambda: edited(_ranks("TopK", "x i", x=[2, 3], i=[2]), lambda m: m.graph.node[0].output.append("z"))),
    "Pad of too few axes": ("extents 3 and 4 differ", lambda: _ranks("Pad", "x i", x=[2, 3], i=[3])),
    "Slice of lists of other lengths": ("extents 2 and 1 differ", lambda: _ranks("Slice", "x i s", x=[2, 3], i=[1], s=[2])),
    "Slice of more axes than there are": ("slices 3 axes of an input of rank 2", lambda: _ranks("Slice", "x i i", x=[2, 3], i=[3])),
    "Tile of a matrix": ("input 1 of rank 2, expected 1", lambda: unary("Tile", {"r": np.array([[1, 2]])}, "x r")),
    "Resize by a scale too few": ("extents 3 and 4 differ", lambda: edited(_ranks("Resize", "x r a", x=[1, 1, 2, 3], r=[0], a=[3]), lambda m: None)),
    "Upsample by a scale too few": ("has 3 scales for 4 axes", lambda: edited(_ranks("Upsample", "x", x=[1, 1, 2, 3]), lambda m: (m.graph.node[0].attribute.append(helper.make_attribute("scales", [1.0, 1.0, 2.0])), setattr(m.opset_import[0], "version", 7)))),
    "Split by both": ("either sizes of its parts or num_outputs", lambda: edited(unary("Split", {"s": np.array([1, 1])}, "x s", axis=0, num_outputs=2), lambda m: m.graph.node[0].output.append("z"))),
    "QuantizeLinear by a matrix": ("a scale of shape [1, 1]", lambda: unary("QuantizeLinear", {"s": np.ones((1, 1), np.float32)}, "x s")),
    "QuantizeLinear by one zero point": ("extents 1 and 3 differ", lambda: unary("QuantizeLinear", {"s": np.ones(3, np.float32), "z": np.zeros(1, np.uint8)}, "x s z")),
    "DequantizeLinear in other blocks": ("extents 3 and 2 differ", lambda: edited(unary("DequantizeLinear", {"q": np.zeros((3, 4), np.uint8), "s": np.ones((3, 3), np.float32)}, "q s", axis=1, block_size=2), lambda m: setattr(m.opset_import[0], "version", 21))),
    "RotaryEmbedding by wider caches": ("extents 3 and 2 differ", lambda: _ranks("RotaryEmbedding", "q c c", q=[1, 2, 3, 4], c=[1, 3, 3])),
    "Col2Im of other columns": ("extents 5 and 4 differ", lambda: edited(unary("Col2Im", {"m": np.array([3, 3]), "k": np.array([2, 2])}, "z m k"), lambda m: m.graph.input.append(helper.make_tensor_value_info("z", F, [1, 4, 5])))),
    "MaxPool padded by its window": ("nothing in it", lambda: model([node("MaxPool", "x", "y", kernel_shape=[2, 2], pads=[2, 2, 2, 2])], {"x": (F, [1, 1, 4, 4])}, ["y"])),
    "Conv that is cropped": ("pads below 0", lambda: model([node("Conv", "x w", "y", pads=[-1, 0, 0, 0])], {"x": (F, [1, 1, 4, 4])}, ["y"], {"w": floats(1, 1, 2, 2)})),
    "BiasGelu by one": ("extents 1 and 3 differ", lambda: edited(one("BiasGelu", "x b"), lambda m: (m.graph.input.append(helper.make_tensor_value_info("b", F, [1])), m.opset_import.append(helper.make_opsetid("com.microsoft", 1)), setattr(m.graph.node[0], "domain", "com.microsoft")))),
    # indices that are known to lie outside
    "GatherElements from outside": ("out of range for 2 elements", lambda: unary("GatherElements", {"i": np.array([[0, 2, 1]])}, "x i", axis=0)),
    "GatherND from outside": ("out of range for 3 elements", lambda: unary("GatherND", {"i": np.array([[1, -4]])}, "x i")),
    "ScatterElements to the outside": ("out of range for 3 elements", lambda: unary("ScatterElements", {"i": np.array([[5]]), "u": floats(1, 1)}, "x i u", axis=1)),
    "ScatterND to the outside": ("out of range for 2 elements", lambda: unary("ScatterND", {"i": np.array([[-3]]), "u": floats(1, 3)}, "x i u")),
    # sizes that constants ask for
    "Reshape to another size": ("'Reshape_y'", lambda: unary("Reshape", {"s": np.array([4, 2**40])}, "x s")),
    "Reshape to a negative size": ("'Reshape_y'", lambda: unary("Reshape", {"s": np.array([-2, -3])}, "x s")),
    "Reshape with two unknowns": ("'Reshape_y'", lambda: unary("Reshape", {"s": np.array([-1, -1])}, "x s")),
    "Reshape of overflowing product": ("'Reshape_y'", lambda: unary("Reshape", {"s": np.array([2**32, 2**32, 6])}, "x s")),
    "Expand to a negative size": ("'Expand_y'", lambda: unary("Expand", {"s": np.array([-5, 3])}, "x s")),
    "Tile a negative number of times": ("'Tile_y'", lambda: unary("Tile", {"s": np.array([-1, 3])}, "x s")),
    "Pad to less than nothing": ("'Pad_y'", lambda: unary("Pad", {"p": np.array([-5, -5, 0, 0])}, "x p")),
    "ConstantOfShape of a negative size": ("'ConstantOfShape_y'", lambda: unary("ConstantOfShape", {"s": np.array([-3])}, "s")),
    "Resize by NaN": ("'Resize_y'", lambda: _resize(np.float32([1, np.nan]))),
    "Resize by a negative scale": ("'Resize_y'", lambda: _resize(np.float32([1, -2]))),
    "Resize by infinity": ("'Resize_y'", lambda: _resize(np.float32([1, np.inf]))),
    "Resize by zero": ("'Resize_y'", lambda: _resize(np.float32([1, 0]))),
    "Range with no step": ("'Range_y'", lambda: unary("Range", {"a": np.int64(0), "b": np.int64(9), "d": np.int64(0)}, "a b d")),
    "Range over NaN": ("'Range_y'", lambda: unary("Range", {"a": np.float32(0), "b": np.float32(np.nan), "d": np.float32(1)}, "a b d")),
    "OneHot of negative depth": ("'OneHot_y'", lambda: unary("OneHot", {"i": np.array([1]), "d": np.int64(-4), "v": np.float32([0, 1])}, "i d v")),
    "TopK of more than there are": ("'TopK_y'", lambda: edited(unary("TopK", {"k": np.array([2**40])}, "x k"), lambda m: m.graph.node[0].output.append("z"))),
    "Split into less than nothing": ("a part of size -1", lambda: edited(unary("Split", {"s": np.array([3, -1])}, "x s", axis=0), lambda m: m.graph.node[0].output.append("z"))),
    "a sequence of lies": ("'SplitToSequence_y'", lambda: unary("SplitToSequence", {"s": np.array([3, 3])}, "x s")),
    "Split into lies": ("'Split_y'", lambda: unary("Split", {"s": np.array([2**40])}, "x s", axis=0)),
    "Conv with a kernel of zero": ("'Conv_y'", lambda: model([node("Conv", "x w", "y", kernel_shape=[0, 0])], {"x": (F, [1, 1, 4, 4])}, ["y"], {"w": np.zeros((1, 1, 0, 0), np.float32)})),
    "Conv of stride zero": ("'Conv_y'", lambda: model([node("Conv", "x w", "y", strides=[0, 0])], {"x": (F, [1, 1, 4, 4])}, ["y"], {"w": floats(1, 1, 2, 2)})),
    "MaxPool of stride zero": ("'MaxPool_y'", lambda: model([node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[0, 0])], {"x": (F, [1, 1, 4, 4])}, ["y"])),
    "MaxPool larger than its image": ("'MaxPool_y'", lambda: model([node("MaxPool", "x", "y", kernel_shape=[9, 9])], {"x": (F, [1, 1, 4, 4])}, ["y"])),
    "MaxPool larger than an image without elements": ("a window of 3 over 2", lambda: model([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[3, 3])], {"x": (F, [1, 1, 2, 0])}, ["y"])),
    "AveragePool larger than an image of nobody": ("a window of 3 over 2", lambda: model([node("AveragePool", "x", "y", kernel_shape=[3, 3], strides=[3, 3])], {"x": (F, [0, 1, 2, 5])}, ["y"])),
    "Conv larger than an image of nobody": ("'Conv_y'", lambda: model([node("Conv", "x w", "y", strides=[3, 3])], {"x": (F, [0, 1, 2, 5])}, ["y"], {"w": floats(1, 1, 3, 3)})),
    "LpPool of order zero": ("'LpPool_y'", lambda: model([node("LpPool", "x", "y", kernel_shape=[2, 2], p=0)], {"x": (F, [1, 1, 4, 4])}, ["y"])),
    "GlobalLpPool of a negative order": ("'GlobalLpPool_y'", lambda: model([node("GlobalLpPool", "x", "y", p=-1)], {"x": (F, [1, 1, 4, 4])}, ["y"])),
    "RotaryEmbedding interleaved by eight": ("'RotaryEmbedding_y'", lambda: unary("RotaryEmbedding", {"i": floats(1, 2, 3, 4), "c": floats(1, 3, 2), "s": floats(1, 3, 2)}, "i c s", interleaved=8)),
    "ConvTranspose to a shape of one number": ("'ConvTranspose_y'", lambda: _transposed(output_shape=[1000])),
    "ConvTranspose padded by one number": ("'ConvTranspose_y'", lambda: _transposed(pads=[1])),
    "ConvTranspose with output_padding of one number": ("'ConvTranspose_y'", lambda: _transposed(output_padding=[1])),
    "ConvTranspose of negative groups": ("'ConvTranspose_y'", lambda: _transposed(group=-6)),
    "NegativeLogLikelihoodLoss by no reduction": ("'NegativeLogLikelihoodLoss_y'", lambda: unary("NegativeLogLikelihoodLoss", {"t": np.array([0, 1])}, "x t", reduction="->")),
    "Conv of no groups": ("'Conv_y'", lambda: model([node("Conv", "x w", "y", group=0)], {"x": (F, [1, 1, 4, 4])}, ["y"], {"w": floats(1, 1, 2, 2)})),
    "DepthToSpace by zero": ("'DepthToSpace_y'", lambda: model([node("DepthToSpace", "x", "y", blocksize=0)], {"x": (F, [1, 4, 4, 4])}, ["y"])),
}  # fmt: skip


def _transposed(**attributes: Any) -> onnx.ModelProto:
    nodes = [node("ConvTranspose", "x w", "y", **attributes)]
    return model(nodes, {"x": (F, [1, 1, 4, 4])}, ["y"], {"w": floats(1, 1, 2, 2)})


def _resize(scales: np.ndarray) -> onnx.ModelProto:
    return model(
        [helper.make_node("Resize", ["x", "", "s"], ["y"], name="Resize_y")], {"x": (F, [2, 3])}, ["y"], {"s": scales}
    )


def _sparse(indices: list[int], dims: list[int] | None = None) -> onnx.ModelProto:
    proto = model([node("Add", "x w", "y")], {"x": (F, [2])}, ["y"])
    values = tensor("w", [len(indices)], float_data=[1.0] * len(indices))
    where = tensor("i", [len(indices)], I64, int64_data=indices)
    proto.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=where, dims=dims or [2]))
    return proto


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_sentence_with_the_place(name: str) -> None:
    place, build = REFUSED[name]
    with pytest.raises(maas_rt.CompileError) as error:
        compile_model(build(), verify=False)
    text = str(error.value)
    assert place in text
    assert "\n" not in text and len(text) < 500


# ---- what takes memory or time


def _folding(steps: Nodes, constants: dict[str, Any], last: str) -> onnx.ModelProto:
    """y = x + the sum of a chain that starts from constants."""
    return model(
        [*steps, node("ReduceSum", last, "total", keepdims=0), node("Add", "x total", "y")],
        {"x": (F, [2])},
        ["y"],
        constants,
    )


def _expand(to: int) -> Nodes:
    return (
        [node("Expand", "one to", "e"), node("Neg", "e", "f"), node("Exp", "f", "g")],
        {"one": floats(1), "to": np.array([to])},
        "g",
    )


def _doubling() -> onnx.ModelProto:
    steps = [node("Concat", f"v{k} v{k}", f"v{k + 1}", axis=0) for k in range(45)]
    return _folding(steps, {"v0": floats(4)}, "v45")


def _squares() -> onnx.ModelProto:
    """An outer product of an outer product ..."""
    steps = [
        node(op, src, dst, **more)
        for k in range(5)
        for op, src, dst, more in (
            ("Reshape", f"v{k} column", f"c{k}", {}), ("Reshape", f"v{k} row", f"r{k}", {}), ("Mul", f"c{k} r{k}", f"v{k + 1}", {}),
        )
    ]  # fmt: skip
    return _folding(steps, {"v0": floats(64), "column": np.array([-1, 1]), "row": np.array([1, -1])}, "v5")


def _many(count: int) -> onnx.ModelProto:
    steps = [node("ConstantOfShape", "n", "v0"), *[node("Neg", f"v{k}", f"v{k + 1}") for k in range(count)]]
    return _folding(steps, {"n": np.array([1 << 25])}, f"v{count}")


def _nested(depth: int) -> onnx.ModelProto:
    """If in If."""
    proto = model([helper.make_node("If", ["flag"], ["y"])], {"x": (F, [2]), "flag": (BOOL, [])}, ["y"])
    here = proto.graph.node[0]
    for k in range(depth):
        other = here.attribute.add(name="else_branch", type=AttributeProto.GRAPH).g
        other.output.add(name="x")
        inner = here.attribute.add(name="then_branch", type=AttributeProto.GRAPH).g
        inner.output.add(name=f"y{k}")
        here = inner.node.add(op_type="If", input=["flag"], output=[f"y{k}"])
    here.op_type = "Relu"
    here.input[0] = "x"
    return proto


def _wire(depth: int) -> bytes:
    """`depth` nested subgraphs in protobuf's encoding, which its own objects could not hold."""

    def field(number: int, payload: bytes) -> bytes:
        size, out = len(payload), b""
        while size >= 0x80:
            out += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([number << 3 | 2]) + out + bytes([size]) + payload

    graph_bytes = field(12, field(1, b"x"))
    for _ in range(depth):
        attribute = field(1, b"then_branch") + b"\xa0\x01\x05" + field(6, graph_bytes)
        graph_bytes = field(1, field(1, b"x") + field(2, b"y") + field(4, b"If") + field(5, attribute)) + field(
            12, field(1, b"y")
        )
    return b"\x08\x09" + field(7, graph_bytes) + field(8, b"\x10\x12")


def _chain(count: int, op: str) -> onnx.ModelProto:
    names = ["x", *[f"v{k}" for k in range(1, count)], "y"]
    nodes = [helper.make_node(op, [names[k]], [names[k + 1]]) for k in range(count)]
    return helper.make_model(
        helper.make_graph(
            nodes, "chain", [helper.make_tensor_value_info("x", F, [2])], [onnx.ValueInfoProto(name="y")]
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def _body(*nodes: Any) -> Nodes:
    return [*nodes, node("Identity", "c", "d")]


LISTED = [  # an operator and its inputs, of which n is a list of numbers that a run computes
    "AffineGrid t n",
    "CenterCropPad x n",
    "ConstantOfShape n",
    "Expand x n",
    "Pad x n",
    "ReduceSum x n",
    "Reshape x n",
    "Slice x n n",
    "Split x n",
    "Squeeze x n",
    "Tile x n",
    "Unsqueeze x n",
]


def _listed(names: str, length: int = 2**31 - 1) -> onnx.ModelProto:
    op, inputs = names.split(" ", 1)
    kinds = {"x": (F, [2, 3, 4]), "t": (F, [2, 2, 3]), "n": (I64, [length])}
    return model(
        [node(op, inputs, "y")], {name: kinds[name] for name in dict.fromkeys(inputs.split())}, ["y"], opset=20
    )


BOMBS: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "a constant expanded to 10^12": lambda: _folding(*_expand(10**12)),
    "a constant expanded to 10^10": lambda: _folding(*_expand(10**10)),
    "a constant expanded beyond int64": lambda: _folding(
        [node("Expand", "one to", "e")], {"one": floats(1), "to": np.array([2**40, 2**40])}, "e"
    ),
    "concatenated with itself, 45 times": _doubling,
    "outer products of outer products": _squares,
    "forty large constants": lambda: _many(40),
    "Tile by a million squared": lambda: unary("Tile", {"s": np.array([10**6, 10**6])}, "x s"),
    "Pad by a terabyte": lambda: unary("Pad", {"p": np.array([0, 0, 10**12, 0])}, "x p"),
    "Pad by more than 64 bits hold": lambda: unary("Pad", {"p": np.array([2**62, 0, 2**62, 2**62])}, "x p"),
    "Expand beyond int64": lambda: unary("Expand", {"s": np.array([2**40, 2, 3])}, "x s"),
    "Resize by 10^12": lambda: _resize(np.float32([1e6, 1e6])),
    "Resize by 10^38": lambda: _resize(np.float32([1e38, 1])),
    "Range to 10^12": lambda: unary("Range", {"a": np.int64(0), "b": np.int64(10**12), "d": np.int64(1)}, "a b d"),
    "Range to infinity": lambda: unary("Range", {"a": np.float32(0), "b": np.float32(np.inf), "d": np.float32(1)}, "a b d"),
    "ConstantOfShape of 10^12": lambda: unary("ConstantOfShape", {"s": np.array([10**6, 10**6])}, "s"),
    "ConstantOfShape beyond int64": lambda: unary("ConstantOfShape", {"s": np.array([2**40, 2**40])}, "s"),
    "OneHot of depth 10^12": lambda: unary("OneHot", {"i": np.array([1]), "d": np.int64(10**12), "v": np.float32([0, 1])}, "i d v"),
    "EyeLike of a huge constant": lambda: _folding(
        [node("ConstantOfShape", "n", "v0"), node("EyeLike", "v0", "e", dtype=F)], {"n": np.array([2**20, 2**20])}, "e"
    ),
    "an input of overflowing product": lambda: model([node("Relu", "x", "y")], {"x": (F, [2**40, 2**40])}, ["y"]),
    "an input of a terabyte": lambda: model([node("Relu", "x", "y")], {"x": (F, [2**38])}, ["y"]),
    "Loop of 10^12 trips": lambda: loop(10**12, _body(node("Neg", "v", "w")), "d w"),
    "Loop of 10^12 trips that keeps all": lambda: loop(10**12, _body(node("Neg", "v", "w"), node("Exp", "v", "e")), "d w e"),
    "Loop of 10^12 trips of a constant": lambda: loop(10**12, _body(node("Neg", "v", "w")), "d w", carried="trips"),
    "Loop of a negative number of trips": lambda: loop(-5, _body(node("Neg", "v", "w")), "d w"),
    "functions that double": lambda: functions({f"F{k}": [f"F{k + 1}"] * 2 if k < 40 else [] for k in range(41)}),
    "If in If, 30 deep": lambda: _nested(30),
    "If in If, 40 deep": lambda: _wire(40),
    "10^4 nested subgraphs": lambda: _wire(10_000),
    "10^6 nodes": lambda: _chain(10**6, "Identity"),
    "10^5 nodes": lambda: _chain(10**5, "Identity"),
    "2 * 10^3 nodes that compute": lambda: _chain(2000, "Relu"),
    **{f"{names.split()[0]} by a list of 2^31 numbers": partial(_listed, names) for names in LISTED},
    "Unsqueeze to 13 axes": lambda: _listed("Unsqueeze x n", 10),
    "Reshape to 13 axes": lambda: _listed("Reshape x n", 13),
}  # fmt: skip

COMPILE = {
    "10^5 nodes",
    "2 * 10^3 nodes that compute",
    "Loop of a negative number of trips",
    "If in If, 30 deep",
}
EITHER = {"forty large constants"}  # as the allocator has memory left or not


@pytest.fixture(scope="module")
def exploded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each bomb, all in one process that may take 4 GiB, and fifteen minutes."""
    folder = tmp_path_factory.mktemp("bombs")
    names = {}
    for number, (name, build) in enumerate(BOMBS.items()):
        made = build()
        names[name] = folder / f"{number}.onnx"
        names[name].write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    found = compile_limited(list(names.values()), 900)
    assert sorted(p.name for p in folder.iterdir()) == sorted(p.name for p in names.values())  # nothing was written
    return {name: found[path.name] for name, path in names.items()}


@pytest.mark.parametrize("name", BOMBS)
def test_bounded_time_and_memory(exploded: dict[str, Any], name: str) -> None:
    entry = exploded[name]
    print(entry)
    assert "MemoryError" not in entry["error"]
    if entry["error"]:
        assert "Error" in entry["error"], entry
        assert "\n" not in entry["message"]
    assert entry["seconds"] < 300
    if name not in EITHER:
        assert bool(entry["error"]) == (name not in COMPILE), entry
