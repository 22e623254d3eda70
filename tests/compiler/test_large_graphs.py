"""Graphs of many operators, inputs, outputs, branches and of odd names: the right numbers, from code of bounded size, in time that is linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from maas_rt.compiler import compile
from maas_rt.compiler.codegen import _build
from maas_rt.compiler.importers import import_model
from maas_rt.compiler.passes import FOLDING
from maas_rt.compiler.passes.canonicalise import canonicalise
from maas_rt.compiler.passes.legalize import fuse
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

import maas_rt

X = np.random.default_rng(0).uniform(0.5, 1.5, (2, 4)).astype("float32")


def info(name: str, shape: Sequence[int] = (2, 4), dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def model(nodes: Any, inputs: Any, outputs: Any, constants: dict[str, Any]) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def chain(count: int, operators: Sequence[str] = ("Add", "Mul")) -> onnx.ModelProto:
    """One operator behind the other, each with a weight of its own."""
    names = ["x", *(f"v{k}" for k in range(1, count)), "y"]
    nodes = [helper.make_node(operators[k % len(operators)], [names[k], f"w{k}"], [names[k + 1]]) for k in range(count)]
    rng = np.random.default_rng(1)
    weights = {f"w{k}": rng.uniform(0.9, 1.1, 4).astype("float32") for k in range(count)}
    return model(nodes, [info("x")], [info("y")], weights)


def run(source: onnx.ModelProto, **inputs: Any) -> dict[str, Any]:
    artifact = compile(source)
    assert artifact.manifest["verified"]["status"] == "passed"
    result: dict[str, Any] = maas_rt.load(artifact.to_bytes()).run({"x": X, **inputs})
    return result


def test_a_function_takes_a_bounded_number_of_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM's time grows with the square of a function's parameters."""
    seen: list[int] = []
    together = fuse.__globals__["sizes_together"]

    def counted(mod: tvm.IRModule) -> tvm.IRModule:
        functions = [f for g, f in mod.functions_items() if isinstance(f, relax.Function) and g.name_hint != "main"]
        seen.extend(sum(len(block.bindings) for block in f.body.blocks) for f in functions)
        return together(mod)

    monkeypatch.setitem(fuse.__globals__, "sizes_together", counted)
    source = chain(100)
    want = X
    for k in range(100):
        weight = numpy_helper.to_array(source.graph.initializer[k])
        want = want * weight if k % 2 else want + weight
    np.testing.assert_allclose(run(source)["y"], want, rtol=1e-5)
    assert sorted(seen) == [4, 32]  # equal ones stand for each other


def test_functions_in_several_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLVM takes some at a time, so that Ctrl-C waits for no more than these."""
    built: list[int] = []
    lower = _build._to_llvm

    def counted(functions: Any, target: Any) -> Any:
        built.append(len(functions))
        return lower(functions, target)

    monkeypatch.setattr(_build, "_to_llvm", counted)
    monkeypatch.setattr(_build, "_FUNCTIONS_AT_A_TIME", 2)
    names = ["Tanh", "Sin", "Exp"]
    source = model([helper.make_node(name, ["x"], [name]) for name in names], [info("x")], [info(n) for n in names], {})
    found = run(source)
    assert built == [2, 1]
    for name, function in zip(names, (np.tanh, np.sin, np.exp), strict=True):
        np.testing.assert_allclose(found[name], function(X), rtol=1e-6)


def test_passes_leave_alone_what_is_not_theirs() -> None:
    settled = canonicalise(import_model(chain(3), None).mod)
    for name, stage in FOLDING:
        if name.startswith("canonicalise"):  # begins with TVM's Normalize, which makes every function anew
            continue
        assert stage(settled)["main"].same_as(settled["main"]), name


def test_a_deep_graph() -> None:
    count = 600
    operators = ["Tanh", "Neg", "Abs", "Sigmoid"]
    nodes = [helper.make_node(operators[k % 4], [f"v{k}" if k else "x"], [f"v{k + 1}"]) for k in range(count)]
    want = X.astype("float64")
    for k in range(count):
        want = (np.tanh(want), -want, np.abs(want), 1 / (1 + np.exp(-want)))[k % 4]
    np.testing.assert_allclose(run(model(nodes, [info("x")], [info(f"v{count}")], {}))[f"v{count}"], want, rtol=1e-5)


def test_results_that_are_read_twice_each_time() -> None:
    """2 to the power of 60 paths lead from the input to the output."""
    nodes = []
    for k in range(60):
        nodes += [
            helper.make_node("Add", [f"v{k}" if k else "x"] * 2, [f"s{k}"]),
            helper.make_node("Mul", [f"s{k}", "half"], [f"v{k + 1}"]),
        ]
    source = model(nodes, [info("x")], [info("v60")], {"half": np.float32(0.5)})
    np.testing.assert_array_equal(run(source)["v60"], X)


def test_very_many_inputs_and_outputs() -> None:
    count = 300
    inputs = [info("x"), *(info(f"x{k}") for k in range(count))]
    nodes = [helper.make_node("Sum", [i.name for i in inputs], ["s"])]
    nodes += [helper.make_node("Add", ["x", f"c{k}"], [f"y{k}"]) for k in range(count)]
    nodes += [helper.make_node("Identity", ["s"], [f"s{k}"]) for k in range(count)]  # the same tensor
    outputs = [info(f"{letter}{k}") for letter in "ys" for k in range(count)]
    constants = {f"c{k}": np.float32([k]) for k in range(count)}
    found = run(
        model(nodes, inputs, outputs, constants), **{f"x{k}": np.full((2, 4), k, "float32") for k in range(count)}
    )
    for k in (0, 1, count - 1):
        np.testing.assert_array_equal(found[f"y{k}"], X + np.float32(k))
        np.testing.assert_allclose(found[f"s{k}"], X + count * (count - 1) / 2, rtol=1e-6)


def test_wide_concatenation_and_split() -> None:
    count = 60
    wide = np.arange(2 * count * 2, dtype="float32").reshape(2, 2 * count) / 100
    nodes = [helper.make_node("Split", ["w"], [f"s{k}" for k in range(count)], axis=1, num_outputs=count)]
    nodes += [
        helper.make_node("Concat", [f"s{k}" for k in reversed(range(count))], ["c"], axis=1),
        helper.make_node("Add", ["c", "one"], ["y"]),
        helper.make_node("Neg", ["x"], ["z"]),
    ]
    source = model(
        nodes, [info("x"), info("w", wide.shape)], [info("y", wide.shape), info("z")], {"one": np.float32(1)}
    )
    want = wide.reshape(2, count, 2)[:, ::-1].reshape(wide.shape) + 1
    np.testing.assert_array_equal(run(source, w=wide)["y"], want)


def test_branches_within_branches() -> None:
    depth = 30

    def branch(k: int) -> onnx.GraphProto:
        if k == 0:
            return helper.make_graph([helper.make_node("Add", ["x", "c"], ["r0"])], "b0", [], [info("r0")])
        other = helper.make_node("Mul", ["x", f"d{k}"], [f"e{k}"])
        otherwise = helper.make_graph([other], f"e{k}", [], [info(f"e{k}")])
        node = helper.make_node("If", [f"p{k}"], [f"r{k}"], then_branch=branch(k - 1), else_branch=otherwise)
        return helper.make_graph([node], f"b{k}", [], [info(f"r{k}")])

    whole = branch(depth)
    flags = [f"p{k}" for k in range(1, depth + 1)]
    inputs = [info("x"), *(info(name, (), TensorProto.BOOL) for name in flags)]
    constants = {"c": np.float32(2), **{f"d{k}": np.float32(k) for k in range(1, depth + 1)}}
    artifact = compile(model(whole.node, inputs, [info(f"r{depth}")], constants))
    program = maas_rt.load(artifact.to_bytes())
    for k in (0, 1, 17, depth):  # the first flag that is off, from the outside
        given = {name: np.array(int(name[1:]) != k) for name in flags}
        want = X * np.float32(k) if k else X + 2
        np.testing.assert_array_equal(program.run({"x": X, **given})[f"r{depth}"], want)


def test_loops_within_loops() -> None:
    def body(k: int) -> onnx.GraphProto:
        inner = (
            helper.make_node("Loop", ["times", "true", f"{k}.v"], [f"{k}.o"], body=body(k - 1))
            if k
            else helper.make_node("Add", ["0.v", "one"], ["0.o"])
        )
        nodes = [inner, helper.make_node("Identity", [f"{k}.c"], [f"{k}.go"])]
        inputs = [info(f"{k}.n", (), TensorProto.INT64), info(f"{k}.c", (), TensorProto.BOOL), info(f"{k}.v")]
        return helper.make_graph(nodes, f"b{k}", inputs, [info(f"{k}.go", (), TensorProto.BOOL), info(f"{k}.o")])

    node = helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body(3))
    inputs = [info("x"), info("times", (), TensorProto.INT64)]
    source = model([node], inputs, [info("y")], {"one": np.float32(1), "true": np.array(True)})
    np.testing.assert_allclose(run(source, times=np.int64(3))["y"], X + 81, rtol=1e-6)


def test_a_scan_of_many_states() -> None:
    count = 40
    states = [f"s{k}" for k in range(count)]
    nodes = [helper.make_node("Add", [name, "e"], [f"{name}.next"]) for name in states]
    nodes.append(helper.make_node("Mul", ["s0.next", "e"], ["out"]))
    inputs = [*(info(name, (4,)) for name in states), info("e", (4,))]
    body = helper.make_graph(nodes, "b", inputs, [*(info(f"{name}.next", (4,)) for name in states), info("out", (4,))])
    results = [*(f"{name}.last" for name in states), "outs"]
    node = helper.make_node("Scan", [*(f"{n}.first" for n in states), "x"], results, body=body, num_scan_inputs=1)
    given = [*(info(f"{name}.first", (4,)) for name in states), info("x")]
    outputs = [*(info(f"{name}.last", (4,)) for name in states), info("outs")]
    first = {f"s{k}.first": np.full(4, k, "float32") for k in range(count)}
    found = run(model([node], given, outputs, {}), **first)
    for k in (0, count - 1):
        np.testing.assert_allclose(found[f"s{k}.last"], X.sum(0) + k, rtol=1e-6)
    np.testing.assert_allclose(found["outs"], np.cumsum(X, 0) * X, rtol=1e-6)


def test_names_of_every_kind() -> None:
    """Those that another language keeps for itself, that become equal where only letters and digits are kept, and very long ones."""
    names = ["main", "a.b", "a/b", "a b", "a_b", "9", "名前", "ünï:0", "for", "R", 'q"\\', "line\nbreak", "n" * 1000]
    nodes = [helper.make_node("Add", [name, "c"], [f"o.{name}"], name=name) for name in names]
    nodes += [helper.make_node("Mul", [f"o.{name}", "c"], [f"o {name}"], name=name) for name in names]
    constants = {"c": np.float32(2)}
    inputs = [info(name) for name in ["x", *names]]
    outputs = [info(f"o {name}") for name in names]
    found = run(
        model(
            [*nodes, helper.make_node("Neg", ["x"], ["main.0"], name="main")],
            inputs,
            [*outputs, info("main.0")],
            constants,
        ),
        **{name: np.full((2, 4), k, "float32") for k, name in enumerate(names)},
    )
    for k, name in enumerate(names):
        np.testing.assert_array_equal(found[f"o {name}"], np.full((2, 4), 2 * (k + 2), "float32"))
