"""Images in blocks of channels, which ONNX Runtime saves at ORT_ENABLE_ALL: filters stored by the formula, and whole files against it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile
from maas_rt.compiler.importers.onnx import _nchwc, import_onnx
from onnx import TensorProto, helper, numpy_helper

import maas_rt
from tests.conformance.contrib import compiled, difference

DOMAIN = "com.microsoft.nchwc"
Array = np.ndarray[Any, Any]


def _draw(*shape: int) -> Array:
    return (0.3 * np.random.default_rng(shape[0]).standard_normal(shape)).astype(np.float32)


def _stored(w: Array, block: int, inner: bool) -> Array:
    """Filters as a machine with blocks of this size stores them: output channels filled up, and input channels too."""
    rows, columns = (-(-d // block) * block for d in w.shape[:2])
    columns = columns if inner else w.shape[1]
    full = np.zeros((rows, columns, *w.shape[2:]), np.float32)
    full[: w.shape[0], : w.shape[1]] = w
    out = []
    for first in range(0, rows, block):
        for second in range(0, columns, block if inner else columns):
            part = full[first : first + block, second : second + (block if inner else columns)]
            out.append(part.transpose(2, 3, 1, 0) if inner else part.transpose(1, 2, 3, 0))
    return np.concatenate([p.reshape(-1) for p in out]).reshape(full.shape)


def _plain(filters: list[Array], groups: int) -> onnx.ModelProto:
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], **pads),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("Conv", ["r", "w1"], ["c"], group=groups, **pads),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p", "w2"], ["y"]),
    ]
    weights = {**{f"w{k}": w for k, w in enumerate(filters)}, "b0": _draw(filters[0].shape[0])}
    return _model(nodes, weights)


def _blocked(filters: list[Array], groups: int, block: int) -> onnx.ModelProto:
    pads, ms = {"pads": [1, 1, 1, 1]}, {"domain": DOMAIN}
    alone = groups > 1
    width = -(-filters[0].shape[0] // block) * block
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["r"], activation="Relu", **pads, **ms),
        helper.make_node("Conv", ["r", "w1"], ["c"], group=width if alone else 1, **pads, **ms),
        helper.make_node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2], strides=[2, 2], **ms),
        helper.make_node("Conv", ["p", "w2"], ["q"], **ms),
        helper.make_node("ReorderOutput", ["q"], ["y"], channels=filters[2].shape[0], **ms),
    ]
    inner = (False, not alone, True)
    bias = np.zeros(width, np.float32)
    bias[: filters[0].shape[0]] = _draw(filters[0].shape[0])
    weights = {f"w{k}": _stored(w, block, i) for k, (w, i) in enumerate(zip(filters, inner, strict=True))}
    return _model(nodes, {**weights, "b0": bias})


def _model(nodes: list[onnx.NodeProto], weights: dict[str, Array], channels: int = 3) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, 8, 8])
    graph = helper.make_graph(
        nodes, "g", [x], [onnx.ValueInfoProto(name="y")], [numpy_helper.from_array(w, name) for name, w in weights.items()]
    )  # fmt: skip
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)], ir_version=9
    )


@pytest.mark.parametrize("block", [8, 16])
@pytest.mark.parametrize("groups", [1, 20])
def test_filters_in_blocks_of_a_size_that_numbers_of_channels_tell(block: int, groups: int) -> None:
    filters = [_draw(20, 3, 3, 3), _draw(20, 20 // groups, 3, 3), _draw(9, 20, 1, 1)]
    x = {"x": _draw(2, 3, 8, 8)}
    want = compiled(_plain(filters, groups), x)
    assert difference(compiled(_blocked(filters, groups, block), x), want, 1e-6) == ""


@pytest.mark.parametrize("block", [8, 16])
def test_trained_filters_tell_the_size_of_a_block_themselves(block: int) -> None:
    """Each channel of a trained model has a magnitude of its own; in blocks of the other size two are mixed."""
    size = np.exp(0.5 * np.random.default_rng(0).standard_normal((64, 1, 1, 1))).astype(np.float32)
    filters = [size * _draw(64, 3, 3, 3), size * _draw(64, 64, 3, 3), _draw(32, 64, 1, 1)]
    x = {"x": _draw(1, 3, 8, 8)}
    want = compiled(_plain(filters, 1), x)
    assert difference(compiled(_blocked(filters, 1, block), x), want, 1e-6) == ""


@pytest.mark.parametrize("block", [8, 16])
def test_filters_that_tell_nothing_are_of_this_machine(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nchwc, "_own_size", lambda: block)
    filters = [_draw(32, 3, 3, 3), _draw(32, 32, 3, 3), _draw(16, 32, 1, 1)]
    x = {"x": _draw(1, 3, 8, 8)}
    want = compiled(_plain(filters, 1), x)
    with pytest.warns(UserWarning, match=f"taken as {block}, as ONNX Runtime does on this machine"):
        assert difference(compiled(_blocked(filters, 1, block), x), want, 1e-6) == ""


def test_filters_that_hint_at_another_machine_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nchwc, "_own_size", lambda: 16)
    size = np.exp(0.3 * np.random.default_rng(0).standard_normal((32, 1, 1, 1))).astype(np.float32)
    filters = [size * _draw(32, 3, 3, 3), _draw(32, 32, 1, 1) * size, _draw(16, 32, 1, 1)]
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="of 8 or of 16 channels.*ORT_ENABLE_EXTENDED"):
        import_onnx(_blocked(filters, 1, 8))


def test_a_file_of_another_kind_of_cpu_has_no_reference_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_nchwc, "_own_size", lambda: 16)
    filters = [_draw(24, 3, 3, 3), _draw(24, 24, 3, 3), _draw(16, 24, 1, 1)]
    text = r"nothing to verify against \(it was saved .* blocks of 8 channels, onnxruntime reads 16 here: .* ORT_ENABLE_EXTENDED\): leave it out"
    with pytest.raises(maas_rt.CompileError, match=text):
        compile(_blocked(filters, 1, 8), input_shapes={"x": [1, 3, 8, 8]})


def test_an_operator_that_looks_into_blocks_is_refused() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], domain=DOMAIN),
        helper.make_node("Transpose", ["a"], ["y"], perm=[0, 2, 3, 1]),
    ]
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="Transpose of a tensor in blocks of channels"):
        import_onnx(_model(nodes, {"w": _draw(24, 3, 1, 1)}))


def _net() -> onnx.ModelProto:
    """Squeeze and excitation, a sum of two sizes that nobody knows to be equal, upsampling, concatenation, channels last."""
    three = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["a"], **three),
        helper.make_node("HardSwish", ["a"], ["h"]),
        helper.make_node("GlobalAveragePool", ["h"], ["g"]),
        helper.make_node("Conv", ["g", "w1"], ["s"]),
        helper.make_node("HardSigmoid", ["s"], ["t"]),
        helper.make_node("Mul", ["h", "t"], ["m"]),
        helper.make_node("Conv", ["m", "w2"], ["d"], strides=[2, 2], **three),
        helper.make_node("Resize", ["d", "", "scales"], ["u"], **resize),
        helper.make_node("Conv", ["a", "w2"], ["v"], **three),
        helper.make_node("Add", ["u", "v"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("Conv", ["r", "w3"], ["p"], **three),
        helper.make_node("Conv", ["r", "w4"], ["q"], group=32, **three),
        helper.make_node("Concat", ["p", "q"], ["j"], axis=1),
        helper.make_node("AveragePool", ["j"], ["k"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Transpose", ["k"], ["y"], perm=[0, 2, 3, 1]),
    ]
    weights = {
        "w0": _draw(20, 3, 3, 3), "b0": _draw(20), "w1": _draw(20, 20, 1, 1), "w2": _draw(32, 20, 3, 3), "w3": _draw(16, 32, 3, 3),
        "w4": _draw(32, 1, 3, 3), "scales": np.float32([1, 1, 2, 2]),
    }  # fmt: skip
    model = _model(nodes, weights)
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim[2].dim_param, shape.dim[3].dim_param = "h", "w"
    return model


def test_a_file_of_the_last_level_is_compiled_and_verified(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "all.onnx")
    ort.InferenceSession(_net().SerializeToString(), options, providers=["CPUExecutionProvider"])
    saved = onnx.load(tmp_path / "all.onnx")
    if not any(n.domain == DOMAIN for n in saved.graph.node):
        pytest.skip("ONNX Runtime has no blocks of channels on this machine")
    artifact = compile(tmp_path / "all.onnx", dynamic={"x": {2: (8, 8), 3: (8, 8)}})
    assert artifact.manifest["verified"]["runs"] >= 1
