"""python -m tests.formats: adds to tests/data/formats what no kept file covers yet. A file that is there is never written again.

Each is `<format version>/<name>.mrt` with the runs that it must repeat in `<name>.npz`: "0/<input>" and "0/<output>" are
those of the first run, "1/..." of the next on the same states, and "dense/<value>" are weights before they were packed.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import maas_rt
from maas_rt import _container, _plan
from maas_rt._container import SectionKind
from tests._tiny import Builder
from tests.kernels._calls import CALLS, CONTRACTS, Call, packed

KEPT = Path(__file__).parent / "data" / "formats"
Arrays = Mapping[str, NDArray[Any]]


def kernels(contracts: Sequence[str]) -> tuple[bytes, list[Arrays], Arrays]:
    """A step of each contract: the file, the inputs of its one run, the dense weights."""
    return _calls("kernels", {contract: CALLS[contract] for contract in contracts})


def half_scales() -> tuple[bytes, list[Arrays], Arrays]:
    """Weights of few bits whose scales are float16."""
    calls = {contract: CALLS[contract] for contract in ("gather_f32q", "gemm_f32q", "gemm_s8q4")}
    for contract, call in calls.items():
        at = [operand["name"] for operand in CONTRACTS[contract]["inputs"]].index("scale")
        inputs = [array.astype(np.float16) if i == at else array for i, array in enumerate(call.inputs)]
        calls[contract] = dataclasses.replace(call, inputs=inputs)
    return _calls("half_scales", calls)


def _calls(name: str, calls: Mapping[str, Call]) -> tuple[bytes, list[Arrays], Arrays]:
    b, run, dense = Builder(name), {}, {}
    outputs: list[int] = []
    for contract, call in calls.items():
        args, packing = [], ""
        for i, array in enumerate(call.inputs):
            name, stored = f"{contract}.in{i}", packed(contract, call, i)
            if stored is None:
                args.append(b.input(name, array.shape, array.dtype.name))
                run[name] = array
            else:
                (packing,) = CONTRACTS[contract]["packings"]
                args.append(b.constant(name, array, stored))
                dense[name] = array
        outs = [b.value(f"{contract}.out{i}", shape, dtype.name) for i, (shape, dtype) in enumerate(call.shapes())]
        b.step(_plan.StepKind.KERNEL, args, outs, contract, call.attrs, packing, hint=call.hint)
        outputs += outs
    return b.file(*outputs), [run], dense


def n_m() -> tuple[bytes, list[Arrays], Arrays]:
    """Weights that are stored 2:4 along their first axis, 1:3 along their second, and 4:8 in bytes."""
    b, rng = Builder("n_m"), np.random.default_rng(0)
    h = b.input("x", [3, 8])
    for dims, stored, m, bits in (((8, 6), (2, 6, 2), 4, 2), ((4, 6), (4, 2, 1), 3, 2), ((4, 16), (4, 2, 4), 8, 4)):
        of_bytes, trans = m == 8, int(m != 4)
        indices = np.sort(rng.permuted(np.tile(np.arange(m), (*stored[:-1], 1)), axis=-1)[..., : stored[-1]])
        values = rng.integers(1, 9, stored).astype(np.int8 if of_bytes else np.float32)
        if of_bytes:
            h = _concatenated(b, h, 4)
        n, k = dims if trans else dims[::-1]
        y = b.value(f"y{m}", [3, n])
        args = [h, b.sparse(f"w{m}", dims, values, indices, bits)]
        args += [b.constant("scale", np.full((1, n), 0.25, np.float32))] if of_bytes else []
        contract = "gemm_f32q" if of_bytes else "gemm_f32"
        b.step(_plan.StepKind.KERNEL, args, [y], contract, {"n": n, "k": k, "w_trans": trans}, f"{contract}_nr16_v1")
        h = y
    return b.file(h), [{"x": rng.standard_normal((3, 8)).astype(np.float32)}], {}


def _concatenated(b: Builder, x: int, times: int) -> int:
    extents = [b.plan.exprs[dim].a for dim in b.plan.values[x].dims]
    y = b.value("wide", [extents[0], extents[1] * times])
    b.kernel("concat", [x] * times, [y], axis=1)
    return y


def loops() -> tuple[bytes, list[Arrays], Arrays]:
    """A while loop that carries a value and stacks another, its number of iterations decided by the data."""
    from onnx import TensorProto as T
    from onnx import helper as h

    body = h.make_graph(
        [
            h.make_node("Add", ["a", "a"], ["a_out"]),
            h.make_node("ReduceSum", ["a_out"], ["total"], keepdims=0),
            h.make_node("Less", ["total", "limit"], ["go_out"]),
            h.make_node("Mul", ["a_out", "limit"], ["row"]),
        ],
        "body",
        [
            h.make_tensor_value_info("i", T.INT64, []),
            h.make_tensor_value_info("go", T.BOOL, []),
            h.make_tensor_value_info("a", T.FLOAT, [3]),
        ],
        [
            h.make_tensor_value_info("go_out", T.BOOL, []),
            h.make_tensor_value_info("a_out", T.FLOAT, [3]),
            h.make_tensor_value_info("row", T.FLOAT, [3]),
        ],
    )
    graph = h.make_graph(
        [h.make_node("Loop", ["most", "", "x"], ["last", "rows"], body=body)],
        "loops",
        [
            h.make_tensor_value_info("most", T.INT64, []),
            h.make_tensor_value_info("x", T.FLOAT, [3]),
            h.make_tensor_value_info("limit", T.FLOAT, []),
        ],
        [h.make_tensor_value_info("last", T.FLOAT, [3]), h.make_tensor_value_info("rows", T.FLOAT, ["n", 3])],
    )
    x = np.array([0.5, 0.25, 1], np.float32)
    runs = [
        {"most": np.array(most), "x": x, "limit": np.array(limit, np.float32)}
        for most, limit in ((9, 30), (2, 30), (0, 1))
    ]
    return _compiled(h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)), runs, {}


def sizes() -> tuple[bytes, list[Arrays], Arrays]:
    """Extents that the data decides, beside a symbol of the inputs, a product over both, and a shape computed as a tensor."""
    from onnx import TensorProto as T
    from onnx import helper as h
    from onnx import numpy_helper as n

    weight = np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)
    graph = h.make_graph(
        [
            h.make_node("Compress", ["x", "keep"], ["rows"], axis=0),
            h.make_node("MatMul", ["rows", "w"], ["product"]),
            h.make_node("Relu", ["product"], ["y"]),
            h.make_node("Shape", ["y"], ["shape"]),
            h.make_node("ConstantOfShape", ["shape"], ["zeros"]),
            h.make_node("Concat", ["zeros", "y"], ["both"], axis=0),
            h.make_node("Reshape", ["x", "pairs"], ["halves"]),
        ],
        "sizes",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 4]), h.make_tensor_value_info("keep", T.BOOL, ["n"])],
        [
            h.make_tensor_value_info("both", T.FLOAT, ["m", 8]),
            h.make_tensor_value_info("shape", T.INT64, [2]),
            h.make_tensor_value_info("halves", T.FLOAT, ["p", 2]),
        ],
        [n.from_array(weight, "w"), n.from_array(np.array([-1, 2]), "pairs")],
    )
    x = np.arange(20, dtype=np.float32).reshape(5, 4)
    runs = [{"x": x[:k], "keep": np.arange(k) % 2 == odd} for k, odd in ((5, 0), (3, 1), (1, 1))]
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    return _compiled(model, dynamic={"x": {0: (1, 64)}, "keep": {0: (1, 64)}}), runs, {}


def branches() -> tuple[bytes, list[Arrays], Arrays]:
    """An If on data, with other weights in each branch; int64, bool and float64 values."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor, count: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = torch.cond(x.sum() > 0, lambda x: self.left(x).relu(), lambda x: self.right(x).tanh(), (x,))
            return y, torch.where(count > 3, count * 2, -count).double().sqrt()

    torch.manual_seed(0)
    x, count = np.linspace(-1, 2, 8, dtype=np.float32).reshape(2, 4), np.array([5, -4, 12])
    runs = [{"x": x, "count": count}, {"x": -x, "count": count}]
    return _compiled(Model().eval(), example_inputs=tuple(map(torch.from_numpy, runs[0].values()))), runs, {}


def states() -> tuple[bytes, list[Arrays], Arrays]:
    """Two states of different types that every run reads and writes."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.full((4,), 0.5))
            self.register_buffer("seen", torch.tensor(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add_(1)
            self.mean.lerp_(x.mean(0), 0.25)
            return (x - self.mean) * self.seen

    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    runs = [{"x": x + i} for i in range(3)]
    return _compiled(Model().eval(), example_inputs=(torch.from_numpy(x),)), runs, {}


def expressions() -> tuple[bytes, list[Arrays], Arrays]:
    """What every operator of shape expressions gives for the two extents of an input, which a condition holds apart."""
    b = Builder("expressions")
    for name in "mn":
        b.symbol(name, 1, 64)
    x = b.input("x", ["m", "n"])
    m, n = b.expr("m"), b.expr("n")
    binary = [op for op in _plan.ExprOp if op not in (_plan.ExprOp.CONSTANT, _plan.ExprOp.SYMBOL)]
    numbers = [m, n, b.expr(-3)]
    for op in binary:
        numbers.append(len(b.plan.exprs))
        b.plan.exprs.append(_plan.Expr(op, m, 0 if op == _plan.ExprOp.LOGICAL_NOT else n))
    y = b.value("y", [len(numbers)], "int64")
    b.step(_plan.StepKind.SHAPE, [], [y])
    b.blocks[0].steps[-1].args = [_plan.Arg(_plan.ArgKind.EXPRESSION, number) for number in numbers]
    flat = b.value("flat", ["m", "n"], storage=_plan.Storage.VIEW, base=x, offset=b.expr(0))
    z = b.value("z", ["m", "n"])
    b.kernel("softmax_f32", [flat], [z])
    data = b.sections(y, z)
    less = numbers[3 + binary.index(_plan.ExprOp.LE)]
    b.plan.entries[0].checks.append(_plan.Check(less, b.expr(1), "m is at most n"))
    data = [dataclasses.replace(s, data=_plan.encode(b.plan)) if s.kind == SectionKind.PLAN else s for s in data]
    return b"".join(_container.write(data)), [{"x": np.ones(shape, np.float32)} for shape in ((2, 7), (6, 6))], {}


def noise() -> tuple[bytes, list[Arrays], Arrays]:
    """Random numbers between other steps, from the seed that a run is given."""
    from onnx import TensorProto as T
    from onnx import helper as h

    graph = h.make_graph(
        [
            h.make_node("RandomNormalLike", ["x"], ["z"], mean=1.0),
            h.make_node("RandomUniform", [], ["u"], shape=[3]),
            h.make_node("Mul", ["x", "z"], ["scaled"]),
            h.make_node("Add", ["scaled", "u"], ["y"]),
        ],
        "noise",
        [h.make_tensor_value_info("x", T.FLOAT, ["n", 3])],
        [h.make_tensor_value_info("y", T.FLOAT, ["n", 3])],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9)
    return _compiled(model), [{"x": np.ones((4, 3), np.float32)}, {"x": np.ones((2, 3), np.float32)}], {}


PLANS: dict[str, Callable[[], tuple[bytes, list[Arrays], Arrays]]] = {
    maker.__name__: maker for maker in (branches, expressions, half_scales, loops, n_m, noise, sizes, states)
}


def _compiled(source: Any, **options: Any) -> bytes:
    from maas_rt import compiler

    return bytes(compiler.compile(source, target="x86-64", **options).to_bytes())


def repeated(model: maas_rt.Model, runs: Sequence[Arrays]) -> list[dict[str, NDArray[Any]]]:
    """The outputs of these runs, one after the other on one set of states; random numbers from the seed 7."""
    state = model.state() if model.states else None
    options: dict[str, Any] = {"seed": 7} if model.draws else {}
    return [dict(model.run(run, **({"state": state} if state else {}), **options)) for run in runs]


def write(name: str, made: tuple[bytes, list[Arrays], Arrays]) -> Path:
    """Keeps a file with what it computes now."""
    data, runs, dense = made
    path = KEPT / str(_plan.PLAN_VERSION) / f"{name}.mrt"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {f"dense/{value}": array for value, array in dense.items()}
    for i, (inputs, outputs) in enumerate(zip(runs, repeated(maas_rt.load(data), runs), strict=True)):
        arrays |= {f"{i}/{key}": array for key, array in {**inputs, **outputs}.items()}
    path.write_bytes(data)
    np.savez_compressed(path.with_suffix(".npz"), **arrays)  # type: ignore[arg-type]
    return path


def steps(plan: _plan.Plan) -> Iterator[_plan.Step]:
    """Every step of every block."""
    return (step for block in plan.blocks for step in block.steps)


def kept() -> dict[Path, _plan.Plan]:
    """The plan of each kept file."""
    paths = sorted(KEPT.rglob("*.mrt"))
    return {path: _plan.decode(_container.read(path).section(SectionKind.PLAN)) for path in paths}


def main() -> int:
    plans = kept()
    of_kernels = [plan for path, plan in plans.items() if path.stem.startswith("kernels")]
    lacking = sorted(set(CALLS) - {step.target for plan in of_kernels for step in steps(plan)})
    if lacking:
        print(write(f"kernels-{lacking[0]}" if of_kernels else "kernels", kernels(lacking)))
    for name in sorted(set(PLANS) - {path.stem for path in plans}):
        print(write(name, PLANS[name]()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
