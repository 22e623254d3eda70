"""Sequences and optionals at a model's boundary, transforms whose axis a run gives, and n-grams, through the ONNX importer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import CompileError
from maas_rt.compiler import compile as compile_model
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import maas_rt
from tests.compiler.test_import_onnx import floats, model, node

F, I64 = TensorProto.FLOAT, TensorProto.INT64


def with_sequence(nodes: list[Any], outputs: list[str]) -> onnx.ModelProto:
    """A model whose input "s" is a sequence of float tensors and whose input "o" is an optional of one."""
    proto = model(nodes, {}, outputs)
    tensor = helper.make_tensor_type_proto(F, None)
    proto.graph.input.append(helper.make_value_info("s", helper.make_sequence_type_proto(tensor)))
    proto.graph.input.append(helper.make_value_info("o", helper.make_optional_type_proto(tensor)))
    return proto


def test_a_sequence_is_as_many_inputs_as_it_has_elements() -> None:
    proto = with_sequence(
        [
            node("ConcatFromSequence", "s", "y", axis=0),
            node("OptionalHasElement", "o", "has"),
            node("Identity", "s", "t"),
        ],
        ["y", "has", "t"],
    )
    artifact = compile_model(proto, input_shapes={"s": [(2, 3), (1, 3)], "o": None})  # verified against the reference
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    assert [i.name for i in program.inputs] == ["s.0", "s.1"]
    a, b = floats(2, 3), floats(1, 3)
    got = program.run({"s.0": a, "s.1": b})
    np.testing.assert_array_equal(got["y"], np.concatenate([a, b]))
    np.testing.assert_array_equal(got["t.1"], b)
    assert not got["has"]


def test_an_optional_that_is_given_is_an_input() -> None:
    proto = with_sequence([node("OptionalGetElement", "o", "y")], ["y"])
    program = maas_rt.load(compile_model(proto, input_shapes={"s": [], "o": (4,)}, verify=False).to_bytes(), threads=1)
    np.testing.assert_array_equal(program.run({"o": np.arange(4, dtype=np.float32)})["y"], np.arange(4))


def test_without_its_structure_a_sequence_is_refused_by_name() -> None:
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="sequence_type .unless input_shapes"):
        compile_model(with_sequence([node("SequenceLength", "s", "y")], ["y"]), verify=False)


@pytest.mark.parametrize("shapes", [{"s": [3], "o": None}, {"s": [(1,), (2,)], "o": [(1,)]}, {"s": None, "o": None}])
def test_structures_that_do_not_fit(shapes: dict[str, Any]) -> None:
    proto = with_sequence([node("SequenceLength", "s", "y")], ["y"])
    with pytest.raises(maas_rt.InvalidArgumentError, match="list of shapes"):
        compile_model(proto, input_shapes=shapes, verify=False)


def test_a_body_for_each_item_sees_what_is_outside() -> None:
    """SequenceMap: names from outside, also such as the specification's own body of it has; and attributes' graphs with several inputs."""
    tensor = helper.make_tensor_type_proto(F, None)
    info = [helper.make_value_info(name, tensor) for name in ("item", "other", "made", "twice")]
    body = helper.make_graph(
        [node("Mul", "item seqlen", "made"), node("Sub", "other item", "twice")], "body", info[:2], info[2:]
    )
    nodes = [
        node("SplitToSequence", "x", "s", axis=0), node("SequenceMap", "s other", "t u", body=body),
        node("ConcatFromSequence", "t", "y", axis=0), node("ConcatFromSequence", "u", "z", axis=0),
    ]  # fmt: skip
    proto = model(nodes, {"x": (F, [3, 2]), "other": (F, [2]), "seqlen": (F, [2])}, ["y", "z"])
    x, other, factor = floats(3, 2), floats(2), floats(2)
    program = maas_rt.load(compile_model(onnx.shape_inference.infer_shapes(proto)).to_bytes(), threads=1)
    got = program.run({"x": x, "other": other, "seqlen": factor})
    np.testing.assert_array_equal(got["y"], x * factor)
    np.testing.assert_array_equal(got["z"], other - x)


def test_an_item_at_a_position_that_the_run_gives() -> None:
    nodes = [node("SplitToSequence", "x", "s", axis=0, keepdims=0), node("SequenceAt", "s k", "y")]
    proto = model(nodes, {"x": (F, [3, "n"]), "k": (I64, [])}, ["y"])
    program = maas_rt.load(compile_model(proto).to_bytes(), threads=1)
    x = floats(3, 4)
    for k in (0, 2, -3):
        np.testing.assert_array_equal(program.run({"x": x, "k": np.array(k)})["y"], x[k])
    with pytest.raises(maas_rt.Error, match="out of range"):
        program.run({"x": x, "k": np.array(3)})
    nodes = [node("SequenceConstruct", "x v", "s"), node("SequenceAt", "s k", "y")]
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="items whose shapes differ"):
        compile_model(model(nodes, {"x": (F, [3]), "v": (F, [4]), "k": (I64, [])}, ["y"]), verify=False)


def test_windows_are_computed_in_float64() -> None:
    """The specification's bodies of them compute in float32. Of a size known here, and of one that a run gives."""
    for op, want in (("HannWindow", np.hanning), ("HammingWindow", np.hamming), ("BlackmanWindow", np.blackman)):
        windows = [node(op, "n", f"w{p}", periodic=p, output_datatype=TensorProto.DOUBLE) for p in (0, 1)]
        for constants in ({"n": np.array(9)}, {}):
            kinds = {} if constants else {"n": (I64, [])}
            program = maas_rt.load(compile_model(model(windows, kinds, ["w0", "w1"], constants)).to_bytes(), threads=1)
            got = program.run({} if constants else {"n": np.array(9)})
            weights = {"HammingWindow": (25 / 46, 21 / 46)}.get(op)
            if weights:
                angle = 2 * np.pi * np.arange(9)
                expected = [weights[0] - weights[1] * np.cos(angle / period) for period in (8, 9)]
            else:
                expected = [want(9), want(10)[:9]]
            np.testing.assert_allclose(got["w0"], expected[0], rtol=0, atol=1e-15)
            np.testing.assert_allclose(got["w1"], expected[1], rtol=0, atol=1e-15)


def test_weights_of_the_mel_scale() -> None:
    sizes = {"b": np.array(20), "l": np.array(64), "r": np.array(16000), "a": np.float32(20), "z": np.float32(7600)}
    proto = model([node("MelWeightMatrix", "b l r a z", "y"), node("MatMul", "x y", "m")], {"x": (F, ["n", 33])}, ["m"], sizes)  # fmt: skip
    x = floats(4, 33)
    got = maas_rt.load(compile_model(proto).to_bytes(), threads=1).run({"x": x})["m"]
    np.testing.assert_allclose(got, ReferenceEvaluator(proto).run(None, {"x": x})[0], atol=1e-5)
    with pytest.raises(maas_rt.ImportModelError, match="half of the rate"):
        compile_model(model([node("MelWeightMatrix", "b l r a z", "y")], {}, ["y"], {**sizes, "z": np.float32(30000)}))


def test_the_first_resize_rounds_by_the_scale() -> None:
    """Version 10 has no nearest_mode: as ONNX Runtime has it, what makes smaller rounds up. Known scales, and those of a run."""
    scales, x = np.float32([1, 1, 2, 0.6]), floats(1, 2, 3, 5)
    for constants in ({"s": scales}, {}):
        kinds = {"x": (F, [1, 2, 3, 5])} | ({} if constants else {"s": (F, [4])})
        proto = model([node("Resize", "x s", "y")], kinds, ["y"], constants, opset=10)
        program = maas_rt.load(compile_model(onnx.shape_inference.infer_shapes(proto)).to_bytes(), threads=1)
        got = program.run({"x": x} | ({} if constants else {"s": scales}))["y"]
        np.testing.assert_array_equal(got, x[:, :, [0, 0, 1, 1, 2, 2]][..., [0, 2, 4]])


def test_the_first_topk_has_its_number_as_an_attribute() -> None:
    proto = model([node("TopK", "x", "y i", k=2, axis=1)], {"x": (F, ["n", 5])}, ["y", "i"], opset=9)
    x = floats(3, 5)
    got = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1).run({"x": x})
    np.testing.assert_array_equal(got["i"], np.argsort(-x, 1)[:, :2])
    np.testing.assert_array_equal(got["y"], -np.sort(-x, 1)[:, :2])


def test_thresholds_of_a_suppression_may_come_at_run_time() -> None:
    """Verification draws an overlap from 0 to 1; a run refuses any other."""
    kinds = {"b": (F, [1, 6, 4]), "s": (F, [1, 2, 6]), "n": (I64, []), "iou": (F, []), "least": (F, [])}
    program = maas_rt.load(compile_model(model([node("NonMaxSuppression", "b s n iou least", "y")], kinds, ["y"])).to_bytes(), threads=1)  # fmt: skip
    corners = np.sort(np.abs(floats(1, 6, 2, 2)), 2).reshape(1, 6, 4)
    given = {"b": corners, "s": floats(1, 2, 6), "n": np.array(3), "iou": np.float32(1), "least": np.float32(-9)}
    best = [[0, c, k] for c in (0, 1) for k in np.argsort(-given["s"][0, c], kind="stable")[:3]]
    assert program.run(given)["y"].tolist() == best
    for wrong in (-0.5, 1.5, np.nan):
        with pytest.raises(maas_rt.Error, match="iou_threshold that is not from 0 to 1"):
            program.run({**given, "iou": np.float32(wrong)})


@pytest.mark.parametrize("attributes", [{}, {"onesided": 1}, {"inverse": 1}])
@pytest.mark.parametrize("axis", [0, 1, -2])
def test_the_axis_of_a_transform_may_come_at_run_time(attributes: dict[str, int], axis: int) -> None:
    proto = model(
        [helper.make_node("DFT", ["x", "", "axis"], ["y"], **attributes)],
        {"x": (F, ["n", 6, "m", 2]), "axis": (I64, [])},
        ["y"],
        opset=20,
    )
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    x = (
        floats(5, 6, 4, 2)
        if not attributes.get("onesided")
        else np.stack([floats(5, 6, 4), np.zeros((5, 6, 4), np.float32)], -1)
    )
    z = x[..., 0] + 1j * x[..., 1]
    want = np.fft.ifft(z, axis=axis % 4) if attributes.get("inverse") else np.fft.fft(z, axis=axis % 4)
    if attributes.get("onesided"):
        want = np.fft.rfft(x[..., 0], axis=axis % 4)
    got = program.run({"x": x, "axis": np.array(axis)})["y"]
    np.testing.assert_allclose(got, np.stack([want.real, want.imag], -1), atol=1e-4)


def test_an_axis_that_does_not_exist_is_refused_by_the_run() -> None:
    proto = model(
        [helper.make_node("DFT", ["x", "", "axis"], ["y"])], {"x": (F, [2, 4, 2]), "axis": (I64, [])}, ["y"], opset=20
    )
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    with pytest.raises(maas_rt.Error):
        program.run({"x": floats(2, 4, 2), "axis": np.array(2)})


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 2])
def test_n_grams(mode: str, skips: int) -> None:
    proto = model(
        [
            node(
                "TfIdfVectorizer", "x", "y", mode=mode, max_skip_count=skips, min_gram_length=1, max_gram_length=3,
                ngram_counts=[0, 2, 6], ngram_indexes=[0, 1, 2, 3, 4], weights=[1.0, 0.5, 2.0, 3.0, 0.25],
                pool_int64s=[1, 2, 1, 2, 2, 1, 1, 2, 1],
            )
        ],
        {"x": (I64, ["n", "c"])},
        ["y"],
    )  # fmt: skip
    x = np.random.default_rng(3).integers(0, 4, (4, 9))
    got = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1).run({"x": x})["y"]
    np.testing.assert_array_equal(got, ReferenceEvaluator(proto).run(None, {"x": x})[0])


def test_weights_of_n_grams_are_in_the_order_of_the_pool() -> None:
    """As the specification has it, and ONNX Runtime; the reference takes them by column. scikit-learn's bigrams are written so."""
    grams = node(
        "TfIdfVectorizer", "x", "y", mode="TFIDF", max_skip_count=0, min_gram_length=1, max_gram_length=2,
        ngram_counts=[0, 2], ngram_indexes=[2, 0, 1], weights=[10.0, 20.0, 30.0], pool_int64s=[5, 6, 5, 6],
    )  # fmt: skip
    proto = model([grams], {"x": (I64, ["c"])}, ["y"])
    got = maas_rt.load(compile_model(proto).to_bytes(), threads=1).run({"x": np.array([5, 5, 6])})["y"]
    assert got.tolist() == [20, 30, 20]


@pytest.mark.parametrize("lengths", [(-1, 2), (0, 1), (2, 1), (1, 3)])
def test_lengths_of_n_grams_that_there_are_not(lengths: tuple[int, int]) -> None:
    grams = node(
        "TfIdfVectorizer", "x", "y", mode="TF", max_skip_count=5, min_gram_length=lengths[0], max_gram_length=lengths[1],
        ngram_counts=[0, 2], ngram_indexes=[0, 1, 2], pool_int64s=[5, 6, 5, 6],
    )  # fmt: skip
    with pytest.raises(
        CompileError, match=rf"n-grams of 2 lengths and counts those of length {lengths[0]} to {lengths[1]}"
    ):
        compile_model(model([grams], {"x": (I64, [12])}, ["y"]))


def test_steps_of_an_optimiser_for_two_tensors() -> None:
    domain = "ai.onnx.preview.training"
    adam = node("Adam", "r t a b ga gb va vb ha hb", "a1 b1 va1 vb1 ha1 hb1", epsilon=1e-3, norm_coefficient=0.1)
    adam.domain = domain
    kinds = {name: (F, [2, "n"]) for name in "a ga va ha".split()} | {name: (F, [3]) for name in "b gb vb hb".split()}
    proto = model([adam], {"r": (F, []), "t": (I64, []), **kinds}, list(adam.output))
    proto.opset_import.append(helper.make_opsetid(domain, 1))
    inputs = {name: np.abs(floats(*([2, 4] if "n" in dims else [3]))) for name, (_, dims) in kinds.items()}
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    for step in (0, 3):
        given = {"r": np.array(0.1, np.float32), "t": np.array(step), **inputs}
        want = ReferenceEvaluator(proto).run(None, given)
        for name, value in zip(adam.output, want, strict=True):
            np.testing.assert_allclose(program.run(given)[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["Adagrad", "Adam", "Momentum"])
@pytest.mark.parametrize("state", [[3], [1, 3], ["m"]])
def test_a_state_of_an_optimiser_is_not_broadcast(kind: str, state: list[Any]) -> None:
    """A state that would broadcast with its tensor is refused, and one of a free extent gets that of its tensor."""
    states = ["v", "h"] if kind == "Adam" else ["h"]
    step = node(kind, " ".join(["r", "t", "x", "g", *states]), " ".join(["y", *(f"{s}_new" for s in states)]))
    step.domain = "ai.onnx.preview.training"
    if kind == "Momentum":
        step.attribute.extend(helper.make_attribute(n, 0.5) for n in ("alpha", "beta", "norm_coefficient"))
        step.attribute.append(helper.make_attribute("mode", "standard"))
    kinds: dict[str, Any] = {
        "r": (F, []),
        "t": (I64, []),
        **{name: (F, [1]) for name in ("x", "g", *states)},
        "h": (F, state),
    }
    proto = model([step], kinds, list(step.output))
    proto.opset_import.append(helper.make_opsetid(step.domain, 1))
    if state != ["m"]:
        with pytest.raises(CompileError, match=f"{kind}.*({'rank 2' if len(state) == 2 else 'extents 1 and 3'})"):
            compile_model(proto)
        return
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    assert program.inputs[-1].shape == (1,)


def test_the_oracle_of_integer_products_does_not_saturate() -> None:
    """uint8 times int8 near their ends: pairs of products leave 16 bits, which ONNX Runtime clips on some CPUs unless it is told."""
    weight = np.full((16, 4), 127, np.int8)
    nodes = [
        node("DynamicQuantizeLinear", "x", "q s z"), node("MatMulInteger", "q w z wz", "i"), node("Cast", "i", "f", to=F),
        node("Mul", "f s", "y"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (F, ["n", 16])}, ["y"], {"w": weight, "wz": np.array(0, np.int8)})
    assert compile_model(onnx.shape_inference.infer_shapes(proto)).to_bytes()


def test_a_window_beyond_all_channels() -> None:
    """LRN: as wide as an attribute can say, over known channels; wider than is written out, over an open number of them."""
    x = floats(2, 5, 3, 1)
    for dims, size in (([2, 5, 3, 1], 2**31 - 1), ([2, "c", 3, 1], 101), ([2, "c", 3, 1], 3)):
        proto = model([node("LRN", "x", "y", size=size, alpha=0.5, beta=0.5)], {"x": (F, dims)}, ["y"])
        got = maas_rt.load(compile_model(proto).to_bytes(), threads=1).run({"x": x})["y"]
        squares = np.pad(x * x, ((0, 0), (1, 1), (0, 0), (0, 0)))
        total = squares[:, :-2] + squares[:, 1:-1] + squares[:, 2:] if size == 3 else (x * x).sum(1, keepdims=True)
        np.testing.assert_allclose(got, x / np.sqrt(1 + 0.5 / size * total), rtol=1e-5)


def test_the_oracle_saturates_what_int32_does_not_hold() -> None:
    """A scale of 0, or a very small one, gives the end of the range; operator set 28 is one that ONNX Runtime does not take."""
    scales = np.float32([[0, 1e-38], [1, 1e-12], [2, 3]])
    for kind, low, high in ((TensorProto.UINT8, 0, 255), (TensorProto.INT16, -32768, 32767), (TensorProto.INT4, -8, 7)):
        nodes = [
            node("QuantizeLinear", "x s", "q", axis=1, block_size=2, output_dtype=kind),
            node("Cast", "q", "y", to=F),
        ]
        proto = model(nodes, {"x": (F, [3, 4])}, ["y"], {"s": scales}, opset=28)
        proto.ir_version = 13
        got = maas_rt.load(compile_model(proto).to_bytes(), threads=1).run({"x": np.float32([[1, -1, 1, -1]] * 3)})["y"]
        assert got[0].tolist() == [high, low, high, low] and got[1].tolist() == [1, max(low, -1), high, low]


def test_the_oracle_opens_what_is_optional() -> None:
    """ONNX's reference makes lists of what Optional holds: of a tensor, and of a sequence."""
    x = helper.make_tensor_type_proto(F, [2])
    nodes = [
        node("SequenceConstruct", "x", "s"), node("Optional", "s", "o"), node("OptionalGetElement", "o", "t"),
        node("Optional", "x", "p"), node("OptionalGetElement", "p", "y"), node("Swish", "y", "z"),
    ]  # fmt: skip
    proto = model(nodes, {"x": (F, [2])}, ["z"], opset=24)
    proto.ir_version = 13
    proto.graph.output.append(
        helper.make_value_info("o", helper.make_optional_type_proto(helper.make_sequence_type_proto(x)))
    )
    got = maas_rt.load(compile_model(proto).to_bytes(), threads=1).run({"x": np.float32([1, 2])})
    assert got["o.0"].tolist() == [1, 2] and got["z"].shape == (2,)


def test_a_mask_of_one_column() -> None:
    """Of every key in operator set 23, where ONNX's reference fills it up; in 24 it stands for the first key alone."""
    shapes = {"q": [1, 2, 3, 4], "k": [1, 2, 5, 4], "m": [3, 1]}
    x = {name: floats(*shape) for name, shape in shapes.items()}
    for opset in (23, 24):
        proto = model([node("Attention", "q k k m", "y")], {n: (F, s) for n, s in shapes.items()}, ["y"], opset=opset)
        proto.ir_version = 11
        got = maas_rt.load(compile_model(proto).to_bytes(), threads=1).run(x)["y"]
        scores = x["q"] @ x["k"].swapaxes(-1, -2) / 2
        weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True) if opset == 23 else np.eye(5)[:1].repeat(3, 0)
        np.testing.assert_allclose(got, (weights @ x["k"]).astype(np.float32), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Flatten", "c", "f", axis=-4)], "axis -4"),
        ([node("Flatten", "c", "f", axis=4)], "axis 4"),
        ([node("Reshape", "c minus2", "f")], "impossible shape"),
        ([node("Reshape", "c zeros", "f")], "copies dimension 3"),
        ([node("Shape", "x", "s"), node("Reshape", "s pairs", "p"), node("Transpose", "p", "f", perm=[-1, 0])], "perm"),
        ([node("Shape", "x", "s"), node("Split", "s twos", "f g")], "extents 3 and 2|extents 2 and 3"),
        ([node("Shape", "x", "s"), node("Split", "s minus", "f g")], "part of size -1"),
        ([node("Shape", "x", "s"), node("Split", "s threes", "f g")], "2 outputs for 3 parts"),
        ([node("Shape", "x", "s"), node("ReduceProd", "s three", "f")], "axis 3"),
    ],
)  # fmt: skip
def test_shapes_and_orders_of_what_import_computes_are_checked(nodes: list[Any], words: str) -> None:
    """Of constants and of extents as of any tensor: numpy would take some of these."""
    constants = {
        "c": np.zeros((3, 4, 5), np.float32), "minus2": np.array([-2]), "zeros": np.array([3, 4, 5, 0]), "pairs": np.array([1, 3]),
        "twos": np.array([1, 1]), "minus": np.array([4, -1]), "threes": np.array([1, 1, 1]), "three": np.array([3]),
    }  # fmt: skip
    last = node("Cast", "f", "y", to=F)
    with pytest.raises(CompileError, match=words):
        compile_model(model([*nodes, last], {"x": (F, ["a", "b", 5])}, ["y"], constants))


def test_extents_that_are_reduced_over_no_axes_stay() -> None:
    nodes = [node("Shape", "x", "s"), node("ReduceProd", "s", "y", noop_with_empty_axes=1)]
    program = maas_rt.load(compile_model(model(nodes, {"x": (F, ["a", "b", 5])}, ["y"])).to_bytes(), threads=1)
    assert program.run({"x": floats(2, 3, 5)})["y"].tolist() == [2, 3, 5]


@pytest.mark.parametrize("dtype", [F, I64, TensorProto.BOOL])
@pytest.mark.parametrize("op", ["If", "Loop", "body"])
@pytest.mark.parametrize("const", [False, True])
def test_conditions_are_one_bool(dtype: int, op: str, const: bool) -> None:
    """Of another type, or several, one is refused: what is not 0 is no truth in ONNX."""
    dims = [2] if dtype == TensorProto.BOOL else []
    value = np.ones(dims, helper.tensor_dtype_to_np_dtype(dtype))
    given: dict[str, Any] = {"n": (I64, []), "x": (F, [3])} | ({} if const else {"c": (dtype, dims)})
    branch = helper.make_graph([node("Neg", "x", "b")], "branch", [], [helper.make_tensor_value_info("b", F, [3])])
    if op == "If":
        nodes = [node("If", "c", "y", then_branch=branch, else_branch=branch)]
    else:
        outer = "c" if op == "Loop" else ""
        infos = [
            helper.make_tensor_value_info(k, *t)
            for k, t in {"i": (I64, []), "k": (TensorProto.BOOL, []), "v": (F, [3])}.items()
        ]
        results = [
            helper.make_tensor_value_info(
                "c" if op == "body" else "k", dtype if op == "body" else TensorProto.BOOL, None
            )
        ]
        results.append(helper.make_tensor_value_info("w", F, [3]))
        nodes = [node("Loop", "n c x", "y", body=helper.make_graph([node("Neg", "v", "w")], "body", infos, results))]
        nodes[0].input[1] = outer
    proto = model(nodes, given, ["y"], {"c": value} if const else {})
    with pytest.raises(CompileError, match="expected one bool|expected bool"):
        compile_model(proto, verify=False)


def test_the_precision_of_a_quotient_is_a_float() -> None:
    quotient = node("QuantizeLinear", "x s z", "y", precision=int(TensorProto.UINT16))
    constants = {"s": np.array(0.5, np.float32), "z": np.array(0, np.int16)}
    proto = model([quotient], {"x": (F, [2])}, ["y"], constants, opset=25)
    with pytest.raises(CompileError, match="precision uint16, expected a floating-point type"):
        compile_model(proto)


def test_attributes_of_what_has_no_element_are_checked() -> None:
    for keepdims, words in ((11, "attribute 'keepdims' is 11, expected 0 or 1"), (1, "")):
        reduced = node("ReduceSum", "x axes", "y", keepdims=keepdims)
        proto = model([reduced], {"x": (F, [2, 0, 4])}, ["y"], {"axes": np.array([0])})
        if words:
            with pytest.raises(CompileError, match=words):
                compile_model(proto)
        else:
            assert maas_rt.load(compile_model(proto).to_bytes(), threads=1).outputs[0].shape == (1, 0, 4)


@pytest.mark.parametrize("dims", [[2, 3, 7], [1, 2, 5, 6], [1, 2, 4, 5, 3]])
@pytest.mark.parametrize("storage_order", [0, 1])
def test_of_equal_maxima_the_first_row_counts(dims: list[int], storage_order: int) -> None:
    """In either order of storage, as the reference and ONNX Runtime have it; column-major positions: the first spatial axis is the quickest."""
    x = np.random.default_rng(4).integers(0, 3, dims).astype(np.float32)
    kernel = [2] * (len(dims) - 2)
    pool = node("MaxPool", "x", "y z", kernel_shape=kernel, strides=kernel, storage_order=storage_order)
    got = maas_rt.load(
        compile_model(model([pool], {"x": (F, dims)}, ["y", "z"]), verify=False).to_bytes(), threads=1
    ).run({"x": x})
    for at in np.ndindex(*got["z"].shape):
        window = tuple(slice(2 * i, 2 * i + 2) for i in at[2:])
        inner = np.unravel_index(int(x[at[:2]][window].argmax()), x[at[:2]][window].shape)
        place = [2 * i + k for i, k in zip(at[2:], inner)]
        flat = np.ravel_multi_index(place, dims[2:], order="F" if storage_order else "C")
        assert got["z"][at] == (at[0] * dims[1] + at[1]) * np.prod(dims[2:]) + flat


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("clip", [-1e30, -1.0, float("nan")])
def test_a_limit_of_recurrent_layers_is_a_number_from_0_on(kind: str, clip: float) -> None:
    rows = {"LSTM": 12, "GRU": 9, "RNN": 3}[kind]
    proto = model(
        [node(kind, "x w r", "y", clip=clip)],
        {"x": (F, [1, 5, 2]), "w": (F, [1, rows, 2]), "r": (F, [1, rows, 3])},
        ["y"],
    )
    with pytest.raises(CompileError, match=rf"{kind}.*clip = (-1|nan).*expected a number of at least 0"):
        compile_model(proto)


@pytest.mark.parametrize(
    ("kind", "factors"),
    [("Adam", {"alpha": 0.5, "beta": -1e30}), ("Adam", {"alpha": -1e30}), ("Adagrad", {"decay_factor": 1e30})],
)
def test_powers_of_an_optimisers_step_may_leave_float32(kind: str, factors: dict[str, float]) -> None:
    """1 - beta^3 is 1e90, its root 1e45; r times that over 1e30 is a number of float32 again."""
    states = ["v", "h"] if kind == "Adam" else ["h"]
    names = ["x", *(f"{s}_new" for s in states)]
    step = node(kind, " ".join(["r", "t", "a", "g", *states]), " ".join(names), **factors)
    step.domain = "ai.onnx.preview.training"
    proto = model([step], {"r": (F, []), "t": (I64, []), **{n: (F, [2]) for n in ("a", "g", *states)}}, names)
    proto.opset_import.append(helper.make_opsetid(step.domain, 1))
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    given = {"r": np.float32(0.5), "t": np.int64(3), "g": np.float32([1.5, 2])}
    given |= {n: np.float32([1.25, 0.5]) for n in ("a", *states)}
    want = ReferenceEvaluator(proto).run(None, given)
    assert np.isfinite(want[0]).all()
    for name, value in zip(names, want, strict=True):
        np.testing.assert_allclose(program.run(given)[name], value, rtol=1e-5)


@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("kind", [np.float32, np.float16])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_weights_that_are_no_numbers_reach_as_far_as_their_taps(rank: int, kind: type, number: float) -> None:
    """Of a transposed convolution, which has zeros between the inputs and around them: they are not multiplied."""
    for attributes in ({"strides": [2] * rank}, {"dilations": [6] * rank}, {"group": 2, "pads": [1] * 2 * rank}):
        weight = np.random.default_rng(3).integers(1, 4, [2, 2 // attributes.get("group", 1), *[2] * rank]).astype(kind)
        weight.flat[1] = number
        wanted = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        proto = model(
            [node("ConvTranspose", "x w", "y", **attributes)],
            {"x": (wanted, [1, 2, *[3] * rank])},
            ["y"],
            {"w": weight},
        )
        x = np.ones([1, 2, *[3] * rank], kind)
        got = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1).run({"x": x})["y"]
        (want,) = ReferenceEvaluator(proto).run(None, {"x": x})
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize("factor", [np.inf, -np.inf, np.nan, 1e30])
@pytest.mark.parametrize(
    ("form", "constant"),
    [(form, constant) for form in ("alpha", "after", "before") for constant in (True, False)] + [("convolution", True)],
)
def test_a_factor_that_is_no_number_is_multiplied_last(form: str, constant: bool, factor: float) -> None:
    """A product takes finite factors in: 0 times infinity is none, and the product's kernel takes no other numbers."""
    a, b = floats(3, 5), np.array(np.random.default_rng(5).integers(0, 3, (5, 4)), np.float32)
    nodes = {
        "alpha": [node("Gemm", "a b", "y", alpha=factor)],
        "after": [node("MatMul", "a b", "m"), node("Mul", "m c", "y")],
        "before": [node("Relu", "a", "r"), node("Mul", "r c", "s"), node("MatMul", "s b", "y")],
        "convolution": [node("Conv", "a4 w", "m"), node("Mul", "m c", "y")],
    }[form]
    kinds = {"a": (F, [3, 5])} if form != "convolution" else {"a4": (F, [1, 5, 3, 1])}
    feeds = {"a": a} if form != "convolution" else {"a4": np.ascontiguousarray(a.T[None, :, :, None])}
    constants = {"c": np.float32(factor), "b": b, "w": np.ascontiguousarray(b.T[:, :, None, None])}
    if not constant:
        del constants["b"]
        kinds["b"], feeds["b"] = (F, [5, 4]), b
    proto = model(nodes, kinds, ["y"], constants)
    got = maas_rt.load(compile_model(proto).to_bytes(), threads=1).run(feeds)["y"]
    with np.errstate(invalid="ignore"):
        (want,) = ReferenceEvaluator(proto).run(None, feeds)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_a_window_that_holds_a_nan_gives_it_wherever_it_stands() -> None:
    """As in torch; in onnx.reference it hung on the order of comparisons."""
    x = np.arange(25, dtype=np.float32).reshape(1, 1, 5, 5)
    x[0, 0, 2, 2] = np.nan
    pooled = [node("MaxPool", "x", "y at", kernel_shape=[3, 3], strides=[1, 1])]
    got = maas_rt.load(compile_model(model(pooled, {}, ["y", "at"], {"x": x}))).run({})
    assert np.isnan(got["y"]).all() and (got["at"] == 12).all()
    padded = [node("MaxPool", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    y = maas_rt.load(compile_model(model(padded, {}, ["y"], {"x": x}))).run({})["y"][0, 0]
    assert np.isnan(y[1:4, 1:4]).all() and not np.isnan(y[0]).any() and not np.isnan(y[:, 4]).any()
