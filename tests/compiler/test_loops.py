"""Loops that only the run can end, through the real runtime: from ONNX and torch, compared with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.importers.onnx import _loops, import_onnx
from onnx import TensorProto, helper, numpy_helper
from torch._higher_order_ops import while_loop
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan

import maas_rt
from maas_rt._plan import Plan, StepKind, decode, encode
from tests.compiler.test_import_onnx import agree, floats, model, node

F, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Typed = tuple[str, int, list[Any]]


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The IR is held to its invariants between the passes."""
    monkeypatch.setenv("MAAS_RT_CHECK", "1")


def body(
    nodes: list[Any], inputs: list[Typed], outputs: list[Typed], constants: dict[str, Any] | None = None
) -> onnx.GraphProto:
    return helper.make_graph(
        nodes,
        "body",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )


def check(proto: onnx.ModelProto, *runs: dict[str, Any], bound: float = 1e-5) -> Plan:
    """Compile once, run on each of the inputs, compare with ONNX Runtime; the plan."""
    artifact = compile_model(proto, verify=False)
    session = onnxruntime.InferenceSession(
        onnx.shape_inference.infer_shapes(proto).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    for inputs in runs:
        given = {name: np.asarray(value) for name, value in inputs.items()}
        want = dict(zip([o.name for o in proto.graph.output], session.run(None, given), strict=True))
        agree(program.run(given), want)
    return artifact.linear.plan


def kinds(plan: Plan, block: int = 0) -> list[StepKind]:
    return [step.kind for step in plan.blocks[block].steps]


def doubling(*, rows: bool = True) -> onnx.GraphProto:
    """v = 2 v + x while its sum is below 100; the rows are the values on the way."""
    nodes = [
        node("Mul", "v two", "twice"),
        node("Add", "twice x", "next"),
        node("ReduceSum", "next", "sum", keepdims=0),
        node("Less", "sum limit", "go"),
        node("Identity", "next", "row"),
    ]
    outputs: list[Typed] = [("go", BOOL, []), ("next", F, [3]), ("row", F, [3])]
    return body(
        nodes,
        [("i", I64, []), ("c", BOOL, []), ("v", F, [3])],
        outputs[: 3 if rows else 2],
        {"two": np.float32(2), "limit": np.float32(100)},
    )


def test_a_trip_count_and_a_condition_of_the_run() -> None:
    proto = model(
        [node("Loop", "n c x", "last rows", body=doubling())],
        {"n": (I64, []), "c": (BOOL, []), "x": (F, [3])},
        ["last", "rows"],
    )
    x = np.array([1, 2, 0.5], np.float32)
    plan = check(proto, *[{"n": n, "c": c, "x": x} for n, c in [(3, True), (100, True), (0, True), (5, False)]])
    assert kinds(plan).count(StepKind.LOOP) == 1
    step = next(s for s in plan.blocks[0].steps if s.kind == StepKind.LOOP)
    assert len(step.binds) == 1 and len(step.outs) == 2
    assert compile_model(proto).manifest["verified"]["status"] == "passed"


def test_slices_that_nobody_reads_are_not_collected() -> None:
    proto = model([node("Loop", "n  x", "last rows", body=doubling())], {"n": (I64, []), "x": (F, [3])}, ["last"])
    proto.graph.node[0].input[:] = ["n", "", "x"]
    plan = check(proto, {"n": 2, "x": floats(3)})
    step = next(s for s in plan.blocks[0].steps if s.kind == StepKind.LOOP)
    assert len(step.outs) == 1


def test_integers_until_they_are_one() -> None:
    """Collatz: no trip count at all, an If in the body, two counters of different types that change places with others."""
    even = body([node("Div", "a two", "half")], [], [("half", I64, [])], {"two": np.int64(2)})
    odd = body(
        [node("Mul", "a three", "m"), node("Add", "m one", "more")],
        [],
        [("more", I64, [])],
        {"three": np.int64(3), "one": np.int64(1)},
    )
    step = body(
        [
            node("Mod", "a two", "rest"),
            node("Equal", "rest zero", "is_even"),
            node("If", "is_even", "next", then_branch=even, else_branch=odd),
            node("Add", "steps one32", "more_steps"),
            node("Greater", "next one", "go"),
        ],
        [("i", I64, []), ("c", BOOL, []), ("a", I64, []), ("before", I64, []), ("steps", TensorProto.INT32, [])],
        [("go", BOOL, []), ("next", I64, []), ("a", I64, []), ("more_steps", TensorProto.INT32, [])],
        {"two": np.int64(2), "zero": np.int64(0), "one": np.int64(1), "one32": np.int32(1)},
    )
    proto = model(
        [node("Greater", "x one", "begin"), node("Loop", "none begin x x zero", "last before steps", body=step)],
        {"x": (I64, [])},
        ["last", "before", "steps"],
        {"one": np.int64(1), "zero": np.int32(0)},
    )
    proto.graph.node[1].input[0] = ""
    check(proto, *[{"x": np.int64(x)} for x in (27, 1, 8, 6)])


def test_loops_in_loops_see_what_is_around_them() -> None:
    inner = body(
        [node("Add", "w x", "w1"), node("Identity", "cc", "cc1"), node("Mul", "w1 scale", "seen")],
        [("j", I64, []), ("cc", BOOL, []), ("w", F, [2])],
        [("cc1", BOOL, []), ("w1", F, [2]), ("seen", F, [2])],
    )
    outer = body(
        [
            node("Loop", "count yes v", "after all", body=inner),
            node("ReduceSum", "all axis", "total", keepdims=0),
            node("Add", "total after", "v1"),
            node("Identity", "c", "c1"),
            node("Add", "count one", "count1"),
        ],
        [("i", I64, []), ("c", BOOL, []), ("v", F, [2]), ("count", I64, [])],
        [("c1", BOOL, []), ("v1", F, [2]), ("count1", I64, []), ("after", F, [2])],
        {"axis": np.array([0]), "one": np.int64(1), "yes": np.array(True)},
    )
    proto = model(
        [node("Mul", "x x", "scale"), node("Loop", "n yes x m", "last count rows", body=outer)],
        {"n": (I64, []), "m": (I64, []), "x": (F, [2])},
        ["last", "count", "rows"],
        {"yes": np.array(True)},
    )
    x = np.array([0.25, -0.5], np.float32)
    plan = check(proto, *[{"n": n, "m": m, "x": x} for n, m in [(3, 1), (2, 0), (0, 4), (1, 3)]])
    loops = [step for block in plan.blocks for step in block.steps if step.kind == StepKind.LOOP]
    assert len(loops) == 2


def test_a_loop_in_a_branch() -> None:
    then = body([node("Loop", "n yes x", "last", body=doubling(rows=False))], [], [("last", F, [3])])
    other = body([node("Neg", "x", "minus")], [], [("minus", F, [3])])
    proto = model(
        [node("If", "flag", "y", then_branch=then, else_branch=other)],
        {"flag": (BOOL, []), "n": (I64, []), "x": (F, [3])},
        ["y"],
        {"yes": np.array(True)},
    )
    x = floats(3)
    check(proto, *[{"flag": f, "n": n, "x": x} for f, n in [(True, 2), (False, 2), (True, 0)]])


def test_the_number_of_the_iteration_picks_a_row() -> None:
    step = body(
        [
            node("Gather", "x i", "row", axis=0),
            node("Unsqueeze", "i axis", "from"),
            node("Add", "from one", "to"),
            node("Slice", "x from to axis", "part"),
            node("Add", "sum part", "sum1"),
            node("Identity", "c", "c1"),
        ],
        [("i", I64, []), ("c", BOOL, []), ("sum", F, [1, 4])],
        [("c1", BOOL, []), ("sum1", F, [1, 4]), ("row", F, [4])],
        {"axis": np.array([0]), "one": np.array([1])},
    )
    proto = model(
        [node("Loop", "n yes start", "sum rows", body=step)],
        {"n": (I64, []), "x": (F, [6, 4])},
        ["sum", "rows"],
        {"yes": np.array(True), "start": np.zeros((1, 4), np.float32)},
    )
    check(proto, *[{"n": n, "x": floats(6, 4)} for n in (6, 2, 0)])
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes())
    with pytest.raises(maas_rt.Error):  # there is no seventh row
        program.run({"n": np.array(7), "x": floats(6, 4)})


def cell() -> onnx.GraphProto:
    """h = tanh(x W + h U): what a Scan over a sequence does in a recurrent network."""
    return body(
        [
            node("MatMul", "x W", "xw"),
            node("MatMul", "h U", "hu"),
            node("Add", "xw hu", "sum"),
            node("Tanh", "sum", "h1"),
            node("Identity", "h1", "out"),
        ],
        [("h", F, [2, 8]), ("x", F, [2, 4])],
        [("h1", F, [2, 8]), ("out", F, [2, 8])],
    )


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1], "scan_output_directions": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [2]},
    ],
)
def test_scan_over_a_dynamic_extent(attributes: dict[str, Any]) -> None:
    axis = attributes.get("scan_input_axes", [0])[0]
    shape: list[Any] = [2, 2, 4]
    shape[axis] = "t"
    proto = model(
        [node("Scan", "h0 xs", "h ys", body=cell(), num_scan_inputs=1, **attributes)],
        {"h0": (F, [2, 8]), "xs": (F, shape)},
        ["h", "ys"],
        {"W": floats(4, 8), "U": floats(8, 8)},
    )
    runs = []
    for length in (5, 1, 3):
        sizes = [2, 2, 4]
        sizes[axis] = length
        runs.append({"h0": floats(2, 8), "xs": floats(*sizes)})
    plan = check(proto, *runs)
    inner = next(s for s in plan.blocks[0].steps if s.kind == StepKind.LOOP).blocks[0]
    assert "gemm_f32" in [step.target for step in plan.blocks[inner].steps]  # the body went through the passes too


def test_the_first_scan_has_a_batch() -> None:
    """Operator set 8: batch and sequence in front of every slice. Lengths of the sequences are refused."""
    step = body(
        [node("Add", "h x", "h1"), node("Mul", "h1 x", "out")],
        [("h", F, [3]), ("x", F, [3])],
        [("h1", F, [3]), ("out", F, [3])],
    )
    inputs = {"h0": (F, [2, 3]), "xs": (F, [2, "t", 3])}
    proto = model([node("Scan", "none h0 xs", "h ys", body=step, num_scan_inputs=1)], inputs, ["h", "ys"], opset=8)
    lengths = model(
        [node("Scan", "lens h0 xs", "h ys", body=step, num_scan_inputs=1)],
        {**inputs, "lens": (I64, [2])},
        ["h", "ys"],
        opset=8,
    )
    proto.graph.node[0].input[0] = ""
    check(proto, *[{"h0": floats(2, 3), "xs": floats(2, t, 3)} for t in (4, 1)])
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="lengths of the sequences"):
        import_onnx(lengths)


def test_long_loops_are_not_unrolled() -> None:
    step = body(
        [
            node("Mul", "v half", "m"),
            node("Add", "m x", "v1"),
            node("Identity", "c", "c1"),
            node("Identity", "v1", "r"),
        ],
        [("i", I64, []), ("c", BOOL, []), ("v", F, [3])],
        [("c1", BOOL, []), ("v1", F, [3]), ("r", F, [3])],
        {"half": np.float32(0.5)},
    )
    proto = model(
        [node("Loop", "n yes x", "last rows", body=step)],
        {"x": (F, [3])},
        ["last", "rows"],
        {"n": np.int64(1000), "yes": np.array(True)},
    )
    plan = check(proto, {"x": floats(3)})
    assert kinds(plan).count(StepKind.LOOP) == 1


def concatenating(*, declared: list[Any], stop: bool = False) -> onnx.GraphProto:
    """v = v ++ v[0:1] ++ x, and how many elements it has."""
    nodes = [
        node("Slice", "v zero one", "head"),
        node("Concat", "v head x", "v1", axis=0),
        node("Size", "v1", "size"),
        node("Less", "size limit", "go") if stop else node("Identity", "c", "go"),
    ]
    return body(
        nodes,
        [("i", I64, []), ("c", BOOL, []), ("v", F, declared)],
        [("go", BOOL, []), ("v1", F, declared), ("size", I64, [])],
        {"zero": np.array([0]), "one": np.array([1]), "limit": np.int64(20)},
    )


def growing(step: onnx.GraphProto, *more: Any) -> onnx.ModelProto:
    proto = model(
        [node("Loop", "n none x", "long sizes", body=step), node("Mul", "long two", "y"), *more],
        {"n": (I64, []), "x": (F, [3])},
        ["y", "sizes"],
        {"two": np.float32(2)},
    )
    proto.graph.node[0].input[1] = ""
    return proto


@pytest.mark.parametrize("stop", [False, True])
def test_what_is_carried_may_grow(stop: bool) -> None:
    plan = check(
        growing(concatenating(declared=[None], stop=stop)), *[{"n": n, "x": floats(3)} for n in (3, 0, 1, 7, 2)]
    )
    step = next(s for s in plan.blocks[0].steps if s.kind == StepKind.LOOP)
    assert [attr.key for attr in step.attrs] == ["extents"] and len(step.binds) == 2


def test_what_grows_in_a_loop_in_a_loop() -> None:
    """Each outer iteration begins an inner one from what the last has left, and shrinks it a little."""
    inner = body(
        [node("Concat", "w x", "w1", axis=0), node("Identity", "cc", "cc1")],
        [("j", I64, []), ("cc", BOOL, []), ("w", F, [None])],
        [("cc1", BOOL, []), ("w1", F, [None])],
    )
    outer = body(
        [
            node("Add", "i count", "times"),
            node("Loop", "times yes v", "long", body=inner),
            node("Slice", "long one end", "v1"),
            node("ReduceSum", "long axis", "sum", keepdims=0),
            node("Identity", "c", "c1"),
        ],
        [("i", I64, []), ("c", BOOL, []), ("v", F, [None])],
        [("c1", BOOL, []), ("v1", F, [None]), ("sum", F, [])],
        {
            "axis": np.array([0]),
            "one": np.array([1]),
            "end": np.array([1000]),
            "yes": np.array(True),
            "count": np.int64(1),
        },
    )
    proto = model(
        [node("Loop", "n yes start", "last sums", body=outer)],
        {"n": (I64, []), "x": (F, ["k"]), "start": (F, ["k"])},
        ["last", "sums"],
        {"yes": np.array(True)},
    )
    check(proto, *[{"n": n, "x": floats(k), "start": floats(k)} for n, k in [(4, 3), (0, 2), (2, 5), (4, 3)]])


def test_deep_nests_of_loops_that_grow_are_converted_a_few_times_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one conversion of a loop finds to grow is known to the next one of the loop around it: 2 to the power of the depth, else."""
    depth, attempts = 12, 0
    attempt = _loops._attempt

    def counted(*args: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return attempt(*args)

    monkeypatch.setattr(_loops, "_attempt", counted)
    nest = [node("Concat", "v0 x", "w0", axis=0)]
    for k in range(depth):
        level = body(
            [*nest, node("Identity", f"c{k}", f"go{k}")],
            [(f"i{k}", I64, []), (f"c{k}", BOOL, []), (f"v{k}", F, [None])],
            [(f"go{k}", BOOL, []), (f"w{k}", F, [None])],
        )
        nest = [node("Loop", f"n none v{k + 1}", f"w{k + 1}", body=level)]
        nest[0].input[1] = ""
    proto = model(nest, {"n": (I64, []), "x": (F, [2]), f"v{depth}": (F, ["m"])}, [f"w{depth}"])
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1)
    assert attempts <= depth**2
    x, v = floats(2), floats(3)
    np.testing.assert_array_equal(program.run({"n": np.array(1), "x": x, f"v{depth}": v})[f"w{depth}"], [*v, *x])


def test_a_filter_shrinks_what_is_carried() -> None:
    step = body(
        [
            node("Sub", "v one", "less"),
            node("Greater", "less zero", "mask"),
            node("Compress", "less mask", "v1", axis=0),
            node("ReduceSum", "v1", "sum", keepdims=0),
            node("Greater", "sum zero", "go"),
        ],
        [("i", I64, []), ("c", BOOL, []), ("v", F, [None])],
        [("go", BOOL, []), ("v1", F, [None])],
        {"zero": np.float32(0), "one": np.float32(1)},
    )
    proto = model([node("Loop", "none none x", "y", body=step)], {"x": (F, ["k"])}, ["y"])
    proto.graph.node[0].input[:] = ["", "", "x"]
    check(proto, *[{"x": np.array(x, np.float32)} for x in ([1.5, 3.5, 0.25], [2, 2, 2, 2.5], [0.5], [9.0, -1.0])])


def test_a_shape_that_is_declared_fixed_is_checked_by_the_run() -> None:
    step = body(
        [node("Greater", "v zero", "mask"), node("Compress", "v mask", "v1", axis=0), node("Identity", "c", "c1")],
        [("i", I64, []), ("c", BOOL, []), ("v", F, [3])],
        [("c1", BOOL, []), ("v1", F, [3])],
        {"zero": np.float32(0)},
    )
    proto = model([node("Loop", "n none x", "y", body=step)], {"n": (I64, []), "x": (F, [3])}, ["y"])
    proto.graph.node[0].input[1] = ""
    check(proto, {"n": 2, "x": np.array([1, 2, 3], np.float32)})
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes())
    with pytest.raises(
        maas_rt.InvalidArgumentError,
        match="needs two extents to be equal, which the inputs' numbers make different",
    ):
        program.run({"n": np.array(2), "x": np.array([1, -2, 3], np.float32)})


@pytest.mark.parametrize("read_after", [True, False])
def test_what_the_body_defines_may_start_as_anything(read_after: bool) -> None:
    """Paddle's exporter carries what is defined inside of a loop, with a number for its start; no iteration is then an error."""
    step = body(
        [node("Add", "v x", "v1"), node("Concat", "v1 v1", "both", axis=0), node("Less", "i two", "c1")],
        [("i", I64, []), ("c", BOOL, []), ("v", F, [3]), ("undefined", F, [6])],
        [("c1", BOOL, []), ("v1", F, [3]), ("both", F, [6])],
        {"two": np.array(2)},
    )
    proto = model(
        [
            node("Loop", "n none x start", "last pair", body=step),
            node("Identity", "pair" if read_after else "last", "y"),
        ],
        {"n": (I64, []), "x": (F, [3])},
        ["last", "y"],
        {"start": np.float32(0)},
    )
    proto.graph.node[0].input[1] = ""
    x = np.array([1, 2, 3], np.float32)
    program = maas_rt.load(compile_model(proto, verify=False).to_bytes())
    for n, times in ((1, 2), (9, 4)):
        got = program.run({"n": np.array(n), "x": x})
        np.testing.assert_array_equal(got["last"], times * x)
        np.testing.assert_array_equal(got["y"], np.tile(times * x, 2) if read_after else times * x)
    if read_after:
        with pytest.raises(maas_rt.Error):
            program.run({"n": np.array(0), "x": x})
    else:
        np.testing.assert_array_equal(program.run({"n": np.array(0), "x": x})["y"], x)


def test_what_a_loop_may_not_carry_is_refused_by_name() -> None:
    ranks = body(
        [node("Unsqueeze", "v zero", "v1"), node("Identity", "c", "c1")],
        [("i", I64, []), ("c", BOOL, []), ("v", F, None)],  # type: ignore[list-item]
        [("c1", BOOL, []), ("v1", F, None)],  # type: ignore[list-item]
        {"zero": np.array([0])},
    )
    slices = concatenating(declared=[None])
    slices.node.append(node("Identity", "v1", "part"))
    slices.output[2].CopyFrom(helper.make_tensor_value_info("part", F, [None]))
    inside = concatenating(declared=[None])
    inside.node.append(node("NoSuchThing", "v1", "none"))
    for step, outputs, reason in [
        (ranks, "long", r"carries shape \[3\] on as \[1, 3\]"),
        (slices, "long sizes", "collects results whose size only an iteration knows"),
        (inside, "long sizes", "NoSuchThing"),
    ]:
        proto = model([node("Loop", "n none x", outputs, body=step)], {"n": (I64, []), "x": (F, [3])}, ["long"])
        proto.graph.node[0].input[1] = ""
        with pytest.raises(maas_rt.UnsupportedOperatorError, match=reason):
            import_onnx(proto)


@pytest.mark.parametrize("trips", [0, 3])
def test_what_no_iteration_changes_is_computed_once(trips: int) -> None:
    """h = tanh(h + memory W + B), with a projection of the memory that no step changes."""
    nodes = [
        node("MatMul", "memory W", "projected"),
        node("Add", "projected B", "biased"),
        node("Add", "h biased", "sum"),
        node("Tanh", "sum", "next"),
        node("Identity", "c", "more"),
    ]
    loop = body(
        nodes,
        [("i", I64, []), ("c", BOOL, []), ("h", F, ["rows", 8])],
        [("more", BOOL, []), ("next", F, ["rows", 8])],
        {"W": floats(16, 8), "B": floats(8)},
    )
    proto = model(
        [node("Loop", "trips go h0", "h", body=loop)],
        {"trips": (I64, []), "go": (BOOL, []), "h0": (F, ["rows", 8]), "memory": (F, ["rows", 16])},
        ["h"],
    )
    plan = check(proto, {"trips": trips, "go": True, "h0": floats(5, 8), "memory": floats(5, 16)})
    kernels = [[step.target for step in block.steps if step.kind == StepKind.KERNEL] for block in plan.blocks]
    assert kernels[0] == ["gemm_f32"] and not any(kernels[1:])


def test_what_stands_before_a_loop_stays_there() -> None:
    """The product has one reader, an addition in the body: it is no epilogue of the product's kernel."""
    step = body(
        [node("Add", "p v", "s"), node("Relu", "s", "v1"), node("Identity", "c", "c1")],
        [("i", I64, []), ("c", BOOL, []), ("v", F, [4, 8])],
        [("c1", BOOL, []), ("v1", F, [4, 8])],
    )
    proto = model(
        [node("MatMul", "x W", "p"), node("Loop", "n yes v0", "y", body=step)],
        {"n": (I64, []), "x": (F, [4, 8]), "v0": (F, [4, 8])},
        ["y"],
        {"W": floats(8, 8), "yes": np.array(True)},
    )
    plan = check(proto, {"n": 3, "x": floats(4, 8), "v0": floats(4, 8)})
    assert [step.target for step in plan.blocks[0].steps if step.kind == StepKind.KERNEL] == ["gemm_f32"]


def test_the_plan_survives_its_encoding() -> None:
    proto = model([node("Loop", "n  x", "last rows", body=doubling())], {"n": (I64, []), "x": (F, [3])}, ["rows"])
    proto.graph.node[0].input[:] = ["n", "", "x"]
    plan = compile_model(proto, verify=False).linear.plan
    assert decode(encode(plan)) == plan


# ---- torch


def check_torch(module: torch.nn.Module, *runs: tuple[torch.Tensor, ...], dynamic: Any = None) -> Plan:
    """Compile once for the first inputs, run on all, compare with torch; the plan."""
    artifact = compile_model(module, example_inputs=runs[0], dynamic=dynamic, verify=False)
    program = maas_rt.load(artifact.to_bytes(), threads=1)
    for inputs in runs:
        given = {info.name: x.numpy() for info, x in zip(program.inputs, inputs, strict=True)}
        want = [torch.as_tensor(value).detach().numpy() for value in torch.utils._pytree.tree_leaves(module(*inputs))]
        got = list(program.run(given).values())
        agree({str(k): v for k, v in enumerate(got)}, {str(k): v for k, v in enumerate(want)})
    return artifact.linear.plan


class Relax(torch.nn.Module):
    """x grows through a layer while a counter is below n and its sum below 100."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, n: torch.Tensor) -> Any:
        def go(i: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return (i < n) & (x.sum() < 100)

        def step(i: torch.Tensor, x: torch.Tensor) -> Any:
            return i + 1, torch.relu(self.layer(x)) + x + 1

        return while_loop(go, step, (torch.zeros((), dtype=torch.int64), x))


def test_while_loop_with_tensors() -> None:
    plan = check_torch(Relax(), *[(torch.randn(2, 4), torch.tensor(n)) for n in (3, 0, 1000)])
    inner = next(s for s in plan.blocks[0].steps if s.kind == StepKind.LOOP).blocks[0]
    assert "gemm_f32" in [step.target for step in plan.blocks[inner].steps]
    artifact = compile_model(Relax(), example_inputs=(torch.randn(2, 4), torch.tensor(3)))
    assert artifact.manifest["verified"]["status"] == "passed"


class Counted(torch.nn.Module):
    """A Python integer is carried, below zero at first; the body holds a cond and another loop."""

    def forward(self, x: torch.Tensor) -> Any:
        def inner_step(k: torch.Tensor, y: torch.Tensor) -> Any:
            return k + 1, y * 0.5

        def step(i: int, x: torch.Tensor, flips: torch.Tensor) -> Any:
            y = torch.cond(x.sum() > 0, lambda v: v - 1.0, lambda v: v + 2.5, (x,))
            _, z = while_loop(lambda k, y: k < flips, inner_step, (torch.zeros((), dtype=torch.int32), y))
            return i + 1, z + i, flips + 1

        return while_loop(lambda i, x, flips: i < 4, step, (-2, x, torch.zeros((), dtype=torch.int32)))


def test_while_loop_with_an_integer_a_branch_and_a_loop() -> None:
    check_torch(Counted(), (torch.randn(3, 2),), (torch.full((3, 2), -4.0),))


class Recurrent(torch.nn.Module):
    def forward(self, h: torch.Tensor, xs: torch.Tensor) -> Any:
        def step(h: torch.Tensor, x: torch.Tensor) -> Any:
            h = torch.tanh(h + x)
            return h, torch.cat([h, x])

        return scan(step, h, xs, dim=0)


def test_scan_over_a_dynamic_axis() -> None:
    runs = [(torch.randn(4), torch.randn(length, 4)) for length in (5, 2, 9)]
    check_torch(Recurrent(), *runs, dynamic={"xs": {0: (2, 64)}})


class Mapped(torch.nn.Module):
    def forward(self, xs: torch.Tensor, y: torch.Tensor) -> Any:
        return torch_map(lambda x, y: (x @ y, x.sum() > 0), xs, y)


def test_map_over_many_elements() -> None:
    plan = check_torch(Mapped(), (torch.randn(100, 3, 4), torch.randn(4, 2)))
    assert StepKind.LOOP in kinds(plan)
