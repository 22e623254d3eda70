"""The ONNX importer's contract: symbols, shape arithmetic, control flow, sizes that the data decides, refusals, hostile files."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.importers import ImportedModel, Source, SymbolSpec, import_model
from maas_rt.compiler.importers.onnx import import_onnx, supported
from onnx import TensorProto, helper, numpy_helper

import maas_rt
from tests.compiler._imported_oracle import run_imported

F, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
RNG = np.random.default_rng(7)


def model(
    nodes: list[Any],
    inputs: dict[str, tuple[int, list[Any]]],
    outputs: list[str],
    constants: dict[str, Any] | None = None,
    *,
    opset: int = 18,
    functions: list[Any] | None = None,
) -> onnx.ModelProto:
    """A model of the default domain; outputs carry no types, so that nothing can be copied from them."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions or [])


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_{outputs.split()[0]}", **attributes)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def check(proto: onnx.ModelProto, inputs: dict[str, np.ndarray], *, compiled: bool = False) -> ImportedModel:
    """Import, run (in TVM's machine, or compiled), compare with what ONNX Runtime says."""
    imported = import_onnx(proto)
    want = onnx.shape_inference.infer_shapes(proto)  # ONNX Runtime wants the outputs' types
    session = onnxruntime.InferenceSession(want.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip(imported.output_names, session.run(None, inputs), strict=True))
    if compiled:
        found = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1).run(inputs)
    else:
        found = run_imported(imported, inputs)
    agree(found, expected)
    return imported


def agree(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    """Same names, types and shapes; floats within 1e-5 of the output's scale."""
    assert got.keys() == want.keys()
    for name, y in want.items():
        x = got[name]
        assert (x.dtype, x.shape) == (y.dtype, y.shape), name
        scale = max(float(np.abs(y).max(initial=0)), 1.0) if y.dtype.kind == "f" else 0.0
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * scale, err_msg=name)


# ---- symbols and shape arithmetic


def test_extents_computed_in_the_graph_stay_symbolic() -> None:
    proto = model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Gather", "s one", "c"),
            node("Mul", "c two", "c2"),
            node("Unsqueeze", "n zero1", "n1"),
            node("Unsqueeze", "c2 zero1", "c1"),
            node("Concat", "n1 c1 minus", "target", axis=0),
            node("Reshape", "x target", "y"),
        ],
        {"x": (F, ["batch", 3, 4, 2])},
        ["y"],
        {"zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "zero1": np.array([0]), "minus": np.array([-1])},
    )
    imported = check(proto, {"x": floats(2, 3, 4, 2)})
    check(proto, {"x": floats(5, 3, 4, 2)})
    assert list(imported.symbols) == ["batch"]
    text = str(imported.mod["main"].ret_ty)
    assert "batch" in text and "int64(6)" in text


def test_where_over_a_shape_as_torch_writes_expand() -> None:
    proto = model(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n", axis=0),
            node("Concat", "n minus five", "shape", axis=0),
            node("Equal", "shape minus", "hit"),
            node("Where", "hit one shape", "target"),
            node("Expand", "w target", "y"),
        ],
        {"x": (F, ["n", 2]), "w": (F, [1, 3, 5])},
        ["y"],
        {"zero": np.array([0]), "minus": np.array([-1]), "five": np.array([5]), "one": np.array([1, 1, 1])},
    )
    check(proto, {"x": floats(4, 2), "w": floats(1, 3, 5)})


def test_slices_with_symbolic_bounds() -> None:
    proto = model(
        [
            node("Shape", "x", "s"),
            node("Slice", "s one two", "l"),
            node("Div", "l two", "half"),
            node("Slice", "x half l one", "y"),
            node("Slice", "x minus lowest one minus", "z"),
        ],
        {"x": (F, [2, "length"])},
        ["y", "z"],
        {
            "one": np.array([1]),
            "two": np.array([2]),
            "minus": np.array([-1]),
            "lowest": np.array([np.iinfo(np.int64).min]),
        },
    )
    check(proto, {"x": floats(2, 7)})
    check(proto, {"x": floats(2, 8)})


def test_dynamic_input_shapes_and_names() -> None:
    proto = model([node("Add", "x y", "z")], {"x": (F, ["n", 4]), "y": (F, [None, 4])}, ["z"])
    imported = import_onnx(proto)
    assert len(imported.symbols) == 1  # y's unnamed dimension has to equal n, or be 1: it is made equal
    bounded = import_onnx(proto, dynamic={"x": {0: (1, 32)}})
    assert SymbolSpec(1, 32) in bounded.symbols.values()
    fixed = import_onnx(proto, input_shapes={"x": (3, 4), "y": (3, 4)})
    assert fixed.symbols == {}
    static = model([node("Relu", "x", "y")], {"x": (F, [1, 4])}, ["y"])
    loosened = import_onnx(static, dynamic={"x": {0: (1, 8)}})
    assert list(loosened.symbols.values()) == [SymbolSpec(1, 8)]
    agree(run_imported(loosened, {"x": np.ones((5, 4), np.float32)}), {"y": np.ones((5, 4), np.float32)})


@pytest.mark.parametrize(
    "options",
    [
        {"dynamic": {"nope": {0: (1, 2)}}},
        {"dynamic": {"x": {7: (1, 2)}}},
        {"dynamic": {"x": {0: (5, 2)}}},
        {"dynamic": "x"},
        {"dynamic": ["x:0=1..4", "x:0=1..5"]},
        {"dynamic": "x:0=1..4", "input_shapes": {"x": (2, 4)}},
        {"input_shapes": {"nope": (1,)}},
        {"input_shapes": {"x": (1, 2, 3)}},
        {"input_shapes": {"x": (2, 5)}},
        {"input_shapes": {"x": (-2, 4)}},
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any]) -> None:
    proto = model([node("Relu", "x", "y")], {"x": (F, ["n", 4])}, ["y"])
    with pytest.raises(maas_rt.InvalidArgumentError):
        import_onnx(proto, **options)


# ---- what a run decides


def test_shapes_and_axes_of_a_run() -> None:
    proto = model(
        [
            node("Reshape", "x shape", "a"),
            node("ReduceSum", "x axes", "b", keepdims=0),
            node("Slice", "x from to", "c"),
        ],
        {"x": (F, [2, 3, 4]), "shape": (I64, [2]), "axes": (I64, [1]), "from": (I64, [3]), "to": (I64, [3])},
        ["a", "b", "c"],
    )
    x = floats(2, 3, 4)
    for shape, axis, start in (([4, -1], 1, [0, 1, -3]), ([0, 12], -1, [1, 0, 0])):
        given = {
            "x": x,
            "shape": np.array(shape),
            "axes": np.array([axis]),
            "from": np.array(start),
            "to": np.array([9, 3, -1]),
        }
        check(proto, given)


def test_an_if_whose_branches_differ_in_shape() -> None:
    then = helper.make_graph([node("Concat", "x x", "t", axis=0)], "then", [], [onnx.ValueInfoProto(name="t")])
    other = helper.make_graph([node("Neg", "x", "e")], "else", [], [onnx.ValueInfoProto(name="e")])
    proto = model(
        [node("If", "flag", "r", then_branch=then, else_branch=other), node("Relu", "r", "y")],
        {"x": (F, ["n", 3]), "flag": (TensorProto.BOOL, [])},
        ["y"],
    )
    for flag in (True, False):
        check(proto, {"x": floats(2, 3), "flag": np.array(flag)})


def test_loops_of_known_length_are_unrolled() -> None:
    body = helper.make_graph(
        [node("Add", "v x", "w"), node("Identity", "c", "d"), node("Mul", "w w", "row")],
        "body",
        [
            helper.make_tensor_value_info("i", I64, []),
            helper.make_tensor_value_info("c", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", F, [2]),
        ],
        [
            helper.make_tensor_value_info("d", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", F, [2]),
            helper.make_tensor_value_info("row", F, [2]),
        ],
    )
    proto = model(
        [node("Loop", "three true x", "last rows", body=body)],
        {"x": (F, [2])},
        ["last", "rows"],
        {"three": np.int64(3), "true": np.array(True)},
    )
    check(proto, {"x": floats(2)})


def test_equalities_that_only_a_run_can_show() -> None:
    """Two ways down and up again: equal for lengths that divide by 4, and refused for others."""
    pool = {"kernel_shape": [2], "strides": [2]}
    proto = model(
        [
            node("MaxPool", "x", "half", **pool),
            node("MaxPool", "half", "quarter", **pool),
            helper.make_node("Resize", ["quarter", "", "twice"], ["up"], mode="nearest"),
            node("Add", "half up", "y"),
        ],
        {"x": (F, [1, 2, "length"])},
        ["y"],
        {"twice": np.array([1, 1, 2], np.float32)},
    )
    check(proto, {"x": floats(1, 2, 16)}, compiled=True)
    artifact = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    with pytest.raises(maas_rt.Error):
        artifact.run({"x": floats(1, 2, 14)})


def test_branches_of_other_ranks_assume_the_first() -> None:
    """torch writes "drop this axis if its extent is 1" so."""
    then = helper.make_graph([node("Squeeze", "x one", "t")], "then", [], [onnx.ValueInfoProto(name="t")])
    other = helper.make_graph([node("Identity", "x", "e")], "else", [], [onnx.ValueInfoProto(name="e")])
    proto = model(
        [
            node("Shape", "x", "s", start=1, end=2),
            node("Equal", "s one", "flags"),
            node("Squeeze", "flags", "flag"),
            node("If", "flag", "r", then_branch=then, else_branch=other),
            node("Relu", "r", "y"),
        ],
        {"x": (F, [3, "n"])},
        ["y"],
        {"one": np.array([1])},
    )
    runnable = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    x = floats(3, 1)
    np.testing.assert_array_equal(runnable.run({"x": x})["y"], np.maximum(x[:, 0], 0))
    with pytest.raises(maas_rt.Error):
        runnable.run({"x": floats(3, 2)})


def test_the_assumed_branch_inside_of_another_branch() -> None:
    """The voice detectors' form: an If on the data around the If on an extent, which is assumed, and checked, where it runs."""
    drop = helper.make_graph([node("Squeeze", "r one", "t")], "drop", [], [onnx.ValueInfoProto(name="t")])
    keep = helper.make_graph([node("Identity", "r", "e")], "keep", [], [onnx.ValueInfoProto(name="e")])
    then = helper.make_graph(
        [
            node("Relu", "x", "r"),
            node("Shape", "r", "s"),
            node("Gather", "s one", "n"),
            node("Equal", "n one", "flags"),
            node("If", "flags", "dropped", then_branch=drop, else_branch=keep),
        ],
        "then",
        [],
        [onnx.ValueInfoProto(name="dropped")],
    )
    other = helper.make_graph(
        [node("ReduceSum", "x one", "sums", keepdims=0)], "else", [], [onnx.ValueInfoProto(name="sums")]
    )
    proto = model(
        [node("If", "flag", "y", then_branch=then, else_branch=other)],
        {"flag": (BOOL, []), "x": (F, [3, "n"])},
        ["y"],
        {"one": np.array([1])},
    )
    runnable = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    x, wide = floats(3, 1), floats(3, 2)
    yes, no = np.array(True), np.array(False)
    np.testing.assert_array_equal(runnable.run({"flag": yes, "x": x})["y"], np.maximum(x[:, 0], 0))
    np.testing.assert_allclose(runnable.run({"flag": no, "x": wide})["y"], wide.sum(1), rtol=1e-6)
    with pytest.raises(maas_rt.Error):
        runnable.run({"flag": yes, "x": wide})


def test_branches_with_one_element_follow_the_declared_rank() -> None:
    """Paddle's exporter takes a list of one number for a number."""
    info = helper.make_tensor_value_info
    constants = [numpy_helper.from_array(np.array(2, np.float32), "two")]
    then = helper.make_graph([node("Identity", "two", "t")], "then", [], [info("t", F, [])], constants)
    other = helper.make_graph([node("Identity", "x", "e")], "else", [], [info("e", F, [])])
    branches = {"then_branch": then, "else_branch": other}
    proto = model([node("If", "flag", "y", **branches)], {"flag": (BOOL, []), "x": (F, [1])}, ["y"])
    runnable = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    for flag, want in ((True, 2.0), (False, 5.0)):
        got = runnable.run({"flag": np.array(flag), "x": np.float32([5])})["y"]
        assert got.shape == ()
        assert float(got) == want
    other.output[0].CopyFrom(info("e", F, [1]))
    proto = model([node("If", "flag", "y", **branches)], {"flag": (BOOL, []), "x": (F, [1])}, ["y"])
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="ranks 0 and 1"):
        import_onnx(proto)


def test_squeeze_without_axes_keeps_what_is_dynamic() -> None:
    proto = model([node("Squeeze", "x", "y")], {"x": (F, [1, "n", 1, 3])}, ["y"])
    check(proto, {"x": floats(1, 2, 1, 3)}, compiled=True)
    runnable = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    with pytest.raises(maas_rt.InvalidArgumentError, match="compiled to assume, 'Squeeze 'Squeeze_y' keeps axis 1'"):
        runnable.run({"x": floats(1, 1, 1, 3)})  # the rank would be another


def test_a_state_says_what_the_batch_is() -> None:
    weights = recurrent("GRU", 3, 4, 5, 1)
    proto = model(
        [node("GRU", "x w r b none h", "y", hidden_size=4), node("Squeeze", "y", "flat")],
        {"x": (F, [7, "batch", 5]), "h": (F, [1, 1, 4])},
        ["flat"],
        {name: weights[name] for name in ("w", "r", "b")},
    )
    proto.graph.node[0].input[4] = ""
    imported = check(proto, {"x": floats(7, 1, 5), "h": floats(1, 1, 4)}, compiled=True)
    assert imported.symbols == {}


def test_sizes_that_the_data_decides() -> None:
    proto = model(
        [node("NonZero", "x", "where"), node("Transpose", "where", "y", perm=[1, 0])], {"x": (F, [3, 4])}, ["y"]
    )
    x = floats(3, 4)
    x[x < 0] = 0
    check(proto, {"x": x})
    check(proto, {"x": np.ones((3, 4), np.float32)})


# ---- operators that go to kernels, against ONNX Runtime


def recurrent(op: str, gates: int, hidden: int, features: int, directions: int) -> dict[str, np.ndarray]:
    return {
        "w": floats(directions, gates * hidden, features) * 0.3,
        "r": floats(directions, gates * hidden, hidden) * 0.3,
        "b": floats(directions, 2 * gates * hidden) * 0.3,
        "lengths": np.array([5, 3], np.int32),
    }


@pytest.mark.parametrize("op, gates, outputs", [("LSTM", 4, "y h c"), ("GRU", 3, "y h"), ("RNN", 1, "y h")])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_layers_with_lengths(op: str, gates: int, outputs: str, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    weights = recurrent(op, gates, 8, 6, directions)
    attributes: dict[str, Any] = {"linear_before_reset": 1} if op == "GRU" else {}
    layer = node(op, "x w r b lengths", outputs, hidden_size=8, direction=direction, **attributes)
    proto = model([layer], {"x": (F, [5, 2, 6])}, outputs.split(), weights)
    check(proto, {"x": floats(5, 2, 6)}, compiled=True)


def test_reset_before_the_matrix_and_peepholes() -> None:
    weights = recurrent("GRU", 3, 4, 3, 1)
    del weights["lengths"]
    check(
        model([node("GRU", "x w r b", "y h", hidden_size=4)], {"x": (F, [3, 2, 3])}, ["y", "h"], weights),
        {"x": floats(3, 2, 3)},
        compiled=True,
    )
    weights = {**recurrent("LSTM", 4, 4, 3, 1), "p": floats(1, 12)}
    proto = model(
        [helper.make_node("LSTM", ["x", "w", "r", "b", "", "", "", "p"], ["y"], hidden_size=4, clip=1.5)],
        {"x": (F, [3, 2, 3])},
        ["y"],
        {k: v for k, v in weights.items() if k != "lengths"},
    )
    check(proto, {"x": floats(3, 2, 3)})


@pytest.mark.parametrize(
    "attributes", [{}, {"group": 2}, {"strides": [2, 1], "pads": [1, 0, 2, 1]}, {"auto_pad": "SAME_UPPER"}]
)
def test_convolution(attributes: dict[str, Any]) -> None:
    weight = floats(6, 4 // attributes.get("group", 1), 3, 2)
    proto = model(
        [node("Conv", "x w b", "y", **attributes)], {"x": (F, ["n", 4, 9, 8])}, ["y"], {"w": weight, "b": floats(6)}
    )
    check(proto, {"x": floats(2, 4, 9, 8)})


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "asymmetric"])
def test_resize_of_dynamic_images(mode: str, coordinates: str) -> None:
    resize = helper.make_node(
        "Resize", ["x", "", "scales"], ["y"], mode=mode, coordinate_transformation_mode=coordinates
    )
    proto = model([resize], {"x": (F, [1, 2, "h", "w"])}, ["y"], {"scales": np.array([1, 1, 2, 1.5], np.float32)})
    check(proto, {"x": floats(1, 2, 6, 8)})


def test_einsum_and_attention_pieces() -> None:
    proto = model(
        [
            node("Einsum", "q k", "s", equation="bhqd,bhkd->bhqk"),
            node("Softmax", "s", "p"),
            node("Einsum", "p k", "y", equation="bhqk,bhkd->bqhd"),
        ],
        {"q": (F, ["b", 2, "s", 4]), "k": (F, ["b", 2, "s", 4])},
        ["y"],
    )
    check(proto, {"q": floats(2, 2, 5, 4), "k": floats(2, 2, 5, 4)})


# ---- functions, order, verification


def test_local_functions_with_attributes_are_inlined() -> None:
    body = [
        helper.make_node("Constant", [], ["k"]),
        helper.make_node("Mul", ["a", "k"], ["b"]),
    ]
    reference = onnx.AttributeProto(name="value_float", type=onnx.AttributeProto.FLOAT, ref_attr_name="factor")
    body[0].attribute.append(reference)
    function = helper.make_function(
        "local", "Scale", ["a"], ["b"], body, [helper.make_opsetid("", 18)], attributes=["factor"]
    )
    call = helper.make_node("Scale", ["x"], ["y"], domain="local", factor=2.5)
    check(model([call], {"x": (F, [3])}, ["y"], functions=[function]), {"x": floats(3)})


def test_a_tensor_that_a_call_gives_to_a_function() -> None:
    """By reference, given by the call or by the function's default."""
    names = {"given": [2.0, 3.0], "left": [5.0, 7.0]}
    body = [node("Constant", "", name) for name in names] + [node("Mul", "a given", "c"), node("Add", "c left", "b")]
    for each, name in zip(body, names):
        each.attribute.append(onnx.AttributeProto(name="value", type=onnx.AttributeProto.TENSOR, ref_attr_name=name))
    tensors = {name: helper.make_tensor("", F, [2], values) for name, values in names.items()}
    function = helper.make_function(
        "local", "Line", ["a"], ["b"], body, [helper.make_opsetid("", 18)], attributes=["given"],
        attribute_protos=[helper.make_attribute("left", tensors["left"])],
    )  # fmt: skip
    call = helper.make_node("Line", ["x"], ["y"], domain="local", given=tensors["given"])
    check(model([call], {"x": (F, [2])}, ["y"], functions=[function]), {"x": floats(2)})


def test_nodes_in_any_order() -> None:
    proto = model([node("Relu", "a", "y"), node("Neg", "x", "a")], {"x": (F, [3])}, ["y"])
    x = floats(3)
    agree(run_imported(import_onnx(proto), {"x": x}), {"y": np.maximum(-x, 0)})


def test_masks_are_drawn_of_zeros_and_ones() -> None:
    """As BERT's exporters write them; what is subtracted from other numbers, or no integer, is any."""
    proto = model(
        [
            node("Unsqueeze", "mask axes", "row"), node("Cast", "row", "ones", to=TensorProto.FLOAT), node("Sub", "one ones", "zeros"),
            node("Mul", "zeros large", "bias"), node("Cast", "other", "numbers", to=TensorProto.FLOAT), node("Sub", "two numbers", "left"),
            node("Sub", "one x", "rest"), node("Add", "bias left", "sum"), node("Add", "sum rest", "y"),
        ],
        {"mask": (I64, [2, 3]), "other": (I64, [2, 1, 3]), "x": (F, [2, 1, 3])},
        ["y"],
        {"axes": np.array([1], np.int64), "one": np.array(1, np.float32), "two": np.array(2, np.float32), "large": np.array(-1e4, np.float32)},
    )  # fmt: skip
    assert import_model(proto).source.input_ranges() == {"mask": (0, 1)}


def test_the_source_verifies_and_bisects() -> None:
    proto = model(
        [node("Gather", "table ids", "e"), node("Relu", "e", "r"), node("Neg", "r", "y")],
        {"ids": (I64, ["n"])},
        ["y"],
        {"table": floats(11, 3)},
    )
    imported = import_model(proto)
    assert isinstance(imported.source, Source)
    assert imported.source.input_ranges() == {"ids": (0, 10)}
    assert imported.source.operators() == 3
    inputs = {"ids": np.array([0, 10, 3])}
    cut, name = imported.source.prefix(2)
    assert "Relu" in name
    agree(run_imported(cut, inputs), cut.source.run(inputs))
    agree(run_imported(imported, inputs), imported.source.run(inputs))
    assert imported.provenance["framework"] == "onnx"


def test_all_unsupported_operators_are_listed_at_once() -> None:
    proto = model(
        [
            helper.make_node("Riddle", ["x"], ["a"], domain="local"),
            node("Relu", "a", "b"),
            helper.make_node("Mystery", ["b"], ["c"], domain="local"),
            helper.make_node("Mystery", ["c"], ["d"], domain="local"),
            node("ImageDecoder", "d", "y"),
        ],
        {"x": (F, [2, 3])},
        ["y"],
        opset=20,
    )
    with pytest.raises(maas_rt.UnsupportedOperatorError) as error:
        import_onnx(proto)
    found = {o.name: o.uses for o in error.value.operators}
    assert found == {"local::Riddle": 1, "local::Mystery": 2, "ImageDecoder": 1}
    assert "\n" not in str(error.value)


def test_the_list_of_operators() -> None:
    listed = supported()
    assert len(listed) > 150
    assert 13 in listed["Softmax"] and 1 in listed["Softmax"]


# ---- broken and hostile models


def relu() -> onnx.ModelProto:
    return model([node("Relu", "x", "y")], {"x": (F, [2])}, ["y"])


def broken(name: str) -> onnx.ModelProto:
    proto = relu()
    graph = proto.graph
    if name == "cycle":
        graph.node[0].input[0] = "b"
        graph.node.extend([node("Neg", "y", "b")])
    elif name == "dangling":
        graph.node[0].input[0] = "nothing"
    elif name == "missing output":
        graph.output[0].name = "nothing"
    elif name == "duplicate value":
        graph.node.extend([node("Neg", "x", "y")])
    elif name == "duplicate initializer":
        graph.initializer.extend([numpy_helper.from_array(floats(1), "w")] * 2)
    elif name == "duplicate input":
        graph.input.extend([graph.input[0]])
    elif name == "lying size":
        graph.initializer.append(TensorProto(name="w", data_type=F, dims=[1000], raw_data=b"\0" * 8))
    elif name == "overflowing size":
        graph.initializer.append(TensorProto(name="w", data_type=F, dims=[2**40, 2**40], raw_data=b""))
    elif name == "negative size":
        graph.initializer.append(TensorProto(name="w", data_type=F, dims=[-1], raw_data=b""))
    elif name == "unknown element type":
        graph.initializer.append(TensorProto(name="w", data_type=99, dims=[1], raw_data=b"\0"))
    elif name == "future operator set":
        proto.opset_import[0].version = 999
    elif name == "no operator set":
        del proto.opset_import[:]
    elif name == "wrong attribute type":
        graph.node[0].op_type = "Softmax"
        graph.node[0].attribute.append(helper.make_attribute("axis", "last"))
    elif name == "attribute twice":
        graph.node[0].op_type = "Softmax"
        graph.node[0].attribute.extend([helper.make_attribute("axis", 0)] * 2)
    elif name == "wrong rank":
        graph.node[0].CopyFrom(node("Conv", "x x", "y"))
    elif name == "axis out of range":
        graph.node[0].CopyFrom(node("Softmax", "x", "y", axis=5))
    elif name == "wrong type":
        graph.node.insert(0, node("Cast", "x", "i", to=I64))
        graph.node[1].CopyFrom(node("Add", "x i", "y"))
    elif name == "shapes that do not fit":
        graph.initializer.append(numpy_helper.from_array(floats(3), "w"))
        graph.node[0].CopyFrom(node("Add", "x w", "y"))
    elif name == "missing attribute":
        graph.node[0].CopyFrom(node("Concat", "x x", "y"))
    elif name == "missing input":
        graph.node[0].CopyFrom(node("MatMul", "x", "y"))
    elif name == "too many outputs":
        graph.node[0].output.append("z")
    elif name == "huge constant from a small one":
        graph.initializer.append(numpy_helper.from_array(np.array([2**40]), "n"))
        graph.node.extend([node("ConstantOfShape", "n", "big")])
        graph.output.extend([onnx.ValueInfoProto(name="big")])
    elif name == "function that calls itself":
        body = [helper.make_node("Again", ["a"], ["b"], domain="local")]
        proto.functions.append(
            helper.make_function("local", "Again", ["a"], ["b"], body, [helper.make_opsetid("local", 1)])
        )
        graph.node[0].CopyFrom(helper.make_node("Again", ["x"], ["y"], domain="local"))
    elif name == "graphs in graphs":
        here = graph.node[0]
        for _ in range(70):
            here.op_type = "If"
            other = here.attribute.add(name="else_branch", type=onnx.AttributeProto.GRAPH).g
            other.output.add(name="x")
            inner = here.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g
            inner.output.add(name="y")
            here = inner.node.add(output=["y"], input=["x"])
        here.op_type = "Relu"
    return proto


# What it allocates is bounded by the sizes that the file states, and a huge output is a question for the run.
NAMES = [
    "cycle", "dangling", "missing output", "duplicate value", "duplicate initializer", "duplicate input", "lying size",
    "overflowing size", "negative size", "unknown element type", "future operator set", "no operator set", "wrong attribute type",
    "attribute twice", "wrong rank", "axis out of range", "wrong type", "shapes that do not fit", "missing attribute", "missing input",
    "too many outputs", "function that calls itself", "graphs in graphs",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_broken_models_get_one_sentence(name: str) -> None:
    with pytest.raises(maas_rt.ImportModelError) as error:
        import_onnx(broken(name))
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_constant_is_not_blown_up_at_import() -> None:
    imported = import_onnx(broken("huge constant from a small one"))
    assert imported.output_names == ["y", "big"]


@pytest.mark.parametrize("raw", [b"", b"\0", b"not a model at all", relu().SerializeToString()[:-7], b"\x0a" * 1000])
def test_files_that_are_no_models(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(raw)
    with pytest.raises(maas_rt.ImportModelError) as error:
        import_onnx(path)
    assert "\n" not in str(error.value)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.onnx"):
        with pytest.raises(maas_rt.ImportModelError):
            import_onnx(path)


# ---- external data


def external(folder: Path, location: str, *, length: int | None = None, offset: int | None = None) -> Path:
    """A model y = x + w whose w [4] lies in `location`."""
    proto = model([node("Add", "x w", "y")], {"x": (F, [4])}, ["y"])
    tensor = TensorProto(name="w", data_type=F, dims=[4], data_location=TensorProto.EXTERNAL)
    entries = {"location": location, "length": length, "offset": offset}
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=str(value)))
    proto.graph.initializer.append(tensor)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


DATA = np.arange(8, dtype=np.float32)


def test_external_data_is_read_beneath_the_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "w.bin").write_bytes(DATA.tobytes())
    imported = import_onnx(external(tmp_path, "sub/w.bin", length=16, offset=8))
    x = floats(4)
    agree(run_imported(imported, {"x": x}), {"y": x + DATA[2:6]})


def escape(folder: Path, kind: str) -> Path:
    outside = folder / "outside"
    home = folder / "home"
    outside.mkdir()
    home.mkdir()
    (outside / "secret").write_bytes(DATA.tobytes())
    if kind == "absolute":
        return external(home, str(outside / "secret"))
    if kind == "parent":
        return external(home, "../outside/secret")
    if kind == "parent in the middle":
        (home / "a").mkdir()
        return external(home, "a/../../outside/secret")
    if kind == "link":
        (home / "w").symlink_to(outside / "secret")
        return external(home, "w")
    if kind == "link to a folder":
        (home / "d").symlink_to(outside)
        return external(home, "d/secret")
    if kind == "hard link":
        os.link(outside / "secret", home / "w")
        return external(home, "w")
    if kind == "directory":
        (home / "w").mkdir()
        return external(home, "w")
    if kind == "pipe":
        os.mkfifo(home / "w")
        return external(home, "w")
    if kind == "missing":
        return external(home, "w")
    if kind == "no location":
        return external(home, "")
    (home / "w").write_bytes(DATA.tobytes())
    sizes = {"too short": {"offset": 24}, "lying length": {"length": 32}, "negative offset": {"offset": -4}}
    return external(home, "w", **sizes[kind])


@pytest.mark.parametrize(
    "kind",
    [
        "absolute", "parent", "parent in the middle", "link", "link to a folder", "hard link", "directory", "pipe", "missing",
        "no location", "too short", "lying length", "negative offset",
    ],
)  # fmt: skip
def test_external_data_that_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(maas_rt.ImportModelError) as error:
        import_onnx(escape(tmp_path, kind))
    assert "'w'" in str(error.value) and "\n" not in str(error.value)


def test_a_proto_in_memory_cannot_name_files(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(DATA.tobytes())
    proto = onnx.load(str(external(tmp_path, "w", length=16)), load_external_data=False)
    with pytest.raises(maas_rt.ImportModelError, match="load the model from its path"):
        import_onnx(proto)


def test_strings_stay_where_they_are_known() -> None:
    proto = model(
        [node("Equal", "a b", "same"), node("Where", "same x x2", "y")],
        {"x": (F, [2]), "x2": (F, [2])},
        ["y"],
        {"a": np.array(["u", "v"], dtype=object), "b": np.array(["u", "w"], dtype=object)},
        opset=19,
    )
    x, x2 = floats(2), floats(2)
    agree(run_imported(import_onnx(proto), {"x": x, "x2": x2}), {"y": np.array([x[0], x2[1]])})


@pytest.mark.parametrize(("data", "indices", "axis"), [((1, 100), (1, 40), 1), ((70, 5, 3), (6, 4, 3), 0)])
def test_elements_gathered_from_long_constants(data: tuple[int, ...], indices: tuple[int, ...], axis: int) -> None:
    """onnx's reference, which folds constants, takes 32 of them at most (Electra's positions are 512)."""
    drawn = np.random.default_rng(0).integers(-data[axis], data[axis], indices)
    constants = {"d": np.arange(math.prod(data), dtype=np.float32).reshape(data), "i": drawn}
    nodes = [node("GatherElements", "d i", "g", axis=axis), node("Add", "x g", "y")]
    check(model(nodes, {"x": (F, list(indices))}, ["y"], constants), {"x": floats(*indices)})


def test_indices_that_do_not_fit_their_constant_are_refused() -> None:
    constants = {"d": np.ones((3, 4), np.float32), "i": np.zeros((3, 5), np.int64)}
    proto = model([node("GatherElements", "d i", "g"), node("Add", "x g", "y")], {"x": (F, [3, 5])}, ["y"], constants)
    with pytest.raises(maas_rt.ImportModelError, match=r"\[3, 5\] into \[3, 4\]"):
        import_onnx(proto)


def test_activations_between_convolutions_keep_the_layout() -> None:
    """Those that an epilogue knows become one; any other function of single elements runs on what lies channels-last."""
    names = ["HardSwish", "HardSigmoid", "Elu", "Softplus", "ThresholdedRelu", "Mish"]
    nodes, last = [], "x"
    for i, name in enumerate(names):
        nodes += [node("Conv", f"{last} w", f"c{i}", pads=[1, 1, 1, 1]), node(name, f"c{i}", f"a{i}")]
        last = f"a{i}"
    proto = model(
        [*nodes, node("Conv", f"{last} w", "y", pads=[1, 1, 1, 1])],
        {"x": (TensorProto.FLOAT, [1, 4, "h", 6])},
        ["y"],
        {"w": floats(4, 4, 3, 3) * np.float32(0.2)},
        opset=22,
    )
    artifact = compile_model(proto)
    steps = artifact.linear.plan.blocks[0].steps
    assert [step.target for step in steps].count("transpose") == 2
    acts = [attr.text for step in steps for attr in step.attrs if attr.key == "act"]
    assert acts[:2] == ["hardswish", "clip"]  # its line is folded into the filters


@pytest.mark.parametrize(("shape", "axes"), [([3, 1], [1]), ([2, 3, 4, 5], None), ([3, 8], [-1])])
def test_numbers_that_do_not_differ_have_no_negative_variance(shape: list[int], axes: list[int] | None) -> None:
    """The mean of squares less the square of the mean is, by its rounding, and its root NaN."""
    attributes = {} if axes is None else {"axes": axes}
    proto = model([node("MeanVarianceNormalization", "x", "y", **attributes)], {"x": (F, shape)}, ["y"])
    loaded = maas_rt.load(compile_model(proto))
    for value in (0.1, 1e4, -3.3):
        np.testing.assert_array_equal(loaded.run({"x": np.full(shape, value, np.float32)})["y"], np.zeros(shape))
    if shape != [3, 1]:
        check(proto, {"x": floats(*shape)}, compiled=True)


@pytest.mark.parametrize("opset", [14, 27])  # ONNX Runtime is asked about the one, ONNX's reference about the other
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_sequences_of_their_own_lengths(op: str, gates: int, layout: int, opset: int) -> None:
    """One without a step ends with 0."""
    if op == "LSTM" and opset == 14:
        layout = 0  # ONNX Runtime has no other
    shapes = {"x": (3, 4, 5), "w": (1, 3 * gates, 5), "r": (1, 3 * gates, 3), "b": (1, 6 * gates), "h": (1, 4, 3)}
    given = {name: floats(*shape) for name, shape in shapes.items()}
    if layout:
        given["x"], given["h"] = given["x"].transpose(1, 0, 2), given["h"].transpose(1, 0, 2)
    given = {name: np.ascontiguousarray(array) for name, array in given.items()}
    lengths = np.array([0, 1, 2, 3], np.int32)
    attributes: dict[str, Any] = {"hidden_size": 3} | ({"layout": 1} if layout else {})
    proto = model(
        [node(op, "x w r b n h", "y last", **attributes)],
        {"n": (TensorProto.INT32, [4]), **{name: (F, list(array.shape)) for name, array in given.items()}},
        ["y", "last"],
        opset=opset,
    )
    results = maas_rt.load(compile_model(proto, {"n": lengths, **given})).run({"n": lengths, **given})
    states = results["last"].reshape(4, 3)
    assert not states[0].any() and (states[1:] != 0).all()
