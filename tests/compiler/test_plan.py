"""The plan read off lowered modules: values, views, states, branches, shapes, constants stored once; and the plans run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tvm
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.importers import ImportedModel, StateSpec, SymbolSpec
from maas_rt.compiler.passes import make_kernel_call
from maas_rt.compiler.plan import build_plan
from maas_rt.compiler.plan._exprs import ExprPool
from tvm import relax, tirx
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

import maas_rt
from maas_rt import CompileError
from maas_rt._plan import ArgKind, ExprOp, StepKind, Storage, decode, encode


class _NoSource:
    """A source that is never run: these models are compiled with verification off."""

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError("not run")

    def interrupt(self) -> None:
        raise AssertionError("not run")

    def with_moved_scales(self, share: float, trial: int = 0) -> None:
        return None

    def input_ranges(self) -> dict[str, tuple[float, float]]:
        return {}

    def operators(self) -> int:
        return 0

    def parts(self) -> int:
        return 0

    def prefix(self, count: int) -> Any:
        raise AssertionError("not cut")


def _model(mod: tvm.IRModule, inputs: list[str], outputs: list[str], **more: Any) -> ImportedModel:
    return ImportedModel(mod, inputs, outputs, _NoSource(), **more)


def _compile(model: ImportedModel) -> Any:
    artifact = compile_imported(model, CompileOptions(verify=None))
    assert encode(decode(encode(artifact.linear.plan))) == encode(artifact.linear.plan)
    return artifact


def _function(build: Any, *params: relax.Var) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    with builder.function("main", list(params)):
        with builder.dataflow():
            results = builder.emit_output(build(builder))
        builder.emit_func_output(results)
    return builder.get()


def _tensor(name: str, shape: Any, dtype: str = "float32") -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, dtype))


# ---- expressions ---------------------------------------------------------------------------------------------------------


def test_expressions_are_folded_and_stored_once() -> None:
    pool = ExprPool()
    n = tirx.Var("n", "int64")
    pool.bind(n, pool.symbol(0))
    assert pool.constant_value(pool.lower(tirx.IntImm("int64", 3) * 4 + 1)) == 13
    assert pool.lower(n * 2 + 1) == pool.lower(1 + 2 * n)
    assert pool.lower(n * 1) == pool.symbol(0)
    count = len(pool.exprs)
    pool.lower(n * 2 + 1)
    assert len(pool.exprs) == count


def test_expressions_hold_their_operands_before_them() -> None:
    pool = ExprPool()
    n = tirx.Var("n", "int64")
    pool.bind(n, pool.symbol(0))
    pool.lower(tirx.max(tirx.floordiv(n + 3, 2), n % 5) - tirx.min(n, 7))
    for index, expr in enumerate(pool.exprs):
        if expr.op not in (ExprOp.CONSTANT, ExprOp.SYMBOL):
            assert expr.a < index
            assert expr.op == ExprOp.LOGICAL_NOT or expr.b < index


def test_an_unbound_dimension_is_named() -> None:
    with pytest.raises(CompileError, match="width"):
        ExprPool().lower(tirx.Var("width", "int64") + 1)


# ---- outputs -------------------------------------------------------------------------------------------------------------


def test_inputs_constants_views_and_repeats_as_outputs() -> None:
    x = _tensor("x", (4, 6))
    constant = relax.const(np.arange(3, dtype="float32"))

    def with_reshape(b: relax.BlockBuilder) -> Any:
        y = b.emit(relax.op.add(x, x))
        z = b.emit(relax.op.reshape(y, (24,)))
        return relax.Tuple([x, constant, y, y, z])

    artifact = _compile(_model(_function(with_reshape, x), ["x"], ["same", "fixed", "y", "again", "flat"]))
    entry = artifact.linear.plan.entries[0]
    assert len(set(entry.outputs)) == 5
    given = np.random.default_rng(0).standard_normal((4, 6)).astype("float32")
    out = maas_rt.load(artifact.to_bytes()).run({"x": given})
    np.testing.assert_array_equal(out["same"], given)
    np.testing.assert_array_equal(out["fixed"], [0, 1, 2])
    np.testing.assert_array_equal(out["y"], given + given)
    np.testing.assert_array_equal(out["again"], given + given)
    np.testing.assert_array_equal(out["flat"], (given + given).ravel())


def test_reshapes_are_views_and_not_steps() -> None:
    n = tirx.Var("n", "int64")
    x = _tensor("x", (n, 6))

    def build(b: relax.BlockBuilder) -> Any:
        y = b.emit(relax.op.exp(x))
        z = b.emit(relax.op.reshape(y, (n * 2, 3)))
        return relax.Tuple([b.emit(relax.op.sum(z, axis=1))])

    model = _model(_function(build, x), ["x"], ["y"], symbols={"n": SymbolSpec(1, 10)})
    artifact = _compile(model)
    plan = artifact.linear.plan
    assert {step.kind for step in plan.blocks[0].steps} <= {StepKind.CODE, StepKind.KERNEL}
    given = np.random.default_rng(0).standard_normal((5, 6)).astype("float32")
    out = maas_rt.load(artifact.to_bytes())(given)
    np.testing.assert_allclose(out, np.exp(given).reshape(-1, 3).sum(1), rtol=1e-5)
    assert [(s.name, s.min, s.max) for s in plan.symbols] == [("n", 1, 10)]


# ---- constants -----------------------------------------------------------------------------------------------------------


def test_equal_constants_are_stored_once_and_packed_once() -> None:
    x = _tensor("x", (2, 64))
    weight = np.random.default_rng(0).standard_normal((64, 64)).astype("float32")

    def build(b: relax.BlockBuilder) -> Any:
        y = x
        for _ in range(3):  # three constants of one content
            call = make_kernel_call(
                "gemm_f32",
                [y, relax.const(weight.copy())],
                relax.TensorType((2, 64), "float32"),
                {"n": 64, "k": 64},
                packing="gemm_f32_nr16_v1",
            )
            y = b.emit(call)
        return relax.Tuple([y])

    model = _model(_function(build, x), ["x"], ["y"])
    linear = build_plan(model, model.mod, {}, "m")
    assert len([v for v in linear.plan.values if v.storage == Storage.CONSTANT]) == 1
    assert linear.weights.size < 2 * weight.nbytes
    steps = linear.plan.blocks[0].steps
    assert [step.packing for step in steps] == ["gemm_f32_nr16_v1"] * 3
    assert len({step.args[1].index for step in steps}) == 1


def test_what_is_large_is_computed_shortly_before_it_is_read() -> None:
    """Products of one memory for each layer, all written down first, as quantizers of ONNX do; `small` is no larger than what it reads."""
    memory, x = _tensor("memory", (tirx.Var("s", "int64"), 64)), _tensor("x", (64, 64))
    rng = np.random.default_rng(0)

    def build(b: relax.BlockBuilder) -> Any:
        def product(a: Any, name: str, rows: Any, wide: int = 64, deep: int = 64) -> Any:
            weight = relax.const(rng.standard_normal((deep, wide)).astype("float32"))
            call = make_kernel_call(
                "gemm_f32", [a, weight], relax.TensorType((rows, wide), "float32"), {"n": wide, "k": deep},
                packing="gemm_f32_nr16_v1", name=name,
            )  # fmt: skip
            return b.emit(call, name)

        rows = memory.ty.shape[0]
        keys = [product(memory, f"k{i}", rows, 512) for i in range(3)]
        small = product(keys[0], "small", rows, 64, 512)
        y = x
        for i, key in enumerate(keys):
            y = product(y, f"layer{i}", 64)
            summed = b.emit(relax.op.sum(key, [0, 1]))
            y = b.emit(relax.op.add(y, summed))
        return relax.Tuple([b.emit(relax.op.add(y, b.emit(relax.op.sum(small, [0, 1]))))])

    model = _model(_function(build, memory, x), ["memory", "x"], ["y"])
    artifact = _compile(model)
    names = [step.name for step in artifact.linear.plan.blocks[0].steps if step.kind == StepKind.KERNEL]
    assert names == ["k0", "small", "layer0", "layer1", "k1", "layer2", "k2"]
    feeds = {"memory": rng.standard_normal((300, 64)), "x": rng.standard_normal((64, 64))}
    feeds = {name: value.astype("float32") for name, value in feeds.items()}
    assert maas_rt.load(artifact.to_bytes()).run(feeds)["y"].shape == (64, 64)


def test_absent_arguments_and_attributes_reach_the_step() -> None:
    x = _tensor("x", (2, 8))
    gamma = relax.const(np.ones(8, "float32"))

    def build(b: relax.BlockBuilder) -> Any:
        call = make_kernel_call(
            "layer_norm_f32", [x, None, gamma], relax.TensorType((2, 8), "float32"), {"epsilon": 1e-5}, name="norm"
        )
        return relax.Tuple([b.emit(call)])

    model = _model(_function(build, x), ["x"], ["y"])
    (step,) = build_plan(model, model.mod, {}, "m").plan.blocks[0].steps
    assert step.name == "norm"
    assert [arg.kind for arg in step.args] == [ArgKind.VALUE, ArgKind.ABSENT, ArgKind.VALUE]
    assert [(attr.key, attr.floats) for attr in step.attrs] == [("epsilon", [1e-5])]


def test_a_weight_that_is_no_constant_is_refused_by_name() -> None:
    x, w = _tensor("x", (2, 64)), _tensor("w", (64, 64))

    def build(b: relax.BlockBuilder) -> Any:
        call = make_kernel_call(
            "gemm_f32", [x, w], relax.TensorType((2, 64), "float32"), {"n": 64, "k": 64}, packing="gemm_f32_nr16_v1"
        )
        return relax.Tuple([b.emit(call)])

    model = _model(_function(build, x, w), ["x", "w"], ["y"])
    with pytest.raises(CompileError, match="gemm_f32.*not a constant"):
        build_plan(model, model.mod, {}, "m")


def test_an_unknown_binding_is_refused_by_name() -> None:
    x = _tensor("x", (2, 3))

    def build(b: relax.BlockBuilder) -> Any:
        return relax.Tuple([b.emit(relax.op.nn.relu(x))])

    model = _model(_function(build, x), ["x"], ["y"])
    with pytest.raises(CompileError, match=r"relax\.nn\.relu") as caught:
        build_plan(model, model.mod, {}, "m")
    assert "\n" not in str(caught.value)


# ---- symbols -------------------------------------------------------------------------------------------------------------


def test_numbers_follow_tensors_in_a_code_step() -> None:
    n = tirx.Var("n", "int64")
    x = _tensor("x", (n, 4))

    def doubled(b: relax.BlockBuilder) -> Any:
        y = b.emit(relax.op.full(relax.ShapeExpr([n * 3]), relax.const(1.5), "float32"))
        return relax.Tuple([y])

    artifact = _compile(_model(_function(doubled, x), ["x"], ["y"], symbols={"n": SymbolSpec(1, 9)}))
    (step,) = [step for step in artifact.linear.plan.blocks[0].steps if step.kind == StepKind.CODE]
    kinds = [arg.kind for arg in step.args]
    assert kinds == sorted(kinds)
    out = maas_rt.load(artifact.to_bytes())(np.zeros((5, 4), "float32"))
    np.testing.assert_array_equal(out, np.full(15, 1.5, "float32"))
    assert artifact.manifest["outputs"][0]["shape"] == ["n*3"]


def test_a_dimension_that_only_occurs_in_an_expression_is_solved_and_checked() -> None:
    n = tirx.Var("n", "int64")
    x = _tensor("x", (n * 2, 4))

    def build(b: relax.BlockBuilder) -> Any:
        y = b.emit(relax.op.reshape(x, (n, 8)))
        return relax.Tuple([b.emit(relax.op.sum(y, axis=1))])

    artifact = _compile(_model(_function(build, x), ["x"], ["y"], symbols={"n": SymbolSpec(1, 9)}))
    program = maas_rt.load(artifact.to_bytes())
    given = np.random.default_rng(0).standard_normal((6, 4)).astype("float32")
    np.testing.assert_allclose(program(given), given.reshape(3, 8).sum(1), rtol=1e-5)
    with pytest.raises(maas_rt.Error):
        program(np.zeros((5, 4), "float32"))


def test_shapes_become_tensors() -> None:
    n = tirx.Var("n", "int64")
    x = _tensor("x", (n, 4))

    def build(b: relax.BlockBuilder) -> Any:
        shape = b.emit(relax.op.shape_of(x))
        return relax.Tuple([b.emit(relax.op.shape_to_tensor(shape))])

    artifact = _compile(_model(_function(build, x), ["x"], ["shape"], symbols={"n": SymbolSpec(1, 9)}))
    np.testing.assert_array_equal(maas_rt.load(artifact.to_bytes())(np.zeros((5, 4), "float32")), [5, 4])


# ---- states and branches -------------------------------------------------------------------------------------------------


def test_states_are_kept_from_run_to_run_and_swapped_safely() -> None:
    x, a, c = _tensor("x", (3,)), _tensor("a", (3,)), _tensor("c", (3,))

    def build(b: relax.BlockBuilder) -> Any:
        y = b.emit(relax.op.add(x, a))
        return relax.Tuple([y, a, c, a])  # outputs: y and the old a; next a is c, next c is a

    initial = np.array([1, 2, 3], "float32")
    model = _model(
        _function(build, x, a, c),
        ["x"],
        ["y", "old"],
        states=[StateSpec("a", initial), StateSpec("c", np.zeros(3, "float32"))],
    )
    artifact = _compile(model)
    plan = artifact.linear.plan
    assert [state.init >= 0 for state in plan.states] == [True, False]
    assert plan.entries[0].reads == [0, 1]
    program = maas_rt.load(artifact.to_bytes())
    state = program.state()
    one = np.ones(3, "float32")
    first = program.run({"x": one}, state=state)
    np.testing.assert_array_equal(first["y"], 1 + initial)
    np.testing.assert_array_equal(first["old"], initial)
    second = program.run({"x": one}, state=state)
    np.testing.assert_array_equal(second["y"], one)
    np.testing.assert_array_equal(program.run({"x": one}, state=state)["y"], 1 + initial)
    assert [each["name"] for each in artifact.manifest["states"]] == ["a", "c"]


def test_branches_become_blocks() -> None:
    @I.ir_module
    class Branching:
        @R.function
        def main(flag: R.Tensor((), "bool"), x: R.Tensor((4,), "float32")) -> R.Tuple(R.Tensor((4,), "float32")):
            if flag:
                y = R.exp(x)
                z = R.add(y, x)
            else:
                z = R.multiply(x, x)
            return (z,)

    artifact = _compile(_model(Branching, ["flag", "x"], ["y"]))
    plan = artifact.linear.plan
    assert [step.kind for step in plan.blocks[0].steps].count(StepKind.BRANCH) == 1
    assert len(plan.blocks) == 3
    program = maas_rt.load(artifact.to_bytes())
    x = np.array([0, 1, 2, -1], "float32")
    np.testing.assert_allclose(program.run({"flag": np.array(True), "x": x})["y"], np.exp(x) + x, rtol=1e-6)
    np.testing.assert_allclose(program.run({"flag": np.array(False), "x": x})["y"], x * x, rtol=1e-6)


def test_functions_of_equal_structure_share_a_symbol() -> None:
    @I.ir_module
    class Twins:
        @T.prim_func(private=True, s_tir=True)
        def first(a: T.Buffer((T.int64(4),), "float32"), b: T.Buffer((T.int64(4),), "float32")):
            for i in range(T.int64(4)):
                with T.sblock("b"):
                    v = T.axis.spatial(T.int64(4), i)
                    b[v] = a[v] + T.float32(1)

        @T.prim_func(private=True, s_tir=True)
        def second(p: T.Buffer((T.int64(4),), "float32"), q: T.Buffer((T.int64(4),), "float32")):
            for i in range(T.int64(4)):
                with T.sblock("b"):
                    v = T.axis.spatial(T.int64(4), i)
                    q[v] = p[v] + T.float32(1)

        @R.function
        def main(x: R.Tensor((4,), "float32")) -> R.Tensor((4,), "float32"):
            cls = Twins
            with R.dataflow():
                y = R.call_tir(cls.first, (x,), out_ty=R.Tensor((4,), "float32"))
                z = R.call_tir(cls.second, (y,), out_ty=R.Tensor((4,), "float32"))
                R.output(z)
            return z

    from maas_rt.compiler.codegen import collect_functions

    found = collect_functions(Twins)
    assert len(found.functions) == 1
    assert found.symbols["first"] == found.symbols["second"]
