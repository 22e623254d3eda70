"""What is counted, run by the emulated Python: `python -m bench._counted WHAT FOLDER OUT` loads once and calls three times.

WHAT is a peer of bench.peers, on the model prepared in FOLDER, or a product of ours alone: gemm_f32, gemm_u8s8. OUT is an .npz with
the outputs of the last call. Before the first call and behind each one the counting plugin is told (count_instructions.c).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.peers import PEERS

CALLS = 3
ROWS, COLUMNS, DEPTH = 128, 512, 512  # of the products

Call = Callable[[], list[np.ndarray]]


def main() -> None:
    what, folder, out = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    call = PRODUCTS[what]() if what in PRODUCTS else _model(what, folder)
    os.getpgid(0)
    for _ in range(CALLS):
        outputs = call()
        os.getpgid(0)
    np.savez(out, *outputs)


def _model(peer: str, folder: Path) -> Call:
    with np.load(folder / "inputs.npz") as file:
        inputs = {name: file[name] for name in file.files}
    _, outputs = PEERS[peer].load(folder, inputs, 1)
    return outputs


def _gemm_f32() -> Call:
    from maas_rt import _kernels

    rng = np.random.default_rng(1)
    a, w, bias = (rng.standard_normal(shape, np.float32) for shape in ((ROWS, DEPTH), (DEPTH, COLUMNS), (COLUMNS,)))
    attrs = {"n": COLUMNS, "k": DEPTH}
    packed = _kernels.pack("gemm_f32", "gemm_f32_nr16_v1", w, attrs)
    return lambda: _kernels.run("gemm_f32", [a, packed, bias], [(ROWS, COLUMNS)], attrs)


def _gemm_u8s8() -> Call:
    from maas_rt import _kernels

    rng = np.random.default_rng(1)
    a = rng.integers(0, 256, (ROWS, DEPTH), np.uint8)
    w = np.clip(np.rint(rng.standard_normal((DEPTH, COLUMNS)) * 32), -127, 127).astype(np.int8)
    scale, bias = np.full(COLUMNS, 2e-5, np.float32), rng.standard_normal(COLUMNS, np.float32)
    attrs = {"n": COLUMNS, "k": DEPTH}
    packed = _kernels.pack("gemm_u8s8", "gemm_u8s8_nr16_v2", w, attrs)
    attrs |= {"a_zero": 128, "y_scale": 0.02, "y_zero": 128}
    return lambda: _kernels.run("gemm_u8s8", [a, packed, scale, bias], [((ROWS, COLUMNS), np.uint8)], attrs)


PRODUCTS = {"gemm_f32": _gemm_f32, "gemm_u8s8": _gemm_u8s8}

if __name__ == "__main__":
    main()
