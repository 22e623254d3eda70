"""Times products and 3 x 3 convolutions with sparse weights against the dense ones of the same shape, one thread; of dense convolutions the quickest
counts, direct or Winograd's.

All run in one process, in turns of a few milliseconds; a figure is the ratio of the medians of the turns, dense over sparse. Time is
that of the thread, so that who else has the CPU meanwhile does not count, though what others leave of caches and memory does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._results import write_results
from bench.kernels._cases import placed
from bench.machine import describe
from maas_rt import _kernels, _native

SIZES = (768, 1536, 3072)
DENSITIES = (0.2, 0.1, 0.05)
IMAGES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels of x and of y, pixels along a side of x
SLICE = 0.004  # seconds
Run = Callable[[], None]
Operands = tuple[Sequence[Any], dict[str, Any]]  # those of a contract, the second of them dense weights


def floats(m: int, k: int, n: int, keep: NDArray[np.bool_], rng: np.random.Generator) -> Operands:
    """Operands of a product of floats whose weights are zero but where `keep`."""
    a, w = (rng.standard_normal(shape, np.float32) for shape in ((m, k), (k, n)))
    return [a, w * keep], {"n": n, "k": k}


def bytes_of(m: int, k: int, n: int, keep: NDArray[np.bool_], rng: np.random.Generator) -> Operands:
    """The same of bytes, activations of 7 bits."""
    a = rng.integers(0, 128, (m, k)).astype(np.uint8)
    w = np.clip(np.rint(rng.standard_normal((k, n)) * 36), -127, 127).astype(np.int8)
    scale, bias = rng.uniform(1e-5, 2e-5, n).astype(np.float32), rng.standard_normal(n, np.float32)
    return [a, w * keep, scale, bias], {"n": n, "k": k, "a_max": 127, "a_zero": 60, "y_scale": 0.05, "y_zero": 120}


def prepared(contract: str, isa: str | None, operands: Operands, output: NDArray[Any], **more: int) -> Run:
    """A call of the contract on these operands, weights packed."""
    (a, w, *rest), attrs = operands[0], {**operands[1], **more}
    (packing,) = _kernels.describe()["contracts"][contract]["packings"]
    inputs = [placed(a), placed(_kernels.pack(contract, packing, w, attrs)), *rest]
    return lambda: _native.kernel_run(contract, isa, inputs, [output], attrs, 1)


def kept(k: int, n: int, density: float, block: tuple[int, int], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Which weights of [k, n] are there: blocks of so many along k and n."""
    down, across = block
    return np.repeat(np.repeat(rng.random((k // down, n // across)) < density, down, 0), across, 1)


def slices(runs: Sequence[Run], rounds: int) -> list[float]:
    """The median seconds of each, in turns of SLICE."""
    counts = []
    for run in runs:
        run()
        start = time.thread_time()
        run()
        counts.append(max(1, round(SLICE / (time.thread_time() - start))))
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, count, taken in zip(runs, counts, times, strict=True):
            start = time.thread_time()
            for _ in range(count):
                run()
            taken.append((time.thread_time() - start) / count)
    return [statistics.median(taken) for taken in times]


@dataclass(frozen=True)
class Kind:
    """Weights that are zero in blocks of (k's, columns), and the contracts that multiply by them."""

    block: tuple[int, int]
    operands: Callable[..., Operands]
    dense: str
    sparse: str
    attrs: dict[str, int]
    dtype: type


KINDS = {
    "unstructured": Kind((1, 1), floats, "gemm_f32", "gemm_f32_sparse", {"block": 1}, np.float32),
    "block": Kind((1, 4), floats, "gemm_f32", "gemm_f32_sparse", {"block": 4}, np.float32),
    "bytes": Kind((4, 4), bytes_of, "gemm_u8s8", "gemm_u8s8_sparse", {}, np.uint8),
}


def measure(name: str, m: int, size: int, density: float, isa: str | None, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    rng, kind = np.random.default_rng(1), KINDS[name]
    operands = kind.operands(m, size, size, kept(size, size, density, kind.block, rng), rng)
    results = [np.zeros((m, size), kind.dtype) for _ in range(2)]
    runs = [prepared(kind.dense, isa, operands, results[0])]
    runs.append(prepared(kind.sparse, isa, operands, results[1], **kind.attrs))
    dense, sparse = slices(runs, rounds)
    want, got = (result.astype(np.float64) for result in results)
    row = {"kind": name, "rows": m, "n": size, "k": size, "density": density, "dense_us": dense * 1e6}
    return row | {
        "sparse_us": sparse * 1e6,
        "ratio": dense / sparse,
        "error": float(np.abs(want - got).max() / np.abs(want).max()),
    }


def convolution(
    channels: int, pixels: int, stride: int, density: float, block: int, isa: str | None, rounds: int
) -> dict[str, Any]:
    """The same of a convolution, padded by one pixel, of whose filter `block` outputs are zero together."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1, pixels, pixels, channels), np.float32)
    keep = np.repeat(rng.random((channels // block, channels, 3, 3)) < density, block, 0)
    w = rng.standard_normal(keep.shape, np.float32) * keep
    attrs = {"kernel": [3, 3], "pads": [1] * 4, "strides": [stride] * 2, "channels": [channels] * 2}
    ways = [("conv2d_f32", {}), ("conv2d_f32_sparse", {"block": block})]
    ways += [("conv2d_winograd_f32", {"tile": tile}) for tile in (2, 4) if stride == 1]
    side = -(-pixels // stride)
    results = [np.zeros((1, side, side, channels), np.float32) for _ in ways]
    runs = [
        prepared(contract, isa, ([x, w], attrs), y, **more) for (contract, more), y in zip(ways, results, strict=True)
    ]
    direct, sparse, *winograd = slices(runs, rounds)
    dense = min(direct, *winograd) if winograd else direct
    row = {"kind": "convolution", "block": block, "channels": channels, "pixels": pixels, "stride": stride}
    return row | {
        "density": density,
        "dense_us": dense * 1e6,
        "sparse_us": sparse * 1e6,
        "ratio": dense / sparse,
        "error": float(np.abs(results[0] - results[1]).max() / np.abs(results[0]).max()),
    }


def convolutions(isa: str, densities: Sequence[float], rounds: int) -> list[dict[str, Any]]:
    """The rows of one instruction set, printed as they come."""
    print(
        f"{'weights':14} {'isa':7} {'channels':>8} {'pixels':>6} {'stride':>6} {'zeros':>6} {'dense us':>9} {'sparse us':>9} {'ratio':>6} {'error':>8}"
    )
    rows = []
    for block, name in ((1, "unstructured"), (4, "block")):
        for stride in (1, 2):
            for channels, pixels in IMAGES:
                for density in densities:
                    row = {"isa": isa, **convolution(channels, pixels, stride, density, block, isa, rounds)}
                    rows.append(row)
                    print(
                        f"{name:14} {isa:7} {channels:8} {pixels:6} {stride:6} {1 - density:6.0%} {row['dense_us']:9.0f} {row['sparse_us']:9.0f}"
                        f" {row['ratio']:6.2f} {row['error']:8.1e}",
                        flush=True,
                    )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sparse", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[[], *KINDS], help="of weights (default: all)")
    parser.add_argument("--convolutions", action="store_true", help="times convolutions, and no products")
    parser.add_argument("--rows", type=int, nargs="+", default=[128], help="of the activations")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="n and k")
    parser.add_argument(
        "--densities", type=float, nargs="+", default=DENSITIES, help="share of weights that are not zero"
    )
    parser.add_argument("--isa", nargs="+", default=[_kernels.cpu_isa()], help="instruction sets (default: the best)")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    if options.convolutions:
        found = [row for isa in options.isa for row in convolutions(isa, options.densities, options.rounds)]
        if options.json:
            write_results(options.json, {"machine": describe(), "convolutions": found})
        return 0
    print(
        f"{'weights':14} {'isa':7} {'rows':>5} {'n = k':>6} {'zeros':>6} {'dense us':>9} {'sparse us':>9} {'ratio':>6} {'error':>8}"
    )
    rows = []
    for isa in options.isa:
        for kind in options.kinds or KINDS:
            for m in options.rows:
                for size in options.sizes:
                    for density in options.densities:
                        row = {"isa": isa, **measure(kind, m, size, density, isa, options.rounds)}
                        rows.append(row)
                        print(
                            f"{kind:14} {isa:7} {m:5} {size:6} {1 - density:6.0%} {row['dense_us']:9.0f} {row['sparse_us']:9.0f}"
                            f" {row['ratio']:6.2f} {row['error']:8.1e}",
                            flush=True,
                        )
    if options.json:
        write_results(options.json, {"machine": describe(), "products": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
