"""Times products with weights of 4 bits, groups of 32, one thread: of one row against a plain read of memory and against llama.cpp's q4_0, of more rows
against dense float32 weights.

All run in one process, in turns. Of one row each call reads another copy of the weights, more of them than caches hold; a figure is the median of
the calls, what is read being all that the weights take, scales and zero points included. Time is that of the thread, so that who else has the CPU
meanwhile does not count, though what others leave of caches and memory does.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench._ggml import Products
from bench._results import write_results
from bench.kernels._cases import placed
from bench.machine import describe, read_once
from bench.sparse import slices
from maas_rt import _kernels, _native

ONE_ROW = ((4096, 11008), (2048, 8192))  # k, n
MORE_ROWS = ((2048, 2048), (4096, 4096))
ROWS = (8, 32, 128)
BEYOND = 192 << 20  # bytes of all copies together
GROUP = 32
SCALES = ("float16", "float32")
CONTRACTS = {"float": "gemm_f32q", "int8": "gemm_s8q4"}  # by what activations are
Array = NDArray[Any]
Run = Callable[[], Any]


class Weights:
    """Of 4 bits, drawn: packed as kernels read them, in so many copies; scales in float16, as recipes have them, or in float32."""

    def __init__(self, k: int, n: int, copies: int, scales: str) -> None:
        rng = np.random.default_rng(1)
        self.attrs = {"n": n, "k": k, "bits": 4, "group": GROUP}
        q, shape = rng.integers(-8, 8, (k, n)).astype(np.int8), (k // GROUP, n)
        scale, zero = rng.uniform(0.01, 0.02, shape).astype(scales), rng.integers(-8, 8, shape).astype(np.int8)
        self.floats = q * np.repeat(scale.astype(np.float32), GROUP, 0)
        packed = _kernels.pack("gemm_f32q", "gemm_f32q_nr16_v1", q, self.attrs)
        self.copies = [[placed(part) for part in (packed, scale, zero)] for _ in range(copies)]

    def nbytes(self, symmetric: bool) -> int:
        return sum(part.nbytes for part in self.copies[0][: 2 if symmetric else 3])

    def runs(self, activations: str, symmetric: bool, isa: str, x: Array, y: Array) -> list[Run]:
        """One for each copy."""

        def run(parts: Sequence[Array]) -> Run:
            inputs = [x, *parts[: 2 if symmetric else 3]]
            return lambda: _native.kernel_run(CONTRACTS[activations], isa, inputs, [y], self.attrs, 1)

        return [run(parts) for parts in self.copies]


def seconds_of(turns: Sequence[tuple[Iterator[list[Run]], int]], rounds: int) -> list[float]:
    """The median seconds of each: what has a part in a ring of copies takes the next of them, whoever had the last."""
    times: list[list[float]] = [[] for _ in turns]
    for _ in range(rounds):
        for (ring, which), taken in zip(turns, times, strict=True):
            run = next(ring)[which]
            start = time.thread_time()
            run()
            taken.append(time.thread_time() - start)
    return [statistics.median(taken) for taken in times]


def one_row(k: int, n: int, isa: str, rounds: int, peer: bool, scales: str = SCALES[0]) -> list[dict[str, Any]]:
    """Rows of the table: what is read a second, its share of what a plain read gives, and llama.cpp's time over ours."""
    copies = BEYOND // (k * n // 2) + 1
    weights, x = Weights(k, n, copies, scales), np.random.default_rng(2).standard_normal((1, k), np.float32)
    kinds = [(activations, symmetric) for activations in CONTRACTS for symmetric in (True, False)]
    results = [np.zeros((1, n), np.float32) for _ in kinds]
    ours = [weights.runs(*kind, isa, x, y) for kind, y in zip(kinds, results, strict=True)]
    ring = cycle(
        [list(runs) for runs in zip(*ours, [lambda p=p: read_once(p[0]) for p in weights.copies], strict=True)]
    )  # type: ignore[misc]
    turns = [(ring, i) for i in range(len(kinds) + 1)]
    theirs = [Products(x, weights.floats, copies, repacked) for repacked in (False, True)] if peer else []
    turns += [(cycle([[run] for run in products.runs()]), 0) for products in theirs]
    seconds_of(turns, 2)
    times = seconds_of(turns, rounds)
    read = weights.copies[0][0].nbytes / times[len(kinds)]
    want = x @ weights.floats
    llama: dict[str, Any] = {}
    if peer:
        best, products = min(zip(times[len(kinds) + 1 :], theirs, strict=True), key=lambda each: each[0])
        llama = {"llama_us": best * 1e6, "llama_error": _error(products.result(0), want)}
    rows = []
    for (activations, symmetric), taken, y in zip(kinds, times, results):
        gbps = weights.nbytes(symmetric) / taken
        row = {"k": k, "n": n, "isa": isa, "activations": activations, "symmetric": symmetric, "scales": scales}
        row |= {"us": taken * 1e6}
        row |= {"gbps": gbps / 1e9, "read_gbps": read / 1e9, "share": gbps / read}
        row |= {"error": _error(y, want)} if symmetric else {}
        rows.append(row | llama | ({"against_llama": llama["llama_us"] / row["us"]} if llama else {}))
    return rows


def _error(got: Array, want: Array) -> float:
    return float(np.abs(got - want).max() / np.abs(want).max())


def more_rows(m: int, k: int, n: int, isa: str, rounds: int, scales: str = SCALES[0]) -> list[dict[str, Any]]:
    """The time of dense float32 weights over ours."""
    weights, x = Weights(k, n, 1, scales), np.random.default_rng(2).standard_normal((m, k), np.float32)
    attrs, y = {"n": n, "k": k}, np.zeros((m, n), np.float32)
    dense = placed(_kernels.pack("gemm_f32", "gemm_f32_nr16_v1", weights.floats, attrs))
    kinds = [(activations, symmetric) for activations in CONTRACTS for symmetric in (True, False)]
    runs: list[Run] = [lambda: _native.kernel_run("gemm_f32", isa, [x, dense], [y], attrs, 1)]
    runs += [weights.runs(*kind, isa, x, y)[0] for kind in kinds]
    floats, *times = slices(runs, rounds)
    return [
        {"rows": m, "k": k, "n": n, "isa": isa, "activations": activations, "symmetric": symmetric, "scales": scales}
        | {"us": taken * 1e6, "float_us": floats * 1e6, "against_float": floats / taken}
        for (activations, symmetric), taken in zip(kinds, times)
    ]


def _kind(row: dict[str, Any]) -> str:
    return f"{row['activations']:5} {'symmetric' if row['symmetric'] else 'asymmetric':10}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.weights", description=__doc__)
    parser.add_argument("--isa", nargs="+", default=[_kernels.cpu_isa()], help="instruction sets (default: the best)")
    parser.add_argument("--rows", type=int, nargs="*", default=ROWS, help="of the second table")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--scales", choices=SCALES, default=SCALES[0], help="the scales' type (default: %(default)s)")
    parser.add_argument("--no-peer", action="store_true", help="leave llama.cpp out, which pip installs on first use")
    parser.add_argument("--json", type=Path, help="also write the results here")
    options = parser.parse_args()
    single: list[dict[str, Any]] = []
    several: list[dict[str, Any]] = []
    print(
        f"{'isa':7} {'k':>5} {'n':>5} {'activations':16} {'us':>6} {'GB/s':>5} {'read':>5} {'share':>6} {'llama.cpp us':>12} {'ratio':>6}"
    )
    for isa in options.isa:
        for k, n in ONE_ROW:
            for row in one_row(k, n, isa, options.rounds, not options.no_peer, options.scales):
                single.append(row)
                peer = f" {row['llama_us']:12.0f} {row['against_llama']:6.2f}" if "llama_us" in row else ""
                print(
                    f"{isa:7} {k:5} {n:5} {_kind(row)} {row['us']:6.0f} {row['gbps']:5.1f} {row['read_gbps']:5.1f} {row['share']:6.0%}{peer}",
                    flush=True,
                )
    print(f"\n{'isa':7} {'rows':>4} {'k':>5} {'n':>5} {'activations':16} {'us':>7} {'float32 us':>10} {'ratio':>6}")
    for isa in options.isa:
        for k, n in MORE_ROWS:
            for m in options.rows:
                for row in more_rows(m, k, n, isa, max(options.rounds // 4, 5), options.scales):
                    several.append(row)
                    print(
                        f"{isa:7} {m:4} {k:5} {n:5} {_kind(row)} {row['us']:7.0f} {row['float_us']:10.0f} {row['against_float']:6.2f}",
                        flush=True,
                    )
    if options.json:
        write_results(options.json, {"machine": describe(), "one_row": single, "more_rows": several})
    return 0


if __name__ == "__main__":
    sys.exit(main())
