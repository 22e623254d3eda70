"""The random operators: Philox by its known answers, the same bits on every instruction set and number of threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from maas_rt import Error, _kernels
from tests.kernels import _philox
from tests.kernels._support import isas_of

KINDS = {"uniform_f32": "f4", "uniform_f64": "f8", "normal_f32": "f4", "normal_f64": "f8", "bits_u64": "u8"}
SEED = 0x0123456789ABCDEF


def random(
    kind: str, shape: tuple[int, ...], seed: int, number: int = 0, draw: Any = None, isa: str = "", threads: int = 1
) -> np.ndarray:
    inputs = [np.array([seed], np.uint64), *([] if draw is None else [np.asarray(draw, np.int64)])]
    attrs = {"number": number}
    (y,) = _kernels.run(f"random_{kind}", inputs, [(shape, np.dtype(KINDS[kind]))], attrs, isa=isa, threads=threads)
    return y


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_the_oracle_gives_the_known_answers_of_random123(counter: str, key: str, answer: str) -> None:
    c, k, want = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
    assert _philox.philox(np.array(c)[:, None], (k[0], k[1]))[:, 0].tolist() == want


def test_the_kernel_gives_the_known_answer() -> None:
    for isa in ["reference", *isas_of("random_bits_u64")]:
        assert random("bits_u64", (2,), 0, isa=isa).tolist() == [0xE169C58D6627E8D5, 0x9B00DBD8BC57AC4C]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bits_on_every_instruction_set_and_thread_count(kind: str) -> None:
    """Sizes around a block, around what is made at once, and of many pieces of parallel work; number and draw at their ends."""
    name = f"random_{kind}"
    for n in (0, 1, 2, 3, 4, 5, 7, 127, 128, 129, 255, 256, 257, 1021, 300_007):
        for seed, number, draw in ((SEED, 0, None), (2**64 - 1, 2**32 - 1, 2**31 + 5), (1, 3, [2**40 + 1])):
            want = random(kind, (n,), seed, number, draw, "reference")
            oracle = getattr(_philox, kind)(n, seed, number, np.ravel(draw)[0] if draw is not None else 0)
            if kind.startswith("normal"):
                tolerance = 2e-6 if kind == "normal_f32" else 1e-14
                np.testing.assert_allclose(want, oracle, rtol=tolerance, atol=tolerance)
            else:
                np.testing.assert_array_equal(want, oracle)
            for isa in isas_of(name):
                for threads in (1, 2):
                    got = random(kind, (n,), seed, number, draw, isa, threads)
                    np.testing.assert_array_equal(got.view("u1"), want.view("u1"), err_msg=f"{isa} {n} {threads}")


def test_shape_does_not_matter_and_seed_number_and_draw_do() -> None:
    flat = random("normal_f32", (210,), SEED)
    np.testing.assert_array_equal(random("normal_f32", (2, 3, 5, 7), SEED).reshape(-1), flat)
    np.testing.assert_array_equal(random("normal_f32", (100,), SEED), flat[:100])
    np.testing.assert_array_equal(random("normal_f32", (210,), SEED, draw=0), flat)
    others = [random("normal_f32", (210,), *other) for other in ((SEED + 1,), (SEED, 1), (SEED, 0, 1), (SEED + 2**32,))]
    for i, y in enumerate([flat, *others]):
        for z in others[i:]:
            assert not (y == z).any()


@pytest.mark.parametrize("kind", KINDS)
def test_the_distribution(kind: str) -> None:
    """Mean, variance, neighbours' correlation, and the shares of 16 equally likely classes, each within 5 deviations."""
    n = 1 << 20
    y = random(kind, (n,), SEED).astype(np.float64)
    if kind == "bits_u64":
        y = y / 2.0**64
    normal = kind.startswith("normal")
    mean, variance, fourth = (0.0, 1.0, 3.0) if normal else (0.5, 1 / 12, 1 / 80)
    assert abs(y.mean() - mean) < 5 * math.sqrt(variance / n)
    assert abs(((y - mean) ** 2).mean() - variance) < 5 * math.sqrt((fourth - variance**2) / n)
    for apart in (1, 2, 3, 4, 256):
        assert abs(((y[apart:] - mean) * (y[:-apart] - mean)).mean()) < 5 * variance / math.sqrt(n - apart)
    share = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))(y) if normal else y
    counts = np.bincount((share * 16).astype(int).clip(0, 15), minlength=16)
    assert (((counts - n / 16) ** 2) / (n / 16)).sum() < 15 + 5 * math.sqrt(30)
    if normal:
        assert 4.5 < np.abs(y).max() < 6.8 if kind == "normal_f32" else 4.5 < np.abs(y).max() < 8.7
    else:
        assert y.min() >= 0 and y.max() <= 1 and (kind == "bits_u64" or y.max() < 1)


@pytest.mark.parametrize(
    ("inputs", "dtype", "attrs", "message"),
    [
        ([np.zeros(2, np.uint64)], "f4", {}, "seed has extent 2"),
        ([np.zeros(1, np.int64)], "f4", {}, "expected uint64"),
        ([np.zeros(1, np.uint64), np.zeros(1, np.int32)], "f4", {}, "expected int64"),
        ([np.zeros(1, np.uint64), np.zeros(2, np.int64)], "f4", {}, "draw has extent 2"),
        ([np.zeros(1, np.uint64)], "f8", {}, "expected float32"),
        ([np.zeros(1, np.uint64)], "f4", {"number": -1}, "number"),
        ([np.zeros(1, np.uint64)], "f4", {"number": 2**32}, "number"),
        ([], "f4", {}, "0 inputs"),
    ],
)
def test_what_does_not_fit_is_refused(
    inputs: list[np.ndarray], dtype: str, attrs: dict[str, int], message: str
) -> None:
    with pytest.raises(Error, match=message):
        _kernels.run("random_normal_f32", inputs, [((3,), np.dtype(dtype))], attrs)
