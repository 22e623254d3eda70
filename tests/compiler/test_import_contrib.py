"""Operators of com.microsoft against ONNX Runtime: a part of `python -m tests.conformance contrib`, and what is not about numbers."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import pytest
from maas_rt.compiler import compile
from maas_rt.compiler.importers.onnx import import_onnx
from onnx import TensorProto, helper

import maas_rt
from tests.conformance import contrib, contrib_nodes

pytest.importorskip("onnxruntime")

# Beside the first case of each operator.
CHOSEN = (
    "Attention mask ends",
    "Attention past 1 mask",
    "Attention sizes",
    "Attention unidirectional mask raw",
    "BiasGelu dynamic",
    "DecoderMaskedMultiHeadAttention buffer, mask",
    "EmbedLayerNormalization positions",
    "FusedConv Clip Z",
    "FusedConv HardSigmoid",
    "FusedGemm 01 Sigmoid",
    "FusedMatMul batches 10 turned",
    "GroupQueryAttention dynamic step",
    "GroupQueryAttention prompt, positions",
    "GroupQueryAttention sink",
    "GroupQueryAttention softcap and bias",
    "GroupQueryAttention step, other lengths",
    "GroupQueryAttention window 2, step",
    "GroupQueryAttention window cache, step to 9",
    "LayerNormalization opset 13",
    "MultiHeadAttention cached keys and values, bias",
    "MultiHeadAttention everything",
    "MultiHeadAttention packed keys and values",
    "MultiHeadAttention past dynamic",
    "MultiHeadAttention products, mask",
    "RelativePositionBias 1 128 long",
    "RotaryEmbedding part 1",
    "SkipGroupNorm a channel NCHW SiLU",
    "SkipLayerNormalization dynamic",
    "SkipSimplifiedLayerNormalization bias",
)


@functools.cache
def _cases() -> dict[str, contrib_nodes.Case]:
    return {case.name: case for case in contrib_nodes.cases()}


def _sample() -> list[str]:
    first: dict[tuple[str, str], str] = {}
    for name, case in _cases().items():
        first.setdefault((case.domain, case.op), name)
    return sorted({*first.values(), *CHOSEN})


@pytest.mark.parametrize("name", _sample())
def test_sample(name: str) -> None:
    assert contrib.run_node(_cases()[name]) == ("pass", "")


def _model(
    nodes: list[onnx.NodeProto], inputs: list[Any], outputs: list[str], weights: list[Any], domain: str
) -> onnx.ModelProto:
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, results, weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def test_a_layout_of_one_kind_of_device_is_refused_with_what_to_do() -> None:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4, 16])
    node = helper.make_node("MaxPool", ["x"], ["y"], domain="com.ms.internal.nhwc", kernel_shape=[2, 2])
    with pytest.raises(
        maas_rt.UnsupportedOperatorError, match="kind of device: save the optimized model at level ORT_ENABLE_EXTENDED"
    ):
        import_onnx(_model([node], [x], ["y"], [], "com.ms.internal.nhwc"))


@pytest.mark.parametrize(
    ("domain", "name", "what"),
    [
        ("com.microsoft", "BeamSearch", "export the decoder by itself, with its past key values"),
        ("com.microsoft", "EPContext", "give the model that it was made from"),
        ("com.microsoft", "RemovePadding", "before convert_to_packing_mode"),
        ("com.microsoft", "Rfft", "export it as ONNX.s DFT"),
        ("ai.onnx.contrib", "BertTokenizer", "do it in the program, and export the model without it"),
    ],
)
def test_what_is_no_step_of_a_model_is_refused_with_what_to_do(domain: str, name: str, what: str) -> None:
    x = helper.make_tensor_value_info("x", TensorProto.INT32, [1, 4])
    node = helper.make_node(name, ["x"], ["y"], domain=domain)
    with pytest.raises(maas_rt.UnsupportedOperatorError, match=what):
        import_onnx(_model([node], [x], ["y"], [], domain))


def test_the_name_of_an_operator_means_nothing_in_another_domain() -> None:
    weights = [helper.make_tensor(name, TensorProto.INT64, [1], [3]) for name in "ab"]
    node = helper.make_node("Add", ["a", "b"], ["y"], domain="com.example")
    with pytest.raises(maas_rt.UnsupportedOperatorError, match="com.example::Add"):
        import_onnx(_model([node], [], ["y"], weights, "com.example"))


def test_more_positions_than_an_embedding_has_are_refused_by_the_run() -> None:
    case = _cases()["EmbedLayerNormalization dynamic"]
    model = maas_rt.load(compile(case.model(), verify=False).to_bytes())
    long = {name: np.tile(x, (1, 3)) for name, x in case.feeds().items()}  # 18 positions, of 12
    with pytest.raises(maas_rt.Error, match="has a row for each position"):
        model.run(long)


def test_a_decoder_with_a_cache_is_verified_on_sizes_that_belong_together() -> None:
    """As onnxruntime-genai writes it: lengths are counted in the mask, whose extent is that of the cache and of what is new."""
    heads, depth = 2, 16
    width = heads * depth
    info = helper.make_tensor_value_info
    rng = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(rng.standard_normal((width, 3 * width)).astype(np.float32), "w")
    axis, one, last = (
        helper.make_tensor(n, TensorProto.INT64, [1] if n == "axis" else [], [1]) for n in ("axis", "one", "last")
    )
    ms = {"domain": "com.microsoft"}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["qkv"]),
        helper.make_node("ReduceSum", ["mask", "axis"], ["count"], keepdims=0),
        helper.make_node("Sub", ["count", "one"], ["less"]),
        helper.make_node("Cast", ["less"], ["lengths"], to=TensorProto.INT32),
        helper.make_node("Shape", ["mask"], ["extents"]),
        helper.make_node("Gather", ["extents", "last"], ["extent"]),
        helper.make_node("Cast", ["extent"], ["total"], to=TensorProto.INT32),
        helper.make_node("GroupQueryAttention", ["qkv", "", "", "k", "v", "lengths", "total"], ["y", "pk", "pv"], num_heads=heads, kv_num_heads=heads, **ms),
    ]  # fmt: skip
    cache = ["batch", heads, "past", depth]
    inputs = [
        info("x", TensorProto.FLOAT, ["batch", "new", width]),
        info("mask", TensorProto.INT64, ["batch", "total"]),
    ]
    inputs += [info(name, TensorProto.FLOAT, cache) for name in "kv"]
    model = _model(nodes, inputs, ["y", "pk", "pv"], [weight, axis, one, last], "com.microsoft")
    imported = import_onnx(model)
    assert imported.source.input_ranges()["mask"] == (1, 1)
    assert compile(model).manifest["verified"]["runs"] >= 1
