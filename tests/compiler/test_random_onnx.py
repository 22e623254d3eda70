"""ONNX's random operators: each one's numbers by its definition on the oracle's noise, in loops, branches and functions too, and their
distributions; every model here is verified against ONNX Runtime on the same noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile
from maas_rt.compiler.ir._philox import combined
from onnx import TensorProto, helper, numpy_helper

import maas_rt
from tests.compiler._distributions import Array, follows, occur, phi, unrelated
from tests.kernels import _philox

SEED = 0xFEDCBA9876543210
F, F64, F16, I64, I32, B = (
    TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL,
)  # fmt: skip


def info(name: str, shape: Any, kind: int = F) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, [] if not inputs else inputs.split(" "), outputs.split(" "), **attributes)


def number(name: str, value: Any) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value)))


def model(nodes: list[Any], inputs: list[Any], outputs: list[Any], opset: int = 17, **more: Any) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    sets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=sets, ir_version=8, **more)


def run(proto: onnx.ModelProto, seed: int = SEED, **inputs: Array) -> dict[str, Array]:
    """The compiled model's outputs; it is verified."""
    artifact = compile(proto, example_inputs=inputs)
    verified = artifact.manifest["verified"]
    assert verified["status"] == "passed" and verified["noise"] == "shared, seed 0" and verified["reference"] == "onnx"
    result: dict[str, Array] = maas_rt.load(artifact).run(inputs, seed=seed)
    return result


def z(k: int, *shape: int, seed: int = SEED, draw: int = 0) -> Array:
    return _philox.normal_f32(math.prod(shape), seed, k, draw).reshape(shape)


def u(k: int, *shape: int, seed: int = SEED, draw: int = 0) -> Array:
    return _philox.uniform_f32(math.prod(shape), seed, k, draw).reshape(shape)


def u64(k: int, *shape: int) -> Array:
    return _philox.uniform_f64(math.prod(shape), SEED, k).reshape(shape)


def near(a: Array, b: Array, bound: float = 1e-5) -> None:
    np.testing.assert_allclose(a, b, rtol=bound, atol=bound)


X = np.linspace(-2, 2, 128 * 256, dtype=np.float32).reshape(128, 256)


def test_each_operator_and_type() -> None:
    rng = np.random.default_rng(0)
    chances = rng.random((128, 256))
    logits = np.log(np.array([[1, 2, 3, 4], [4, 0, 0, 1]], np.float32) + 1e-30)
    proto = model(
        [
            node("RandomNormal", "", "normal", shape=[300], mean=1.0, scale=2.0),
            node("RandomUniform", "", "uniform", shape=[300], low=-1.0, high=3.0, dtype=F64),
            node("RandomNormalLike", "x", "normal_like", scale=0.5),
            node("RandomUniformLike", "x", "uniform_like", dtype=F16),
            node("RandomNormalLike", "chances", "normal_double"),
            node("Bernoulli", "chances", "coins", dtype=I32),
            node("Multinomial", "logits", "chosen", sample_size=20_000),
            node("Dropout", "x ratio training", "dropped mask"),
            node("RandomNormal", "", "own", shape=[300], seed=3.5),
            node("RandomNormal", "", "same", shape=[200], seed=3.5),
        ],
        [info("x", ["n", 256]), info("chances", ["n", 256], F64), info("logits", ["rows", "classes"]), info("ratio", []), info("training", [], B)],
        [
            info("normal", [300]), info("uniform", [300], F64), info("normal_like", ["n", 256]), info("uniform_like", ["n", 256], F16),
            info("normal_double", ["n", 256], F64), info("coins", ["n", 256], I32), info("chosen", ["rows", 20_000], I32),
            info("dropped", ["n", 256]), info("mask", ["n", 256], B), info("own", [300]), info("same", [200]),
        ],
    )  # fmt: skip
    inputs = {"x": X, "chances": chances, "logits": logits, "ratio": np.float32(0.25), "training": np.array(True)}
    out = run(proto, **inputs)
    near(out["normal"], 1 + 2 * z(1, 300))
    near(out["uniform"], -1 + 4 * u64(2, 300))
    near(out["normal_like"], 0.5 * z(3, *X.shape))
    assert (out["uniform_like"] == np.floor(u(4, *X.shape) * 2048) / 2048).all() and out["uniform_like"].max() < 1
    near(out["normal_double"], _philox.normal_f64(X.size, SEED, 5).reshape(X.shape), 1e-12)
    assert (out["coins"] == (u64(6, *X.shape) < chances)).all()
    mask = u(8, *X.shape) >= 0.25
    assert (out["mask"] == mask).all()
    near(out["dropped"], X * mask / 0.75)
    key = int(np.float32(3.5).view(np.uint32))
    near(out["own"], z(0, 300, seed=key))
    assert (out["own"][:200] == out["same"]).all()  # equal seeds, equal numbers

    assert follows(out["normal_like"] / 0.5, phi) and follows(out["normal_double"], phi)
    assert occur(out["chosen"][0], [0.1, 0.2, 0.3, 0.4]) and occur(out["chosen"][1], [0.8, 0, 0, 0.2])
    assert unrelated(out["normal_like"], out["normal_double"])

    loaded = maas_rt.load(compile(proto, verify=False))
    idle = loaded.run({**inputs, "training": np.array(False)}, seed=1)
    assert (idle["dropped"] == X).all() and idle["mask"].all()
    other = loaded.run(inputs, seed=1)
    assert (other["own"] == out["own"]).all() and (other["normal"] != out["normal"]).any()


def _loop_body(nodes: list[Any], carried: list[Any], results: list[Any]) -> onnx.GraphProto:
    goes_on = node("Identity", "go", "goes_on")
    inputs, outputs = [info("i", [], I64), info("go", [], B), *carried], [info("goes_on", [], B), *results]
    return helper.make_graph([goes_on, *nodes], "body", inputs, outputs)


@pytest.mark.parametrize("trips", [3, 70])  # more than the reference's first table holds
def test_each_iteration_of_a_loop_draws_other_numbers(trips: int) -> None:
    body = _loop_body(
        [node("RandomNormalLike", "x", "r"), node("Add", "s r", "t")],
        [info("s", ["n", 3])],
        [info("t", ["n", 3]), info("r", ["n", 3])],
    )
    nodes = [number("true", True), node("Loop", "m true x", "y rows", body=body)]
    proto = model(nodes, [info("x", ["n", 3]), info("m", [], I64)], [info("y", ["n", 3]), info("rows", [None, "n", 3])])
    x = np.ones((2, 3), np.float32)
    out = run(proto, x=x, m=np.array(trips))
    rows = np.stack([z(1, 2, 3, draw=i) for i in range(trips)])
    near(out["rows"], rows)
    near(out["y"], x + rows.sum(0), 1e-4)


def test_loops_in_each_other_unrolled_and_not() -> None:
    inner = helper.make_graph(
        [node("RandomUniform", "", "r", shape=[2]), node("Add", "t r", "t2"), node("Identity", "gi", "gi2")],
        "inner",
        [info("j", [], I64), info("gi", [], B), info("t", [2])],
        [info("gi2", [], B), info("t2", [2])],
    )
    body = _loop_body(
        [node("Loop", "m true s", "s2", body=inner), node("Identity", "s2", "row")],
        [info("s", [2])],
        [info("s2", [2]), info("row", [2])],
    )
    x = np.zeros(2, np.float32)
    steps = [[u(1, 2, draw=combined([i, j])) for j in range(3)] for i in range(2)]
    rows = np.cumsum([sum(inner) for inner in steps], axis=0)
    for fixed in (True, False):
        nodes = [number("true", True), *([number("m", 3), number("l", 2)] if fixed else []), node("Loop", "l true x", "y rows", body=body)]  # fmt: skip
        counts = {} if fixed else {"m": np.array(3), "l": np.array(2)}
        inputs = [info("x", [2]), *[info(name, [], I64) for name in counts]]
        out = run(model(nodes, inputs, [info("y", [2]), info("rows", [None, 2])]), x=x, **counts)
        near(out["rows"], rows)


def test_draws_of_nested_loops_do_not_meet() -> None:
    met = {combined([i, j]) for i in range(700) for j in range(700)}
    assert len(met) == 700 * 700
    assert combined([]) == 0 and combined([5]) == 5


def test_scans_branches_and_functions() -> None:
    row = helper.make_graph(
        [node("RandomUniformLike", "e", "r"), node("Add", "s r", "s2")],
        "row",
        [info("s", [3]), info("e", [3])],
        [info("s2", [3]), info("r", [3])],
    )
    yes = helper.make_graph([node("RandomNormalLike", "x", "a")], "yes", [], [info("a", ["n", 3])])
    no = helper.make_graph([node("RandomUniformLike", "x", "b")], "no", [], [info("b", ["n", 3])])
    noisy = helper.make_function(
        "local", "Noisy", ["v"], ["w"],
        [node("RandomNormalLike", "v", "r", scale=0.5), node("Add", "v r", "w")], [helper.make_opsetid("", 17)],
    )  # fmt: skip
    proto = model(
        [
            node("Scan", "x0 x", "last rows", body=row, num_scan_inputs=1),
            node("If", "p", "branch", then_branch=yes, else_branch=no),
            node("Noisy", "x", "once", domain="local"),
            node("Noisy", "once", "twice", domain="local"),
        ],
        [info("x0", [3]), info("x", ["n", 3]), info("p", [], B)],
        [info("rows", ["n", 3]), info("branch", ["n", 3]), info("once", ["n", 3]), info("twice", ["n", 3])],
        functions=[noisy],
    )
    x = np.ones((4, 3), np.float32)
    for p in (True, False):
        out = run(proto, x0=x[0], x=x, p=np.array(p))
        near(out["rows"], np.stack([u(1, 3, draw=i) for i in range(4)]))
        near(out["branch"], z(3, 4, 3) if p else u(2, 4, 3))  # attributes stand in the order of their names
        near(out["once"], 1 + 0.5 * z(4, 4, 3))
        near(out["twice"], out["once"] + 0.5 * z(5, 4, 3))


def test_a_voice_whose_length_noise_decides() -> None:
    """A sampler of durations, then noise of the length that they sum up to, more than the reference's first table holds."""
    proto = model(
        [
            node("RandomNormalLike", "x", "r", scale=0.8),
            node("Add", "x r", "log"), node("Exp", "log", "e"), node("Ceil", "e", "durations"),
            number("axes", [0]), node("ReduceSum", "durations axes", "sum", keepdims=1),
            node("Cast", "sum", "length", to=I64), number("width", [96]), node("Concat", "length width", "shape", axis=0),
            node("ConstantOfShape", "shape", "mean"),
            node("RandomNormalLike", "mean", "noise"), node("Add", "mean noise", "y"),
        ],
        [info("x", ["n"])],
        [info("durations", ["n"]), info("y", ["frames", 96])],
    )  # fmt: skip
    x = np.full(256, 1.5, np.float32)
    out = run(proto, x=x)
    durations = np.ceil(np.exp(x + 0.8 * z(1, 256)))
    assert (out["durations"] == durations).all() and out["y"].size > 1 << 16
    near(out["y"], z(2, int(durations.sum()), 96))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("RandomNormal", "", "y", shape=[3], dtype=I32)], "gives random numbers of type int32"),
        ([node("RandomUniform", "", "y", shape=[3], high=math.inf)], "attribute 'high' is inf"),
        ([node("Multinomial", "x", "y")], "has rank 1"),
        ([number("r", np.float32(1)), number("t", True), node("Dropout", "x r t", "y")], "drops a share of 1.0"),
        ([node("Bernoulli", "k", "y")], "of int64, expected"),
    ],
)
def test_what_is_no_random_operator_is_refused(nodes: list[Any], words: str) -> None:
    proto = model(nodes, [info("x", [3]), info("k", [3], I64)], [info("y", None)])
    with pytest.raises(maas_rt.Error, match=words):
        compile(proto)


def _calls(name: str, *inside: str) -> onnx.FunctionProto:
    """A function that draws, and calls others one after the other."""
    nodes = [node("RandomNormalLike", "v", "t0")]
    nodes += [node(called, f"t{i}", f"t{i + 1}", domain="local") for i, called in enumerate(inside)]
    nodes.append(node("Identity", f"t{len(inside)}", "w"))
    return helper.make_function(
        "local", name, ["v"], ["w"], nodes, [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    )


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ([_calls("F", "G"), _calls("G", "F")], "function 'F' calls itself"),
        ([_calls("F", "F1", "F1"), *[_calls(f"F{i}", f"F{i + 1}", f"F{i + 1}") for i in range(1, 30)], _calls("F30")], "more than 262144 nodes"),
        ([_calls("F", "F1"), *[_calls(f"F{i}", f"F{i + 1}") for i in range(1, 99)], _calls("F99")], "deeper than 64"),
    ],
    ids=["itself", "many", "deep"],
)  # fmt: skip
def test_functions_that_cannot_be_written_out(functions: list[Any], words: str) -> None:
    proto = model([node("F", "x", "y", domain="local")], [info("x", [3])], [info("y", [3])], functions=functions)
    with pytest.raises(maas_rt.ImportModelError, match=words):
        compile(proto)


def test_a_function_of_another_operator_set() -> None:
    newer = helper.make_function(
        "local", "F", ["v"], ["w"], [node("RandomNormalLike", "v", "w")], [helper.make_opsetid("", 22)]
    )
    proto = model([node("F", "x", "y", domain="local")], [info("x", [3])], [info("y", [3])], functions=[newer])
    near(run(proto, x=np.zeros(3, np.float32))["y"], z(1, 3))


def test_noise_that_the_reference_cannot_be_given() -> None:
    """Of a shape that the run decides, before ONNX has an operator that cuts by computed bounds."""
    proto = model([node("RandomNormalLike", "x", "y")], [info("x", ["n"])], [info("y", ["n"])], opset=9)
    with pytest.raises(
        maas_rt.CompileError, match="RandomNormalLike 'y' of a shape that a run decides, before operator set 10"
    ):
        compile(proto)
    artifact = compile(proto, verify=False)
    near(maas_rt.load(artifact).run({"x": np.zeros(5, np.float32)}, seed=SEED)["y"], z(1, 5))
    fixed = model([node("RandomNormalLike", "x", "y")], [info("x", [5])], [info("y", [5])], opset=9)
    near(run(fixed, x=np.zeros(5, np.float32))["y"], z(1, 5))
