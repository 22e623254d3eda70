"""Element types that are only stored (float8, float4, int4, uint4, int2, uint2): the ONNX importer, a run, and what they come out as."""

from __future__ import annotations

import warnings
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile as compile_model
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import maas_rt
from tests.compiler.test_import_onnx import model, node

F = TensorProto.FLOAT
FLOAT8 = [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ]
SMALL = [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT2, TensorProto.UINT2]


def ran(proto: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    return maas_rt.load(compile_model(proto, verify=False).to_bytes(), threads=1).run(inputs)


def as_numbers(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32)


def agrees(proto: onnx.ModelProto, inputs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = ReferenceEvaluator(proto).run(None, inputs)
    got = ran(proto, inputs)
    for info, want in zip(proto.graph.output, wanted, strict=True):
        assert got[info.name].dtype == want.dtype
        np.testing.assert_array_equal(as_numbers(got[info.name]), as_numbers(want))


def halves() -> np.ndarray:
    return np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("to", [*FLOAT8, TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E8M0])
@pytest.mark.parametrize("saturate", [0, 1])
def test_every_half_becomes_what_the_specification_says(to: int, saturate: int) -> None:
    cast = node("Cast", "x", "y", to=to, saturate=saturate)
    agrees(model([cast], {"x": (TensorProto.FLOAT16, ["n"])}, ["y"], opset=24), {"x": halves()})


@pytest.mark.parametrize("to", FLOAT8)
def test_doubles_are_rounded_as_by_the_reference(to: int) -> None:
    """1 + a half step + a little: the reference rounds it to float32 first, where it is a tie."""
    x = np.array(
        [1 + 2**-4 + 2**-40, 1 + 2**-3 + 2**-40, -1 - 2**-4 - 2**-40, 1 + 2**-4 - 2**-40, 2.0**-200], np.float64
    )
    agrees(model([node("Cast", "x", "y", to=to)], {"x": (TensorProto.DOUBLE, [5])}, ["y"], opset=24), {"x": x})


@pytest.mark.parametrize("kind", [*FLOAT8, TensorProto.FLOAT4E2M1, TensorProto.FLOAT8E8M0, *SMALL])
def test_each_of_their_values_is_read(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    bits = {
        TensorProto.FLOAT4E2M1: 4,
        TensorProto.INT4: 4,
        TensorProto.UINT4: 4,
        TensorProto.INT2: 2,
        TensorProto.UINT2: 2,
    }
    x = np.arange(1 << bits.get(kind, 8), dtype=np.uint8).view(dtype)
    agrees(model([node("Cast", "x", "y", to=1)], {"x": (kind, ["n"])}, ["y"], opset=25), {"x": x})


@pytest.mark.parametrize("kind", SMALL)
def test_small_integers_keep_their_low_bits(kind: int) -> None:
    x = np.arange(-20, 21, dtype=np.int32).reshape(1, 41)
    agrees(model([node("Cast", "x", "y", to=kind)], {"x": (TensorProto.INT32, [1, 41])}, ["y"], opset=25), {"x": x})


def test_the_unused_bits_of_a_byte_do_not_count() -> None:
    proto = model(
        [node("Cast", "x", "y", to=1), node("Identity", "x", "z")],
        {"x": (TensorProto.INT4, [3])},
        ["y", "z"],
        opset=21,
    )
    got = ran(proto, {"x": np.array([0xF8, 0x17, 0x8F], np.uint8).view(ml_dtypes.int4)})
    np.testing.assert_array_equal(got["y"], [-8, 7, -1])
    np.testing.assert_array_equal(got["z"].view(np.uint8), [8, 7, 15])


def test_they_are_moved_and_kept() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-8, 8, (2, 3, 4)).astype(ml_dtypes.int4)
    proto = model(
        [node("Transpose", "x", "t", perm=[2, 0, 1]), node("Reshape", "t s", "y"), node("Shape", "t", "shape")],
        {"x": (TensorProto.INT4, ["n", 3, 4])},
        ["y", "shape"],
        {"s": np.array([4, -1])},
        opset=21,
    )
    agrees(proto, {"x": x})


def test_weights_in_blocks_of_four_bits() -> None:
    """A weight as quantizers write it: int4, a scale and a zero point for every 8 rows of a column."""
    rng = np.random.default_rng(1)
    packed = rng.integers(-8, 8, (16, 6)).astype(ml_dtypes.int4)
    scale = rng.uniform(0.1, 1.0, (2, 6)).astype(np.float32)
    zero = rng.integers(-8, 8, (2, 6)).astype(ml_dtypes.int4)
    proto = model(
        [node("DequantizeLinear", "w scale zero", "d", axis=0, block_size=8), node("MatMul", "x d", "y")],
        {"x": (F, ["n", 16])},
        ["y"],
        {"scale": scale},
        opset=21,
    )
    for name, array in (("w", packed), ("zero", zero)):
        proto.graph.initializer.append(numpy_helper.from_array(array, name))
    x = rng.standard_normal((3, 16)).astype(np.float32)
    expected = x @ ((packed.astype(np.float32) - np.repeat(zero.astype(np.float32), 8, 0)) * np.repeat(scale, 8, 0))
    np.testing.assert_allclose(ran(proto, {"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [*SMALL, *FLOAT8, TensorProto.FLOAT4E2M1])
def test_quantized_and_back_with_verification(kind: int) -> None:
    proto = model(
        [node("QuantizeLinear", "x s", "q", output_dtype=kind), node("DequantizeLinear", "q s", "y")],
        {"x": (F, ["n", 5])},
        ["q", "y"],
        {"s": np.array(0.5, np.float32)},
        opset=25,
    )
    assert compile_model(proto).to_bytes()  # verified against ONNX's reference, which this raises if it is missed
    agrees(proto, {"x": np.linspace(-40, 40, 35, dtype=np.float32).reshape(7, 5)})


def test_arithmetic_on_them_is_refused_by_name() -> None:
    proto = model(
        [node("Cast", "x", "q", to=TensorProto.INT4), node("Pad", "q pads", "c"), node("Cast", "c", "y", to=1)],
        {"x": (F, [4])},
        ["y"],
        {"pads": np.array([1, 1])},
        opset=21,
    )
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="Pad .of int4."):
        compile_model(proto, verify=False)


def test_a_branch_that_gives_one_is_refused_by_name() -> None:
    def branch(name: str) -> onnx.GraphProto:
        cast = node("Cast", "x", name, to=TensorProto.FLOAT8E5M2)
        return helper.make_graph([cast], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT8E5M2, [4])])

    proto = model(
        [node("If", "c", "q", then_branch=branch("a"), else_branch=branch("b")), node("Cast", "q", "y", to=1)],
        {"c": (TensorProto.BOOL, []), "x": (F, [4])},
        ["y"],
        opset=21,
    )
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="float8_e5m2"):
        compile_model(proto, verify=False)
