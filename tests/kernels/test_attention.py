"""Attention against torch in double precision: masks, causality, shared heads, tiles, rows that see nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from maas_rt import Error, _kernels
from tests.kernels._checks import SEEDS, assert_same, check_kernel, normal, quick
from tests.kernels._support import isas_of

Array = NDArray[np.float32]

# Around the rows of a block (6, 2), a panel of keys (16), and the queries that are too few to pack for (8, of which 3 go one by one).
POSITIONS = st.one_of(st.integers(1, 18), st.sampled_from([31, 33, 47, 48, 49]))
WIDTHS = st.one_of(st.integers(1, 17), st.sampled_from([24, 32, 33, 64]))


def oracle(
    q: Array, k: Array, v: Array, mask: Array | None, causal: int = 0, scale: float | None = None, safe: bool = False
) -> NDArray[np.float64]:
    """softmax(scale q k^T + mask) v of [B, S, H, D] arrays."""
    qt, kt, vt = (torch.from_numpy(x).double().transpose(1, 2) for x in (q, k, v))
    shared = q.shape[2] // k.shape[2]
    kt, vt = kt.repeat_interleave(shared, 1), vt.repeat_interleave(shared, 1)
    s = qt @ kt.mT * (q.shape[3] ** -0.5 if scale is None else scale)
    if mask is not None:
        s = s + torch.from_numpy(mask).double()
    if causal:
        offset = 0 if causal == 1 else k.shape[1] - q.shape[1]
        s = s.masked_fill(~torch.ones(s.shape[-2:]).tril(offset).bool(), -torch.inf)
    p = torch.softmax(s, -1)
    if safe:
        p = p.masked_fill((s == -torch.inf).all(-1, keepdim=True), 0.0)
    y: NDArray[np.float64] = (p @ vt).transpose(1, 2).contiguous().numpy()
    return y


@quick
@given(
    batch=st.integers(1, 2),
    kv_heads=st.integers(1, 2),
    shared=st.integers(1, 3),
    sq=POSITIONS,
    sk=POSITIONS,
    d=WIDTHS,
    dv=WIDTHS,
    causal=st.integers(0, 2),
    safe=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    mask_dims=st.one_of(st.none(), st.lists(st.booleans(), max_size=4)),
    hidden=st.booleans(),
    bhsd=st.booleans(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_attention(
    batch: int,
    kv_heads: int,
    shared: int,
    sq: int,
    sk: int,
    d: int,
    dv: int,
    causal: int,
    safe: bool,
    scale: float | None,
    mask_dims: list[bool] | None,
    hidden: bool,
    bhsd: bool,
    threads: int,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    heads = kv_heads * shared
    q, k, v = (
        normal(rng, batch, sq, heads, d),
        normal(rng, batch, sk, kv_heads, d),
        normal(rng, batch, sk, kv_heads, dv),
    )
    mask = None
    if mask_dims is not None:
        full = (batch, heads, sq, sk)[4 - len(mask_dims) :]
        mask = normal(rng, *[n if kept else 1 for n, kept in zip(full, mask_dims, strict=True)])
        if hidden:
            mask[mask < 0] = -np.inf
    attrs: dict[str, Any] = {"causal": causal, "safe": int(safe), "layout": "bhsd" if bhsd else "bshd"}
    if scale is not None:
        attrs["scale"] = scale
    want = oracle(q, k, v, mask, causal, scale, safe)
    inputs = [q, k, v]
    if bhsd:
        inputs = [np.ascontiguousarray(x.swapaxes(1, 2)) for x in inputs]
        want = np.ascontiguousarray(want.swapaxes(1, 2))
    check_kernel("attention_f32", [*inputs, mask], [want], attrs, sk, threads)


@pytest.mark.parametrize("isa", isas_of("attention_f32"))
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("sq", "sk", "d", "causal"),
    [(128, 128, 32, 0), (197, 197, 64, 0), (600, 390, 16, 2), (5, 1100, 40, 0), (520, 520, 8, 1), (1, 900, 64, 2)],
)
def test_more_keys_than_a_tile(isa: str, threads: int, sq: int, sk: int, d: int, causal: int) -> None:
    rng = np.random.default_rng(sq)
    q, k, v = normal(rng, 1, sq, 2, d), normal(rng, 1, sk, 1, d), normal(rng, 1, sk, 1, d)
    k[0, sk // 2 :] *= 3  # the running maximum moves from tile to tile
    (got,) = _kernels.run("attention_f32", [q, k, v], [q.shape], {"causal": causal}, isa=isa, threads=threads)
    assert_same(got, oracle(q, k, v, None, causal), 64)


@pytest.mark.parametrize("isa", ["reference", *isas_of("attention_f32")])
def test_masks_of_the_most_negative_number_do_not_make_nan(isa: str) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (normal(rng, 1, 7, 2, 16) for _ in range(3))
    mask = np.zeros((7, 7), np.float32)
    mask[:, 4:] = mask[2] = np.finfo(np.float32).min
    (got,) = _kernels.run("attention_f32", [q, k, v, mask], [q.shape], {}, isa=isa)
    want = oracle(q, k, v, None if mask is None else mask)
    # Added in float32, the lowest number swallows the score: all keys of row 2 weigh the same.
    want[:, 2] = v.astype(np.float64).mean(1)
    assert np.isfinite(got).all()
    if isa == "reference":  # in double precision the scores are still there
        got[:, 2], want[:, 2] = 0, 0
    assert_same(got, want, 64)


@pytest.mark.parametrize("isa", ["reference", *isas_of("attention_f32")])
@pytest.mark.parametrize("safe", [0, 1])
@pytest.mark.parametrize("sq", [2, 9])
def test_rows_that_see_nothing(isa: str, safe: int, sq: int) -> None:
    rng = np.random.default_rng(1)
    q, k, v = normal(rng, 1, sq, 1, 8), normal(rng, 1, 5, 1, 8), normal(rng, 1, 5, 1, 8)
    mask = np.zeros((sq, 5), np.float32)
    mask[1] = -np.inf
    (got,) = _kernels.run("attention_f32", [q, k, v, mask], [q.shape], {"safe": safe}, isa=isa)
    assert (got[0, 1] == 0).all() if safe else np.isnan(got[0, 1]).all()
    assert np.isfinite(got[0, 0]).all()
    if safe:
        torch_says = F.scaled_dot_product_attention(
            *(torch.from_numpy(x).transpose(1, 2) for x in (q, k, v)), attn_mask=torch.from_numpy(mask)
        )
        assert_same(got, torch_says.transpose(1, 2).numpy(), 64)


@pytest.mark.parametrize("isa", ["reference", *isas_of("attention_f32")])
@pytest.mark.parametrize("where", ["q", "k", "v"])
@pytest.mark.parametrize("sq", [2, 9])
def test_not_a_number_reaches_the_rows_that_see_it(isa: str, where: str, sq: int) -> None:
    rng = np.random.default_rng(2)
    x = {"q": normal(rng, 1, sq, 2, 8), "k": normal(rng, 1, 20, 2, 8), "v": normal(rng, 1, 20, 2, 8)}
    x[where][0, 1, 1, 3] = np.nan
    (got,) = _kernels.run("attention_f32", [x["q"], x["k"], x["v"]], [x["q"].shape], {}, isa=isa)
    assert_same(got, oracle(x["q"], x["k"], x["v"], None), 64)


@pytest.mark.parametrize("isa", ["reference", *isas_of("attention_f32")])
def test_empty_extents(isa: str) -> None:
    def run(sq: int, sk: int, d: int) -> Array:
        q, k = np.ones((2, sq, 3, d), np.float32), np.ones((2, sk, 3, d), np.float32)
        return _kernels.run("attention_f32", [q, k, k], [q.shape], {}, isa=isa)[0]

    assert run(0, 5, 4).shape == (2, 0, 3, 4)
    assert (run(4, 0, 8) == 0).all()  # the sum of nothing
    assert run(4, 5, 0).shape == (2, 4, 3, 0)


@quick
@given(
    batch=st.integers(0, 2),
    s=st.one_of(st.integers(0, 18), st.just(49)),
    heads=st.integers(1, 3),
    d=WIDTHS,
    causal=st.integers(0, 2),
    masked=st.booleans(),
    threads=st.integers(1, 2),
    seed=SEEDS,
)
def test_joint_projection(
    batch: int, s: int, heads: int, d: int, causal: int, masked: bool, threads: int, seed: int
) -> None:
    assume(batch * s > 0 or not masked)
    rng = np.random.default_rng(seed)
    qkv = normal(rng, batch, s, 3, heads, d)
    mask = normal(rng, batch, 1, 1, s) if masked else None
    want = oracle(*(np.ascontiguousarray(qkv[:, :, i]) for i in range(3)), mask, causal)
    check_kernel("qkv_attention_f32", [qkv, mask], [want], {"causal": causal}, max(s, 1), threads)


Q = np.ones((1, 4, 2, 8), np.float32)


@pytest.mark.parametrize(
    ("inputs", "shape", "attrs", "words"),
    [
        ([Q, Q], (1, 4, 2, 8), {}, "inputs"),
        ([Q, Q, None], (1, 4, 2, 8), {}, "absent"),
        ([Q, Q, Q[0]], (1, 4, 2, 8), {}, "dimensions"),
        ([Q, Q[..., :4].copy(), Q], (1, 4, 2, 8), {}, "extent"),
        ([Q, Q, Q[:, :3].copy()], (1, 4, 2, 8), {}, "extent"),
        ([Q, np.ones((1, 4, 0, 8), np.float32), np.ones((1, 4, 0, 8), np.float32)], (1, 4, 2, 8), {}, "divisor"),
        ([Q, np.ones((1, 4, 3, 8), np.float32), np.ones((1, 4, 3, 8), np.float32)], (1, 4, 2, 8), {}, "divisor"),
        ([Q, Q, Q], (1, 4, 2, 7), {}, "extent"),
        ([Q, Q, Q, np.ones((4, 3), np.float32)], (1, 4, 2, 8), {}, "mask"),
        ([Q, Q, Q, np.ones((1, 1, 1, 4, 4), np.float32)], (1, 4, 2, 8), {}, "mask"),
        ([Q, Q, Q, np.ones((4, 4), np.int32)], (1, 4, 2, 8), {}, "mask"),
        ([Q, Q, Q], (1, 4, 2, 8), {"causal": 3}, "'causal'"),
        ([Q, Q, Q], (1, 4, 2, 8), {"layout": "hsbd"}, "hsbd"),
        ([Q, Q, Q], (1, 4, 2, 8), {"scale": float("inf")}, "finite"),
    ],
)
def test_refuses(inputs: list[Any], shape: Any, attrs: dict[str, Any], words: str) -> None:
    with pytest.raises(Error, match=words):
        _kernels.run("attention_f32", inputs, [shape], attrs)


def test_joint_projection_refuses_what_is_not_three() -> None:
    with pytest.raises(Error, match="extent"):
        _kernels.run("qkv_attention_f32", [np.ones((1, 4, 2, 2, 8), np.float32)], [(1, 4, 2, 8)])
