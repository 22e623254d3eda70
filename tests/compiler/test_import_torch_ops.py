"""Every ATen converter against torch: small functions in groups, each group one exported module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maas_rt.compiler import compile

import maas_rt
from tests.compiler._imported_oracle import Functions, compare, import_functions

Function = Callable[..., Any]
Cases = dict[str, Function]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64, seed: int = 0) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def check(cases: Cases, *inputs: torch.Tensor, dynamic: Any = None, bound: float = 1e-5) -> None:
    model = import_functions(cases, inputs, dynamic)
    assert compare(model, bound=bound) == {}


def test_unary_functions() -> None:
    names = (
        "abs acos asin atan ceil cos cosh erf erfc exp exp2 expm1 floor isfinite isinf isnan neg reciprocal relu round "
        "sigmoid sign sin sinh square tan tanh trunc logical_not positive frac sinc sgn"
    ).split()
    cases: Cases = {name: getattr(torch, name) for name in names}
    small = (torch.expm1, torch.log1p, torch.sin, torch.erf)  # (the oracle has an approximate tanh)
    cases |= {f"small_{f.__name__}": lambda x, f=f: f(x * 1e-4) for f in small}
    above = (torch.log, torch.log2, torch.log10, torch.log1p, torch.sqrt, torch.rsqrt)
    cases |= {f.__name__: lambda x, f=f: f(x.abs() + 0.5) for f in above}
    cases |= {"acosh": lambda x: torch.acosh(x.abs() + 1.5), "asinh": torch.asinh, "atanh": lambda x: torch.atanh(x)}
    cases |= {
        "logit": lambda x: torch.logit(x.abs()),
        "deg2rad": torch.deg2rad,
        "round_half": lambda x: torch.round(x * 4) / 4,
    }
    cases["halves"] = lambda x: torch.round(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]) + 0 * x[0, 0])
    cases["specials"] = lambda x: torch.isfinite(torch.tensor([float("nan"), float("inf"), 1.0]) + 0 * x[0, 0])
    check(cases, draw(3, 5).clamp(-0.95, 0.95))


def test_activations() -> None:
    names = (
        "relu relu6 gelu silu hardswish hardsigmoid leaky_relu elu selu celu softplus mish logsigmoid softsign tanhshrink "
        "hardtanh hardshrink softshrink sigmoid tanh"
    ).split()
    cases: Cases = {name: getattr(F, name) for name in names}
    cases |= {
        "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
        "leaky_half": lambda x: F.leaky_relu(x, 0.5),
        "elu_alpha": lambda x: F.elu(x, 0.3),
        "celu_alpha": lambda x: F.celu(x, 0.7),
        "softplus_beta": lambda x: F.softplus(x, 2.0, 3.0),
        "hardtanh_range": lambda x: F.hardtanh(x, -0.3, 0.8),
        "threshold": lambda x: F.threshold(x, 0.1, 7.0),
        "glu": lambda x: F.glu(x, 1),
        "prelu": lambda x: F.prelu(x, torch.tensor([0.25])),
        "prelu_channels": lambda x: F.prelu(x, torch.linspace(0.1, 0.6, 6)),
        "softmax": lambda x: F.softmax(x, -1),
        "softmax_first": lambda x: F.softmax(x, 0),
        "log_softmax": lambda x: F.log_softmax(x, 1),
        "softmin": lambda x: F.softmin(x, 1),
        "softmax_f64": lambda x: F.softmax(x, 1, dtype=torch.float64),
        "large": lambda x: F.elu(x * 200) + F.softplus(x * 200) + F.mish(x * 100),
        "dropout": lambda x: F.dropout(x, 0.5, training=False),
        "in_place": lambda x: F.relu_(x.clone()).add_(1).mul_(2),
    }
    check(cases, draw(4, 6) * 3)


def test_binary_functions_broadcast() -> None:
    cases: Cases = {
        "add": lambda x, y, v: x + y,
        "sub": lambda x, y, v: y - v,
        "mul": lambda x, y, v: x * v,
        "div": lambda x, y, v: x / (y.abs() + 1),
        "alpha": lambda x, y, v: torch.add(x, y, alpha=2.5) + torch.sub(x, v, alpha=0.5),
        "rsub": lambda x, y, v: 2 - x + torch.rsub(x, y, alpha=3),
        "floor_div": lambda x, y, v: torch.div(x * 5, y.abs() + 1, rounding_mode="floor"),
        "trunc_div": lambda x, y, v: torch.div(x * 5, y.abs() + 1, rounding_mode="trunc"),
        "floordiv": lambda x, y, v: (x * 5) // (v.abs() + 0.5),
        "remainder": lambda x, y, v: torch.remainder(x * 5, y + 3),
        "remainder_negative": lambda x, y, v: torch.remainder(x * 5, -2.5),
        "fmod": lambda x, y, v: torch.fmod(x * 5, y + 3),
        "pow": lambda x, y, v: (x.abs() + 0.1) ** y,
        "powers": lambda x, y, v: x**2 + x**3 + x.abs() ** 0.5 + (x.abs() + 1) ** -0.5 + (x.abs() + 1) ** -1 + x.abs() ** 1.7,
        "scalar_pow": lambda x, y, v: 2.0**x,
        "atan2": lambda x, y, v: torch.atan2(x, y),
        "maximum": lambda x, y, v: torch.maximum(x, y),
        "minimum": lambda x, y, v: torch.minimum(x, v),
        "compare": lambda x, y, v: torch.stack([x == y, x != y, x < y, x <= y, x > y, x >= y]),
        "compare_number": lambda x, y, v: torch.stack([x == 0, x != 0, x < 0.5, x <= 0.5, x > 0.5, x >= 0.5]),
        "where": lambda x, y, v: torch.where(x > 0, x, y),
        "where_number": lambda x, y, v: torch.where(x > 0, 1.5, x) + torch.where(x > 0, x, 2) + torch.where(x > 0, 1.0, 0.0),
        "clamp": lambda x, y, v: x.clamp(-0.5, 0.5) + x.clamp(min=0.1) + x.clamp(max=0.2) + torch.clamp(x, y - 1, y + 1),
        "clamp_crossed": lambda x, y, v: (x.clamp(1.0, -1.0), x.clamp(math.inf, 0.0)),
        "masked_fill": lambda x, y, v: x.masked_fill(y > 0, -7.0),
        "lerp": lambda x, y, v: torch.lerp(x, y.expand_as(x), 0.3),
        "addcmul": lambda x, y, v: torch.addcmul(x, x, y, value=0.5) + torch.addcdiv(x, x, y.abs() + 1),
        "logaddexp": lambda x, y, v: torch.logaddexp(x, y),
        "hypot": lambda x, y, v: torch.hypot(x, y),
        "copysign": lambda x, y, v: torch.copysign(x, y),
        "fmax": lambda x, y, v: (torch.fmax(x, y / (y > 0)), torch.fmin(x, v)),
        "xlogy": lambda x, y, v: torch.xlogy(x.abs(), y.abs() + 1),
        "logical": lambda x, y, v: torch.stack([(x > 0) & (y > 0), (x > 0) | (y > 0), (x > 0) ^ (y > 0), ~(x > 0) & (y < 9)]),
        "logical_floats": lambda x, y, v: torch.logical_and(x, y) ^ torch.logical_or(x, v),
    }  # fmt: skip
    check(cases, draw(2, 3, 4), draw(3, 1, seed=1), draw(4, seed=2))


def test_integers_follow_torch() -> None:
    def ints(f: Function) -> Function:
        return lambda x, y: f(x, y)

    cases: Cases = {
        "add": ints(lambda x, y: x + y),
        "div": ints(lambda x, y: x / y),
        "floor": ints(lambda x, y: x // y),
        "trunc": ints(lambda x, y: torch.div(x, y, rounding_mode="trunc")),
        "remainder": ints(lambda x, y: x % y),
        "fmod": ints(lambda x, y: torch.fmod(x, y)),
        "pow": ints(lambda x, y: x**2 - x**3),
        "mean": ints(lambda x, y: (x.float().mean(), x.sum(), x.sum(0), x.prod(1), x.amax(1), x.int().sum())),
        "shift": ints(lambda x, y: ((x + 9) << 2, (x + 9) >> 1, x << (y + 9))),
        "bits": ints(lambda x, y: (x & y, x | 3, x ^ y, ~x)),
        "float_scalar": ints(lambda x, y: x * 0.5 + 1.5),
        "int_scalar": ints(lambda x, y: x * 3 + 1),
        "bool_plus": ints(lambda x, y: (x > 0) + (y > 0)),
        "bool_times": ints(lambda x, y: (x > 0) * (y > 0)),
        "bool_sum": ints(lambda x, y: (x > 0).sum() + (x > 0) * 2),
        "bool_float": ints(lambda x, y: (x > 0) * 1.5),
        "abs_sign": ints(lambda x, y: (x.abs(), x.sign(), -x, x.clamp(-2, 2), torch.maximum(x, y))),
        "sqrt": ints(lambda x, y: (torch.sqrt(x.abs()), torch.sin(x), torch.sigmoid(x), torch.exp(x))),
        "compare": ints(lambda x, y: (x == y, x < 1.5, x >= y)),
        "any_all": ints(lambda x, y: ((x > 0).any(), (x > 0).all(1), x.any(0), (x > 0).any(1, keepdim=True))),
        "argmax": ints(lambda x, y: (x.argmax(), x.argmin(1), x.max(1), x.min(0))),
        "casts": ints(
            lambda x, y: (x.to(torch.uint8), x.to(torch.int32), x.bool(), x.double(), x.half(), x.to(torch.int8))
        ),
        "mixed": ints(lambda x, y: x.to(torch.int32) + y),
        "mixed_small": ints(lambda x, y: x.to(torch.int8) * y.to(torch.int16)),
        "uint8": ints(lambda x, y: x.abs().to(torch.uint8) * 3 + 250),
        "floor_same": ints(lambda x, y: (x.floor(), x.round(), x.trunc(), x.ceil())),
    }
    x = whole(-7, 8, 4, 5)
    y = whole(1, 6, 4, 5, seed=1) * torch.where(whole(0, 2, 4, 5, seed=2) > 0, 1, -1)
    check(cases, x, y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_follow_torch(dtype: torch.dtype) -> None:
    cases: Cases = {
        "add": lambda x, y: x + y,
        "mixed": lambda x, y: x + y.float(),
        "number": lambda x, y: x * 1.1 + 3,
        "int_tensor": lambda x, y: x + torch.ones(4, dtype=torch.int64),
        "exp": lambda x, y: torch.exp(x),
        "gelu": lambda x, y: F.gelu(x),
        "softmax": lambda x, y: F.softmax(x, -1),
        "layer_norm": lambda x, y: F.layer_norm(x, (4,)),
        "rms_norm": lambda x, y: F.rms_norm(x, (4,)),
        "matmul": lambda x, y: x @ y.T,
        "linear": lambda x, y: F.linear(x, y, y[:, 0]),
        "mean": lambda x, y: (x.mean(), x.sum(1), x.var(1), x.amax(1)),
        "attention": lambda x, y: F.scaled_dot_product_attention(
            x[None, None], y[None, None], y[None, None], is_causal=True
        ),
        "masked_rows": lambda x, y: F.scaled_dot_product_attention(
            x[None, None],
            y[None, None],
            y[None, None],
            attn_mask=torch.tensor([[1, 1, 0], [0, 0, 0], [0, 1, 0]]).bool(),
        ),
        "where": lambda x, y: torch.where(x > 0, x, 0.0),
        "zeros": lambda x, y: torch.zeros_like(x) + torch.full_like(x, 2.5),
    }
    bound = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float64: 1e-6}[dtype]
    check(cases, draw(3, 4).to(dtype), draw(3, 4, seed=1).to(dtype), bound=bound)


def test_promotion_of_numbers_of_rank_0() -> None:
    cases: Cases = {
        "rank0_double": lambda x, i: x + torch.tensor(1.5, dtype=torch.float64),
        "rank0_int": lambda x, i: i.to(torch.int32) + torch.tensor(3),
        "int_and_float": lambda x, i: i + x,
        "int_rank0_float": lambda x, i: i * torch.tensor(0.5),
        "half_and_float": lambda x, i: x.half() + torch.tensor(2.0),
    }
    check(cases, draw(5), whole(0, 9, 5), bound=2e-3)


def test_reductions() -> None:
    cases: Cases = {
        "sum": lambda x: (x.sum(), x.sum(1), x.sum((0, 2), keepdim=True), x.sum(-1, dtype=torch.float64)),
        "mean": lambda x: (x.mean(), x.mean(1), x.mean((-1, -2), keepdim=True)),
        "prod": lambda x: (x.prod(), x.prod(2, keepdim=True)),
        "extremes": lambda x: (x.amax(1), x.amin((0, 1)), x.max(), x.min(), x.aminmax(dim=1)),
        "max_dim": lambda x: (x.max(1), x.min(2, keepdim=True)),
        "arg": lambda x: (x.argmax(), x.argmin(), x.argmax(1), x.argmax(-1, keepdim=True)),
        "var": lambda x: (x.var(), x.var(1), x.var((1, 2), correction=0), x.std(2, keepdim=True), x.std()),
        "var_mean": lambda x: torch.var_mean(x, (1, 2), keepdim=True),
        "logsumexp": lambda x: (torch.logsumexp(x, 1), torch.logsumexp(x, (0, 2), keepdim=True)),
        "norm": lambda x: (
            x.norm(),
            x.norm(dim=1),
            x.norm(p=1, dim=2),
            torch.linalg.vector_norm(x, float("inf"), dim=(0, 1)),
        ),
        "normalize": lambda x: F.normalize(x, dim=1),
        "any": lambda x: ((x > 1).any(), (x > 1).any(1), (x > -9).all(), (x > 0).all(1)),
        "cumsum": lambda x: (x.cumsum(1), x.cumsum(-1), (x > 0).cumsum(0)),
        "cumprod": lambda x: x.cumprod(2),
        "count": lambda x: ((x > 0).sum(), torch.count_nonzero(x > 0)),
        "softmax_mean": lambda x: x.softmax(1).mean(),
        "cosine": lambda x: F.cosine_similarity(x, x + 1, dim=1),
        "mse": lambda x: (F.mse_loss(x, x * 2), F.l1_loss(x, x * 2), F.smooth_l1_loss(x, x * 2)),
        "cross_entropy": lambda x: F.cross_entropy(x[0], torch.tensor([1, 0, 2])),
    }
    check(cases, draw(2, 3, 4))


def test_order_and_ties() -> None:
    cases: Cases = {
        "topk": lambda x: (x.topk(2), x.topk(3, dim=0, largest=False)),
        "sort": lambda x: (x.sort(), x.sort(dim=0, descending=True), x.argsort(dim=1)),
        "stable": lambda x: torch.sort(torch.tensor([2, 1, 2, 1, 2, 0]) + (0 * x[0, 0]).long(), stable=True),
        "ties": lambda x: (
            torch.argmax(torch.tensor([1.0, 3, 3, 0]) + 0 * x[0, 0]),
            torch.tensor([0.0, 0, 1]).argmin() + 0 * x[0, 0],
        ),
    }
    check(cases, draw(4, 5))


def test_views_and_permutations() -> None:
    cases: Cases = {
        "view": lambda x: (x.view(-1), x.view(6, 4), x.reshape(3, 2, 4), x.flatten(1), x.unflatten(2, (2, 2))),
        "permute": lambda x: (x.permute(2, 0, 1), x.transpose(0, 2), x[0].t(), x.mT, x.movedim(0, 2), x.swapaxes(0, 1)),
        "double_permute": lambda x: (
            x.permute(2, 0, 1).permute(1, 2, 0) + x.transpose(1, 2).contiguous().transpose(1, 2)
        ),
        "squeeze": lambda x: (
            x.unsqueeze(1),
            x[:1].squeeze(0),
            x[:1, :1].squeeze(),
            x.unsqueeze(-1).squeeze(-1),
            x[:, :1].squeeze(2),
        ),
        "expand": lambda x: (
            x[:, :1].expand(2, 3, 4),
            x.unsqueeze(0).expand(5, -1, -1, -1),
            x[0, 0].expand(7, 4),
            x[:1].expand_as(x),
        ),
        "repeat": lambda x: (x.repeat(2, 1, 3), x.repeat(2, 1, 1, 1), x.tile((2,)), x.repeat_interleave(2, dim=1)),
        "slice": lambda x: (x[1:], x[:, -2:], x[..., ::2], x[:, 1:3, :-1], x[:, 5:], x[0:1, :, 1:4:2]),
        "select": lambda x: (x[0], x[:, -1], x[..., 2], x[1, 2, 3]),
        "split": lambda x: (
            *x.split(2, 2),
            *x.split([1, 2], 1),
            *x.chunk(3, 2),
            *x.unbind(1),
            *torch.tensor_split(x, 3, 2),
        ),
        "cat": lambda x: (
            torch.cat([x, x * 2], 1),
            torch.stack([x, x + 1], -1),
            torch.cat([x, torch.ones(2, 3, 1).double()], 2),
        ),
        "stacks": lambda x: (torch.hstack([x, x]), torch.vstack([x, x]), torch.dstack([x, x])),
        "flip": lambda x: (x.flip(0), x.flip((1, 2)), x.fliplr()),
        "roll": lambda x: (x.roll(1, 2), x.roll((-1, 2), (0, 1)), x.roll(5)),
        "rot90": lambda x: torch.rot90(x, 1, (1, 2)),
        "tri": lambda x: (
            x.tril(),
            x.triu(1),
            x.tril(-1),
            torch.tril(torch.ones(4, 4, dtype=torch.bool)) & (x[0, 0] > 0),
        ),
        "diagonal": lambda x: (torch.diagonal(x, 0, 1, 2), torch.diag(x[0, 0])),
        "narrow": lambda x: x.narrow(1, 1, 2),
        "pixel": lambda x: (F.pixel_shuffle(x.reshape(1, 4, 2, 3), 2), F.pixel_unshuffle(x.reshape(1, 1, 4, 6), 2)),
        "channel_shuffle": lambda x: F.channel_shuffle(x.reshape(1, 4, 2, 3), 2),
        "meshgrid": lambda x: torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij"),
        "unfold": lambda x: x.unfold(2, 2, 1),
        "broadcast": lambda x: torch.broadcast_tensors(x, x[:, :1]),
        "identity": lambda x: (x.clone(), x.contiguous(), x.detach()),
        "copy": lambda x: torch.zeros(2, 3, 4).copy_(x),
    }
    check(cases, draw(2, 3, 4))


def test_padding() -> None:
    cases: Cases = {
        "constant": lambda x: (F.pad(x, (1, 2)), F.pad(x, (1, 2, 0, 3), value=1.5), F.pad(x, (-1, 1, 1, -1))),
        "reflect": lambda x: (F.pad(x, (1, 2, 2, 1), mode="reflect"), F.pad(x[0], (2, 0), mode="reflect")),
        "replicate": lambda x: (F.pad(x, (1, 2, 0, 1), mode="replicate"), F.pad(x[0], (2, 3), mode="replicate")),
        "circular": lambda x: (F.pad(x, (1, 2, 2, 1), mode="circular"), F.pad(x[0], (3, 0), mode="circular")),
        "integers": lambda x: F.pad((x * 4).long(), (1, 1), value=-3),
        "bools": lambda x: F.pad(x > 0, (1, 1), value=True),
    }
    check(cases, draw(2, 3, 4, 5))


def test_padding_by_amounts_that_sizes_decide() -> None:
    modes = ("constant", "reflect", "replicate", "circular")
    cases: Cases = {
        f"{mode}_{name}": lambda x, mode=mode, by=by: F.pad(x, by(x), mode=mode)
        for mode in modes
        for name, by in {
            "both": lambda x: (x.shape[0] // 2, x.shape[2] // 4),
            "crop": lambda x: (-(x.shape[2] // 4), x.shape[2] // 2),
            "crop_behind": lambda x: (x.shape[0] // 2, -(x.shape[2] // 4)),
            "either_sign": lambda x: (6 - x.shape[0], x.shape[0] - 6),
        }.items()
    }
    cases |= {
        "to_a_multiple": lambda x: F.pad(x, (0, 0, 0, 0, 0, -x.shape[0] % 4), value=-torch.inf),
        "integers": lambda x: F.pad((x * 4).long(), (x.shape[0], 0), value=-3),
        "bools": lambda x: F.pad(x > 0, (0, x.shape[0] % 3), value=True),
        "halves": lambda x: F.pad(x.half(), (0, x.shape[0] % 3), value=0.5),
        "images": lambda x: F.pad(x[None], (x.shape[0] // 4, 1, 0, x.shape[0] // 8), mode="reflect"),
        "edges": lambda x: F.pad(x[None], (x.shape[0] // 4, 1, 0, x.shape[0] // 8), mode="replicate"),
        "fixed_edges": lambda x: F.pad(x, (-1, 2), mode="replicate"),
        "fixed_mirror": lambda x: F.pad(x, (3, -2), mode="reflect"),
        "window": lambda x: F.pad(x, (0, max(x.shape[2] - 9, 0), 0, 1))[:, :, max(9 - x.shape[2], 0) :],
    }
    functions = Functions(cases)
    spans = {"inputs": [{0: (8, 16), 2: (9, 40)}]}
    model = maas_rt.load(compile(functions, (draw(8, 5, 11),), dynamic=spans, verify=False))
    for shape in ((8, 5, 11), (9, 5, 12), (10, 5, 16), (13, 5, 30)):
        x = draw(*shape)
        found = model.run({"inputs_0": x.numpy()})
        for name, expected in functions(x).items():
            np.testing.assert_array_equal(found[name], expected.numpy(), err_msg=f"{name} of {shape}")


def test_padding_that_torch_refuses_for_some_sizes() -> None:
    cases: dict[str, tuple[Function, str]] = {
        "reflect": (lambda x: F.pad(x, (x.shape[0], 0), mode="reflect"), "pad1?: the extent must equal max"),
        "crop": (lambda x: F.pad(x, (-x.shape[0], 0)), "pad1?: the extent must equal max"),
    }
    for function, message in cases.values():
        spans = {"inputs": [{0: (2, 20), 2: (8, 20)}]}
        artifact = compile(Functions({"y": function}), (draw(3, 2, 9),), dynamic=spans)
        model, good = maas_rt.load(artifact), draw(4, 2, 8)
        np.testing.assert_array_equal(model(good.numpy()), function(good).numpy())
        with pytest.raises(RuntimeError):
            function(draw(12, 2, 9))
        with pytest.raises(maas_rt.InvalidArgumentError, match=message):
            model(draw(12, 2, 9).numpy())


def test_indexing() -> None:
    cases: Cases = {
        "embedding": lambda x, i: (F.embedding(i, x[0]), F.embedding(i.int(), x[1], padding_idx=0)),
        "index_select": lambda x, i: x.index_select(1, i[0]),
        "gather": lambda x, i: x[0, :2].gather(1, i),
        "take_rows": lambda x, i: x[0][i],
        "second_axis": lambda x, i: x[:, i],
        "pair": lambda x, i: x[i[0] % 2, i[1]],
        "pair_behind": lambda x, i: x[:, i[0], i[1]],
        "apart": lambda x, i: x[i[0] % 2, :, i[1]],
        "negative": lambda x, i: x[0][i - 3],
        "broadcast": lambda x, i: x[0][i[0][:, None], i[1][None, :]],
        "scatter": lambda x, i: (
            x[0].scatter(0, i, 9.0),
            x[0].scatter(0, i, x[1, :2]),
            x[0].scatter_add(0, i, x[1, :2]),
        ),
        "index_put": lambda x, i: x.clone().index_put((i[0] % 2, torch.arange(3)), torch.tensor(5.0)),
        "accumulate": lambda x, i: x[0].index_put((i[0],), x[1, :3], accumulate=True),
        "put_behind": lambda x, i: x.index_put((torch.tensor([[0], [1]]), i), x[0, 0, 0] * 2).index_copy(
            2, i[0, :1], x[:, :, :1] * 9
        ),
        "put_apart": lambda x, i: _assigned_apart(x, i),
        "assign": lambda x, i: _assigned(x),
        "mask_assign": lambda x, i: _masked(x),
        "slice_scatter": lambda x, i: (
            torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 3),
            torch.select_scatter(x, x[:, 0], 1, -1),
        ),
        "one_hot": lambda x, i: F.one_hot(i, 5),
        "isin": lambda x, i: (torch.isin(i, torch.tensor([0, 2])), torch.isin(i, torch.tensor([1]), invert=True)),
        "bag": lambda x, i: (
            F.embedding_bag(i, x[0], mode="sum"),
            F.embedding_bag(i, x[0]),
            F.embedding_bag(i, x[0], mode="max"),
        ),
        "index_add": lambda x, i: x[0].index_add(0, i[0], x[1, :3]),
        "take_along": lambda x, i: torch.take_along_dim(x[0, :2], i, 1),
    }
    check(cases, draw(2, 3, 4), whole(0, 3, 2, 3))


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1] = 0
    y[0, :, 2] = y[1, :, 2] + 1
    y[..., :1] += 3
    return y


def _assigned_apart(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[torch.tensor([0, 1, 1]), :, torch.tensor([0, 3, 2])] = x[0, :, :3].T + 5
    y[:, i[0, :2], i[0, :2]] += 2
    return y


def _masked(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[x > 0.5] = -1
    return y


def test_creation() -> None:
    cases: Cases = {
        "constants": lambda x: (torch.zeros(2, 3), torch.ones(4, dtype=torch.int32), torch.full((2,), 7), torch.eye(3)),
        "ranges": lambda x: (
            torch.arange(5),
            torch.arange(1, 10, 3),
            torch.arange(0, 1, 0.25),
            torch.linspace(0, 1, 7),
        ),
        "like": lambda x: (
            torch.zeros_like(x),
            x.new_ones(3),
            x.new_full((2, 2), 4.5),
            torch.full_like(x, 3, dtype=torch.int64),
        ),
        "shaped": lambda x: (
            x.new_zeros(x.shape[0], 2),
            torch.arange(x.shape[0]),
            torch.ones(x.shape[0], 5) * x[:, :1],
        ),
        "positions": lambda x: torch.arange(x.shape[0])[:, None] + torch.arange(3, 3 + x.shape[0] * 2, 2),
        "causal": lambda x: torch.triu(torch.full((x.shape[0], x.shape[0]), float("-inf")), diagonal=1),
        "scaled": lambda x: x * x.shape[0] / 3 + x.shape[0] ** 0.5,
        "tensor": lambda x: x + torch.tensor([[1.0], [2.0]]).sum(),
    }
    check(cases, draw(4, 3))
    dynamic = import_functions({"shaped": cases["shaped"], "positions": cases["positions"], "scaled": cases["scaled"]}, (draw(4, 3),),
                               {"inputs": ({0: (2, 9)},)})  # fmt: skip
    for rows in (2, 5, 9):
        assert compare(dynamic, {dynamic.input_names[0]: draw(rows, 3).numpy()}) == {}


def test_matrix_products() -> None:
    cases: Cases = {
        "mm": lambda a, b: a[0] @ b[0],
        "bmm": lambda a, b: torch.bmm(a, b),
        "matmul": lambda a, b: (
            a @ b,
            a[0] @ b,
            a @ b[0],
            a[0, 0] @ b[0],
            a[0] @ b[0, :, 0],
            torch.dot(a[0, 0], a[1, 0]),
        ),
        "addmm": lambda a, b: torch.addmm(torch.ones(5), a[0], b[0], beta=0.5, alpha=2.0),
        "baddbmm": lambda a, b: torch.baddbmm(torch.ones(2, 3, 5), a, b, beta=2),
        "beta_zero": lambda a, b: torch.addmm(torch.full((5,), float("nan")), a[0], b[0], beta=0),
        "linear": lambda a, b: (F.linear(a, b[0].T), F.linear(a, b[0].T, torch.arange(5.0)), F.linear(a[0, 0], b[0].T)),
        "einsum": lambda a, b: (
            torch.einsum("bij,bjk->bik", a, b),
            torch.einsum("bij->bi", a),
            torch.einsum("bij,bjk->", a, b),
        ),
        "addbmm": lambda a, b: torch.addbmm(torch.ones(3, 5), a, b, beta=0.5, alpha=2),
        "outer": lambda a, b: torch.outer(a[0, 0], b[0, 0]),
        "bilinear": lambda a, b: F.bilinear(a[0], a[1], torch.ones(3, 4, 4) * 0.1),
        "mv": lambda a, b: torch.mv(a[0], b[0, :, 0]),
        "tensordot": lambda a, b: torch.tensordot(a, b, dims=([2], [1])),
        "kron": lambda a, b: torch.kron(a[0], b[0, :2]),
        "cdist": lambda a, b: (a[:, :, None] - a[:, None]).pow(2).sum(-1).sqrt(),
        "integers": lambda a, b: (a * 4).long() @ (b * 4).long(),
    }
    check(cases, draw(2, 3, 4), draw(2, 4, 5, seed=1))


def test_convolutions() -> None:
    w, g, d = draw(6, 4, 3, 3, seed=1), draw(8, 2, 3, 3, seed=2), draw(4, 1, 3, 5, seed=3)
    w1, w3, t, tg = (
        draw(5, 4, 3, seed=4),
        draw(3, 2, 2, 3, 3, seed=5),
        draw(4, 6, 3, 3, seed=6),
        draw(4, 3, 2, 2, seed=7),
    )
    bias, even, t1, t3 = draw(6, seed=8), draw(2, 4, 2, 4), draw(4, 3, 3), draw(2, 3, 2, 2, 2)
    cases: Cases = {
        "plain": lambda x: F.conv2d(x, w, bias),
        "strided": lambda x: F.conv2d(x, w, bias, stride=(2, 1), padding=(1, 2), dilation=(1, 2)),
        "grouped": lambda x: F.conv2d(x, g, padding=1, groups=2),
        "depthwise": lambda x: F.conv2d(x, d, padding=(1, 2), groups=4),
        "same": lambda x: (
            F.conv2d(x, w, padding="same"),
            F.conv2d(x, even, padding="same"),
            F.conv2d(x, w, padding="valid"),
        ),
        "single": lambda x: F.conv2d(x[0], w, bias),
        "conv1d": lambda x: (F.conv1d(x[:, :, 0], w1, stride=2, padding=1), F.conv1d(x[0, :, 0], w1)),
        "conv3d": lambda x: F.conv3d(x.reshape(2, 2, 2, 7, 8), w3, padding=(0, 1, 1)),
        "transposed": lambda x: (
            F.conv_transpose2d(x, t, bias),
            F.conv_transpose2d(x, t, stride=2, padding=1, output_padding=1),
        ),
        "transposed_grouped": lambda x: F.conv_transpose2d(x, tg, stride=2, groups=2),
        "transposed_dilated": lambda x: F.conv_transpose2d(x, t, dilation=2),
        "transposed1d": lambda x: F.conv_transpose1d(x[:, :, 0], t1, stride=2, padding=1),
        "transposed3d": lambda x: F.conv_transpose3d(x.reshape(2, 2, 2, 7, 8), t3, stride=2),
        "circular": lambda x: F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), w),
    }
    check(cases, draw(2, 4, 7, 8))


def test_pooling() -> None:
    cases: Cases = {
        "max": lambda x: (
            F.max_pool2d(x, 2),
            F.max_pool2d(x, 3, 2, 1),
            F.max_pool2d(x, (2, 3), (1, 2), (1, 1), dilation=(2, 1)),
        ),
        "max_ceil": lambda x: (F.max_pool2d(x, 2, ceil_mode=True), F.max_pool2d(x, 3, 2, 1, ceil_mode=True)),
        "max_ceil_dropped": lambda x: F.max_pool2d(x, 2, 3, 1, ceil_mode=True),
        "max1d": lambda x: (F.max_pool1d(x[:, :, 0], 3, 2), F.max_pool1d(x[:, :, 0], 2, ceil_mode=True)),
        "max3d": lambda x: F.max_pool3d(x, 2, 2, 1),
        "avg": lambda x: (
            F.avg_pool2d(x, 2),
            F.avg_pool2d(x, 3, 2, 1),
            F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        ),
        "avg_ceil": lambda x: (
            F.avg_pool2d(x, 2, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
            F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
        ),
        "avg_divisor": lambda x: (
            F.avg_pool2d(x, 3, 2, 1, divisor_override=2),
            F.avg_pool2d(x, 3, 2, 1, True, True, 5),
        ),
        "avg1d": lambda x: (F.avg_pool1d(x[:, :, 0], 3, 2, 1), F.avg_pool1d(x[:, :, 0], 2, ceil_mode=True)),
        "avg3d": lambda x: F.avg_pool3d(x, 2),
        "adaptive": lambda x: (
            F.adaptive_avg_pool2d(x, 1),
            F.adaptive_avg_pool2d(x, (3, 4)),
            F.adaptive_avg_pool2d(x, (7, 3)),
        ),
        "adaptive_none": lambda x: F.adaptive_avg_pool2d(x, (None, 2)),
        "adaptive1d": lambda x: (F.adaptive_avg_pool1d(x[:, :, 0], 4), F.adaptive_avg_pool1d(x[:, :, 0], 3)),
        "adaptive_max": lambda x: (
            F.adaptive_max_pool2d(x, (7, 4)),
            F.adaptive_max_pool2d(x, (2, 3)),
            F.adaptive_max_pool2d(x, 1),
        ),
        "single": lambda x: (F.max_pool2d(x[0], 2), F.avg_pool2d(x[0], 2), F.adaptive_avg_pool2d(x[0], 2)),
        "lp": lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2),
    }
    check(cases, draw(2, 3, 7, 8))


def test_normalisations() -> None:
    weight, bias = draw(6, seed=1).abs() + 0.5, draw(6, seed=2)
    mean, var = draw(6, seed=3), draw(6, seed=4).abs() + 0.5
    cases: Cases = {
        "layer": lambda x: (
            F.layer_norm(x.mT, (6,), weight, bias),
            F.layer_norm(x, (5,)),
            F.layer_norm(x, (6, 5), eps=1e-3),
        ),
        "rms": lambda x: (F.rms_norm(x.mT, (6,), weight), F.rms_norm(x, (5,)), F.rms_norm(x, (6, 5), eps=1e-3)),
        "group": lambda x: (
            F.group_norm(x, 3, weight, bias),
            F.group_norm(x, 1),
            F.group_norm(x[..., 0], 2, weight, bias),
        ),
        "instance": lambda x: (F.instance_norm(x), F.instance_norm(x, weight=weight, bias=bias)),
        "batch": lambda x: (
            F.batch_norm(x, mean, var, weight, bias, eps=1e-3),
            F.batch_norm(x, mean, var),
            F.batch_norm(x[..., 0], mean, var, weight),
            F.batch_norm(x[..., None], mean, var, None, bias),
        ),
        "local_response": lambda x: F.local_response_norm(x, 3),
    }
    check(cases, draw(4, 6, 5), bound=2e-5)


def test_attention() -> None:
    mask = draw(4, 6, seed=5)
    cases: Cases = {
        "plain": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        "causal": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        "scaled": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
        "masked": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask),
        "bool_mask": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=(mask > -1.5)),
        "mask_per_head": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(2, 2, 4, 6)),
        "mask_per_row": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, :1] > -9),
        "three": lambda q, k, v: F.scaled_dot_product_attention(q[0], k[0], v[0]),
        "grouped": lambda q, k, v: F.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True),
        "transposed": lambda q, k, v: F.scaled_dot_product_attention(
            *(t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v))
        ).transpose(1, 2),
    }
    check(cases, draw(2, 2, 4, 8), draw(2, 2, 6, 8, seed=1), draw(2, 2, 6, 5, seed=2))


def test_resizing() -> None:
    def to(size: Any, **options: Any) -> Function:
        return lambda x: F.interpolate(x, size=size, **options)

    def by(scale: Any, **options: Any) -> Function:
        return lambda x: F.interpolate(x, scale_factor=scale, **options)

    cases: Cases = {}
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic"):
        cases |= {
            f"{mode}_double": by(2, mode=mode),
            f"{mode}_size": to((9, 4), mode=mode),
            f"{mode}_odd": by(1.7, mode=mode),
        }
        cases |= {f"{mode}_small": by((0.6, 0.5), mode=mode)}
    for mode in ("bilinear", "bicubic"):
        cases |= {
            f"{mode}_align": to((9, 4), mode=mode, align_corners=True),
            f"{mode}_align2": by(2, mode=mode, align_corners=True),
        }
    cases["recomputed"] = by(1.7, mode="bilinear", recompute_scale_factor=True)
    cases["linear1d"] = lambda x: F.interpolate(x[:, :, 0], scale_factor=2, mode="linear")
    cases["nearest1d"] = lambda x: F.interpolate(x[:, :, 0], size=11)
    cases["nearest3d"] = lambda x: F.interpolate(x[None], scale_factor=2)
    cases["trilinear"] = lambda x: F.interpolate(x[None], size=(4, 7, 9), mode="trilinear")
    check(cases, draw(2, 3, 5, 6), bound=2e-5)


def test_grid_sample() -> None:
    cases: Cases = {"sample": lambda x, g: F.grid_sample(x, g.tanh(), align_corners=False)}
    check(cases, draw(1, 2, 5, 6), draw(1, 4, 3, 2, seed=1))


def test_special_functions() -> None:
    above = (
        "digamma",
        "lgamma",
        "i0",
        "special.modified_bessel_k0",
        "special.scaled_modified_bessel_k1",
        "special.bessel_y0",
    )
    every = "special.i0e special.i1 special.i1e special.bessel_j1 special.erfcx special.log_ndtr special.airy_ai special.spherical_bessel_j0"
    find = {
        name: getattr(torch.special if "." in name else torch, name.split(".")[-1]) for name in (*above, *every.split())
    }
    cases: Cases = {name: lambda x, f=find[name]: f(x.abs() * 4 + 0.01) for name in above}
    cases |= {name: lambda x, f=find[name]: f(x * 3) for name in every.split()}
    cases |= {
        "reflected": lambda x: torch.digamma(x - 3.3),
        "polygamma": lambda x: (torch.polygamma(1, x.abs() + 0.1), torch.polygamma(3, x.abs() + 0.1)),
        "zeta": lambda x: torch.special.zeta(x.abs() + 1.5, x.abs() + 0.2),
        "igamma": lambda x: (
            torch.igamma(x.abs() + 0.1, x.abs() * 3),
            torch.igammac(x.abs() * 5 + 0.1, x.abs() + 0.1),
        ),
        "erfinv": lambda x: torch.erfinv(torch.tanh(x)),
        "ndtri": lambda x: torch.special.ndtri(torch.sigmoid(3 * x)),
        "laguerre": lambda x: torch.special.laguerre_polynomial_l(x, 4),
        "shifted": lambda x: torch.special.shifted_chebyshev_polynomial_u(x, torch.tensor(5)),
        "nextafter": lambda x: torch.nextafter(x, -x),
        "frexp": lambda x: torch.frexp(x * 100),
        "airy_far": lambda x: torch.special.airy_ai(x * 8),
    }
    check(cases, draw(4, 6), bound=2e-5)


def test_order_statistics_and_searches() -> None:
    holes = torch.tensor([[0.0] * 5, [0.0, float("nan"), 0.0, 0.0, 0.0], [0.0] * 5])
    cases: Cases = {
        "median": lambda x: (torch.median(x), torch.median(x, 1), torch.median(x, 0, keepdim=True)),
        "kthvalue": lambda x: torch.kthvalue(x, 2, 1),
        "mode": lambda x: torch.mode((x * 1.5).round(), 1).values,
        "running": lambda x: (torch.cummax(x, 1), torch.cummin(x, 0), torch.logcumsumexp(x * 5, 1)),
        "running_nan": lambda x: torch.cummax(x + holes, 1),
        "positions_nan": lambda x: ((x + holes).argmax(1), (x + holes).argmin(), (x + holes).max(0)[1], (x + holes).min(1, keepdim=True)[1]),
        "positions_inf": lambda x: ((x - x - torch.inf).argmax(1), (x - x + torch.inf).argmin(0), (x * torch.nan).argmax()),
        "sign_of_bool": lambda x: (x > 0).sign(),
        "search": lambda x: (
            torch.searchsorted(x.sort(1).values, x * 2),
            torch.bucketize(x, torch.tensor([-1.0, 0.0, 0.5]), right=True),
        ),
        "histc": lambda x: (torch.histc(x, 4, -1, 1), torch.histc(x, 3)),
        "pool": lambda x: (
            F.max_pool1d(x[None], 3, 2, 1, return_indices=True),
            F.adaptive_max_pool1d(x[None], 3, return_indices=True),
        ),
        "norms": lambda x: tuple(torch.linalg.vector_norm(x, p, 1) for p in (0, 0.5, 3, -1, float("-inf"))),
    }  # fmt: skip
    check(cases, draw(3, 5))


def test_order_statistics_of_lines_with_nan() -> None:
    class Medians(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [torch.median(x, 1).values, *torch.nanmedian(x, 1), torch.nanmedian(x), torch.median(x)]

    x = draw(3, 5)
    x[1, 1] = float("nan")
    model = maas_rt.load(compile(Medians(), (x,), verify=False).to_bytes())  # (the oracle's sort does not know NaN)
    found = model.run({model.inputs[0].name: x.numpy()})
    for info, expected in zip(model.outputs, Medians()(x)):
        np.testing.assert_array_equal(found[info.name], expected.numpy())


def test_sizes_that_the_data_decides() -> None:
    model = import_functions(
        {
            "nonzero": lambda x: torch.nonzero(x > 0),
            "masked": lambda x: (torch.masked_select(x, x > 0), x[x > 0], x[:, 0][x[:, 0] < 0]),
            "unique": lambda x: torch.unique(x.round(), return_inverse=True, return_counts=True),
            "consecutive": lambda x: torch.unique_consecutive(x.round()),
            "scattered": lambda x: torch.masked_scatter(x, x > 0, torch.arange(20.0)),
            "assigned": lambda x: torch.index_put(x, (x > 0,), torch.tensor(1.5)),
        },
        (draw(4, 5),),
    )
    for seed in (0, 3):
        assert compare(model, {model.input_names[0]: draw(4, 5, seed=seed).numpy()}) == {}
    assert compare(model, {model.input_names[0]: draw(4, 5).abs().numpy()}) == {}


def test_scatters_with_reductions() -> None:
    index, rows = whole(0, 4, 3, 5), torch.tensor([2, 0, 2])
    cases: Cases = {}
    for kind in ("sum", "prod", "mean", "amax", "amin"):
        for inner in (True, False):
            cases[f"scatter_{kind}_{inner}"] = lambda x, y, k=kind, i=inner: torch.scatter_reduce(
                x, 0, index, y, k, include_self=i
            )
            if kind != "sum":
                cases[f"rows_{kind}_{inner}"] = lambda x, y, k=kind, i=inner: torch.index_reduce(
                    x, 0, rows, y, k, include_self=i
                )
    cases |= {
        "put": lambda x, y: torch.put(x, torch.tensor([3, -1, 3]), y[0, :3], accumulate=True),
        "number": lambda x, y: torch.scatter_add(x[0, 0], 0, torch.tensor(0), y[0, 0]),
        "slice": lambda x, y: torch.slice_scatter(x, y[:2], 0, 1, 4, 2),
        "diagonal": lambda x, y: torch.diagonal_scatter(x, y[0, :3], -1),
    }
    check(cases, draw(4, 5), draw(3, 5, seed=1))


def test_scatters_of_fewer_indices() -> None:
    """An index may be smaller than what is written to along every axis, and than what is written."""
    index = torch.tensor([[[0, 3, 1]], [[2, 0, 3]]])
    cases: Cases = {}
    for dim in (0, -1):
        cases |= {
            f"update_{dim}": lambda x, y, d=dim: torch.scatter(x, d, index, y),
            f"value_{dim}": lambda x, y, d=dim: torch.scatter(x, d, index, 7.0),
            f"add_{dim}": lambda x, y, d=dim: torch.scatter_add(x, d, index, y),
            f"reduce_{dim}": lambda x, y, d=dim: torch.scatter(x, d, index, y, reduce="add"),
            f"multiply_{dim}": lambda x, y, d=dim: torch.scatter(x, d, index, 3.0, reduce="multiply"),
        }
    check(cases, draw(4, 3, 5), draw(2, 3, 4, seed=1))


def test_linear_algebra() -> None:
    def positive(x: torch.Tensor) -> torch.Tensor:
        return x @ x.mT + torch.eye(4)

    cases: Cases = {
        "det": lambda x, b: (torch.linalg.det(x), torch.linalg.slogdet(x), torch.logdet(positive(x))),
        "lu": lambda x, b: (torch.linalg.lu(x), torch.linalg.lu_factor_ex(x[:, :, :3]), torch.linalg.inv_ex(x).inverse),
        "solve": lambda x, b: (
            torch.linalg.solve_ex(x, b).result,
            torch.linalg.solve_ex(x, b.mT, left=False).result,
            torch.linalg.lu_solve(*torch.linalg.lu_factor_ex(x)[:2], b, adjoint=True),
        ),
        "unpack": lambda x, b: torch.lu_unpack(*torch.linalg.lu_factor_ex(x)[:2]),
        "cholesky": lambda x, b: (
            torch.linalg.cholesky_ex(positive(x)).L,
            torch.cholesky_solve(b, positive(x).tril()),
            torch.cholesky_inverse(positive(x).triu(), upper=True),
        ),
        "triangular": lambda x, b: (
            torch.linalg.solve_triangular(x.triu() + 3 * torch.eye(4), b, upper=True),
            torch.linalg.solve_triangular(x.tril() + 3 * torch.eye(4), b.mT, upper=False, left=False),
        ),
        "qr": lambda x, b: (torch.linalg.qr(x), torch.linalg.qr(b, mode="complete"), torch.linalg.qr(b.mT, mode="r").R),
        "householder": lambda x, b: (torch.linalg.householder_product(*torch.geqrf(b)), torch.ormqr(*torch.geqrf(x), b)),
        "values": lambda x, b: (torch.linalg.svdvals(x), torch.linalg.svdvals(b), torch.linalg.eigvalsh(positive(x))),
        "inverse": lambda x, b: torch.linalg.inv(positive(x)),
    }  # fmt: skip
    check(cases, draw(2, 4, 4), draw(2, 4, 2, seed=1), bound=1e-4)


class Divisions(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, ...]:
        modes = [torch.div(a, d, rounding_mode=mode) for d in (b, 3) for mode in ("trunc", "floor")]
        rests = [rest(a, d) for d in (b, 3) for rest in (torch.fmod, torch.remainder)]
        return *modes, *rests, torch.floor_divide(a, b), torch.fmod(a, 2.5), torch.remainder(a, 2.5)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "float32", "float64"])
def test_division_over_the_whole_range(dtype: str) -> None:
    """The smallest integer too, whose magnitude is no number of its type; and floats whose quotient is rounded up to a whole number."""
    draw = np.random.default_rng(0)
    if dtype.startswith("float"):
        a, b = (draw.standard_normal(200) * 10.0 ** draw.integers(-3, 9, 200) for _ in "ab")
        a[:4], b[:4] = (-(2.0**31), 1.0, -6.0, 0.3), (2.5, 0.1, 3.0, 0.1)
    else:
        info = np.iinfo(dtype)
        a, b = (draw.integers(info.min, info.max, 200, dtype=dtype, endpoint=True) for _ in "ab")
        a[:3] = info.min, info.max, 0
        b[(b == 0) | (b == np.array(-1).astype(dtype))] = 7
    given = torch.from_numpy(a.astype(dtype)), torch.from_numpy(b.astype(dtype))
    model = maas_rt.load(compile(Divisions(), given, verify=False).to_bytes())
    for got, want in zip(model.run({"a": given[0].numpy(), "b": given[1].numpy()}).values(), Divisions()(*given)):
        np.testing.assert_array_equal(got, want.numpy(), strict=True)


def test_division_by_zero_does_not_end_the_process() -> None:
    a = np.array([1, -5, np.iinfo(np.int32).min, 7], np.int32)
    given = torch.from_numpy(a), torch.ones(4, dtype=torch.int32)
    model = maas_rt.load(compile(Divisions(), given).to_bytes())
    got = list(model.run({"a": a, "b": np.array([0, 0, -1, -1], np.int32)}).values())
    assert got[0].tolist() == got[1].tolist() == [0, 0, a[2], -7]
    assert got[4].tolist() == got[5].tolist() == [0, 0, 0, 0]
