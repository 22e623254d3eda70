"""Integers over their whole range, in both importers: wrap-around, powers, shifts, negation of what has no sign, and floats that do not fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from maas_rt.compiler import compile
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch import nn

import maas_rt


def edges(dtype: str) -> np.ndarray:
    info = np.iinfo(dtype)
    below = [-1, -2, -3, -7] if info.min < 0 else []
    return np.array([info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 100, info.max // 2, *below], dtype)


class Integers(nn.Module):
    """b is not 0."""

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        small = b & 7
        return {
            "add": a + b, "subtract": a - b, "multiply": a * b, "negative": -a, "sign": a.sign(), "abs": a.abs(), "not": ~a, "and": a & b, "or": a | b,
            "xor": a ^ b, "left": a << small, "right": a >> small, "far left": torch.bitwise_left_shift(a, b), "far right": torch.bitwise_right_shift(a, b), "power": torch.pow(a, small), "any power": torch.pow(a, b.abs() & 127), "power 0": a**0,
            "power 21": a**21, "of 3": torch.pow(3, small), "square": a.square(), "sum": a.sum(), "product": a[:4].prod(), "running": a.cumsum(0),
            "running product": a.cumprod(0), "scalar": 7 - a, "clamp": a.clamp(1, 5), "less": a < 1000, "half": a * 0.5, "quotient": a // 3, "rest": a % 3,
            "equal": a == 1.5,
        }  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
def test_integers_of_torch(dtype: str) -> None:
    values = edges(dtype)
    a, b = (x.reshape(-1).copy() for x in np.meshgrid(values, values[values != 0]))
    examples = {"a": torch.from_numpy(a), "b": torch.from_numpy(b)}
    got = maas_rt.load(compile(Integers(), examples, verify=False).to_bytes()).run({"a": a, "b": b})
    for (name, want), result in zip(Integers()(**examples).items(), got.values(), strict=True):
        assert str(result.dtype) == str(want.dtype).removeprefix("torch."), name
        np.testing.assert_array_equal(result, want.numpy(), name)


class Chains(nn.Module):
    """What a compiler that takes whole numbers for unlimited would shorten."""

    def forward(self, a: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mixed = (a ^ (a >> 16)) * 73244475
        return (
            (a * 6) // 3, (a + a) // 2, (a * a) < 0, (a + 2000000000) > a, torch.where(a * a >= 0, a * a, -1), (a * 3).abs(), mixed ^ (mixed >> 16),
            (a * 40503) % 1000, (a - 3) < a,
        )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_chains_of_integers_wrap_around(dtype: torch.dtype) -> None:
    info = torch.iinfo(dtype)
    a = torch.randint(info.min, info.max, (1000,), generator=torch.Generator().manual_seed(0), dtype=dtype)
    a = torch.cat([a, torch.from_numpy(edges(str(dtype).removeprefix("torch."))[1:])])
    got = maas_rt.load(compile(Chains(), (a,), verify=False).to_bytes()).run({"a": a})
    for number, (want, result) in enumerate(zip(Chains()(a), got.values(), strict=True)):
        np.testing.assert_array_equal(result, want.numpy(), str(number))


class Unsigned(nn.Module):
    """What torch itself computes in its unsigned types beyond uint8: no sums, no comparisons but these."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.kept: torch.Tensor
        self.register_buffer("kept", torch.arange(11).to(dtype))

    def forward(self, a: torch.Tensor, b: torch.Tensor, whole: torch.Tensor) -> dict[str, torch.Tensor]:
        same = {2: torch.int16, 4: torch.int32, 8: torch.int64}[self.dtype.itemsize]
        return {
            "multiply": a * b, "of the weights": a * self.kept, "quotient": a / b, "and": a & b, "or": a | 7, "xor": a ^ b, "equal": a == b, "unlike": a != 3,
            "root": a.sqrt(), "sum": a.sum(), "product": a.prod(), "running": a.cumsum(0), "any": a.any(), "sorted": a.sort().values, "joined": torch.cat([a, b]),
            "chosen": a[b[:2].to(torch.int64) & 1], "padded": nn.functional.pad(a, (1, 2)), "full": torch.full((2,), 9, dtype=self.dtype),
            "long": a.to(torch.int64), "int": a.to(torch.int32), "byte": a.to(torch.uint8), "float": a.to(torch.float32), "double": a.to(torch.float64),
            "bool": a.to(torch.bool), "of long": whole.to(self.dtype), "of float": (whole & 7).float().to(self.dtype), "bits": a.view(same), "of bits": a.view(same).view(self.dtype),
        }  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_integers_of_torch(dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    a = torch.from_numpy(edges(name))
    examples = (a, torch.from_numpy(edges(name)[::-1].copy() | 1), torch.from_numpy(edges("int64")[:11]))
    model = Unsigned(dtype)
    got = maas_rt.load(compile(model, examples).to_bytes()).run(dict(zip("ab", examples)) | {"whole": examples[2]})
    for (case, want), result in zip(model(*examples).items(), got.values(), strict=True):
        assert str(result.dtype) == str(want.dtype).removeprefix("torch."), case
        np.testing.assert_allclose(result, want.numpy(), rtol=1e-6 if want.is_floating_point() else 0, err_msg=case)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "int64"])
def test_divisors_of_torch(dtype: str) -> None:
    class Divisors(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.gcd(a, b), torch.lcm(a, b)

    values = edges(dtype)
    if dtype in ("int32", "int64"):
        values = np.concatenate([values[4:10], np.array([-12, 18, 1000, -999], dtype)])  # multiples that fit
    examples = (torch.from_numpy(values.reshape(-1, 1)), torch.from_numpy(values))
    got = maas_rt.load(compile(Divisors(), examples, verify=False).to_bytes()).run(dict(zip("ab", examples)))
    for want, result in zip(Divisors()(*examples), got.values(), strict=True):
        np.testing.assert_array_equal(result, want.numpy())


def test_negative_powers_of_integers() -> None:
    """torch refuses them of one number alone."""
    a, b = (x.reshape(-1).copy() for x in np.meshgrid(np.array([-3, -1, 0, 1, 2]), np.array([-3, -2, -1, 0, 1, 2])))
    keep = (a != 0) | (b >= 0)
    a, b = torch.from_numpy(a[keep]), torch.from_numpy(b[keep])

    class Power(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return torch.pow(a, b)

    model = maas_rt.load(compile(Power(), (a, b)).to_bytes())
    np.testing.assert_array_equal(model(a.numpy(), b.numpy()), torch.pow(a, b).numpy())


FLOATS = [0, -0.0, 0.5, -0.9, 1.5, -1, -1.5, 127, 128, -129, 200, 255.9, 256, 300, -255, 32768, -32769, 65536, 70000, 2**31, -(2**31), 3e9, -3e9, 2**32,
          5e9, 2**63, -(2**63), 1e19, 2**64, 1e30, -1e30, np.inf, -np.inf, np.nan]  # fmt: skip
KINDS = ["int8", "uint8", "int16", "int32", "int64"]


class Casts(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(x.to(getattr(torch, kind)) for kind in KINDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_floats_that_no_integer_is_in_torch(dtype: torch.dtype) -> None:
    x = torch.tensor(FLOATS, dtype=torch.float64).to(dtype)
    given: Any = x.numpy() if dtype is not torch.bfloat16 else _brain(x)
    model = maas_rt.load(compile(Casts(), {"x": x}, verify=False).to_bytes())
    for kind, got in zip(KINDS, model.run({"x": given}).values(), strict=True):
        # As x86 has it, where torch ran when this was written: through 32 bits, what does not fit the least number.
        wide = x.double().numpy()
        bits = "int64" if kind == "int64" else "int32"
        fits = (wide >= np.iinfo(bits).min) & (wide <= np.iinfo(bits).max * (1 - 2.0**-53))
        want = np.where(fits, np.where(fits, wide, 0).astype(bits), np.iinfo(bits).min).astype(kind)
        np.testing.assert_array_equal(got, want, kind)


def _brain(x: torch.Tensor) -> Any:
    import ml_dtypes

    return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)


@pytest.mark.parametrize("exponent", [TensorProto.INT64, TensorProto.FLOAT])
@pytest.mark.parametrize("base", [TensorProto.INT32, TensorProto.INT64])
def test_powers_that_no_integer_is_in_onnx(base: int, exponent: int) -> None:
    """0 to a negative power, as the conversion of infinity; beyond the type, to a power that is a float, as that of a float."""
    values = {"x": (base, [5]), "y": (exponent, [5])}
    infos = [helper.make_tensor_value_info(name, *kind) for name, kind in values.items()]
    graph = helper.make_graph(
        [helper.make_node("Pow", ["x", "y"], ["z"])], "g", infos, [helper.make_tensor_value_info("z", base, [5])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    feeds = {
        "x": np.array([0, 0, 2, -1, 5], helper.tensor_dtype_to_np_dtype(base)),
        "y": np.array([-1, -4447, -2, -3, 3], helper.tensor_dtype_to_np_dtype(exponent)),
    }
    if exponent == TensorProto.FLOAT:
        feeds["x"][4], feeds["y"][4] = 10, 40
    got = maas_rt.load(compile(proto, verify=False).to_bytes()).run(feeds)["z"]
    least = np.iinfo(got.dtype).min
    assert got.tolist() == [least, least, 0, -1, least if exponent == TensorProto.FLOAT else 125]


def test_integers_and_signs_of_onnx() -> None:
    """Cast of what does not fit, Pow of integers, BitwiseNot, the sign of zero, and a default that is a float32."""
    f, b = np.array(FLOATS, np.float32), np.array([0, 1, 2, 3, 40, 63, -1, -2, 65, 100, 1, -4447], np.int64)
    a = np.array([2, -1, -1, 3, 3, -2, 5, -1, 3, 7, 0, 0], np.int32)
    nodes = [
        *[
            helper.make_node("Cast", ["f"], [kind], to=getattr(TensorProto, kind.upper()))
            for kind in [*KINDS, "uint64"]
        ],
        helper.make_node("Sign", ["f"], ["sign"]),
        helper.make_node("LeakyRelu", ["d"], ["leaky"]),
        helper.make_node("BitwiseNot", ["a"], ["not"]),
    ]
    graph = helper.make_graph(
        [*nodes, helper.make_node("Pow", ["a", "b"], ["power"])],
        "g",
        [
            helper.make_tensor_value_info("f", TensorProto.FLOAT, [len(f)]),
            helper.make_tensor_value_info("d", TensorProto.DOUBLE, [len(f)]),
            helper.make_tensor_value_info("a", TensorProto.INT32, [len(a)]),
            helper.make_tensor_value_info("b", TensorProto.INT64, [len(b)]),
        ],
        [onnx.ValueInfoProto(name=name) for node in nodes for name in node.output]
        + [onnx.ValueInfoProto(name="power")],
    )
    proto = onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    )
    feeds = {"f": f, "d": f.astype(np.float64), "a": a, "b": b}
    got = maas_rt.load(compile(proto, verify=False).to_bytes()).run(feeds)
    powers = [1, -1, 1, 27, 3**40, (-2) ** 63, 0, 1, 3**65, 7**100, 0, -(2**31)]
    np.testing.assert_array_equal(got["power"], np.array([((p + 2**31) % 2**32) - 2**31 for p in powers], np.int32))
    del proto.graph.node[-1], proto.graph.output[-1]  # the reference has no negative powers
    with np.errstate(invalid="ignore"):
        wanted = dict(zip((o.name for o in proto.graph.output), ReferenceEvaluator(proto).run(None, feeds)))
    for name, want in wanted.items():
        np.testing.assert_array_equal(got[name], want, name)
        if want.dtype.kind == "f":
            np.testing.assert_array_equal(np.signbit(got[name]), np.signbit(want), name)
