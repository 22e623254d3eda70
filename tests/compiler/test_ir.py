"""Operators of the IR: their references against others' definitions, and what each is lowered to against its reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from maas_rt.compiler import ir
from maas_rt.compiler._configs import CompileOptions
from maas_rt.compiler._pipeline import compile_imported
from maas_rt.compiler.importers import ImportedModel
from maas_rt.compiler.passes import make_kernel_call
from maas_rt.compiler.passes.lower_operators import lower_operators
from maas_rt.compiler.passes.lower_weights import lower_weights
from maas_rt.compiler.spec import SpecError, check_module
from onnx.reference import ReferenceEvaluator
from tvm import relax

import maas_rt
from tests.compiler._interpret import run_lowered
from tests.compiler._lowering import build
from tests.kernels import _philox

Array = npt.NDArray[Any]
F = np.float32


def drawn(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape).astype(F)


def close(got: list[Array], want: list[Any], bound: float = 2e-6) -> None:
    assert [each.shape for each in got] == [each.shape for each in want]
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


# ---- references


def onnx_result(op: str, inputs: list[Array | None], outputs: int, **attributes: Any) -> list[Array]:
    """ONNX's own definition."""
    names = [f"x{i}" if each is not None else "" for i, each in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, [f"y{i}" for i in range(outputs)], **attributes)
    values = [(n, each) for n, each in zip(names, inputs) if each is not None]
    types = [
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in values
    ]
    graph = onnx.helper.make_graph([node], "g", types, [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)])
    opset = [onnx.helper.make_opsetid("", 21)]
    return ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opset)).run(None, dict(values))


@pytest.mark.parametrize("gates", [4, 3])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent_layers_are_torchs(gates: int, directions: int) -> None:
    x, w, r = drawn(5, 3, 4), drawn(directions, gates * 2, 4), drawn(directions, gates * 2, 2)
    bias, starts = drawn(directions, gates * 4), [drawn(directions, 3, 2, seed=i) for i in range(gates - 2)]
    params = [torch.from_numpy(p) for d in range(directions) for p in (w[d], r[d], *np.split(bias[d], 2))]
    first = [torch.from_numpy(s) for s in starts]
    given = (params, True, 1, 0.0, False, directions == 2, False)
    want = (
        torch.lstm(torch.from_numpy(x), first, *given) if gates == 4 else torch.gru(torch.from_numpy(x), *first, *given)
    )
    attrs = {"direction": "bidirectional" if directions == 2 else "forward", "gates": "ifgo" if gates == 4 else "rzn"}
    got = (ir.lstm if gates == 4 else ir.gru).run([x, w, r, bias, *starts], attrs)
    close(got, [each.numpy() for each in want])


@pytest.mark.parametrize("after", [0, 1])
def test_recurrent_layers_are_onnxs(after: int) -> None:
    x, w, r, bias = drawn(4, 3, 4), drawn(1, 8, 4), drawn(1, 8, 2), drawn(1, 16)
    y, h, c = onnx_result("LSTM", [x, w, r, bias], 3, hidden_size=2)
    close(ir.lstm.run([x, w, r, bias], {}), [y.reshape(4, 3, 2), h, c])
    w, r, bias = drawn(1, 6, 4), drawn(1, 6, 2), drawn(1, 12)
    y, h = onnx_result("GRU", [x, w, r, bias], 2, hidden_size=2, linear_before_reset=after)
    close(ir.gru.run([x, w, r, bias], {"linear_before_reset": after}), [y.reshape(4, 3, 2), h])


def test_a_sequence_ends_at_its_length() -> None:
    x, w, r = drawn(4, 2, 3), drawn(1, 8, 3), drawn(1, 8, 2)
    for direction in ("forward", "reverse"):
        whole = ir.lstm.run([x, w, r, None, None, None, np.array([4, 3], np.int32)], {"direction": direction})
        alone = ir.lstm.run([x[:3, 1:], w, r], {"direction": direction})
        close([whole[0][:3, 1:], whole[1][:, 1:], whole[2][:, 1:]], alone)
        assert not whole[0][3, 1].any()


def test_quantization_is_onnxs() -> None:
    for x in (drawn(3, 7), drawn(3, 7) + 2, drawn(3, 7) - 2):
        close(ir.dynamic_quantize.run([x], {}), onnx_result("DynamicQuantizeLinear", [x], 3), 0)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_is_torchs(causal: int) -> None:
    q, k, v = drawn(2, 4, 3, 8), drawn(2, 2, 3, 8), drawn(2, 2, 3, 5)
    mask = None if causal else np.where(drawn(1, 1, 3, 3) > 0, F(0), F(-np.inf))
    tensors = [None if each is None else torch.from_numpy(each) for each in (q, k, v, mask)]
    want = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=bool(causal), enable_gqa=True)
    attrs = {"causal": causal, "safe": 1}
    close(ir.attention.run([q, k, v, mask], {**attrs, "layout": "bhsd"}), [want.numpy()])
    turned = [each.swapaxes(1, 2) for each in (q, k, v)]
    close(ir.attention.run([*turned, mask], attrs), [want.numpy().swapaxes(1, 2)])


def test_a_query_without_keys() -> None:
    q, k = drawn(1, 3, 1, 4), drawn(1, 2, 1, 4)
    (last,) = ir.attention.run([q, k, k], {"causal": 2})
    assert np.isnan(last[0, 0]).all() and np.isfinite(last[0, 1:]).all()
    (safe,) = ir.attention.run([q, k, k], {"causal": 2, "safe": 1})
    assert not safe[0, 0].any()
    close([safe[:, 1:]], [last[:, 1:]], 0)


def test_order_is_torchs() -> None:
    x = np.round(drawn(4, 9) * 3)  # with ties
    x[1, 3] = np.nan
    t = torch.from_numpy(x)
    for largest in (0, 1):
        want = torch.sort(t, dim=1, descending=bool(largest), stable=True)
        got = ir.top_k.run([x, [5]], {"axis": 1, "largest": largest})
        close(got, [want.values[:, :5].numpy(), want.indices[:, :5].numpy()], 0)
    picks = {
        "kth": torch.kthvalue(t, 3, 1, True),
        "median": torch.median(t, 1, True),
        "nanmedian": torch.nanmedian(t, 1, True),
    }
    for pick, want in picks.items():
        values, places = ir.top_k.run([x, [1]], {"axis": 1, "largest": 0, "pick": pick, "k": 2})
        close([values], [want.values.numpy()], 0)
        close([np.take_along_axis(x, places, 1)], [values], 0)


@pytest.mark.parametrize(("kind", "dtype"), [("normal", "float32"), ("normal", "float64"), ("bits", "uint64")])
def test_random_numbers_are_the_kernels(kind: str, dtype: str) -> None:
    oracle = getattr(_philox, f"{kind}_{dtype[0]}{dtype[-2:]}")
    for draw in (None, np.array(7, np.int64)):
        (got,) = ir.random.run([np.array([5], np.uint64), [3, 5], draw], {"kind": kind, "dtype": dtype, "number": 2})
        want = oracle(15, 5, 2, 0 if draw is None else 7).reshape(3, 5).astype(dtype)
        close([got], [want], 0 if kind == "bits" else 1e-6)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("block", [1, 16, 40, 128])
def test_blocks_are_onnxs(axis: int, block: int) -> None:
    w = encoded(np.int8, block, axis=axis)
    (want,) = onnx_result("DequantizeLinear", [w.values, w.scale, w.zero], 1, axis=axis, block_size=block)
    close([w.floats()], [want], 0)


@pytest.mark.parametrize("axis", [0, 1])
def test_channels_are_onnxs(axis: int) -> None:
    w = encoded(np.uint8, 1)
    for scale, zero in ((w.scale[0, :1], w.values[0, :1]), (w.scale.take(0, 1 - axis), w.values.take(0, 1 - axis))):
        (want,) = onnx_result("DequantizeLinear", [w.values, scale, zero], 1, axis=axis)
        close([ir.Encoded.along(w.values, scale, zero, axis).floats()], [want], 0)


# ---- constants of few bits


@pytest.mark.parametrize("block", [1, 32])
@pytest.mark.parametrize("axis", [0, 1])
def test_moved_constants_decode_to_what_is_moved(axis: int, block: int) -> None:
    w = encoded(np.uint8, block, (64, 96), axis)
    want = w.floats()
    close([w.transposed([1, 0]).floats()], [want.T], 0)
    for shape in ([1, 64, 96], [64, 1, 96, 1]):
        found = w.reshaped(shape)
        assert found is not None
        close([found.floats()], [want.reshape(shape)], 0)
    for shape in ([96, 64], [64 * 96], [2, 32, 96]):  # the scales could not follow
        assert w.reshaped(shape) is None


def test_reshapes_split_what_scales_do_not_go_by_and_merge_blocks() -> None:
    w = encoded(np.uint8, 32, (64, 96))
    rows = ir.Encoded.along(w.values, w.scale[:, 0], np.zeros(64, np.uint8), 0)
    split = rows.reshaped([64, 8, 12])
    assert split is not None
    close([split.floats()], [rows.floats().reshape(64, 8, 12)], 0)
    blocks = ir.Encoded(w.values.reshape(64, 3, 32), w.scale[..., None], w.zeros[..., None])
    merged = blocks.reshaped([64, 96])
    assert merged is not None and (merged.axis, merged.block) == (1, 32)
    close([merged.floats()], [w.floats()], 0)
    assert blocks.reshaped([3, 64, 32]) is None and blocks.reshaped([64 * 96]) is None


def test_scales_of_one_axis_are_found_whatever_their_blocks() -> None:
    w = encoded(np.int8, 32, (64, 96), 1)
    assert w.at(0) is None and w.at(1) is None
    one = ir.Encoded(w.values, w.scale[:1], w.zero[:1], 1, 32)  # type: ignore[index]
    found = one.at(1)
    assert found is not None and one.at(0) is None
    close([found[0][None], found[1][None]], [np.repeat(one.scale, 32, 1), np.repeat(one.zeros, 32, 1)], 0)
    rows = ir.Encoded(w.values, w.scale[:, :1], None, 1, 96).at(0)
    assert rows is not None and rows[1].shape == ()
    close([rows[0]], [w.scale[:, 0]], 0)


def test_a_constant_of_few_bits_reads_as_it_was_made() -> None:
    for zero in (True, False):
        w = encoded(np.uint8, 32)
        w = w if zero else ir.Encoded(w.values, w.scale, np.zeros_like(w.zero), w.axis, w.block)
        call = relax.BlockBuilder().normalize(w.call())
        assert [int(d) for d in call.ty.shape.values] == [70, 96] and str(call.ty.dtype) == "float32"
        found = ir.read_encoded(call)
        assert found is not None and (found.axis, found.block) == (1, 32) and (found.zero is not None) == zero
        close([found.values, found.scale, found.floats()], [w.values, w.scale, w.floats()], 0)
    x = relax.Var("x", relax.TensorType([70, 96], "uint8"))
    assert ir.read_encoded(ir.decode(x, const(w.scale), axis=1, block=32)) is None  # a run's


@pytest.mark.parametrize("bad", ["values", "scale", "extent", "rank", "zero", "axis", "block"])
def test_buffers_that_do_not_fit_are_refused(bad: str) -> None:
    w = encoded(np.uint8, 32)
    parts = {"values": w.values, "scale": w.scale, "zero": w.zero, "axis": w.axis, "block": w.block}
    wrong: dict[str, dict[str, Any]] = {
        "values": {"values": w.values.astype(np.int32)}, "scale": {"scale": w.scale.astype(np.float16)},
        "extent": {"scale": w.scale[:, :2]}, "rank": {"scale": w.scale[0]}, "zero": {"zero": w.zero.astype(np.int8)},  # type: ignore[union-attr]
        "axis": {"axis": 2}, "block": {"block": 0},
    }  # fmt: skip
    with pytest.raises(ValueError, match="values of"):
        ir.Encoded(**{**parts, **wrong[bad]})


def test_behind_lower_weights_nothing_is_decoded_and_before_it_only_constants() -> None:
    left = build(lambda emit, x: emit(encoded(np.uint8, 32).call()), (2, 96))
    check_module(left, "lower quantized")
    with pytest.raises(SpecError, match="maas.decode was not lowered"):
        check_module(left, "lower weights")
    check_module(lower_weights(left), "lower weights")
    of_a_run = build(
        lambda emit, x: emit(ir.decode(emit(relax.op.astype(x, "uint8")), const(np.ones((1, 1), F)))), (2, 96)
    )
    with pytest.raises(SpecError, match="decodes what is no constant"):
        check_module(of_a_run, "lower quantized")


# ---- calls


def test_a_call_reads_as_it_was_made() -> None:
    x, w, r = (
        relax.Var(n, relax.TensorType(s, "float32")) for n, s in (("x", [5, 3, 4]), ("w", [2, 8, 4]), ("r", [2, 8, 2]))
    )
    call = relax.BlockBuilder().normalize(
        ir.lstm(x, w, r, None, None, None, None, direction="bidirectional", place="/a")
    )
    read = ir.read_operator(call)
    assert read is not None and read.operator is ir.lstm and read.place == "/a"
    assert read.args[:3] == [x, w, r] and read.args[3:] == [None] * 4 and read.attrs == {"direction": "bidirectional"}
    assert [[int(d) for d in ty.shape.values] for ty in call.ty.fields] == [[5, 3, 4], [2, 3, 2], [2, 3, 2]]
    for other in (relax.op.exp(x), x, make_kernel_call("softmax_f32", [x], x.ty)):
        assert ir.read_operator(other) is None


def test_what_an_operator_does_not_have_is_refused() -> None:
    x = relax.Var("x", relax.TensorType([2], "float32"))
    with pytest.raises(TypeError, match="'r'"):
        ir.lstm(x, x)
    with pytest.raises(TypeError, match="'hidden'"):
        ir.lstm(x, x, x, hidden=3)
    with pytest.raises(TypeError, match="too many"):
        ir.dynamic_quantize(x, x)


def test_an_imported_module_calls_no_kernel_and_a_lowered_one_no_operator() -> None:
    kernel = build(lambda emit, x: make_kernel_call("softmax_f32", [x], relax.TensorType([2, 3], "float32")), (2, 3))
    with pytest.raises(SpecError, match="softmax_f32.*before operators are lowered"):
        check_module(kernel, "imported")
    left = build(lambda emit, x: relax.TupleGetItem(emit(ir.dynamic_quantize(x)), 1), (2, 3))
    check_module(left, "imported")
    with pytest.raises(SpecError, match="maas.dynamic_quantize was not lowered"):
        check_module(left, "hoist invariants")
    check_module(lower_operators(left), "hoist invariants")


# ---- what each is lowered to


class _NoSource:
    """A source that is never run: these models are compiled with verification off."""


def const(array: Array) -> relax.Expr:
    return relax.const(array, str(array.dtype))


def shape(*extents: int) -> relax.ShapeExpr:
    return relax.ShapeExpr(list(extents))


def recurrent(kind: ir.Operator, **attrs: Any) -> Callable[[relax.Expr], relax.Call]:
    """Of x [6, 3, 5], with everything that is optional."""
    directions, count, states = (
        2 if attrs.get("direction") == "bidirectional" else 1,
        *((4, 2) if kind is ir.lstm else (3, 1)),
    )
    w, r, bias = (drawn(directions, count * 4, *k) for k in ((5,), (4,), ()))
    bias = np.concatenate([bias, bias], axis=1)
    starts = [const(drawn(directions, 3, 4, seed=i)) for i in range(states)]
    lengths = const(np.array([6, 2, 5], np.int32))
    return lambda x: kind(x, const(w), const(r), const(bias), *starts, lengths, **attrs)


def bytes_lstm(dtype: Any, zeros: bool) -> Callable[[relax.Expr], relax.Call]:
    low, rng = np.iinfo(dtype).min, np.random.default_rng(3)
    w, r = (const(rng.integers(low, low + 256, (1, 16, k)).astype(dtype)) for k in (5, 4))
    scale = const(rng.uniform(0.01, 0.02, (1, 16)).astype(F))
    zero = const(rng.integers(low, low + 256, (1, 16)).astype(dtype)) if zeros else None
    return lambda x: ir.dynamic_quantize_lstm(x, w, r, None, None, None, None, scale, scale, zero, zero)


def bytes_gru(dtype: Any, **attrs: Any) -> Callable[[relax.Expr], relax.Call]:
    low, rng = np.iinfo(dtype).min, np.random.default_rng(3)
    w, r = (const(rng.integers(low, low + 256, (1, 12, k)).astype(dtype)) for k in (5, 4))
    scale = const(rng.uniform(0.01, 0.02, (1, 12)).astype(F))
    zero = const(rng.integers(low, low + 256, (1, 12)).astype(dtype))
    h0, lengths = const(drawn(1, 3, 4)), const(np.array([6, 2, 5], np.int32))
    return lambda x: ir.dynamic_quantize_gru(x, w, r, None, h0, lengths, scale, scale, zero, zero, **attrs)


def encoded(dtype: Any, block: int, extents: tuple[int, int] = (70, 96), axis: int = 1) -> ir.Encoded:
    """Numbers of 4 bits with scales and zero points of blocks."""
    rng = np.random.default_rng([block, axis, *extents])
    parts = [-(-n // block) if a == axis else n for a, n in enumerate(extents)]
    values, zero = (rng.integers(0, 16, shape).astype(dtype) for shape in (extents, parts))
    return ir.Encoded(values, rng.uniform(0.01, 0.02, parts).astype(F), zero, axis, block)


Q = (6, 3, 5)
CASES: dict[str, tuple[tuple[int, ...], Callable[[Any], relax.Call], float]] = {
    "lstm": (Q, recurrent(ir.lstm, direction="bidirectional", gates="ifgo"), 1e-5),
    "lstm reverse": (Q, recurrent(ir.lstm, direction="reverse"), 1e-5),
    "gru": (Q, recurrent(ir.gru, direction="bidirectional", gates="rzn"), 1e-5),
    "gru before": (Q, recurrent(ir.gru, direction="reverse", linear_before_reset=0), 1e-5),
    "dynamic_quantize_lstm": (Q, bytes_lstm(np.int8, False), 2e-3),  # a tie in a step is a unit of h
    "dynamic_quantize_lstm zeros": (Q, bytes_lstm(np.uint8, True), 2e-3),
    "dynamic_quantize_gru": (Q, bytes_gru(np.int8, gates="rzn", direction="reverse"), 2e-3),
    "dynamic_quantize_gru before": (Q, bytes_gru(np.uint8, linear_before_reset=0), 4e-3),
    "widen": ((2, 3), lambda x: ir.widen(const(drawn(4, 5).astype(np.float16))), 0),
    "decode": ((2, 96), lambda x: encoded(np.uint8, 32).call(), 0),
    "dynamic_quantize": ((4, 9), ir.dynamic_quantize, 0),
    "round_to_bytes": ((2, 3, 96), ir.round_to_bytes, 1e-7),
    "round_to_bytes uneven": ((4, 41), ir.round_to_bytes, 1e-7),
    "round_to_bytes short": ((9,), ir.round_to_bytes, 1e-7),
    "attention": ((2, 3, 4, 5), lambda x: ir.attention(x, x, x, causal=1), 1e-5),
    "attention of heads": ((2, 3, 4, 5), lambda x: ir.attention(x, x, x, const(drawn(4, 4)), scale=0.7, layout="bhsd"), 1e-5),
    "top_k": ((4, 9), lambda x: ir.top_k(x, shape(3), axis=1, largest=1), 0),
    "top_k median": ((4, 9), lambda x: ir.top_k(x, shape(1), axis=0, largest=0, pick="median"), 0),
    "random": ((3, 5), lambda x: ir.random(const(np.array([9], np.uint64)), shape(3, 5), kind="uniform", dtype="float32", number=4), 0),
}  # fmt: skip


def test_every_operator_has_a_case() -> None:
    assert {name.partition(" ")[0] for name in CASES} == set(ir.OPERATORS) - {"check"}  # which the plan reads


@pytest.mark.parametrize("name", CASES)
def test_a_lowered_operator_computes_its_reference(name: str) -> None:
    extents, make, bound = CASES[name]

    def results(emit: Any, x: Any) -> list[Any]:
        y = emit(make(x))
        return [relax.TupleGetItem(y, i) for i in range(len(y.ty.fields))] if hasattr(y.ty, "fields") else [y]

    mod = build(results, extents)
    x = drawn(*extents)
    want = run_lowered(mod, [x])
    names = [f"y{i}" for i in range(len(want))]
    model = ImportedModel(mod, ["x"], names, _NoSource())  # type: ignore[arg-type]
    got = maas_rt.load(compile_imported(model, CompileOptions(verify=None)).to_bytes()).run({"x": x})
    close([got[each] for each in names], want, bound)


@pytest.mark.parametrize(("values", "block", "contract"), [(16, 32, "gemm_s8q4"), (16, 20, "gemm_f32q"), (200, 32, "gemm_f32q"), (16, 1, "gemm_f32")])  # fmt: skip
def test_products_of_rounded_activations(values: int, block: int, contract: str) -> None:
    """On bytes where the kernel has such weights; on the rounded numbers where it has not."""
    rng = np.random.default_rng([values, block])
    parts = [-(-70 // block), 24]
    low, zero = rng.integers(0, values, (70, 24)).astype(np.uint8), rng.integers(0, values, parts).astype(np.uint8)
    weight = ir.Encoded(low, rng.uniform(0.01, 0.02, parts).astype(F), zero, 0, block)
    mod = build(lambda emit, x: relax.op.matmul(emit(ir.round_to_bytes(x)), emit(weight.call())), (9, 70))
    x = drawn(9, 70)
    want = ir.round_to_bytes.run([x], {})[0] @ weight.floats()
    artifact = compile_imported(ImportedModel(mod, ["x"], ["y"], _NoSource()), CompileOptions(verify=None))  # type: ignore[arg-type]
    assert contract in {step.target for block in artifact.linear.plan.blocks for step in block.steps}
    close([maas_rt.load(artifact.to_bytes()).run({"x": x})["y"]], [want], 2e-5 * float(np.abs(want).max()))
