"""Random kernel calls on their way from the IR to a run: the seed, the numbers of draws in loops, what passes may do with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tvm
from maas_rt.compiler import ir
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.importers import ImportedModel, StateSpec, SymbolSpec
from maas_rt.compiler.ir._loops import close_loop, open_loop
from maas_rt.compiler.passes import lowering_passes
from tvm import relax, tirx

import maas_rt
from maas_rt import CompileError
from maas_rt._plan import StepKind, Storage
from tests.compiler._interpret import run_lowered
from tests.kernels import _philox

SEED = 0xFEDCBA9876543210


class _NoSource:
    """A source that is never run: these models are compiled with verification off."""


def tensor(name: str, shape: Any, dtype: str = "float32") -> relax.Var:
    return relax.Var(name, relax.TensorType(shape, dtype))


def normal(seed: Any, shape: Any, number: int, draw: Any = None) -> relax.Call:
    return ir.random(seed, relax.ShapeExpr(shape), draw, kind="normal", dtype="float32", number=number)


def drawing(
    build: Callable[..., list[Any]], *inputs: relax.Var, states: tuple[StateSpec, ...] = (), **more: Any
) -> ImportedModel:
    """A model of what `build(builder, seed, inputs...)` returns: the outputs y0, y1, ..., then the next values of states."""
    builder, seed = relax.BlockBuilder(), tensor("seed", [1], "uint64")
    with builder.function("main", [*inputs, seed]):
        results = build(builder, seed, *inputs)
        builder.emit_func_output(relax.Tuple(results))
    mod = builder.get()
    mod["main"] = mod["main"].with_attr("seed", tirx.IntImm("int64", len(inputs)))
    names = [str(each.name) for each in inputs]
    outputs = [f"y{i}" for i in range(len(results) - len(states))]
    return ImportedModel(mod, names[: len(names) - len(states)], outputs, _NoSource(), list(states), **more)  # type: ignore[arg-type]


def compiled(model: ImportedModel) -> Any:
    return compile_imported(model, CompileOptions(verify=None))


def noisy() -> ImportedModel:
    """y0 = x + noise(3), y1 = noise(4) of the shape of x, whose first extent is a symbol; and a draw that nobody needs."""

    def build(b: relax.BlockBuilder, seed: Any, x: Any) -> list[Any]:
        shape = list(x.ty.shape.values)
        first, second = b.emit(normal(seed, shape, 3)), b.emit(normal(seed, shape, 4))
        b.emit(normal(seed, shape, 5))
        return [b.emit(relax.op.add(x, first)), second]

    return drawing(build, tensor("x", [tirx.Var("n", "int64"), 5]), symbols={"n": SymbolSpec(0, 100)})


def test_a_model_that_draws() -> None:
    artifact = compiled(noisy())
    plan = artifact.linear.plan
    assert [value.name for value in plan.values if value.storage == Storage.SEED] == ["seed"]
    assert [step.target for step in plan.blocks[0].steps if step.kind == StepKind.KERNEL] == ["random_normal_f32"] * 2
    assert artifact.manifest["draws"] is True and [each["name"] for each in artifact.manifest["inputs"]] == ["x"]
    model = maas_rt.load(artifact)
    assert model.draws and [info.name for info in model.inputs] == ["x"]
    for n in (7, 1, 0, 100):
        x = np.ones((n, 5), np.float32)
        got = model.run({"x": x}, seed=SEED)
        want = [_philox.normal_f32(5 * n, SEED, number).reshape(n, 5) for number in (3, 4)]
        np.testing.assert_allclose(got["y0"], 1 + want[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got["y1"], want[1], rtol=1e-5, atol=1e-5)


def test_the_lowered_module_is_what_the_oracle_says() -> None:
    model = noisy()
    mod = model.mod
    with tvm.target.Target("llvm"):
        for _, stage in lowering_passes(tvm.target.Target("llvm")):
            mod = stage(mod)
    x = np.ones((4, 5), np.float32)
    for got, want in zip(
        run_lowered(mod, [x, np.array([SEED], np.uint64)]),
        maas_rt.load(compiled(model)).run({"x": x}, seed=SEED).values(),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_equal_calls_but_for_their_number_stay_two_and_feed_many() -> None:
    """Two users of a draw see the same numbers: it is drawn once."""

    def build(b: relax.BlockBuilder, seed: Any, x: Any) -> list[Any]:
        first, second = b.emit(normal(seed, [8], 0)), b.emit(normal(seed, [8], 1))
        gate = b.emit(relax.op.nn.relu(first))
        return [b.emit(relax.op.subtract(gate, first)), b.emit(relax.op.multiply(second, first)), second]

    artifact = compiled(drawing(build, tensor("x", [8])))
    kernels = [step for step in artifact.linear.plan.blocks[0].steps if step.kind == StepKind.KERNEL]
    assert [attr.ints for step in kernels for attr in step.attrs] == [[0], [1]]
    a, b = (_philox.normal_f32(8, SEED, number) for number in (0, 1))
    got = maas_rt.load(artifact).run({"x": np.zeros(8, np.float32)}, seed=SEED)
    for name, want in (("y0", np.maximum(a, 0) - a), ("y1", a * b), ("y2", b)):
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)


def block(b: relax.BlockBuilder, make: Callable[[], Any]) -> relax.SeqExpr:
    """The body of a branch: what `make` emits, and what it returns."""
    b._begin_binding_block()
    result = b.emit(make())
    return relax.SeqExpr([b._end_block()], result)


def test_a_loop_draws_anew_in_each_iteration_where_it_says_so() -> None:
    """Without the number of the iteration the same numbers are drawn each time; then the draw may stand in front of the loop."""

    def build(b: relax.BlockBuilder, seed: Any, trips: Any) -> list[Any]:
        start = relax.const(np.zeros(6, np.float32))
        loop = open_loop(b.emit, "again", None, trips, [start, start])

        def body() -> relax.Tuple:
            anew, same = b.emit(normal(seed, [6], 0, loop.number)), b.emit(normal(seed, [6], 1))
            sums = [b.emit(relax.op.add(*each)) for each in zip(loop.values, (anew, same), strict=True)]
            return relax.Tuple([relax.const(True), *sums, b.emit(relax.op.reshape(loop.number, [1]))])

        inside = block(b, body)
        types = list(inside.body.ty.fields)
        closed = b.emit(close_loop(loop, inside, types, lambda skip: block(b, lambda: skip)))
        return [b.emit(relax.TupleGetItem(closed, k)) for k in (1, 2)]

    model = maas_rt.load(compiled(drawing(build, tensor("trips", [], "int64"))))
    for trips in (0, 1, 3):
        got = model.run({"trips": np.array(trips, np.int64)}, seed=SEED)
        want = sum((_philox.normal_f32(6, SEED, 0, draw) for draw in range(trips)), np.zeros(6))
        np.testing.assert_allclose(got["y0"], want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(got["y1"], trips * _philox.normal_f32(6, SEED, 1), rtol=1e-5, atol=1e-5)


def test_a_state_beside_the_seed() -> None:
    """A walk: the state after two runs is the sum of their noise, and a run without a seed differs from any other."""

    def build(b: relax.BlockBuilder, seed: Any, x: Any, place: Any) -> list[Any]:
        after = b.emit(relax.op.add(b.emit(relax.op.add(place, x)), b.emit(normal(seed, [9], 0))))
        return [after, after]

    states = (StateSpec("place", np.full(9, 10, np.float32)),)
    model = maas_rt.load(compiled(drawing(build, tensor("x", [9]), tensor("place", [9]), states=states)))
    state, x = model.state(), np.zeros(9, np.float32)
    model.run({"x": x}, state=state, seed=1)
    (got,) = model.run({"x": x}, state=state, seed=2).values()
    want = 10 + _philox.normal_f32(9, 1) + _philox.normal_f32(9, 2)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    first, second = (model.run({"x": x}, state=model.state())["y0"] for _ in range(2))
    assert not (first == second).any()


def test_what_is_left_of_a_model_decides_whether_it_draws() -> None:
    def build(b: relax.BlockBuilder, seed: Any, x: Any) -> list[Any]:
        b.emit(normal(seed, [4], 0))
        return [b.emit(relax.op.exp(x))]

    artifact = compiled(drawing(build, tensor("x", [4])))
    assert "draws" not in artifact.manifest
    assert all(value.storage != Storage.SEED for value in artifact.linear.plan.values)
    assert not maas_rt.load(artifact).draws


def test_a_seed_of_another_type_is_refused() -> None:
    def build(b: relax.BlockBuilder, seed: Any, x: Any) -> list[Any]:
        return [b.emit(relax.op.exp(x))]

    model = drawing(build, tensor("x", [4]))
    main = model.mod["main"]
    model.mod["main"] = relax.Function([main.params[0], tensor("seed", [2], "uint64")], main.body, attrs=main.attrs)
    with pytest.raises(CompileError, match=r"seed of main is .*expected uint64 of shape \[1\]"):
        compiled(model)
