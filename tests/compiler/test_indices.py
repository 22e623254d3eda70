"""Indices and lengths that only a run knows: what lies in range gives the framework's result, what does not is refused, never clamped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from maas_rt.compiler import compile
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import maas_rt

F32, I64 = np.float32, np.int64
OUTSIDE = "an index (or a length )?is out of range"


def values(*shape: int) -> np.ndarray:
    return np.arange(1, 1 + np.prod(shape), dtype=F32).reshape(shape)


X = values(4, 3)
# operator, its inputs behind x [4, 3] (the first holds the indices), attributes, indices that are legal, and that are not
NODES: list[tuple[str, list[np.ndarray], dict[str, Any], list[Any]]] = [
    ("Gather", [np.array([3, -4])], {}, [[4, 0], [0, -5]]),
    ("GatherElements", [np.array([[3, 0, -4]])], {"axis": 0}, [[[4, 0, 0]], [[0, -5, 0]]]),
    ("GatherND", [np.array([[3, 2], [-4, -3]])], {}, [[[2, 3], [0, 0]], [[0, 0], [4, 0]], [[0, -4], [0, 0]]]),
    ("ScatterElements", [np.array([[3, 0, -4]]), values(1, 3)], {"axis": 0}, [[[4, 0, 0]], [[0, 0, -5]]]),
    ("ScatterND", [np.array([[3, 2], [-4, -3]]), values(2)], {}, [[[2, 3], [0, 0]], [[0, 0], [-5, 0]]]),
    ("ReverseSequence", [np.array([1, 4, 2])], {"time_axis": 0, "batch_axis": 1}, [[5, 1, 1], [1, 1, -1]]),
]  # fmt: skip


def test_indices_of_onnx() -> None:
    nodes, inputs, good, outputs = [], [], {}, []
    for number, (op, given, attributes, _) in enumerate(NODES):
        names = [f"g{number}_{k}" for k in range(len(given))]
        good.update(zip(names, given, strict=True))
        nodes.append(helper.make_node(op, ["x", *names], [f"y{number}"], name=op * 5, **attributes))  # long
        outputs.append(helper.make_tensor_value_info(f"y{number}", TensorProto.FLOAT, None))
    for name, value in {"x": X, **good}.items():
        inputs.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
    proto = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    given = {"x": X, **good}
    program = maas_rt.load(compile(proto, example_inputs=given).to_bytes(), threads=1)
    for got, want in zip(program.run(given).values(), ReferenceEvaluator(proto).run(None, given), strict=True):
        np.testing.assert_array_equal(got, want)
    for number, (op, _, _, wrong) in enumerate(NODES):
        for indices in wrong:
            with pytest.raises(maas_rt.Error, match=f"{op}.*{OUTSIDE}|step.*{OUTSIDE}"):
                program.run({**given, f"g{number}_0": np.array(indices)})


def test_positions_and_lengths_of_other_operators() -> None:
    """What else names elements: boxes their image, pooled maxima their places, sequences their steps, rows of a cache."""
    cases: list[tuple[str, list[np.ndarray], dict[str, Any], int, Any]] = [
        ("RoiAlign", [values(2, 1, 4, 4), F32([[0, 0, 2, 2]]), np.array([1])], {}, 2, [2]),
        ("MaxUnpool", [values(1, 1, 1, 2), np.array([[[[0, 7]]]])], {"kernel_shape": [2, 2], "strides": [2, 2]}, 1, [[[[0, 8]]]]),
        ("RNN", [values(2, 1, 3) / 9, values(1, 2, 3) / 9, values(1, 2, 2) / 9, values(1, 4), np.array([2], np.int32)], {"hidden_size": 2}, 4, [3]),
    ]  # fmt: skip
    for op, given, attributes, at, wrong in cases:
        inputs = {f"i{k}": v for k, v in enumerate(given)}
        infos = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for k, v in inputs.items()
        ]
        node = helper.make_node(op, list(inputs), ["y"], name=op, **attributes)
        graph = helper.make_graph([node], "g", infos, [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        program = maas_rt.load(compile(proto, example_inputs=inputs).to_bytes(), threads=1)
        program.run(inputs)
        with pytest.raises(maas_rt.Error, match=f"{op}.*{OUTSIDE}"):
            program.run({**inputs, f"i{at}": np.array(wrong, given[at].dtype)})


class Indexed(nn.Module):
    def forward(self, x: torch.Tensor, i: torch.Tensor, j: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """i may count from the end; j and k may not."""
        rows = k[None, :].expand(1, 3)
        return (
            x[i],
            x[i, i[:3]],
            torch.take(x, i),
            x.index_put((i,), x[:1]),
            x.index_put((i, i), x[0, :1]),
            nn.functional.embedding(j, x),
            torch.index_select(x, 0, j),
            torch.gather(x, 0, rows),
            x.scatter(0, rows, x),
            x.index_add(0, j, x[:2]),
            x.scatter_reduce(0, rows, x, "amax"),
            x.index_reduce(0, j, x[:2], "prod"),
        )


def test_indices_of_torch() -> None:
    x, i = torch.from_numpy(X), torch.tensor([2, -3, 0])
    j, k = torch.tensor([3, 0]), torch.tensor([3, 0, 1])
    module, given = Indexed(), {"x": x, "i": i, "j": j, "k": k}
    program = maas_rt.load(compile(module, given).to_bytes(), threads=1)
    arrays = {name: value.numpy() for name, value in given.items()}
    for got, want in zip(program.run(arrays).values(), module(**given), strict=True):
        np.testing.assert_array_equal(got, want.numpy())
    for name, wrong in (
        ("i", [3, 0, 0]),
        ("i", [0, -4, 0]),
        ("j", [4, 0]),
        ("j", [0, -1]),
        ("k", [0, 4, 0]),
        ("k", [0, 0, -1]),
    ):
        with pytest.raises(maas_rt.Error, match=OUTSIDE):
            program.run({**arrays, name: np.array(wrong)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_rows_by_positions_from_the_start(dtype: torch.dtype) -> None:
    """Each alone refuses a negative one too: the kernel that reads the rows, where these are no integers, and else a check before it."""
    readers: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
        "embedding": lambda x, j: nn.functional.embedding(j, x),
        "index_select": lambda x, j: torch.index_select(x, 1, j[0]),
        "bag": lambda x, j: nn.functional.embedding_bag(j, x, mode="sum"),
    }

    class Read(nn.Module):
        def __init__(self, read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
            super().__init__()
            self.read = read

        def forward(self, x: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            return self.read(x, j)

    x, j = torch.from_numpy(X).to(dtype), torch.tensor([[2, 0], [1, 2]])
    for name, read in readers.items():
        if name == "bag" and dtype is torch.int64:
            continue  # torch has none
        artifact = compile(Read(read), {"x": x, "j": j})
        program = maas_rt.load(artifact.to_bytes(), threads=1)
        (got,) = program.run({"x": x.numpy(), "j": j.numpy()}).values()
        np.testing.assert_array_equal(got, read(x, j).numpy())
        targets = [step.target for block in artifact.linear.plan.blocks for step in block.steps]
        assert (sum("check_indices" in target for target in targets) == 0) == (dtype is not torch.int64), targets
        for wrong in (-1, 4 if name != "index_select" else 3, -(2**40)):
            with pytest.raises(maas_rt.Error, match=OUTSIDE):
                program.run({"x": x.numpy(), "j": np.array([[0, wrong], [1, 1]])})


def test_indices_that_are_known_to_lie_outside() -> None:
    class Known(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[torch.tensor([0, 9])]

    with pytest.raises((maas_rt.CompileError, IndexError)):
        compile(Known(), {"x": torch.zeros(4, 3)})
