"""Models as ONNX Runtime's own quantizers write them keep their bits: in the file, in its kernels and its numbers (verified against ONNX Runtime)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile as compile_model
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from maas_rt._cli import main
from tests.compiler.test_import_onnx import node

CHANNELS, WIDTH = 32, 10
CONVOLUTION, PRODUCT = 64 * CHANNELS * 9, 64 * 128  # weights


def network(convolution: bool) -> onnx.ModelProto:
    """A convolution, a mean over the image, a product; or the product alone."""
    rng = np.random.default_rng(1)
    weights = {"f": (64, CHANNELS, 3, 3), "w": (64, 128), "b": (64,)}
    arrays = {k: (rng.standard_normal(v) * 0.1).astype(np.float32) for k, v in weights.items()}
    nodes = [
        node("Conv", "x f b", "h", pads=[1, 1, 1, 1]), node("Relu", "h", "r"), node("GlobalAveragePool", "r", "p"),
        node("Flatten", "p", "v"), node("MatMul", "v w", "y"),
    ]  # fmt: skip
    if not convolution:
        nodes, arrays = [node("MatMul", "x w", "y")], {"w": arrays["w"]}
    shape = [2, CHANNELS, WIDTH, WIDTH] if convolution else [2, 64]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 128])
    initializers = [onnx.numpy_helper.from_array(a, k) for k, a in arrays.items()]
    graph = helper.make_graph(nodes, "net", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


class Samples(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        shape = (2, CHANNELS, WIDTH, WIDTH)
        self._all: Iterator[dict[str, Any]] = iter(
            [{"x": rng.standard_normal(shape).astype(np.float32)} for _ in range(4)]
        )

    def get_next(self) -> dict[str, Any] | None:
        return next(self._all, None)


def static(quant_format: QuantFormat, per_channel: bool) -> Callable[[Path, Path], None]:
    def quantize(source: Path, target: Path) -> None:
        quantize_static(
            source, target, Samples(), quant_format=quant_format, per_channel=per_channel, weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
        )  # fmt: skip

    return quantize


def dynamic(source: Path, target: Path) -> None:
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul"])


def blocks(bits: int, symmetric: bool, quant_format: QuantFormat, op: str) -> Callable[[Path, Path], None]:
    def quantize(source: Path, target: Path) -> None:
        made = MatMulNBitsQuantizer(
            onnx.load(source), bits=bits, block_size=32, is_symmetric=symmetric, quant_format=quant_format,
            op_types_to_quantize=("MatMul",),
        )  # fmt: skip
        made.process()
        onnx.save(made.model.model, target)
        assert any(each.op_type == op for each in made.model.model.graph.node)

    return quantize


QDQ, OPERATORS = QuantFormat.QDQ, QuantFormat.QOperator
# name -> the quantizer, whether the model has a convolution, too, bits of a weight
SOURCES: dict[str, tuple[Callable[[Path, Path], None], bool, int]] = {
    "QDQ": (static(QDQ, False), True, 8),
    "QDQ, channels": (static(QDQ, True), True, 8),
    "QOperator": (static(OPERATORS, False), True, 8),
    "QOperator, channels": (static(OPERATORS, True), True, 8),
    "dynamic": (dynamic, False, 8),
    "MatMulNBits of 4 bits": (blocks(4, True, OPERATORS, "MatMulNBits"), False, 4),
    "MatMulNBits of 4 bits, zero points": (blocks(4, False, OPERATORS, "MatMulNBits"), False, 4),
    "MatMulNBits of 8 bits, zero points": (blocks(8, False, OPERATORS, "MatMulNBits"), False, 8),
    "QDQ in blocks": (blocks(4, True, QDQ, "DequantizeLinear"), False, 4),
    "QDQ in blocks, zero points": (blocks(4, False, QDQ, "DequantizeLinear"), False, 4),
}


@pytest.mark.parametrize("name", SOURCES)
def test_weights_stay_in_the_bits_that_a_quantizer_gave_them(name: str, tmp_path: Path) -> None:
    quantize, convolution, bits = SOURCES[name]
    source, target = tmp_path / "float.onnx", tmp_path / "quantized.onnx"
    onnx.save(network(convolution), source)
    logging.disable(logging.WARNING)
    try:
        quantize(source, target)
    finally:
        logging.disable(logging.NOTSET)
    artifact = compile_model(target)
    steps = Counter(s.target for block in artifact.linear.plan.blocks for s in block.steps)
    floats = name.startswith("MatMulNBits") or "blocks" in name  # in front of the weights
    assert steps["gemm_f32q" if floats else "gemm_u8s8"] == 1 and steps["conv2d_u8s8"] == convolution, steps
    assert not any(steps[each] for each in ("gemm_f32", "conv2d_f32", "conv2d_winograd_f32"))
    assert artifact.linear.weights.size < 1.5 * (PRODUCT + CONVOLUTION * convolution) * bits / 8
    (stored,) = artifact.manifest["weights"]
    assert (stored["bits"], stored["integer"], stored["tensors"]) == (bits, True, 1 + convolution)
    assert stored.get("group") == (32 if floats else None)
    assert ("zero_points" in stored) == ("zero points" in name)
    assert "scales" not in stored  # a quantizer's floats, which float16 does not hold


@pytest.mark.parametrize("together", [(1, 1), (4, 1)])
def test_the_manifest_and_inspect_say_what_is_stored(
    together: tuple[int, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dense product, a sparse one, one of 4 bits in groups, and one that reads the dense one's weights, too."""
    rng = np.random.default_rng(3)
    outputs, inputs = together
    kept = np.kron(rng.random((256 // inputs, 256 // outputs)) < 0.05, np.ones((inputs, outputs)))
    constants = {
        "d": rng.standard_normal((256, 256)),
        "s": rng.standard_normal((256, 256)) * kept,
        "c": rng.uniform(0.01, 0.02, (256 // 32, 256)).astype(np.float16),
    }
    tensors = [onnx.numpy_helper.from_array(a.astype(np.float32), k) for k, a in constants.items()]
    tensors.append(helper.make_tensor("q", TensorProto.INT4, [256, 256], rng.integers(-8, 8, 256 * 256).tolist()))
    nodes = [
        node("MatMul", "x d", "a"), node("Relu", "a", "r"), node("MatMul", "r s", "b"), node("DequantizeLinear", "q c", "w", axis=0, block_size=32),
        node("MatMul", "b w", "e"), node("Tanh", "e", "t"), node("MatMul", "t d", "y"),
    ]  # fmt: skip
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [64, 256]) for name in "xy")
    proto = helper.make_model(
        helper.make_graph(nodes, "net", [x], [y], tensors), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    artifact = compile_model(proto)
    rows = {(row["bits"], row.get("sparse")): row for row in artifact.manifest["weights"]}
    pattern = f"{outputs}x{inputs}"
    assert rows.keys() == {(32, None), (32, pattern), (4, None)}
    assert all(row["tensors"] == 1 for row in rows.values())
    assert rows[32, None]["bytes"] >= 4 * 256 * 256 > 4 * rows[32, pattern]["bytes"]
    assert rows[4, None]["group"] == 32 and 256 * 128 <= rows[4, None]["bytes"] < 1.5 * 256 * 128
    artifact.save(tmp_path / "net.mrt")
    assert main(["inspect", str(tmp_path / "net.mrt")]) == 0
    told = capsys.readouterr().out
    assert (
        "weights   1 × float32 (" in told
        and f"1 × float32, sparse ({pattern}) (" in told
        and "1 × int4 in groups of 32, scales in float16 (" in told
    )
