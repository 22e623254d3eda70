"""Converters of operators that few models have, against torch: distances, histograms, segments, functions of matrices, antialiasing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from maas_rt.compiler.importers.torch.module import import_module

import maas_rt
from maas_rt import compiler
from tests.compiler._imported_oracle import compare, import_functions

Cases = dict[str, Callable[..., Any]]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def check(cases: Cases, *inputs: torch.Tensor, bound: float = 1e-5) -> None:
    assert compare(import_functions(cases, inputs), bound=bound) == {}


def test_functions_of_matrices() -> None:
    def symmetric(x: torch.Tensor) -> torch.Tensor:
        return x + x.mT

    crossed, holed = torch.eye(4).flip(0), torch.zeros(4, 4)
    holed[3, 1] = holed[1, 3] = 2.0
    cases: Cases = {
        "pinv": lambda x, b: (torch.linalg.pinv(x), torch.linalg.pinv(b), torch.linalg.pinv(b.mT)),
        "pinv_cut": lambda x, b: (torch.linalg.pinv(x, rtol=0.3), torch.linalg.pinv(x, atol=1.0, rtol=0.0), torch.linalg.pinv(x, atol=0.5)),
        "pinv_singular": lambda x, b: torch.linalg.pinv(b @ b.mT),
        "pinv_symmetric": lambda x, b: torch.linalg.pinv(x, hermitian=True),
        "exp": lambda x, b: (torch.matrix_exp(x), torch.matrix_exp(x * 5), torch.matrix_exp(x * 0)),
        "ldl": lambda x, b: (torch.linalg.ldl_factor(symmetric(x)), torch.linalg.ldl_factor(crossed + 0 * x), torch.linalg.ldl_factor_ex(holed + 0 * x)),
        "ldl_blocks": lambda x, b: torch.linalg.ldl_factor(symmetric(x) - 2 * torch.diag_embed(x.diagonal(dim1=1, dim2=2))),
        "ldl_solve": lambda x, b: torch.linalg.ldl_solve(*torch.linalg.ldl_factor(symmetric(x)), b),
        "values": lambda x, b: (torch.linalg.svdvals(x), torch.linalg.svdvals(b.mT), torch.linalg.matrix_norm(x, 2)),
    }  # fmt: skip
    check(cases, draw(3, 4, 4), draw(3, 4, 2, seed=1), bound=5e-5)


def test_larger_indefinite_systems() -> None:
    def solved(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.linalg.ldl_solve(*torch.linalg.ldl_factor(x + x.mT), b)

    check({"factor": lambda x, b: torch.linalg.ldl_factor(x + x.mT), "solve": solved}, draw(20, 20), draw(20, 3), bound=1e-4)  # fmt: skip


def test_distances() -> None:
    orders = (0.0, 0.5, 1.0, 2.0, 3.0, float("inf"))
    cases: Cases = {f"cdist_{p}": lambda x, y, p=p: torch.cdist(x, y, p) for p in orders}
    cases |= {f"pdist_{p}": lambda x, y, p=p: F.pdist(y, p) for p in orders}
    cases["batch"] = lambda x, y: torch.cdist(x.expand(2, 3, 5), y, compute_mode="donot_use_mm_for_euclid_dist")
    check(cases, draw(3, 5), draw(4, 5, seed=1))


def test_histograms() -> None:
    x = torch.cat([draw(40).clamp(-1.5, 1.5), torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])])
    limits = torch.tensor([-1.0, -0.5, 0.5, 0.6, 1.0])
    cases: Cases = {
        "count": lambda x, p: (
            torch.histogram(x, 7),
            torch.histogram(x, 4, range=(-1.0, 1.0)),
            torch.histogram(x * 0, 3),
        ),
        "weighted": lambda x, p: torch.histogram(x, 5, weight=x.abs(), density=True),
        "limits": lambda x, p: torch.histogram(x, limits),
        "several": lambda x, p: (torch.histogramdd(p, [2, 3, 4]), torch.histogramdd(p, [3, 2, 2], density=True)),
        "several_limits": lambda x, p: torch.histogramdd(p[:, :2], [limits, limits[1:]], weight=p[:, 2].abs()),
    }
    check(cases, x, draw(30, 3, seed=1))


def test_segments() -> None:
    lengths, offsets = torch.tensor([2, 0, 3, 1]), torch.tensor([0, 2, 2, 5, 6])
    rows = torch.tensor([[1, 2], [0, 3], [2, 1]])
    cases: Cases = {}
    for kind in ("sum", "mean", "max", "min", "prod"):
        cases[kind] = lambda x, k=kind: torch.segment_reduce(x, k, lengths=lengths, initial=0.5)
        cases[f"{kind}_offsets"] = lambda x, k=kind: torch.segment_reduce(x, k, offsets=offsets, unsafe=True)
        cases[f"{kind}_inner"] = lambda x, k=kind: torch.segment_reduce(x[:3, :3], k, lengths=rows, axis=1)
    check(cases, draw(6, 4))


def test_antialiased_resizing() -> None:
    cases: Cases = {}
    for mode in ("bilinear", "bicubic"):
        for i, size in enumerate(((3, 4), (20, 7), (9, 30))):
            cases[f"{mode}_{i}"] = lambda x, m=mode, s=size: F.interpolate(x, size=s, mode=m, antialias=True)
        cases[f"{mode}_by"] = lambda x, m=mode: F.interpolate(x, scale_factor=(0.45, 1.3), mode=m, antialias=True)
        cases[f"{mode}_align"] = lambda x, m=mode: F.interpolate(
            x, size=(5, 6), mode=m, antialias=True, align_corners=True
        )
    check(cases, draw(2, 3, 10, 14))


@pytest.mark.parametrize("dims", [2, 3])
def test_sampling_at_places(dims: int) -> None:
    cases: Cases = {}
    for mode in ("bilinear", "nearest", "bicubic")[: 5 - dims]:
        for padding in ("zeros", "border", "reflection"):
            for align in (False, True):
                cases[f"{mode}_{padding}_{align}"] = lambda x, g, m=mode, p=padding, a=align: F.grid_sample(
                    x, g * 1.5, m, p, a
                )
    check(cases, draw(2, 3, *(4, 5, 6)[:dims]), draw(2, *(3, 2, 4)[:dims], dims, seed=1).tanh(), bound=2e-5)


def test_sampling_at_places_that_are_none() -> None:
    """NaN and what is reflected from infinity is the first element in torch; nothing outside of the tensor is read."""
    nan, inf = float("nan"), float("inf")
    places = torch.tensor(
        [[nan, nan], [nan, 0.2], [0.3, nan], [inf, 0.0], [-inf, 0.5], [0.0, inf], [1e30, 0.3], [3e9, 0.2], [1.7, -2.4]]
    )

    class Each(torch.nn.Module):
        def forward(self, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(
                F.grid_sample(x, g if mode != "bicubic" else g[:, :, :6], mode, padding, align)
                for mode in ("bilinear", "nearest", "bicubic")
                for padding in ("zeros", "border", "reflection")
                for align in (False, True)
            )

    args = draw(1, 2, 2, 3), places.reshape(1, 1, -1, 2)
    model = maas_rt.load(compiler.compile(Each(), args, verify=False))
    given = {info.name: x.numpy() for info, x in zip(model.inputs, args)}
    for got, want in zip(model.run(given).values(), Each()(*args)):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_sampling_volumes_at_places_that_are_none() -> None:
    """There torch takes NaN for the last element, leaves out what lies outside of zeros, and turns no more often than 2^31 times."""
    some = torch.tensor([0.3, math.inf, -math.inf, math.nan, 3e38, 1e20, -1e20, 3e9, 1.7])
    places = torch.stack([some, some.roll(1) * 0, some * 0 + 0.2], -1)

    class Each(torch.nn.Module):
        def forward(self, x: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(
                F.grid_sample(x, g, mode, padding, align)
                for mode in ("bilinear", "nearest")
                for padding in ("zeros", "border", "reflection")
                for align in (False, True)
            )

    args = draw(1, 2, 2, 3, 4), places.reshape(1, 1, 1, -1, 3)
    model = maas_rt.load(compiler.compile(Each(), args, verify=False))
    given = {info.name: x.numpy() for info, x in zip(model.inputs, args)}
    for got, want in zip(model.run(given).values(), Each()(*args)):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_a_resize_to_the_same_size_keeps_infinities() -> None:
    class Same(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.interpolate(x, size=(3, 4), mode="bilinear", align_corners=False)

    x = draw(1, 1, 3, 4)
    x[0, 0, 1, 1] = math.inf
    np.testing.assert_array_equal(maas_rt.load(compiler.compile(Same(), (x,), verify=False))(x.numpy()), x.numpy())


def test_reads_and_writes() -> None:
    mask = torch.tensor([True, False, True, True])
    ids = torch.tensor([[1, 3], [3, 0]])
    put = torch.index_put
    cases: Cases = {
        "rows": lambda x, y: (put(x, (mask,), y[0]), put(x, (mask,), y[0], accumulate=True), put(x, (mask,), y[:1])),
        "as_many": lambda x, y: (put(x, (mask,), y), put(x, (mask,), y, accumulate=True)),
        "elements": lambda x, y: (put(x, (x > 0,), y[0, 0]), put(x, (x > 9,), y[0, :1], accumulate=True)),
        "take": lambda x, y: torch.take(x, torch.tensor([[3, -1], [7, 0]])),
        "renorm": lambda x, y: (F.embedding(ids, x.clone(), max_norm=1.0), F.embedding(ids, x.clone(), max_norm=0.7, norm_type=1.0)),
        "strides": lambda x, y: (torch.as_strided_scatter(x, y[:2, :2], (2, 2), (1, 5), 3), torch.as_strided(x, (3, 2), (2, 3), 1)),
        "windows": lambda x, y: (x.unfold(1, 3, 2), F.fold(F.unfold(x[None, None], 2), (4, 5), 2)),
        "overlap": lambda x, y: torch.ops.aten.unfold_backward(x, [13], 0, 5, 3),
        "none": lambda x, y: torch.nonzero_static(x[0, 0], size=2),
    }  # fmt: skip
    check(cases, draw(4, 5), draw(3, 5, seed=1))


def test_counts_that_repeat() -> None:
    model = import_functions(
        {
            "known": lambda x, n: torch.repeat_interleave(x, n, output_size=6),
            "unknown": lambda x, n: torch.repeat_interleave(n),
        },
        (draw(4), torch.tensor([2, 0, 3, 1])),
    )
    assert compare(model) == {}


def test_attention_broadcasts_leading_axes() -> None:
    cases: Cases = {
        "queries": lambda q, k: F.scaled_dot_product_attention(q, k, k),
        "keys": lambda q, k: F.scaled_dot_product_attention(k, q, q, is_causal=True),
    }
    check(cases, draw(4, 3, 8), draw(2, 4, 6, 8, seed=1))


def test_losses_in_chunks_and_idle_randomness() -> None:
    classes = torch.tensor([2, -100, 0, 3, 1])
    options = getattr(F, "LinearCrossEntropyOptions", None)
    cases: Cases = {
        "rrelu": lambda x, w: F.rrelu(x, training=False),
        "batch_norm": lambda x, w: torch.native_batch_norm(x, None, None, w[0, :3], w[1, :3].abs(), False, 0.1, 1e-5)[
            0
        ],
    }
    if options is not None:
        chunks = options(batch_chunk_size=2)
        for reduction in ("mean", "sum", "none"):
            cases[reduction] = lambda x, w, r=reduction: F.linear_cross_entropy(
                x, w, classes, reduction=r, options=chunks
            )
    check(cases, draw(5, 3), draw(4, 3, seed=1))


def test_what_only_arbitrary_signs_or_an_order_decide_is_refused() -> None:
    class Vectors(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.linalg.svd(x).U, torch.linalg.eigh(x).eigenvectors

    with pytest.raises(maas_rt.UnsupportedOperatorError, match="signs are arbitrary") as error:
        import_module(Vectors(), (draw(3, 3),))
    assert "eigh" in str(error.value)
