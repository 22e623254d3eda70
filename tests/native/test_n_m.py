"""Weights that a file holds N:M: what a runtime makes of them, and packings that are damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import maas_rt
from maas_rt import Error, _container, _plan
from maas_rt._container import SectionKind
from maas_rt._plan import Encoding, StepKind
from tests._tiny import Builder

K, N = 48, 7
Change = Callable[[Builder, int], None]


def dense(values: np.ndarray, indices: np.ndarray, axis: int, m: int) -> np.ndarray:
    """By the definition: number e of a group stands at the group's begin plus its index."""
    shape = [extent * (m if a == axis else 1) for a, extent in enumerate(values.shape[:-1])]
    found = np.zeros(shape, values.dtype)
    for at in np.ndindex(*values.shape):
        place = list(at[:-1])
        place[axis] = place[axis] * m + int(indices[at])
        found[tuple(place)] = values[at]
    return found


def drawn(dims: tuple[int, ...], axis: int, n: int, m: int, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(m)
    groups = [extent // m if a == axis else extent for a, extent in enumerate(dims)]
    indices = np.sort(rng.permuted(np.tile(np.arange(m), (*groups, 1)), axis=-1)[..., :n])
    return rng.integers(-9, 10, indices.shape).astype(dtype), indices


def product(
    n: int, m: int, trans: bool = False, change: Change | None = None, packing: str = "gemm_f32_nr16_v1"
) -> bytes:
    b = Builder("n_m")
    x, y = b.input("x", [5, K]), b.value("y", [5, N])
    dims, axis = ((N, K), 1) if trans else ((K, N), 0)
    w = b.sparse("w", dims, *drawn(dims, axis, n, m), 2 if m <= 4 else 4)
    attrs = {"n": N, "k": K, "w_trans": int(trans)}
    b.step(StepKind.KERNEL, [x, w], [y], packing.split("_nr16")[0].split("_v1")[0], attrs, packing)
    if change is not None:
        change(b, w)
    return b.file(y)


def ran(data: bytes, x: np.ndarray) -> np.ndarray:
    (y,) = maas_rt.load(data).run({"x": x}).values()
    return y


@pytest.mark.parametrize("packing", ["gemm_f32_nr16_v1", "gemm_f32_sparse_v1"])
@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (1, 2), (2, 3), (4, 8), (5, 6), (3, 12), (8, 16), (15, 16)])
def test_a_product_is_that_of_the_dense_weights(n: int, m: int, trans: bool, packing: str) -> None:
    x = np.random.default_rng(0).standard_normal((5, K)).astype(np.float32)
    dims, axis = ((N, K), 1) if trans else ((K, N), 0)
    w = dense(*drawn(dims, axis, n, m), axis, m)
    expected = x.astype(np.float64) @ (w.T if trans else w)
    np.testing.assert_allclose(ran(product(n, m, trans, packing=packing), x), expected, rtol=1e-5, atol=1e-4)


def test_filters_of_convolutions_and_bytes_are_widened_along_an_axis_in_the_middle() -> None:
    b = Builder("n_m")
    x, h, y = b.input("x", [1, 4, 4, 8]), b.value("h", [1, 2, 2, 5]), b.value("y", [20 // 5, 3])
    filters = drawn((5, 8, 3, 3), 1, 2, 8)
    w = b.sparse("w", (5, 8, 3, 3), *filters, 4)
    attrs = {"kernel": [3, 3], "channels": [8, 5], "tile": 2}
    b.step(StepKind.KERNEL, [x, w], [h], "conv2d_winograd_f32", attrs, "conv2d_winograd_f32_nr16_v1")
    flat = b.value("flat", [4, 5], storage=_plan.Storage.VIEW, base=h, offset=b.expr(0))
    columns = drawn((5, 3), 1, 1, 3, np.int8)
    q = b.sparse("q", (5, 3), *columns, 2)
    scale = b.constant("scale", np.full((1, 3), 0.5, np.float32))
    b.step(StepKind.KERNEL, [flat, q, scale], [y], "gemm_f32q", {"n": 3, "k": 5}, "gemm_f32q_nr16_v1")
    given = np.random.default_rng(1).standard_normal((1, 4, 4, 8)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(given, (3, 3), (1, 2))  # [1, 2, 2, 8, 3, 3]
    image = np.einsum("nyxcij,ocij->nyxo", windows, dense(*filters, 1, 8))
    expected = image.reshape(4, 5) @ (dense(*columns, 1, 3) * 0.5)
    np.testing.assert_allclose(ran(b.file(y), given), expected, rtol=1e-4, atol=1e-3)


def with_index(place: int, byte: int) -> Change:
    def change(b: Builder, w: int) -> None:
        b.weights[b.plan.values[b.plan.values[w].base].offset + place] = byte

    return change


def with_value(of_indices: bool = False, **fields: Any) -> Change:
    def change(b: Builder, w: int) -> None:
        at = b.plan.values[w].base if of_indices else w
        b.plan.values[at] = dataclasses.replace(b.plan.values[at], **fields)

    return change


def read_twice(b: Builder, w: int) -> None:
    """By another contract, in another packing."""
    step = b.blocks[0].steps[0]
    again = b.value("again", [5, N])
    b.step(StepKind.KERNEL, [step.args[0].index, w], [again], "gemm_f32_sparse", {"n": N, "k": K}, "gemm_f32_sparse_v1")


def read_dense(b: Builder, w: int) -> None:
    copied = b.value("copied", [K, N])
    b.step(StepKind.COPY, [w], [copied])


def state_of_it(b: Builder, w: int) -> None:
    b.state("s", np.zeros((K, N), np.float32))
    b.plan.states[0].init = w


DAMAGED: dict[str, tuple[tuple[int, int], Change, str]] = {
    "indices that fall": ((2, 4), with_index(0, 0b0001), "indices that do not rise"),
    "an index twice": ((2, 4), with_index(3, 0b1010), "indices that do not rise"),
    "an index out of range": ((2, 3), with_index(2, 0b1100), "an index out of range"),
    "an index out of range of 12": ((3, 12), with_index(0, 0xC0), "an index out of range"),
    "fewer values": ((2, 4), with_value(bytes=K // 2 * N * 4 - 4), "another size than their extents"),
    "fewer indices": ((2, 4), with_value(True, bytes=1), "another size than their extents"),
    "indices of bytes": ((2, 4), with_value(True, dtype_bits=8), "of a type that is not stored N:M"),
    "signed indices": ((2, 4), with_value(True, dtype_code=0), "of a type that is not stored N:M"),
    "double precision": ((2, 4), with_value(dtype_bits=64), "of a type that is not stored N:M"),
    "no indices": ((2, 4), with_value(base=99), "are no value"),
    "indices that are an input": ((2, 4), with_value(base=0), "of a type that is not stored N:M"),
    "indices that are itself": ((2, 4), with_value(base=3), "of a type that is not stored N:M"),
    "indices stored N:M": ((2, 4), with_value(True, encoding=Encoding.N_M), "of a type that is not stored N:M"),
    "not a constant": ((2, 4), with_value(storage=_plan.Storage.ARENA), "has encoding 'n_m', which this runtime does not run"),
    "another encoding": ((2, 4), with_value(encoding=Encoding.CSR), "has encoding 'csr', which this runtime does not run"),
    "read in two packings": ((2, 4), read_twice, "is read in two packings"),
    "read as it is": ((2, 4), read_dense, "is smaller than its shape, and step 'copy.1' does not take it packed"),
    "a state's first value": ((2, 4), state_of_it, "is not a constant of its size and dtype"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_refused_at_load(name: str) -> None:
    (n, m), change, told = DAMAGED[name]
    with pytest.raises(Error, match=told):
        maas_rt.load(product(n, m, change=change))


@pytest.mark.parametrize("of_indices", [False, True])
@pytest.mark.parametrize("dims", [(K, N), (K // 4, N), (12, 7, 2), (13, 7, 2), (12, 8, 2), (24, 7, 2), (12, 7, 4), (12, 7, 0), (0, 7, 2), (), (12, 7, 2, 1)])  # fmt: skip
def test_extents_that_do_not_fit_are_refused(dims: tuple[int, ...], of_indices: bool) -> None:
    def change(b: Builder, w: int) -> None:
        at = b.plan.values[w].base if of_indices else w
        b.plan.values[at].dims = [b.expr(extent) for extent in dims]

    right = dims == ((12, 7, 2) if of_indices else (K, N))
    if right:
        maas_rt.load(product(2, 4, change=change))
        return
    with pytest.raises(Error, match="the extents of 'w' and of its indices do not fit|another size than their extents"):
        maas_rt.load(product(2, 4, change=change))


def test_every_byte_of_the_indices_is_looked_at() -> None:
    """Whatever stands there, a file is refused or gives numbers."""
    x = np.ones((5, K), np.float32)
    for byte in range(256):
        try:
            assert np.isfinite(ran(product(2, 3, change=with_index(9, byte)), x)).all()
        except Error as error:
            assert "the weight 'w', stored 2:3, is damaged: it has " in str(error)
            continue
        low, high = byte & 15, byte >> 4
        assert all((pair & 3) < (pair >> 2) < 3 for pair in (low, high)), byte


def test_the_plan_is_read_as_it_was_written() -> None:
    plan = _plan.decode(next(s.data for s in _container_sections(product(2, 4)) if s.kind == SectionKind.PLAN))
    (w,) = (value for value in plan.values if value.encoding == Encoding.N_M)
    assert w.name == "w" and plan.values[w.base].name == "w.indices" and plan.values[w.base].dtype_bits == 2


def _container_sections(data: bytes) -> list[_container.Section]:
    return [
        _container.Section(s.kind, bytes(data[s.offset : s.offset + s.size])) for s in _container.read(data).sections
    ]
