"""com.microsoft's operators on quantized tensors, against ONNX Runtime's CPU kernels: integers are equal, ties included."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from maas_rt.compiler import Recipe, WeightOnly
from maas_rt.compiler import compile as compile_model
from maas_rt.compiler.ir import round_to_bytes
from onnx import TensorProto, helper, numpy_helper

import maas_rt

F = TensorProto.FLOAT
RNG = np.random.default_rng(11)
KINDS = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}


class Model:
    """Nodes side by side, each with an output of its own: one compilation for many operators."""

    def __init__(self, opset: int = 21, **inputs: Any) -> None:
        self.inputs, self.opset = inputs, opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs: list[Any] = []

    def const(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        made = isinstance(value, TensorProto)
        tensor = value if made else numpy_helper.from_array(np.asarray(value), name)
        tensor.name = name
        self.constants.append(tensor)
        return name

    def add(self, op: str, *inputs: Any, out: Any = F, domain: str = "com.microsoft", **attributes: Any) -> str:
        """Inputs are names, or values of constants. `out`: the result's type, if it is one of the model's results."""
        names = [i if isinstance(i, str) else self.const(i) for i in inputs]
        name = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], name=f"{op}_{name}", domain=domain, **attributes))
        if out is not None:
            kind = KINDS[np.dtype(out)] if out in (np.uint8, np.int8) else out
            self.outputs.append(helper.make_tensor_value_info(name, kind, None))
        return name

    def proto(self) -> onnx.ModelProto:
        given = [
            helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), list(v.shape))
            for k, v in self.inputs.items()
        ]
        graph = helper.make_graph(self.nodes, "test", given, self.outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def check(self, ties: float = 0.0) -> Any:
        """As ONNX Runtime has it: floats within 1e-5 of their scale, integers equal, but for a share of ties. The artifact."""
        proto = self.proto()
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])
        artifact = compile_model(proto, verify=False)
        got = maas_rt.load(artifact.to_bytes(), threads=1).run(self.inputs)
        makers = {name: node for node in self.nodes for name in node.output}
        for output, want in zip(self.outputs, session.run(None, self.inputs), strict=True):
            y, node = got[output.name], makers[output.name]
            assert (y.dtype, y.shape) == (want.dtype, want.shape), node
            if want.dtype.kind == "f":
                atol = 1e-5 * max(1.0, float(np.abs(want).max()))
                np.testing.assert_allclose(y, want, rtol=0, atol=atol, err_msg=str(node))
            else:
                apart = np.abs(y.astype(int) - want.astype(int))
                assert apart.max() <= (ties > 0) and (apart > 0).mean() <= ties, node
        return artifact


def numbers(*shape: int, dtype: Any = np.uint8, margin: int = 0) -> Any:
    low = 0 if dtype is np.uint8 else -128
    return RNG.integers(low + margin, low + 256 - margin, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("scales", [(0.1, 0.1, 0.2), (0.5, 0.25, 1.0), (0.013, 0.021, 0.0371)])
def test_elementwise(dtype: Any, scales: tuple[float, ...]) -> None:
    """All pairs of numbers; scales whose ratios make ties, zero points that are odd."""
    low = 0 if dtype is np.uint8 else -128
    a = np.broadcast_to(np.arange(low, low + 256).astype(dtype)[:, None], (256, 256)).copy()
    s = [np.float32(v) for v in scales]
    z = [dtype(low + v) for v in (127, 128, 121)]
    x, y, out = (s[0], z[0]), (s[1], z[1]), (s[2], z[2])
    m = Model(a=a, b=a.T.copy(), c=RNG.integers(0, 2, (256, 1)).astype(bool))
    m.add("QLinearAdd", "a", *x, "b", *y, *out, out=dtype)
    m.add("QLinearMul", "a", *x, "b", *y, *out, out=dtype)
    m.add("QLinearAdd", "a", *x, numbers(1, 256, dtype=dtype), *y, *out, out=dtype)
    m.add("QLinearSigmoid", "a", *x, np.float32(1 / 256), dtype(low), out=dtype)
    m.add("QLinearLeakyRelu", "a", *x, *out, out=dtype, alpha=0.1)
    m.add("QLinearConcat", *out, "a", *x, "b", *y, "b", *out, out=dtype, axis=1)
    m.add("QLinearWhere", "c", "a", *x, "b", *y, *out, out=dtype)
    m.check()


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_along_axes(dtype: Any) -> None:
    low = 0 if dtype is np.uint8 else -128
    x, out = (np.float32(0.5), dtype(low + 3)), (np.float32(0.5), dtype(low + 121))
    m = Model(x=numbers(2, 3, 8, 5, dtype=dtype), pair=numbers(4, 3, 2, 1, dtype=dtype))
    for opset, axis in ((13, -1), (13, 1), (12, 2)):
        m.add("QLinearSoftmax", "x", *x, np.float32(1 / 256), dtype(low), out=dtype, axis=axis, opset=opset)
    m.add("QLinearGlobalAveragePool", "pair", *x, *out, out=dtype)  # many ties
    m.add("QLinearGlobalAveragePool", "x", *x, *out, out=dtype, channels_last=1)
    m.add("QLinearAveragePool", "x", *x, *out, out=dtype, kernel_shape=[2, 2], strides=[2, 2])
    for extra in ({"count_include_pad": 1}, {"channels_last": 1}, {"ceil_mode": 1, "strides": [2, 2]}):
        m.add("QLinearAveragePool", "x", *x, *out, out=dtype, kernel_shape=[3, 3], pads=[1, 1, 1, 1], **extra)
    m.add("NhwcMaxPool", "x", out=dtype, kernel_shape=[3, 2], strides=[2, 1], pads=[1, 0, 1, 0])
    m.check(ties=0.02)


@pytest.mark.parametrize("per_column", [False, True])
def test_products(per_column: bool) -> None:
    b = numbers(7, 9, dtype=np.int8, margin=8)
    columns = RNG.uniform(0.01, 0.02, 9).astype(np.float32)
    sb, zb = (columns, np.zeros(9, np.int8)) if per_column else (columns[0], np.int8(3))
    a, y = (np.float32(0.02), np.uint8(120)), (np.float32(0.1), np.uint8(111))
    bias = RNG.integers(-1000, 1000, 9).astype(np.int32)
    m = Model(
        x=RNG.standard_normal((2, 5, 7)).astype(np.float32), q=numbers(5, 7), qt=numbers(7, 5), i=numbers(1, 6, 7, 3)
    )
    m.add("QGemm", "q", *a, b, sb, zb, bias, *y, out=np.uint8)
    m.add("QGemm", "qt", *a, b.T.copy(), sb, zb, bias, transA=1, transB=1, alpha=0.5)
    m.add("QGemm", "q", *a, b, sb, zb, "", *y, out=np.uint8)
    floats = RNG.standard_normal(9).astype(np.float32)
    m.add("DynamicQuantizeMatMul", "x", b, sb, zb, floats)
    m.add("DynamicQuantizeMatMul", "x", b, sb)
    m.add("MatMulIntegerToFloat", "q", b, a[0], sb, a[1], zb, floats)
    m.add("MatMulIntegerToFloat", "q", b, a[0], sb)
    w = (numbers(5, 3, 3, 3, dtype=np.int8), np.float32(0.01), np.int8(0))
    m.add(
        "QLinearConv",
        "i",
        *a,
        *w,
        np.float32(0.5),
        np.uint8(128),
        bias[:5],
        out=np.uint8,
        channels_last=1,
        pads=[1] * 4,
    )
    m.check()


@pytest.mark.parametrize("per_column", [False, True])
def test_attention(per_column: bool) -> None:
    """Lengths of sequences, a cache, scales of a run; and the embeddings in front of it."""
    batch, length, width, heads = 2, 5, 8, 2
    w, bias = numbers(width, 3 * width, dtype=np.int8), RNG.standard_normal(3 * width).astype(np.float32)
    columns = RNG.uniform(0.005, 0.01, 3 * width).astype(np.float32)
    scale, zero = (columns, np.zeros(3 * width, np.int8)) if per_column else (columns[0], np.int8(2))
    mask = (np.arange(length) < np.array([[5], [3]])).astype(np.int32)
    m = Model(
        x=numbers(batch, length, width), mask=mask, s=np.array(0.02, np.float32), z=np.array(120, np.uint8),
        past=RNG.standard_normal((2, batch, heads, 3, width // heads)).astype(np.float32), ids=RNG.integers(0, 20, (batch, length)).astype(np.int32),
        kinds=RNG.integers(0, 2, (batch, length)).astype(np.int32),
    )  # fmt: skip
    x = (np.float32(0.02), np.uint8(120))
    for causal in (0, 1):
        more = {"num_heads": heads, "unidirectional": causal}
        m.add("QAttention", "x", w, bias, x[0], scale, "mask", x[1], zero, **more)
        m.add("QAttention", "x", w, bias, "s", scale, "", "z", zero, **more)
        m.add("QAttention", "x", w, bias, x[0], scale, "", x[1], zero, "past", **more)
        name = m.nodes[-1].output[0]
        m.nodes[-1].output.append(f"{name}_present")
        m.outputs.append(helper.make_tensor_value_info(f"{name}_present", F, None))
    tables = [numbers(20, width), numbers(10, width), numbers(2, width), numbers(width), numbers(width)]
    scales, zeros = (
        [np.float32(v) for v in RNG.uniform(0.01, 0.02, 5)],
        [np.uint8(v) for v in RNG.integers(100, 140, 5)],
    )
    m.add("QEmbedLayerNormalization", "ids", "kinds", *tables, "mask", *scales, *zeros, epsilon=1e-12)
    m.nodes[-1].output.append("admitted")
    m.outputs.append(helper.make_tensor_value_info("admitted", TensorProto.INT32, None))
    m.check()


def packed(values: Any, bits: int) -> Any:
    each = 8 // bits
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % each)])
    parts = padded.reshape(*padded.shape[:-1], -1, each).astype(np.uint8)
    return sum(parts[..., i] << (bits * i) for i in range(each)).astype(np.uint8)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_matrices_of_few_bits(bits: int) -> None:
    """Symmetric, packed and float zero points, a last block that is cut off, bias, groups in any order, the accuracy that a file allows."""
    m = Model(
        x=RNG.standard_normal((2, 3, 80)).astype(np.float32), half=RNG.standard_normal((4, 80)).astype(np.float16)
    )
    k, n, block = 80, 24, 32
    blocks = -(-k // block)
    attributes = {"K": k, "N": n, "bits": bits, "block_size": block}
    b = packed(RNG.integers(0, 1 << bits, (n, blocks, block)), bits)
    scale, zero = RNG.uniform(0.01, 0.02, (n, blocks)).astype(np.float32), RNG.integers(0, 1 << bits, (n, blocks))
    m.add("MatMulNBits", "x", b, scale, **attributes)
    m.add("MatMulNBits", "x", b, scale, packed(zero, bits), "", RNG.standard_normal(n).astype(np.float32), **attributes)
    if bits == 4:
        m.add("MatMulNBits", "x", b, scale, (zero + 0.5).astype(np.float32), **attributes)
        m.add("MatMulNBits", "x", b, scale, "", RNG.integers(0, blocks, k).astype(np.int32), **attributes)
        codes = RNG.integers(0, 256, k * n // 2).astype(np.uint8)
        for kind in (0, 1):
            m.add("MatMulBnb4", "x", codes, RNG.uniform(0.1, 1, k * n // block).astype(np.float32), K=k, N=n, block_size=block, quant_type=kind)  # fmt: skip
    m.check()
    allowed = Model(x=m.inputs["x"])
    allowed.add("MatMulNBits", "x", b, scale, accuracy_level=4, **attributes)
    y = maas_rt.load(compile_model(allowed.proto()).to_bytes()).run(allowed.inputs)["y0"]
    plain = maas_rt.load(compile_model(m.proto(), verify=False).to_bytes()).run(m.inputs)["y0"]
    np.testing.assert_array_equal(y, plain)


@pytest.mark.parametrize("calibrated", [False, True])
def test_a_recipe_rounds_what_products_of_few_bits_read(calibrated: bool) -> None:
    """The weights stay what they are; activations are rounded in blocks of 32, of weights of 8 bits they stay floats."""
    k, n, block = 96, 64, 32
    m = Model(x=RNG.standard_normal((5, k)).astype(np.float32))
    q, scale = RNG.integers(0, 16, (n, k // block, block)), RNG.uniform(0.01, 0.02, (n, k // block)).astype(np.float32)
    attributes = {"K": k, "N": n, "block_size": block}
    m.add("MatMulNBits", "x", packed(q, 4), scale, bits=4, accuracy_level=4, **attributes)
    m.add("MatMulNBits", "x", packed(RNG.integers(0, 256, (n, k // block, block)), 8), scale, bits=8, **attributes)
    data = [RNG.standard_normal((5, k)).astype(np.float32) for _ in range(3)] if calibrated else None
    recipe = Recipe(quantize=WeightOnly(activations="int8"), calibration=data)
    artifact = compile_model(m.proto(), recipe=recipe)
    steps = Counter(s.target for s in artifact.linear.plan.blocks[0].steps)
    assert steps["gemm_s8q4"] == 1 and steps["gemm_f32q"] == 1
    record = artifact.manifest["recipe"]["quantize"]
    assert record["layers"] == 1 and record["calibration_inputs"] == (3 if calibrated else 0)
    assert [each["reason"] for each in record["float_layers"]] == [
        "the model is quantized already, and it stays as it is"
    ]
    assert record["notes"] == [
        "the model is quantized already, and keeps its weights; what 1 products read is rounded to 8 bits"
    ]
    assert 0 < artifact.manifest["verified"]["max_relative_error"] < artifact.manifest["verified"]["tolerance"] == 0.25
    weights = ((q - 8) * scale[..., None]).reshape(n, k)
    (rounded,) = round_to_bytes.run([m.inputs["x"]], {})
    found = maas_rt.load(artifact.to_bytes()).run(m.inputs)
    np.testing.assert_allclose(found["y0"], rounded @ weights.T, rtol=1e-4, atol=1e-4)
    plain = maas_rt.load(compile_model(m.proto(), verify=False).to_bytes()).run(m.inputs)
    np.testing.assert_array_equal(found["y1"], plain["y1"])
    assert np.abs(found["y0"] - plain["y0"]).max() > 1e-4


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_groups_out_of_order_stay_few_bits(bits: int) -> None:
    """As GPTQ's act-order writes them. ONNX Runtime is no oracle: a g_idx that changes nothing changes what it computes of 2 bits or with
    packed zero points, and it refuses 8. The definition is; verification knows it too."""
    k, n, block = 400, 48, 32
    blocks = -(-k // block)
    x = RNG.standard_normal((2, 3, k)).astype(np.float32)
    q, zero = RNG.integers(0, 1 << bits, (n, k)), RNG.integers(0, 1 << bits, (n, blocks))
    filled = np.pad(q, [(0, 0), (0, blocks * block - k)])
    b = packed(filled.reshape(n, blocks, block), bits)
    scale, bias = RNG.uniform(0.01, 0.02, (n, blocks)).astype(np.float32), RNG.standard_normal(n).astype(np.float32)
    plain = np.arange(k) // block
    for group in (plain, plain[RNG.permutation(k)], RNG.integers(0, blocks, k)):
        m = Model(x=x)
        m.add(
            "MatMulNBits", "x", b, scale, packed(zero, bits), group.astype(np.int32), bias, K=k, N=n, bits=bits, block_size=block,
        )  # fmt: skip
        artifact = compile_model(m.proto())
        want = x.astype(np.float64) @ ((q - zero[:, group]) * scale[:, group].astype(np.float64)).T + bias
        got = maas_rt.load(artifact.to_bytes()).run({"x": x})["y0"]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
        counts = [s.target for s in artifact.linear.plan.blocks[0].steps]
        blocked = (np.bincount(group, minlength=blocks) == np.bincount(plain)).all()
        assert ("gemm_f32q" in counts) == blocked and ("gemm_f32" in counts) != blocked


def stored(kind: int, values: Any) -> Any:
    return helper.make_tensor("", kind, list(values.shape), values.reshape(-1).tolist())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gathers_of_few_bits(bits: int) -> None:
    """Any axes; an index out of range gives zeros."""
    index = np.array([[0, 6, -1], [-7, 99, -99]], np.int64)
    m = Model(i=index, near=index % 3)
    q, scale = RNG.integers(0, 1 << bits, (7, 64)), RNG.uniform(0.1, 1, (7, 4)).astype(np.float32)
    zero = RNG.integers(0, 1 << bits, (7, 4))
    more = {"bits": bits, "block_size": 16, "quantize_axis": 1, "gather_axis": 0}
    m.add("GatherBlockQuantized", packed(q, bits), "i", scale, **more)
    m.add("GatherBlockQuantized", packed(q, bits), "i", scale, packed(zero, bits), **more)
    if bits == 4:
        for kind, low in ((TensorProto.UINT4, 0), (TensorProto.INT4, -8)):
            for shape, along, gather in (((7, 64), 1, 0), ((3, 5, 40), 2, 1), ((3, 40, 32), 1, 2), ((40, 32), 0, 1)):
                blocks = [-(-d // 16) if a == along else d for a, d in enumerate(shape)]
                data, origin = RNG.integers(low, low + 16, shape), RNG.integers(low, low + 16, blocks)
                scales = RNG.uniform(0.1, 1, blocks).astype(np.float32)
                more = {"bits": 4, "block_size": 16, "quantize_axis": along, "gather_axis": gather}
                m.add("GatherBlockQuantized", stored(kind, data), "near", scales, stored(kind, origin), **more)
                m.add("GatherBlockQuantized", stored(kind, data), "near", scales, **more)
    m.check()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_gathers_of_a_table_that_a_run_is_given(bits: int) -> None:
    """The table, its scales, its zero points, or all of them: as those of a model that are shared with another or swapped."""
    index = np.array([[0, 6, -1], [-7, 99, -99]], np.int64)
    q, zero = (packed(RNG.integers(0, 1 << bits, shape), bits) for shape in ((7, 64), (7, 4)))
    scale = RNG.uniform(0.1, 1, (7, 4)).astype(np.float32)
    m = Model(i=index, q=q, scale=scale, zero=zero)
    more = {"bits": bits, "block_size": 16, "quantize_axis": 1, "gather_axis": 0}
    for inputs in (["q", "i", "scale", "zero"], ["q", "i", "scale"], ["q", "i", scale, zero], [q, "i", "scale", zero]):
        m.add("GatherBlockQuantized", *inputs, **more)
    m.add("GatherBlockQuantized", q, "i", scale, "zero", **more)
    m.check()


@pytest.mark.parametrize(
    "kind", [TensorProto.INT4, TensorProto.UINT4, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16]
)
def test_blocked_weights(kind: int) -> None:
    low, count = (
        (-8 if kind == TensorProto.INT4 else 0, 16) if kind in (TensorProto.INT4, TensorProto.UINT4) else (-(2**7), 256)
    )
    low = 0 if kind == TensorProto.UINT8 else low
    m = Model(x=RNG.standard_normal((3, 40)).astype(np.float32), wide=RNG.uniform(-5, 5, (3, 12)).astype(np.float32))
    q = RNG.integers(low, low + count, (40, 12))
    for axis, block, shape in ((0, 16, (3, 12)), (1, 5, (40, 3))):
        scale = RNG.uniform(0.01, 0.02, shape).astype(np.float32)
        for zero in ([], [stored(kind, RNG.integers(low, low + count, shape))]):
            w = m.add(
                "DequantizeLinear", stored(kind, q), scale, *zero, domain="", out=None, axis=axis, block_size=block
            )
            m.add("MatMul", "x", w, domain="")
    columns, origin = RNG.uniform(0.01, 0.02, 12).astype(np.float32), stored(kind, RNG.integers(low, low + count, 12))
    origin_name = m.const(origin)
    m.add("MatMul", "x", m.add("DequantizeLinear", stored(kind, q), columns, origin_name, axis=1, out=None), domain="")
    there = m.add("QuantizeLinear", "wide", columns, origin_name, axis=1, out=None)
    m.add("DequantizeLinear", there, columns, origin_name, axis=1)
    m.check()


@pytest.mark.parametrize(
    ("kind", "low"),
    [
        (TensorProto.INT8, -128), (TensorProto.UINT8, 0), (TensorProto.INT16, -32768), (TensorProto.UINT16, 0),
        (TensorProto.INT4, -8), (TensorProto.INT2, -2), (TensorProto.UINT2, 0),
    ],
)  # fmt: skip
def test_what_is_no_number_is_quantized_to_the_lowest(kind: int, low: int) -> None:
    """Constants alone have NaN, or 0 / 0: ONNX's text says nothing of it, its reference and ONNX Runtime agree, but that the reference adds a
    zero point to the least int32, which wraps."""
    model = Model(25 if kind in (TensorProto.INT2, TensorProto.UINT2) else 21)
    for x, scale in (([np.nan, 1, 2, -1], 0.5), ([0, 1, 2, -1], 0.0)):
        for zero in (0, 1 if low == 0 else -1):
            values = (np.asarray(x, np.float32), np.float32(scale), helper.make_tensor("z", kind, [], [zero]))
            model.add("QuantizeLinear", *values, out=kind, domain="")
    results = maas_rt.load(compile_model(model.proto())).run({})
    assert [int(each[0]) for each in results.values()] == [low] * 4


@pytest.mark.parametrize(
    ("kind", "zeros"),
    [
        (TensorProto.FLOAT4E2M1, (0.0, 1.5)), (TensorProto.FLOAT8E4M3FN, (0.0, 1.5, np.nan)),
        (TensorProto.FLOAT8E5M2FNUZ, (-2.0, np.nan)),
    ],
)  # fmt: skip
def test_the_zero_point_of_small_floats_is_subtracted(kind: int, zeros: tuple[float, ...]) -> None:
    """ONNX's reference leaves it out, or refuses it; the constant one of the file counts like one that is given."""
    x = np.asarray([0, 0.5, 1, -1.5, 6], np.float32)
    for zero in zeros:
        model = Model(25)
        values = [helper.make_tensor("v", kind, shape, data) for shape, data in (([5], x), ([], [zero]))]
        model.add("DequantizeLinear", values[0], np.float32(-0.25), values[1], domain="")
        (y,) = maas_rt.load(compile_model(model.proto())).run({}).values()
        np.testing.assert_array_equal(y, (x - np.float32(zero)) * np.float32(-0.25))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2], ids=["e4m3", "e5m2"])
def test_the_zero_point_of_float8_is_added(kind: int) -> None:
    """ONNX's reference leaves it out. Of float8 the bits are compared: numpy has no such type."""
    x = np.asarray([0, 0.5, 1, -1.5, 6], np.float32)
    numbers = helper.tensor_dtype_to_np_dtype(kind)
    for zero in (0.0, 2.0):
        model = Model(25)
        model.add("QuantizeLinear", x, np.float32(0.25), helper.make_tensor("z", kind, [], [zero]), out=kind, domain="")
        (y,) = maas_rt.load(compile_model(model.proto())).run({}).values()
        np.testing.assert_array_equal(
            y.astype(np.float32), (x / np.float32(0.25) + np.float32(zero)).astype(numbers).astype(np.float32)
        )
