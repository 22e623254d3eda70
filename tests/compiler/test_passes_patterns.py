"""What each pass recognises, in the spellings that exporters use, and what it must leave alone; values against TVM's
own lowering."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from maas_rt.compiler.passes.canonicalise import canonicalise
from maas_rt.compiler.passes.fold_constants import fold_constants
from tvm import relax
from tvm.relax import op

from tests.compiler._interpret import run_lowered
from tests.compiler._lowering import build, check, const, lower, operators, symbol

Emit = Callable[[Any], Any]


def scalar(value: float) -> Any:
    return relax.const(np.float32(value))


# ---- norms
# --------------------------------------------------------------------------------------------------------------------


def _square(spelling: str, d: Any) -> Any:
    return {
        "power": lambda: op.power(d, scalar(2.0)),
        "product": lambda: op.multiply(d, d),
        "square": lambda: op.square(d),
    }[spelling]()


@pytest.mark.parametrize("square", ["power", "product", "square"])
@pytest.mark.parametrize("root", ["sqrt", "rsqrt", "reciprocal", "power"])
def test_layer_norm_from_pieces(square: str, root: str) -> None:
    n = symbol("n")

    def body(emit: Emit, x: Any) -> Any:
        d = emit(op.subtract(x, emit(op.mean(x, [-1], True))))
        shifted = emit(op.add(emit(op.mean(emit(_square(square, d)), [2], True)), scalar(1e-5)))
        if root == "sqrt":
            y = op.divide(d, emit(op.sqrt(shifted)))
        elif root == "rsqrt":
            y = op.multiply(emit(op.rsqrt(shifted)), d)
        elif root == "reciprocal":
            y = op.multiply(d, emit(op.divide(scalar(1.0), emit(op.sqrt(shifted)))))
        else:
            y = op.multiply(d, emit(op.power(shifted, scalar(-0.5))))
        return op.add(emit(op.multiply(const(8, seed=1), emit(y))), const(1, 1, 8, seed=2))

    counts, (call,) = check(build(body, (n, 5, 8)), (2, 5, 8))
    assert counts == {"layer_norm_f32": 1}
    assert call.args[1] is not None and call.args[2] is not None and call.attrs["epsilon"] == [pytest.approx(1e-5)]


def test_rms_norm_from_pieces() -> None:
    def body(emit: Emit, x: Any) -> Any:
        inner = emit(op.add(emit(op.mean(emit(op.multiply(x, x)), [-1], True)), scalar(1e-6)))
        return op.multiply(emit(op.multiply(x, emit(op.rsqrt(inner)))), const(8))

    counts, _ = check(build(body, (symbol("n"), 8)), (3, 8))
    assert counts == {"rms_norm_f32": 1}


def test_norm_over_another_axis_stays_generated() -> None:
    def body(emit: Emit, x: Any) -> Any:
        d = emit(op.subtract(x, emit(op.mean(x, [1], True))))
        root = emit(op.sqrt(emit(op.add(emit(op.mean(emit(op.multiply(d, d)), [1], True)), scalar(1e-5)))))
        return op.divide(d, root)

    counts, _ = check(build(body, (2, 5, 8)), (2, 5, 8))
    assert "layer_norm_f32" not in counts and counts["generated"] >= 1


def test_layer_norm_over_two_axes_and_group_norm_become_rows() -> None:
    n = symbol("n")
    counts, _ = check(
        build(lambda emit, x: op.nn.layer_norm(x, const(5, 8), const(5, 8, seed=1), [-2, -1]), (n, 5, 8)), (2, 5, 8)
    )
    assert counts == {"layer_norm_f32": 1}
    grouped = build(lambda emit, x: op.nn.group_norm(x, const(6), const(6, seed=1), 3, 1, [2, 3]), (n, 6, 4, 5))
    counts, _ = check(grouped, (2, 6, 4, 5))
    assert counts == {"layer_norm_f32": 1, "generated": 1}


def test_softmax_from_pieces_and_over_another_axis() -> None:
    def body(emit: Emit, x: Any) -> Any:
        raised = emit(op.exp(emit(op.subtract(x, emit(op.max(x, [-1], True))))))
        return op.divide(raised, emit(op.sum(raised, [-1], True)))

    assert check(build(body, (symbol("n"), 7)), (3, 7))[0] == {"softmax_f32": 1}
    assert "softmax_f32" not in check(build(lambda emit, x: op.nn.softmax(x, 1), (2, 3, 4)), (2, 3, 4))[0]
    _, (call,) = check(build(lambda emit, x: op.nn.log_softmax(x, -1), (2, 3, 4)), (2, 3, 4))
    assert call.attrs == {"log": [1]}


def test_residual_norm_adds_itself_and_gives_the_sum_where_it_is_used_again() -> None:
    n = symbol("n")

    def body(emit: Emit, x: Any, y: Any, again: bool) -> Any:
        total = emit(op.add(x, y))
        normed = emit(op.nn.layer_norm(total, const(8), const(8, seed=1), [-1]))
        return [normed, op.exp(total)] if again else [normed]

    for again in (False, True):
        mod = build(lambda emit, x, y, again=again: body(emit, x, y, again), (n, 8), (n, 8))
        counts, (call,) = check(mod, (3, 8), (3, 8))
        assert len(call.args) == 4 and counts["generated"] == int(again)
    mod = build(lambda emit, x, y: op.nn.rms_norm(emit(op.add(x, y)), const(8), [-1]), (n, 8), (n, 8))
    _, (call,) = check(mod, (3, 8), (3, 8))
    assert call.contract == "rms_norm_f32" and len(call.args) == 3


# ---- epilogues
# ----------------------------------------------------------------------------------------------------------------


def _gelu(emit: Emit, x: Any) -> Any:
    wave = emit(op.add(emit(op.erf(emit(op.divide(x, scalar(math.sqrt(2.0)))))), scalar(1.0)))
    return op.multiply(emit(op.multiply(x, wave)), scalar(0.5))


def _gelu_half_inside(emit: Emit, x: Any) -> Any:
    wave = emit(op.add(scalar(1.0), emit(op.erf(emit(op.multiply(x, scalar(math.sqrt(0.5))))))))
    return op.multiply(emit(op.multiply(scalar(0.5), x)), wave)


def _gelu_tanh(emit: Emit, x: Any) -> Any:
    cubic = emit(op.multiply(scalar(0.044715), emit(op.power(x, scalar(3.0)))))
    inner = emit(op.multiply(emit(op.add(x, cubic)), scalar(math.sqrt(2 / math.pi))))
    return op.multiply(emit(op.multiply(scalar(0.5), x)), emit(op.add(emit(op.tanh(inner)), scalar(1.0))))


def _gelu_tanh_factored(emit: Emit, x: Any) -> Any:
    square = emit(op.multiply(emit(op.multiply(x, x)), scalar(0.044715)))
    inner = emit(op.multiply(emit(op.multiply(x, emit(op.add(square, scalar(1.0))))), scalar(math.sqrt(2 / math.pi))))
    return op.multiply(emit(op.multiply(scalar(0.5), x)), emit(op.add(emit(op.tanh(inner)), scalar(1.0))))


def _hardswish(emit: Emit, x: Any) -> Any:
    clipped = emit(op.clip(emit(op.add(x, scalar(3.0))), 0.0, 6.0))
    return op.divide(emit(op.multiply(x, clipped)), scalar(6.0))


def _hardswish_of_hardsigmoid(emit: Emit, x: Any) -> Any:
    gate = emit(op.clip(emit(op.add(emit(op.multiply(x, scalar(1 / 6))), scalar(0.5))), 0.0, 1.0))
    return op.multiply(x, gate)


def _hardsigmoid(emit: Emit, x: Any) -> Any:
    return op.clip(emit(op.add(emit(op.multiply(x, scalar(0.2))), scalar(0.5))), 0.0, 1.0)


def _relu6(emit: Emit, x: Any) -> Any:
    return op.minimum(emit(op.maximum(x, scalar(0.0))), scalar(6.0))


def _mish(emit: Emit, x: Any) -> Any:
    return op.multiply(x, emit(op.tanh(emit(op.log(emit(op.add(emit(op.exp(x)), scalar(1.0))))))))


ACTIVATIONS: dict[str, tuple[Callable[[Emit, Any], Any], str]] = {
    "relu": (lambda emit, x: op.nn.relu(x), "relu"),
    "maximum": (lambda emit, x: op.maximum(x, scalar(0.0)), "relu"),
    "relu6": (lambda emit, x: op.clip(x, 0.0, 6.0), "clip"),
    "relu6 of pieces": (_relu6, "clip"),
    "leaky": (lambda emit, x: op.nn.leakyrelu(x, 0.1), "leaky_relu"),
    "sigmoid": (lambda emit, x: op.sigmoid(x), "sigmoid"),
    "tanh": (lambda emit, x: op.tanh(x), "tanh"),
    "gelu": (lambda emit, x: op.nn.gelu(x), "gelu"),
    "gelu of pieces": (_gelu, "gelu"),
    "gelu, half inside": (_gelu_half_inside, "gelu"),
    "gelu_tanh": (lambda emit, x: op.nn.gelu_tanh(x), "gelu_tanh"),
    "gelu_tanh of pieces": (_gelu_tanh, "gelu_tanh"),
    "gelu_tanh, factored": (_gelu_tanh_factored, "gelu_tanh"),
    "silu": (lambda emit, x: op.nn.silu(x), "silu"),
    "silu of pieces": (lambda emit, x: op.multiply(x, emit(op.sigmoid(x))), "silu"),
    "hardswish": (_hardswish, "hardswish"),
    "hardswish of hardsigmoid": (_hardswish_of_hardsigmoid, "hardswish"),
    "hardsigmoid": (_hardsigmoid, "clip"),  # the line before the clip goes into weights and bias
    "softplus": (lambda emit, x: op.nn.softplus(x), "softplus"),
    "mish": (_mish, "mish"),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_join_the_product_before_them(name: str) -> None:
    activation, act = ACTIVATIONS[name]

    def body(emit: Emit, x: Any) -> Any:
        return activation(emit, emit(op.add(emit(op.matmul(x, const(6, 5))), const(5, seed=1))))

    counts, (call,) = check(build(body, (symbol("n"), 6)), (9, 6), low=-4, high=4)
    assert counts == {"gemm_f32": 1}
    assert call.attrs["act"] == act and call.args[2] is not None


def _near_gelu(emit: Emit, x: Any, root: float = 2**0.5, half: float = 0.5, one: float = 1.0) -> Any:
    wave = emit(op.add(emit(op.erf(emit(op.divide(x, scalar(root))))), scalar(one)))
    return op.multiply(emit(op.multiply(x, wave)), scalar(half))


def _near_gelu_tanh(
    emit: Emit, x: Any, cubic: float = 0.044715, root: float = (2 / math.pi) ** 0.5, power: float = 3.0
) -> Any:
    inner = emit(op.add(x, emit(op.multiply(scalar(cubic), emit(op.power(emit(op.abs(x)), scalar(power)))))))
    if power == 3.0:
        inner = emit(op.add(x, emit(op.multiply(scalar(cubic), emit(op.power(x, scalar(power)))))))
    wave = emit(op.tanh(emit(op.multiply(inner, scalar(root)))))
    return op.multiply(emit(op.multiply(scalar(0.5), x)), emit(op.add(wave, scalar(1.0))))


def _near_hardswish(emit: Emit, x: Any, sixth: float = 1 / 6, three: float = 3.0, six: float = 6.0) -> Any:
    clipped = emit(op.clip(emit(op.add(x, scalar(three))), 0.0, six))
    return op.multiply(emit(op.multiply(x, clipped)), scalar(sixth))


def _near_line(emit: Emit, x: Any, slope: float = 1 / 6, half: float = 0.5, top: float = 1.0) -> Any:
    line = emit(op.add(emit(op.multiply(x, scalar(slope))), scalar(half)))
    return op.multiply(x, emit(op.clip(line, 0.0, top)))


def _near_softplus(emit: Emit, x: Any, one: float = 1.0) -> Any:
    return op.log(emit(op.add(emit(op.exp(x)), scalar(one))))


def _near_silu(emit: Emit, x: Any, beta: float = 1.0) -> Any:
    return op.multiply(x, emit(op.sigmoid(emit(op.multiply(x, scalar(beta))))))


NEAR: list[tuple[Callable[..., Any], str, dict[str, float]]] = [
    (_near_gelu, "gelu", {"root": 1.4143}),
    (_near_gelu, "gelu", {"half": 0.50001}),
    (_near_gelu, "gelu", {"one": 1.00001}),
    (_near_gelu_tanh, "gelu_tanh", {"cubic": 0.044717}),
    (_near_gelu_tanh, "gelu_tanh", {"root": 0.79789}),
    (_near_gelu_tanh, "gelu_tanh", {"power": 3.2}),
    (_near_hardswish, "hardswish", {"sixth": 0.16668}),
    (_near_hardswish, "hardswish", {"three": 3.0001}),
    (_near_hardswish, "hardswish", {"six": 6.0001}),
    (_near_line, "hardswish", {"slope": 0.16668}),
    (_near_line, "hardswish", {"half": 0.50001}),
    (_near_line, "hardswish", {"top": 1.0001}),
    (_near_softplus, "softplus", {"one": 1.00001}),
    (_near_silu, "silu", {"beta": 1.00001}),
]


def _acts(cases: list[tuple[Callable[..., Any], dict[str, float]]], tolerance: float = 2e-5) -> list[Any]:
    """The activation of each of several products, all in one function."""

    def body(emit: Emit, x: Any) -> Any:
        return [
            activation(emit, emit(op.matmul(x, const(6, 5, low=-2, high=2, seed=i))), **changed)
            for i, (activation, changed) in enumerate(cases)
        ]

    _, calls = check(build(body, (symbol("n"), 6)), (40, 6), low=-1, high=1, tolerance=tolerance)
    return [call.attrs.get("act") for call in calls]


def test_a_near_constant_is_another_function() -> None:
    """Taken for what it is near to it would be off by up to 1e-4, which no tolerance sees."""
    acts = _acts([(activation, changed) for activation, _, changed in NEAR], tolerance=2e-6)
    assert len(acts) == len(NEAR) and not {act for _, act, _ in NEAR} & set(acts)


def test_constants_that_only_round_are_the_same_function() -> None:
    same = [(activation, {}, act) for activation, act, _ in NEAR[::3] if act not in ("silu", "softplus")]
    same += [(_near_gelu, {"root": 1.4142135381698608}, "gelu"), (_near_hardswish, {"sixth": 0.16666667}, "hardswish")]
    assert sorted(_acts([(activation, changed) for activation, changed, _ in same])) == sorted(act for *_, act in same)


def test_sums_and_near_scales_are_no_means_and_no_roots() -> None:
    """A sum times nearly 1/n, and an attention scale of nearly 1/sqrt(d), keep their own numbers."""
    factor = 0.125001

    def body(emit: Emit, x: Any, q: Any, k: Any, v: Any) -> Any:
        d = emit(op.subtract(x, emit(op.multiply(emit(op.sum(x, [-1], True)), scalar(factor)))))
        root = emit(op.sqrt(emit(op.add(emit(op.mean(emit(op.square(d)), [-1], True)), scalar(1e-5)))))
        scores = emit(op.multiply(emit(op.matmul(q, k)), scalar(factor)))
        return [op.divide(d, root), op.matmul(emit(op.nn.softmax(scores, -1)), v)]

    shapes = [(3, 8), (1, 2, 5, 64), (1, 2, 64, 5), (1, 2, 5, 64)]
    counts, calls = check(build(body, *shapes), *shapes, low=1, high=2)
    assert "layer_norm_f32" not in counts
    assert [call.attrs["scale"] for call in calls if "attention" in call.contract] == [[float(np.float32(factor))]]


def test_rounding_by_a_magic_number_stays() -> None:
    def body(emit: Emit, x: Any) -> Any:
        return op.subtract(emit(op.add(x, scalar(12582912.0))), scalar(12582912.0))

    (got,) = run_lowered(lower(build(body, (6,))), [np.float32([0.4, 0.6, 1.5, 2.5, -0.7, 100.2])])
    np.testing.assert_array_equal(got, np.float32([0, 1, 2, 2, -1, 100]))


def test_a_product_that_is_used_twice_keeps_its_value() -> None:
    def body(emit: Emit, x: Any) -> Any:
        y = emit(op.matmul(x, const(6, 5)))
        return [op.nn.relu(y), op.exp(y)]

    counts, (call,) = check(build(body, (symbol("n"), 6)), (3, 6))
    assert counts["gemm_f32"] == 1 and "act" not in call.attrs


@pytest.mark.parametrize("after", [False, True])
def test_residuals_before_and_behind_the_activation(after: bool) -> None:
    n = symbol("n")

    def body(emit: Emit, x: Any, r: Any) -> Any:
        y = emit(op.add(emit(op.matmul(x, const(6, 5))), const(5, seed=1)))
        return op.add(r, emit(op.nn.relu(y))) if after else op.nn.relu(emit(op.add(y, r)))

    counts, (call,) = check(build(body, (n, 6), (n, 5)), (3, 6), (3, 5))
    assert counts == {"gemm_f32": 1}
    assert call.attrs["residual_after"] == [int(after)] and call.args[3] is not None


def test_a_broadcast_residual_is_no_residual() -> None:
    n = symbol("n")
    mod = build(lambda emit, x, r: op.add(emit(op.matmul(x, const(6, 5))), r), (n, 6), (1, 5))
    counts, _ = check(mod, (3, 6), (1, 5))
    assert counts == {"gemm_f32": 1, "generated": 1}


# ---- products
# -----------------------------------------------------------------------------------------------------------------


def test_transposes_and_numbers_join_a_product_of_run_time_tensors() -> None:
    n = symbol("n")

    def body(emit: Emit, a: Any, b: Any) -> Any:
        turned = emit(op.permute_dims(b, [0, 2, 1]))
        return op.divide(emit(op.matmul(a, turned)), scalar(4.0))

    _, (call,) = check(build(body, (n, 3, 4), (n, 5, 4)), (2, 3, 4), (2, 5, 4))
    assert call.contract == "matmul_f32" and call.attrs == {"trans_b": [1], "alpha": [0.25]}


def test_vectors_and_batched_constants() -> None:
    assert check(build(lambda emit, x: op.matmul(x, const(4, 3)), (4,)), (4,))[0] == {"gemm_f32": 1}
    assert check(build(lambda emit, x: op.matmul(x, const(4)), (3, 4)), (3, 4))[0] == {"gemm_f32": 1}
    assert check(build(lambda emit, x: op.matmul(const(5, 4), x), (4, 3)), (4, 3))[0] == {"matmul_f32": 1}
    assert check(build(lambda emit, x: op.matmul(x, const(2, 4, 3)), (2, 5, 4)), (2, 5, 4))[0] == {"matmul_f32": 1}
    assert check(build(lambda emit, x: op.matmul(x, const(1, 4, 3)), (2, 5, 4)), (2, 5, 4))[0] == {"gemm_f32": 1}


def test_products_of_integers_stay_generated() -> None:
    mod = build(lambda emit, x: op.matmul(x, x), ((4, 4), "int32"))
    assert check(mod, (4, 4))[0] == {"generated": 1}


# ---- attention
# ----------------------------------------------------------------------------------------------------------------


def _heads(emit: Emit, x: Any, batch: Any, axes: list[int]) -> Any:
    return emit(op.permute_dims(emit(op.reshape(x, (batch, 7, 4, 8))), axes))


@pytest.mark.parametrize("scaled", ["scores", "query", "both sides"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_from_pieces_over_three_projections(scaled: str, masked: bool) -> None:
    """As an ONNX exporter writes a BERT layer: one product for q, k, v, and the kernel on it."""
    n = symbol("n")

    def body(emit: Emit, x: Any, *mask: Any) -> Any:
        q, k, v = (emit(op.add(emit(op.matmul(x, const(32, 32, seed=s))), const(32, seed=9 + s))) for s in range(3))
        q, k, v = _heads(emit, q, n, [0, 2, 1, 3]), _heads(emit, k, n, [0, 2, 3, 1]), _heads(emit, v, n, [0, 2, 1, 3])
        if scaled == "query":
            q = emit(op.divide(q, scalar(math.sqrt(8))))
        elif scaled == "both sides":
            q, k = emit(op.multiply(q, scalar(8**-0.25))), emit(op.multiply(k, scalar(8**-0.25)))
        scores = emit(op.matmul(q, k))
        if scaled == "scores":
            scores = emit(op.divide(scores, scalar(math.sqrt(8))))
        if masked:
            scores = emit(op.add(scores, mask[0]))
        y = emit(op.permute_dims(emit(op.matmul(emit(op.nn.softmax(scores, -1)), v)), [0, 2, 1, 3]))
        return op.reshape(y, (n, 7, 32))

    params = [(n, 7, 32)] + ([(n, 1, 1, 7)] if masked else [])
    counts, calls = check(build(body, *params), *[(2, *shape[1:]) for shape in params])
    assert counts == {"gemm_f32": 1, "qkv_attention_f32": 1}
    assert calls[1].attrs["scale"] == [pytest.approx(8**-0.5)]


@pytest.mark.parametrize("parts", ["split", "slices", "takes", "split of columns"])
def test_attention_over_one_packed_projection(parts: str) -> None:
    n = symbol("n")

    def body(emit: Emit, x: Any) -> Any:
        qkv = emit(op.matmul(x, const(32, 96)))
        if parts == "split of columns":
            columns = emit(op.split(qkv, 3, 2))
            q, k, v = (_heads(emit, emit(columns[i]), n, [0, 2, 1, 3]) for i in range(3))
        else:
            turned = emit(op.permute_dims(emit(op.reshape(qkv, (n, 7, 3, 4, 8))), [2, 0, 3, 1, 4]))
            if parts == "split":
                three = emit(op.split(turned, 3, 0))
                q, k, v = (emit(op.squeeze(emit(three[i]), [0])) for i in range(3))
            elif parts == "slices":
                q, k, v = (emit(op.squeeze(emit(op.strided_slice(turned, [0], [i], [i + 1])), [0])) for i in range(3))
            else:
                q, k, v = (emit(op.take(turned, relax.const(np.int64(i)), 0)) for i in range(3))
        q, k, v = (emit(op.permute_dims(t, [0, 2, 1, 3])) for t in (q, k, v))
        y = emit(op.nn.attention(q, k, v, causal_mask="TopLeft"))
        return op.reshape(y, (n, 7, 32))

    counts, calls = check(build(body, (n, 7, 32)), (2, 7, 32))
    assert counts == {"gemm_f32": 1, "qkv_attention_f32": 1}
    assert calls[1].attrs["causal"] == [1]


def test_cross_attention_keeps_three_tensors_and_heads_first_its_layout() -> None:
    n = symbol("n")
    cross = build(lambda emit, q, k, v: op.nn.attention(q, k, v), (n, 5, 2, 4), (n, 6, 2, 4), (n, 6, 2, 4))
    counts, _ = check(cross, (2, 5, 2, 4), (2, 6, 2, 4), (2, 6, 2, 4))
    assert counts == {"attention_f32": 1}

    def heads_first(emit: Emit, q: Any, k: Any, v: Any) -> Any:
        scores = emit(op.matmul(q, emit(op.permute_dims(k, [0, 1, 3, 2]))))
        return op.matmul(emit(op.nn.softmax(scores, -1)), v)

    counts, (call,) = check(build(heads_first, *[(n, 2, 5, 4)] * 3), *[(2, 2, 5, 4)] * 3)
    assert counts == {"attention_f32": 1} and call.attrs["layout"] == "bhsd"


# ---- convolution neighbourhoods
# -----------------------------------------------------------------------------------------------


def _conv(emit: Emit, x: Any, c_in: int, c_out: int, kernel: int = 3, seed: int = 0, **extra: Any) -> Any:
    weight = const(c_out, c_in // extra.get("groups", 1), kernel, kernel, seed=seed)
    return emit(op.nn.conv2d(x, weight, padding=kernel // 2, **extra))


def _batch_norm(emit: Emit, x: Any, channels: int) -> Any:
    vectors = [const(channels, seed=s, low=0.5, high=1.5) for s in range(4)]
    return emit(emit(op.nn.batch_norm(x, *vectors, axis=1, epsilon=1e-5, training=False))[0])


def test_batch_norm_and_relu_vanish_in_the_convolution() -> None:
    def body(emit: Emit, x: Any) -> Any:
        biased = emit(op.add(_conv(emit, x, 3, 8), const(1, 8, 1, 1, seed=5)))
        return op.nn.relu(_batch_norm(emit, biased, 8))

    counts, _ = check(build(body, (symbol("n"), 3, 9, 7)), (2, 3, 9, 7))
    assert counts == {"conv2d_f32": 1, "transpose": 2}


def test_batch_norm_of_run_time_statistics_is_computed() -> None:
    def body(emit: Emit, x: Any, mean: Any, variance: Any) -> Any:
        return emit(op.nn.batch_norm(x, const(3), const(3, seed=1), mean, variance, axis=1, training=False))[0]

    mod = build(body, (symbol("n"), 3, 4), (3,), (3,))
    assert set(check(mod, (2, 3, 4), (3,), (3,), low=0.5)[0]) == {"generated"}


def test_weights_that_are_computed_from_constants_are_weights() -> None:
    """Standardized weights arrive as a batch norm of constants (timm's StdConv2d)."""

    def body(emit: Emit, x: Any) -> Any:
        flat = emit(op.reshape(const(8, 4, 3, 3), (1, 8, 36)))
        mean = emit(op.mean(flat, [0, 2]))
        spread = emit(op.variance(flat, [0, 2]))
        normed = emit(emit(op.nn.batch_norm(flat, const(8), const(8, seed=1), mean, spread, axis=1, training=False))[0])
        return op.nn.conv2d(x, emit(op.reshape(normed, (8, 4, 3, 3))))

    assert check(build(body, (2, 4, 6, 5)), (2, 4, 6, 5))[0] == {"conv2d_f32": 1, "transpose": 2}


@pytest.mark.parametrize("kind", ["transposed", "linear", "grouped", "depthwise", "repeated"])
def test_batch_norm_folds_into_other_layers(kind: str) -> None:
    n = symbol("n")

    def body(emit: Emit, x: Any) -> Any:
        if kind == "linear":
            return op.add(emit(op.multiply(emit(op.matmul(x, const(6, 5))), const(5, seed=1))), const(5, seed=2))
        if kind == "transposed":
            return _batch_norm(emit, emit(op.nn.conv2d_transpose(x, const(6, 4, 2, 2), strides=2)), 4)
        out = 18 if kind == "repeated" else 6
        return _batch_norm(emit, _conv(emit, x, 6, out, groups=2 if kind == "grouped" else 6), out)

    shape = (6,) if kind == "linear" else (6, 5, 4)
    counts, _ = check(build(body, (n, *shape)), (2, *shape))
    contract = {
        "transposed": "conv_transpose2d_f32",
        "linear": "gemm_f32",
        "grouped": "conv2d_f32",
        "depthwise": "depthwise_conv2d_f32",
        "repeated": "depthwise_conv2d_f32",
    }[kind]
    assert counts[contract] == 1 and "generated" not in counts


def test_a_neighbourhood_has_transposes_at_its_borders_only() -> None:
    """Convolutions, pooling, concatenation, padding, a gate as in squeeze-and-excitation, a mean; symbolic batch and
    extents."""
    n, h, w = symbol("n"), symbol("h"), symbol("w")

    def body(emit: Emit, x: Any) -> Any:
        a = emit(op.nn.relu(_conv(emit, x, 3, 8)))
        b = emit(op.nn.max_pool2d(a, (3, 3), (1, 1), (1, 1, 1, 1)))
        c = emit(op.concat([a, b], 1))
        gate = emit(op.mean(c, [2, 3], True))
        gate = emit(op.sigmoid(emit(op.nn.conv2d(gate, const(16, 16, 1, 1, seed=3)))))
        d = emit(op.multiply(c, gate))
        e = emit(op.nn.pad(d, [0, 0, 0, 0, 1, 1, 1, 1], "reflect"))
        f = _conv(emit, e, 16, 8, seed=4)
        return op.mean(emit(op.nn.gelu(f)), [2, 3])

    counts, _ = check(build(body, (n, 3, h, w)), (2, 3, 6, 5))
    assert counts["transpose"] == 1 and counts["generated"] == 1  # the gate's product
    assert counts["conv2d_f32"] == 2 and counts["gemm_f32"] == 1 and counts["global_avg_pool_f32"] == 2


def test_one_channel_needs_no_transpose_and_flattening_before_a_linear_layer_none_either() -> None:
    def body(emit: Emit, x: Any) -> Any:
        y = emit(op.nn.max_pool2d(emit(op.nn.relu(_conv(emit, x, 1, 4))), (2, 2), (2, 2)))
        return op.matmul(emit(op.reshape(y, (symbol_n, 4 * 3 * 2))), const(24, 5, seed=1))

    symbol_n = symbol("n")
    counts, _ = check(build(body, (symbol_n, 1, 6, 4)), (3, 1, 6, 4))
    assert counts == {"conv2d_f32": 1, "pool2d_f32": 1, "gemm_f32": 1}


def test_one_dimension_runs_as_two() -> None:
    def body(emit: Emit, x: Any) -> Any:
        y = emit(op.nn.relu(emit(op.nn.conv1d(x, const(8, 4, 3), padding=1))))
        y = emit(op.nn.max_pool1d(y, 2, 2))
        return op.mean(emit(op.nn.conv1d(y, const(6, 8, 3, seed=1), padding=1, strides=2)), [2])

    counts, _ = check(build(body, (symbol("n"), 4, 16)), (2, 4, 16))
    assert counts == {"transpose": 1, "conv2d_f32": 2, "pool2d_f32": 1, "global_avg_pool_f32": 1}


@pytest.mark.parametrize(
    ("kernel", "groups", "options"),
    [
        ((3, 3, 3), 1, {"padding": 1}),
        ((3, 1, 1), 1, {"padding": (1, 0, 0)}),
        ((1, 3, 3), 2, {"padding": (0, 1, 1)}),
        ((2, 3, 1), 2, {"strides": (2, 1, 2), "padding": (1, 0, 0, 0, 2, 1), "dilation": (2, 1, 1)}),
        ((3, 3, 3), 4, {"padding": 1, "strides": (1, 2, 2)}),
    ],
)
def test_volumes_run_as_images(kernel: tuple[int, ...], groups: int, options: dict[str, Any]) -> None:
    """And what follows a convolution stays channels-last."""
    weight = const(8, 4 // groups, *kernel)

    def body(emit: Emit, x: Any) -> Any:
        y = emit(op.nn.conv3d(x, weight, groups=groups, **options))
        y = emit(op.nn.relu(emit(op.add(y, const(1, 8, 1, 1, 1, seed=1)))))
        return op.mean(y, [2, 3, 4])

    counts, calls = check(build(body, (symbol("n"), 4, 5, 6, 7)), (2, 4, 5, 6, 7))
    assert counts["transpose"] == 1 and counts["global_avg_pool_f32"] == 1
    (layer,) = [call for call in calls if "conv2d" in call.contract or call.contract == "gemm_f32"]
    assert "relu" in str(layer.attrs)


@pytest.mark.parametrize("ceil", [False, True])
def test_pooling_of_volumes(ceil: bool) -> None:
    def body(emit: Emit, x: Any) -> Any:
        y = emit(op.nn.max_pool3d(x, (3, 3, 2), (2, 1, 2), (1, 1, 1, 1, 1, 1), (1, 1, 1), ceil))
        y = emit(op.nn.avg_pool3d(y, (2, 2, 3), (1, 2, 2), (1, 0, 1, 1, 0, 1), (1, 1, 1), ceil, not ceil))
        return op.nn.max_pool3d(y, (1, 2, 2), (1, 2, 2))

    counts, _ = check(build(body, (symbol("n"), 3, 5, 9, 8)), (2, 3, 5, 9, 8))
    assert counts == {"pool2d_f32": 5, "transpose": 2}


def test_weights_that_are_inputs_stay_generated() -> None:
    mod = build(lambda emit, x, w: op.nn.conv2d(x, w), (1, 3, 6, 6), (4, 3, 3, 3))
    assert check(mod, (1, 3, 6, 6), (4, 3, 3, 3))[0] == {"generated": 1}


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("counted", [False, True])
def test_average_pooling(ceil: bool, counted: bool) -> None:
    mod = build(lambda emit, x: op.nn.avg_pool2d(x, (3, 2), (2, 2), (1, 1, 1, 1), (1, 1), ceil, counted), (2, 3, 8, 7))
    counts, _ = check(mod, (2, 3, 8, 7))
    assert counts == {"pool2d_f32": 1, "transpose": 2}


def test_other_layout_aware_operators_follow() -> None:
    n = symbol("n")

    def body(emit: Emit, x: Any) -> Any:
        y = _conv(emit, x, 3, 8)
        parts = emit(op.split(y, 2, 1))
        a = emit(op.nn.softmax(emit(parts[0]), 1))
        b = emit(op.nn.prelu(emit(parts[1]), const(4, seed=2), 1))
        c = emit(op.add(emit(op.multiply(a, const(5, seed=3))), b))
        d = emit(op.strided_slice(c, [2], [1], [4]))
        return op.max(d, [1])

    counts, _ = check(build(body, (n, 3, 6, 5)), (2, 3, 6, 5))
    assert counts["transpose"] == 1 and counts["softmax_f32"] == 1


# ---- movement, constants, canonical form
# --------------------------------------------------------------------------------------


def test_gathers_drop_the_narrowing_of_their_indices() -> None:
    n = symbol("n")

    def body(emit: Emit, tokens: Any) -> Any:
        flat = emit(op.reshape(emit(op.astype(tokens, "int32")), (n * 6,)))
        return op.reshape(emit(op.take(const(10, 4), flat, 0)), (n, 6, 4))

    counts, (call,) = check(build(body, ((n, 6), "int64")), (2, 6), ints=10)
    assert counts == {"gather": 1} and str(call.args[1].ty.dtype) == "int64"


def test_transposes_cancel_across_reshapes_with_symbols() -> None:
    n, s = symbol("n"), symbol("s")

    def body(emit: Emit, x: Any) -> Any:
        y = emit(op.permute_dims(x, [0, 3, 1, 2]))
        y = emit(op.reshape(y, (n, 4, s * 5)))
        return op.exp(emit(op.permute_dims(y, [0, 2, 1])))

    counts, _ = check(build(body, (n, s, 5, 4)), (2, 3, 5, 4))
    assert counts == {"generated": 1}


def test_transposes_around_a_gather_cancel() -> None:
    def body(emit: Emit, x: Any) -> Any:
        rows = emit(op.take(emit(op.permute_dims(x, [1, 0])), relax.const(np.array([3, 0, 3])), 0))
        return op.permute_dims(rows, [1, 0])

    assert check(build(body, (symbol("n"), 5)), (2, 5))[0] == {"gather": 1}


def test_a_reshape_across_transposed_axes_is_not_moved() -> None:
    n = symbol("n")

    def body(emit: Emit, x: Any) -> Any:
        return op.reshape(emit(op.permute_dims(x, [0, 2, 1])), (n, 12))

    assert check(build(body, (n, 3, 4)), (2, 3, 4))[0] == {"transpose": 1}


def test_common_subexpressions_are_computed_once() -> None:
    def body(emit: Emit, x: Any) -> Any:
        return [op.add(emit(op.exp(x)), emit(op.exp(x))), op.sum(emit(op.exp(x)), [1])]

    names = [str(b.value.op.name) for b in canonicalise(build(body, (3, 4)))["main"].body.blocks[0].bindings[:-1]]
    assert names == ["relax.exp", "relax.add", "relax.sum"]


def test_folding_stops_before_files_swell() -> None:
    def body(emit: Emit, x: Any) -> Any:
        small = emit(op.permute_dims(const(3, 4)))
        large = emit(op.broadcast_to(const(1, 4), (1 << 16, 4)))
        return [op.matmul(x, small), large]

    folded = fold_constants(build(body, (2, 4)))
    names = [str(b.value.op.name) for b in folded["main"].body.blocks[0].bindings[:-1]]
    assert names == ["relax.broadcast_to", "relax.matmul"] or names == ["relax.matmul", "relax.broadcast_to"]


def test_loops_over_a_size_that_the_data_decides_stay_behind_it() -> None:
    """Fusion must not move a loop over m before the binding that gives m its value."""
    n, m = symbol("n"), symbol("m")
    x, size = relax.Var("x", relax.TensorType([n], "float32")), relax.Var("size", relax.TensorType([1], "int64"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, size]):
        with builder.dataflow():
            total = builder.emit(op.exp(builder.emit(op.sum(builder.emit(op.square(x))))))
            builder.match_cast(builder.emit(op.tensor_to_shape(size)), relax.ShapeType([m]))
            spread = builder.emit(op.multiply(builder.emit(op.broadcast_to(total, relax.ShapeExpr([m]))), total))
            out = builder.emit_output(relax.Tuple([builder.emit(op.sqrt(spread))]))
        builder.emit_func_output(out)
    lowered = lower(builder.get())
    assert operators(lowered)["generated"] >= 2
    given = np.array([0.5, -0.25], np.float32)
    (got,) = run_lowered(lowered, [given, np.array([3])])
    np.testing.assert_allclose(got, np.full(3, np.exp((given**2).sum()), np.float32), rtol=1e-6)


def test_control_flow_keeps_both_branches() -> None:
    """A function with relax.If: passes walk into the branches, and what only a branch needs stays there."""
    from tvm.script import ir as I
    from tvm.script import relax as R

    @I.ir_module
    class Module:
        @R.function
        def main(c: R.Tensor((), "bool"), x: R.Tensor((2, 3), "float32")) -> R.Tuple(R.Tensor((2, 3), "float32")):
            if c:
                a = R.exp(x)
                y = R.add(a, x)
            else:
                b = R.nn.softmax(x, axis=-1)
                y = R.multiply(b, x)
            z = R.nn.relu(y)
            return (z,)

    for taken in (0, 1):
        counts = _run_branches(Module, taken)
        assert counts is not None


def _run_branches(mod: Any, taken: int) -> Any:
    lowered = lower(mod)
    x = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    (got,) = run_lowered(lowered, [np.array(bool(taken)), x])
    raised = np.exp(x - x.max(-1, keepdims=True))
    want = np.maximum(np.exp(x) + x if taken else raised / raised.sum(-1, keepdims=True) * x, 0)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    return operators(lowered)
