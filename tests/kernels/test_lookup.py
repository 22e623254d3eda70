"""lookup against numpy's indexing, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest

from maas_rt import Error, _kernels
from tests.kernels._checks import check_moved

RNG = np.random.default_rng(11)


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 63, 64, 65, 256, 70001])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("threads", [1, 2])
def test_lookup(n: int, dtype: type, threads: int) -> None:
    x = np.resize(RNG.permutation(256).astype(np.uint8), n)
    table = RNG.integers(0, 256, 256).astype(np.uint8)
    want = table[x].view(dtype)
    check_moved("lookup", [x.view(dtype), table.view(dtype)], want, {}, threads=threads)


def test_every_byte_of_every_table_entry() -> None:
    """One entry of the table set: the parts of the table do not leak into each other."""
    x = np.arange(256, dtype=np.uint8)
    for entry in range(256):
        table = np.zeros(256, np.uint8)
        table[entry] = 255
        check_moved("lookup", [x, table], table, {})


@pytest.mark.parametrize(
    ("x", "table", "shape", "message"),
    [
        (np.zeros(4, np.uint8), np.zeros(255, np.uint8), (4,), "extent"),
        (np.zeros(4, np.uint16), np.zeros(256, np.uint8), (4,), "expected uint8 or int8"),
        (np.zeros(4, np.uint8), np.zeros(256, np.float32), (4,), "expected uint8 or int8"),
        (np.zeros(4, np.bool_), np.zeros(256, np.uint8), (4,), "expected uint8 or int8"),
        (np.zeros((2, 2), np.uint8), np.zeros(256, np.uint8), (4,), "y"),
    ],
)
def test_what_does_not_fit_is_refused(x: np.ndarray, table: np.ndarray, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(Error, match=message):
        _kernels.run("lookup", [x, table], [(shape, np.uint8)])
