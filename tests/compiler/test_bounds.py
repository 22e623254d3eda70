"""Bounds of dimensions: how they are written, and that what was asked for is kept, or refused with the reason before anything is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import compile
from maas_rt.compiler.importers import import_model
from onnx import TensorProto, helper
from torch import nn

import maas_rt


def add(*shapes: list[Any]) -> onnx.ModelProto:
    """The sum of the inputs x, z, ..., of these shapes."""
    names = ["x", "z"][: len(shapes)]
    inputs = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in zip(names, shapes, strict=True)
    ]
    node = helper.make_node("Sum", names, ["y"])
    graph = helper.make_graph(
        [node], "g", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shapes[0]))]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


class Lambda(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x)


X = {"x": torch.ones(4, 8)}


@pytest.mark.parametrize("dynamic", ["x:0=1..32", ["x:-2=1..32"], {"x": {0: (1, 32)}}, {"x": {-2: (1, 32)}}])
def test_one_way_to_write_bounds_for_every_source(dynamic: Any, tmp_path: Path) -> None:
    program = torch.export.export(
        Lambda(torch.relu), (X["x"],), dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    onnx.save(add(["n", 8]), tmp_path / "m.onnx")
    onnx.save(add([4, 8]), tmp_path / "fixed.onnx")
    for source, examples in (
        (Lambda(torch.relu), X),
        (program, None),
        (tmp_path / "m.pt2", None),
        (tmp_path / "m.onnx", None),
        (tmp_path / "fixed.onnx", None),
    ):
        model = import_model(source, examples, dynamic=dynamic)
        assert [(spec.min, spec.max) for spec in model.symbols.values()] == [(1, 32)], source


def test_a_form_that_is_none_is_told_the_forms(tmp_path: Path) -> None:
    """Of every source the same, whether it reads them as a mapping or as the command line's texts."""
    torch.export.save(torch.export.export(Lambda(torch.relu), (X["x"],)), tmp_path / "m.pt2")
    for source, examples in ((Lambda(torch.relu), X), (tmp_path / "m.pt2", None), (add(["n", 8]), None)):
        for text in [
            "batch=1..8",
            "x:0=batch",
            "x:batch=1..8",
            "x:0=8",
            "x:0=1-8",
            "x:0=1:8",
            "x=1..8",
            "",
            "x:0=1..8,x:1=2..3",
        ]:
            with pytest.raises(maas_rt.InvalidArgumentError, match="expected input:dim=min..max, as x:0=1..32"):
                import_model(source, examples, dynamic=[text])
        for empty in ("x:0=8..1", {"x": {0: (8, 1)}}, {"x": {0: (-3, 5)}}):
            with pytest.raises(
                maas_rt.InvalidArgumentError, match=r"dimension 0 of 'x' is to be in -?\d\.\.\d, which is empty"
            ):
                import_model(source, examples, dynamic=empty)


def test_names_with_colons_are_names() -> None:
    proto = add(["n", 8])
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "serving:0"
    assert [spec.max for spec in import_model(proto, dynamic="serving:0:0=1..32").symbols.values()] == [32]


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        (add(["n", 8]), {"dynamic": "x:0=1..32", "input_shapes": {"x": (64, 8)}}, "gives 64 for dimension 0"),
        (add(["n", 8]), {"dynamic": "x:0=1..32", "input_shapes": {"x": (4, 8)}}, "leave one of the two out"),
        (add(["n", 8]), {"dynamic": 3}, "expected a mapping"),
        (add(["n", 8]), {"dynamic": ["x:0=1..4", "x:0=1..5"]}, "asked for twice"),
        (
            add(["n", 8], ["n", 8]),
            {"dynamic": ["x:0=1..32", "z:0=1..8"]},
            "has to equal dimension 0 of input 'z'.*ask for x:0=1..8",
        ),
        (
            add(["n", 8], ["m", 8]),
            {"dynamic": ["x:0=1..32", "z:0=1..8"]},
            "has to equal dimension 0 of input 'z'.*ask for x:0=1..8",
        ),
        (
            Lambda(lambda x: torch.cdist(x, x)),
            {"example_inputs": X, "dynamic": "x:0=1..64"},
            r"holds for 1..25 alone: cdist at test_bounds.py:\d+ narrows it; ask for x:0=1..25",
        ),
        (
            Lambda(lambda x: x[:10] if x.shape[0] > 10 else x),
            {"example_inputs": X, "dynamic": "x:0=1..64"},
            r"holds for 1..10 alone: its size is compared \(.* <= 10\) at test_bounds.py",
        ),
        (Lambda(torch.relu), {"input_shapes": {"x": (4, 8)}, "dynamic": "x:0=8..64"}, "the example input has 4 there"),
        (Lambda(torch.relu), {"example_inputs": X, "dynamic": "x:0=3..3"}, "the example input has 4 there"),
        (
            torch.export.export(Lambda(torch.relu), (X["x"],), dynamic_shapes=({0: torch.export.Dim("n", max=32)},)),
            {"dynamic": "x:0=1..64"},
            "ask for x:0=1..32",
        ),
        (torch.export.export(Lambda(torch.relu), (X["x"],)), {"dynamic": "x:0=1..64"}, "fixes dimension 0"),
        (torch.export.export(Lambda(torch.relu), (X["x"],)), {"dynamic": "y:0=1..64"}, "no input named 'y'"),
    ],
)
def test_bounds_that_cannot_be_kept(source: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=words) as caught:
        import_model(source, **options)
    assert "\n" not in str(caught.value)


def test_bounds_of_one_dimension_that_agree() -> None:
    model = import_model(add(["n", 8], ["m", 8]), dynamic=["x:0=2..32", "z:0=2..32"])
    assert [(spec.min, spec.max) for spec in model.symbols.values()] == [(2, 32)]
    assert import_model(add(["n", 8]), dynamic="x:0=3..3").symbols == {}


@pytest.mark.parametrize(
    "function", [torch.relu, lambda x: x.sum(0), lambda x: x.T @ x], ids=["relu", "sum", "product"]
)
def test_zero_is_kept_where_it_is_asked_for(function: Any) -> None:
    model = maas_rt.load(compile(Lambda(function), X, dynamic={"x": {0: (0, 64)}}).to_bytes())
    assert model.inputs[0].bounds[0] == (0, 64)
    for rows in (0, 1, 5):
        x = torch.randn(rows, 8)
        np.testing.assert_allclose(model(x.numpy()), function(x).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("function", "dynamic", "words"),
    [
        (lambda x: x.amax(0), "x:0=0..64", "are none that torch runs this model on"),
        (lambda x: x[:, 1], "x:1=1..8", "holds for 2..8 alone; ask for x:1=2..8"),
    ],
    ids=["max", "index"],
)
def test_a_minimum_that_torch_refuses(function: Any, dynamic: str, words: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match=words):
        compile(Lambda(function), X, dynamic=dynamic)


# ---- bounds of slices, and of ranks


def sliced(bounds: str, **more: Any) -> onnx.ModelProto:
    """b [1, w] sliced along axis 1 by names out of d = n - t of x [n, t] (of either sign), -d, and constants."""
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Split", ["s"], ["n", "t"], num_outputs=2),
        helper.make_node("Sub", ["n", "t"], ["d"]),
        helper.make_node("Neg", ["d"], ["minus_d"]),
        helper.make_node("Slice", ["b", *bounds.split()], ["y"]),
    ]
    constants = {"zero": 0, "axis": 1, "end": 2**63 - 1, "begin": -(2**63), "one": 1, "back": -1, "three": 3} | more
    graph = helper.make_graph(
        nodes,
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", "t"]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, "w"]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, None])],
        [onnx.numpy_helper.from_array(np.array([v], np.int64), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("bounds", "python"),
    [
        ("d end axis", lambda d: slice(d, None)),
        ("zero d axis", lambda d: slice(0, d)),
        ("d minus_d axis", lambda d: slice(d, -d)),
        ("d end axis three", lambda d: slice(d, None, 3)),
        ("d begin axis back", lambda d: slice(max(d, -12), None, -1)),
        ("end d axis back", lambda d: slice(None, d, -1)),
    ],
)
def test_slices_whose_bounds_have_either_sign(bounds: str, python: Any) -> None:
    """With a negative step ONNX begins at the first element where a start lies before it; numpy does not."""
    model = maas_rt.load(compile(sliced(bounds), verify=False).to_bytes())
    b = np.arange(12, dtype=np.float32)[None]
    for rows, columns in ((1, 1), (1, 2), (9, 2), (2, 9), (30, 1), (1, 30), (13, 1), (1, 13)):
        x = np.zeros((rows, columns), np.float32)
        np.testing.assert_array_equal(model.run({"x": x, "b": b})["y"], b[:, python(rows - columns)], bounds)


@pytest.mark.parametrize("extent", [12, 0, "w"])
def test_slices_backwards_from_before_the_beginning(extent: Any) -> None:
    proto = sliced("start begin axis back", start=-19)
    proto.graph.input[1].CopyFrom(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, extent]))
    model = maas_rt.load(compile(proto, verify=False).to_bytes())
    b = np.arange(extent or 0 if extent != "w" else 12, dtype=np.float32)[None]
    np.testing.assert_array_equal(model.run({"x": np.zeros((1, 1), np.float32), "b": b})["y"], b[:, :1])


def test_more_dimensions_than_the_runtime_has() -> None:
    from maas_rt._plan import MAX_RANK

    header = Path(maas_rt.__file__).parent / "include" / "maas_rt.h"
    assert f"#define MRT_MAX_RANK {MAX_RANK}\n" in header.read_text()
    fits = compile(Lambda(lambda x: x.reshape([1] * 10 + [4, 8]) * 2), X)
    assert maas_rt.load(fits.to_bytes())(X["x"].numpy()).shape == (*[1] * 10, 4, 8)
    with pytest.raises(maas_rt.CompileError, match="operator view has 13 dimensions, .* at most 12"):
        compile(Lambda(lambda x: x.reshape([1] * 11 + [4, 8]) * 2), X)


def test_sizes_that_a_reshape_does_not_divide_are_refused() -> None:
    artifact = compile(Lambda(lambda x: x.reshape(-1, 4) + 1), {"x": torch.ones(8, 5)}, dynamic={"x": {0: (4, 40)}})
    model = maas_rt.load(artifact)
    x = np.arange(60, dtype=np.float32).reshape(12, 5)
    np.testing.assert_array_equal(model(x), x.reshape(-1, 4) + 1)
    with pytest.raises(maas_rt.InvalidArgumentError, match="as many elements as its new shape"):
        model(x[:5])


ODD = {
    "halves": lambda x: x.reshape(x.shape[0] // 2, 2, 5) * 1,
    "rest_first": lambda x: x.view(-1, 10) @ torch.ones(10, 3),
    "unflatten": lambda x: x.unflatten(0, (-1, 2)).sum(1),
    "there_and_back": lambda x: x.reshape(x.shape[0] // 2, 2, 5).reshape(x.shape[0], 5) + 1,
    "expand": lambda x: x.expand(x.shape[0] // 2 * 2, 5) + 1,
    "broadcast": lambda x: x + x[: x.shape[0] // 2 * 2],
    "cat": lambda x: torch.cat(x.chunk(2), 1),
    "stack": lambda x: torch.stack([x, x[: x.shape[0] // 2 * 2]], 1),
    "glu": lambda x: nn.functional.glu(x, 0),
    "unshuffle": lambda x: nn.functional.pixel_unshuffle(x.repeat(3, 1)[None, :, :4], 2),
    "read": lambda x: x.repeat(4, 1)[: 2 * count(x)].reshape(count(x), 2, 5) + x.view(-1, 10).sum(),
}


def count(x: torch.Tensor) -> Any:
    """A number that the data decides."""
    number = (x[0, 0].abs().clamp(max=2.0) + 1).long().item()
    torch._check(number >= 0)
    torch._check(number <= 3)
    return number


@pytest.mark.parametrize("name", ODD)
def test_sizes_that_torch_refuses_are_refused(name: str) -> None:
    """torch.export writes what was asked for as a quotient, rows // (rows // 2) for 2: 3 for 3 rows."""
    function = ODD[name]
    model = maas_rt.load(compile(Lambda(function), {"x": torch.ones(10, 5)}, dynamic={"x": {0: (2, 64)}}, verify=False))
    for rows in (4, 6, 12):
        x = torch.randn(rows, 5)
        np.testing.assert_allclose(model(x.numpy()), function(x).numpy(), rtol=1e-5, atol=1e-5)
    for rows in (3, 5, 9):
        with pytest.raises(RuntimeError):
            function(torch.randn(rows, 5))
        with pytest.raises(
            maas_rt.InvalidArgumentError, match="the extent must equal|as many elements as its new shape"
        ):
            model(torch.randn(rows, 5).numpy())


def test_a_rest_that_divides_the_elements_alone() -> None:
    """torch.export divides the rows, which 10 need not divide: 4 rows of 5 are 10 pairs."""
    model = maas_rt.load(
        compile(Lambda(lambda x: x.view(10, -1) + 1), {"x": torch.ones(20, 5)}, dynamic={"x": {0: (2, 64)}})
    )
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    np.testing.assert_array_equal(model(x), x.reshape(10, 2) + 1)


@pytest.mark.parametrize("function", [lambda x: x[:, 2:], lambda x: x[:, 1:-1].sum(1)])
def test_sizes_for_which_an_extent_is_negative_are_told_before_anything_is_compiled(function: Any) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError, match="asked to be 1..32, and the model holds for 2..32 alone"):
        import_model(Lambda(function), {"x": torch.ones(2, 7, 6)}, dynamic="x:1=1..32")
    assert import_model(Lambda(function), {"x": torch.ones(2, 7, 6)}, dynamic="x:1=2..32").symbols["x_dim1"].min == 2
