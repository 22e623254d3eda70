"""Numbers that a run computes and the model does not take: they are refused, in a sentence that names the operator, never used."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from maas_rt.compiler import compile
from onnx import TensorProto
from torch import nn

import maas_rt
from tests.compiler.test_import_onnx import floats, model, node


def refused(program: maas_rt.Model, inputs: dict[str, Any], *said: str) -> None:
    with pytest.raises(maas_rt.InvalidArgumentError) as error:
        program.run(inputs)
    for each in said:
        assert each in str(error.value)


@pytest.mark.parametrize("allowzero", [0, 1])
def test_reshape_to_a_shape_that_a_run_is_given(allowzero: int) -> None:
    """ONNX Runtime takes [0, -1] of no elements with allowzero, which the standard forbids."""
    proto = model(
        [node("Reshape", "x shape", "y", allowzero=allowzero)],
        {"x": (TensorProto.FLOAT, ["n", 3]), "shape": (TensorProto.INT64, [2])},
        ["y"],
    )
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    program = maas_rt.load(compile(proto, verify=False))
    taken = []
    for x in (floats(2, 3), floats(0, 3)):
        for shape in [
            *((3, 2), (-1, 2), (0, 3), (0, -1), (-1, 0), (-1, -1), (4, 2), (-2, 3), (-2, -3), (0, 0), (0, 5), (-1, 4)),
        ]:
            inputs = {"x": x, "shape": np.array(shape)}
            try:
                (want,) = session.run(None, inputs)
            except Exception:  # its errors have a class for each status
                want = None
            if want is None or (allowzero and 0 in shape and -1 in shape):
                refused(program, inputs, "Reshape 'Reshape_y' is given a shape that does not fit its input")
            else:
                np.testing.assert_array_equal(program.run(inputs)["y"], want)
                taken.append((len(x), shape))
    assert len(taken) == (7 if allowzero else 12), taken


def test_a_negative_number_of_a_list() -> None:
    proto = model([node("Tile", "x n", "y")], {"x": (TensorProto.FLOAT, [2, 3]), "n": (TensorProto.INT64, [2])}, ["y"])
    program = maas_rt.load(compile(proto, verify=False))
    inputs = {"x": floats(2, 3), "n": np.array([1, -2])}
    refused(program, inputs, "a number of the repeats of Tile 'Tile_y' is -2, expected at least 0")


class Checks(nn.Module):
    """What torch._check and torch._assert_async say of numbers that the data decides."""

    def forward(self, x: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, ...]:
        three, some, other, flag = (n.item() for n in numbers)
        torch._check(three == 3)
        torch._check(some >= 0)
        torch._check(some <= x.shape[0])
        torch._check(other != 0)
        torch._check((numbers[3] > 0).item(), lambda: "the flag is up")
        torch._assert_async((x > -1).all(), "all above -1")
        found = (x > 0).nonzero()
        torch._check(found.shape[0] % 2 == 0)
        two = (x > 5).nonzero()
        torch._check(two.shape[0] == 2)
        return x[:three], x[:some] * other, found, two, x * flag


def test_what_torch_checks_is_checked_by_a_run() -> None:
    good: dict[str, Any] = {"x": np.float32([1, 2, 6, 7, 0]), "numbers": np.array([3, 2, -1, 1])}
    examples = {name: torch.from_numpy(value) for name, value in good.items()}
    net = Checks()
    program = maas_rt.load(compile(net, examples, dynamic={"x": {0: (4, 8)}}, verify=False))
    for numbers in ([3, 2, -1, 1], [3, 5, 7, 2], [3, 0, 1, 1]):
        inputs = {**good, "numbers": np.array(numbers)}
        want = net(*(torch.from_numpy(value) for value in inputs.values()))
        for got, expected in zip(program.run(inputs).values(), want, strict=True):
            np.testing.assert_array_equal(got, expected.numpy())
    for change, said in {
        (2, 2, -1, 1): "must be 3",
        (3, 6, -1, 1): "<= x_dim0",
        (3, -1, -1, 1): "gives is -1, expected at least 0",
        (3, 2, 0, 1): "number != 0",
        (3, 2, -1, 0): "number == 1",
    }.items():
        inputs = {**good, "numbers": np.array(change)}
        with pytest.raises(RuntimeError):
            net(*(torch.from_numpy(value) for value in inputs.values()))
        refused(program, inputs, said, " at test_told.py:")
    for x, said in (
        ([1, 2, 6, 7, -3], "all above -1"),
        ([1, 2, 6, 7, 1], "number % 2"),
        ([1, 2, 6, 1, 0], "must be 2"),
        ([6, 6, 6, 6, 0], "must be 2"),
    ):
        refused(program, {**good, "x": np.float32(x)}, said, " at test_told.py:")


def test_extents_that_do_not_meet_are_told_with_their_place() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            first, second = x.chunk(2)
            return first * second

    program = maas_rt.load(compile(Halves(), {"x": torch.ones(8, 3)}, dynamic={"x": {0: (4, 16)}}, verify=False))
    refused(program, {"x": floats(7, 3)}, "aten.mul.Tensor at test_told.py:", "the extent must equal")
