"""torch's random operators: each one's numbers by its definition on the oracle's noise, and their distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maas_rt.compiler import compile
from torch import nn

import maas_rt
from tests.compiler._distributions import Array, follows, occur, phi, unrelated
from tests.kernels import _philox

SEED = 0xFEDCBA9876543210
SHAPE = (256, 256)
N = math.prod(SHAPE)
CHANCES = np.linspace(0, 1, N, dtype=np.float32).reshape(SHAPE)
WEIGHTS = np.array([1.0, 2.0, 0.0, 3.0, 4.0], np.float32)


def u64(k: int, n: int = N) -> Array:
    return _philox.uniform_f64(n, SEED, k)


def u32(k: int, n: int = N) -> Array:
    return _philox.uniform_f32(n, SEED, k).astype(np.float64)


def z(k: int, n: int = N) -> Array:
    return _philox.normal_f32(n, SEED, k)


def bits(k: int, n: int = N) -> Array:
    return _philox.bits_u64(n, SEED, k)


# For each case: what the model computes of x (chances), and what the noise of operator k gives, where one line says it.
Case = tuple[Callable[[Any], Any], "Callable[[int], Array] | None"]
CASES: dict[str, Case] = {
    "rand": (lambda x: torch.rand(SHAPE), u32),
    "rand_like": (lambda x: torch.rand_like(x, dtype=torch.float64), u64),
    "rand_half": (lambda x: torch.rand(SHAPE, dtype=torch.float16), lambda k: np.floor(u32(k) * 2048) / 2048),
    "randn": (lambda x: torch.randn(SHAPE), z),
    "randn_like": (lambda x: torch.randn_like(x, dtype=torch.float64), lambda k: _philox.normal_f64(N, SEED, k)),
    "normal_": (lambda x: torch.empty_like(x).normal_(2, 3), lambda k: 2 + 3 * z(k)),
    "normal": (lambda x: torch.normal(x, 0.5), lambda k: CHANCES.reshape(-1) + 0.5 * z(k)),
    "normal_both": (lambda x: torch.normal(x, x + 1), lambda k: CHANCES.reshape(-1) + (CHANCES.reshape(-1) + 1) * z(k)),
    "normal_size": (lambda x: torch.normal(1.0, 0.1, SHAPE), lambda k: 1 + 0.1 * z(k)),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(-1, 3), lambda k: -1 + 4 * u32(k)),
    "log_normal_": (lambda x: torch.empty_like(x).log_normal_(0.1, 0.5), lambda k: np.exp(0.1 + 0.5 * z(k))),
    "exponential_": (lambda x: torch.empty_like(x).exponential_(2.0), lambda k: -np.log1p(-u64(k)) / 2),
    "geometric_": (
        lambda x: torch.empty_like(x).geometric_(0.3),
        lambda k: np.maximum(np.ceil(np.log1p(-u64(k)) / math.log1p(-0.3)), 1),
    ),
    "cauchy_": (lambda x: torch.empty_like(x).cauchy_(1, 2), lambda k: 1 + 2 * np.tan(np.pi * (u64(k) - 0.5))),
    "randint": (lambda x: torch.randint(-3, 7, SHAPE), lambda k: (bits(k) % np.uint64(10)).astype(np.int64) - 3),
    "randint_like": (lambda x: torch.randint_like(x, 1000), lambda k: bits(k) % np.uint64(1000)),
    "randint_wide": (
        lambda x: torch.randint(-(1 << 63), (1 << 63) - 1, (64,)),
        lambda k: (bits(k, 64) % np.uint64((1 << 64) - 1) + np.uint64(1 << 63)).view(np.int64),
    ),
    "random_": (lambda x: torch.zeros(SHAPE, dtype=torch.int32).random_(), lambda k: bits(k) % np.uint64(1 << 31)),
    "random_to": (lambda x: torch.zeros(SHAPE).random_(6), lambda k: bits(k) % np.uint64(6)),
    "randperm": (lambda x: torch.randperm(5000), lambda k: np.argsort(bits(k, 5000), kind="stable")),
    "bernoulli": (torch.bernoulli, lambda k: u64(k) < CHANCES.reshape(-1)),
    "bernoulli_": (lambda x: torch.zeros(SHAPE, dtype=torch.int8).bernoulli_(0.2), lambda k: u64(k) < 0.2),
    "bernoulli_of": (
        lambda x: torch.zeros(SHAPE, dtype=torch.bool).bernoulli_(x),
        lambda k: u64(k) < CHANCES.reshape(-1),
    ),
    "multinomial": (lambda x: torch.multinomial(torch.from_numpy(WEIGHTS) + 0 * x[0, 0], N, replacement=True), None),
    "multinomial_without": (
        lambda x: torch.multinomial((torch.from_numpy(WEIGHTS) + 0 * x[0, 0]).expand(8192, 5), 3),
        None,
    ),
    "dropout": (
        lambda x: F.dropout(x, 0.3),
        lambda k: CHANCES.reshape(-1) * (u32(k) >= np.float32(0.3)) * np.float32(1 / 0.7),
    ),
    "rrelu": (
        lambda x: F.rrelu(x - 0.5, training=True),
        lambda k: _rrelu(CHANCES.reshape(-1) - np.float32(0.5), u32(k)),
    ),
    "gumbel": (
        lambda x: F.gumbel_softmax((torch.from_numpy(WEIGHTS) + 1).log().expand(16384, 5) + 0 * x[0, 0], hard=True),
        None,
    ),
    "categorical": (
        lambda x: torch.distributions.Categorical(torch.from_numpy(WEIGHTS), validate_args=False).sample((4096,)),
        None,
    ),
    "laplace": (lambda x: torch.distributions.Laplace(x, 1.0, validate_args=False).rsample(), None),
    "gamma_half": (lambda x: torch._standard_gamma(x * 0 + 0.5), None),
    "gamma": (lambda x: torch.distributions.Gamma(x * 0 + 2.0, 3.0, validate_args=False).sample(), None),
    "beta": (lambda x: torch.distributions.Beta(x[:64] * 0 + 2.0, 1.0, validate_args=False).sample(), None),
    "poisson": (lambda x: torch.poisson(x * 0 + 3), None),
    "poisson_many": (lambda x: torch.poisson(x[:64] * 1000), None),
    "binomial": (lambda x: torch.binomial(x * 0 + 9, x * 0 + 0.3), None),
    "binomial_sure": (lambda x: torch.binomial((x[0] * 9).floor(), torch.tensor([0.0, 1.0]).repeat(128)), None),
    "certain": (lambda x: torch.bernoulli(torch.stack([x * 0, x * 0 + 1])), lambda k: np.repeat([0, 1], N)),
}


def _rrelu(x: Array, u: Array) -> Array:
    return np.where(x <= 0, x * (1 / 8 + u * (1 / 3 - 1 / 8)), x)


class Draws(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: case[0](x) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Array]:
    artifact = compile(Draws(), (torch.from_numpy(CHANCES),))
    assert artifact.manifest["verified"]["noise"] == "shared, seed 0" and artifact.manifest["draws"] is True
    result: dict[str, Array] = maas_rt.load(artifact).run({"x": CHANCES}, seed=SEED)
    return result


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[1] is not None])
def test_the_definition_on_the_same_noise(drawn: dict[str, Array], name: str) -> None:
    number = 1 + list(CASES).index(name)
    expected = CASES[name][1]
    assert expected is not None
    np.testing.assert_allclose(drawn[name].reshape(-1).astype(np.float64), expected(number), rtol=1e-5, atol=1e-5)


def test_distributions(drawn: dict[str, Array]) -> None:
    continuous: dict[str, Callable[[Array], Array]] = {
        "rand": lambda v: v,
        "rand_like": lambda v: v,
        "randn": phi,
        "randn_like": phi,
        "normal_": lambda v: phi((v - 2) / 3),
        "uniform_": lambda v: (v + 1) / 4,
        "log_normal_": lambda v: phi((np.log(v) - 0.1) / 0.5),
        "exponential_": lambda v: -np.expm1(-2 * v),
        "cauchy_": lambda v: 0.5 + np.arctan((v - 1) / 2) / np.pi,
    }
    assert [name for name, cdf in continuous.items() if not follows(drawn[name], cdf)] == []
    assert follows(drawn["laplace"] - CHANCES, lambda v: 0.5 + np.sign(v) * -np.expm1(-np.abs(v)) / 2)
    assert not follows(drawn["randn"] * 1.05, phi) and not follows(drawn["rand"] ** 1.03, lambda v: v)
    assert not follows(drawn["exponential_"] * 1.03, continuous["exponential_"])

    tries = 0.3 * 0.7 ** np.arange(15)
    assert occur(np.minimum(drawn["geometric_"], 16).astype(int) - 1, [*tries, 1 - tries.sum()])
    assert occur(drawn["randint"] + 3, [0.1] * 10) and occur(drawn["random_to"].astype(int), [1 / 6] * 6)
    assert not occur(drawn["randint"] + 3, [0.11, 0.09, *[0.1] * 8])
    assert occur(drawn["multinomial"], WEIGHTS / 10)
    assert occur(drawn["gumbel"].argmax(1), (WEIGHTS + 1) / 15) and (drawn["gumbel"].sum(1) == 1).all()
    assert occur(drawn["categorical"], WEIGHTS / 10)
    assert follows(drawn["gamma_half"], lambda v: 1 - 2 * phi(-np.sqrt(2 * v)))
    assert follows(drawn["gamma"], lambda v: 1 - (1 + 3 * v) * np.exp(-3 * v)) and follows(drawn["beta"], np.square)
    assert not follows(drawn["gamma"] * 1.03, lambda v: 1 - (1 + 3 * v) * np.exp(-3 * v))
    rare = [math.exp(-3) * 3**k / math.factorial(k) for k in range(11)]
    assert occur(np.minimum(drawn["poisson"], 11).astype(int), [*rare, 1 - sum(rare)])
    assert occur(drawn["binomial"].astype(int), [math.comb(9, k) * 0.3**k * 0.7 ** (9 - k) for k in range(10)])
    rate = 1000 * CHANCES[:64].astype(np.float64)
    scaled = ((drawn["poisson_many"] - rate) / np.sqrt(np.maximum(rate, 1)))[1:]
    assert abs(scaled.mean()) < 0.03 and abs(scaled.std() - 1) < 0.03 and drawn["poisson_many"][0, 0] == 0
    assert (drawn["binomial_sure"] == np.floor(CHANCES[0] * 9) * (np.arange(256) % 2)).all()
    off = (drawn["bernoulli"] - CHANCES).sum() / math.sqrt((CHANCES * (1 - CHANCES)).sum())
    assert abs(off) < 4


def test_choices_without_replacement(drawn: dict[str, Array]) -> None:
    """Each row has different classes; pairs have the chances w_i w_j / (1 - w_i); what has no weight is not chosen."""
    rows = drawn["multinomial_without"]
    assert all(len(set(row)) == 3 for row in rows)
    w = WEIGHTS / WEIGHTS.sum()
    pairs = [w[i] * w[j] / (1 - w[i]) if i != j else 0.0 for i in range(5) for j in range(5)]
    assert occur(rows[:, 0], w) and occur(rows[:, 0] * 5 + rows[:, 1], pairs)
    order = drawn["randperm"]
    assert (np.sort(order) == np.arange(5000)).all() and unrelated(order, np.arange(5000.0))


def test_operators_and_seeds_are_independent(drawn: dict[str, Array]) -> None:
    samples = [drawn[name] for name in ("rand", "rand_like", "uniform_", "randn", "randn_like", "normal_")]
    assert all(unrelated(a, b) for i, a in enumerate(samples) for b in samples[:i])
    artifact = compile(Noise(), (torch.zeros(4096),))
    model = maas_rt.load(artifact)
    one, two, again = (model.run({"x": np.zeros(4096, np.float32)}, seed=seed)["output_0"] for seed in (1, 2, 1))
    assert unrelated(one, two) and (one == again).all()
    free = [model.run({"x": np.zeros(4096, np.float32)})["output_0"] for _ in range(2)]
    assert (free[0] != free[1]).any()


class Noise(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)
