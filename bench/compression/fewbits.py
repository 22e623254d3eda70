"""Weights of 4 bits in groups of 32: bench.weights' measurements; and the library's size."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import maas_rt
from maas_rt import _kernels

from .. import weights
from ._rows import Goal, Measured, row

ACTIVATIONS = ("float", "int8")
KINDS = {"symmetric": True, "asymmetric": False}
ROUNDS = 15


@row(
    "int4-rows",
    "int4 weight-only at 8, 32 and 128 rows, our fp32 time over it",
    *(Goal(f"least, {each} activations", 1, 1) for each in ACTIVATIONS),
    timed=True,
)
def _rows() -> Measured:
    isa = _kernels.cpu_isa()
    found = [each for m in weights.ROWS for k, n in weights.MORE_ROWS for each in weights.more_rows(m, k, n, isa, ROUNDS)]  # fmt: skip
    least = {
        f"least, {kind} activations": min(each["against_float"] for each in found if each["activations"] == kind)
        for kind in ACTIVATIONS
    }
    return Measured(least, more={"products": [_brief(each, "rows", "against_float") for each in found]})


@row(
    "int4-row",
    "int4 weight-only product of one row, int8 activations",
    Goal("share of the read bandwidth, symmetric", 0.8, 0.95),
    Goal("share of the read bandwidth, asymmetric", 0.7, 0.85),
    Goal("llama.cpp's q4_0 time over it", 1.3, 2),
    timed=True,
)
def _row() -> Measured:
    isa = _kernels.cpu_isa()
    every = [each for k, n in weights.ONE_ROW for each in weights.one_row(k, n, isa, 2 * ROUNDS, peer=True)]
    found = [each for each in every if each["activations"] == "int8"]
    least = {
        f"share of the read bandwidth, {name}": min(each["share"] for each in found if each["symmetric"] == kind)
        for name, kind in KINDS.items()
    }
    least["llama.cpp's q4_0 time over it"] = min(each["against_llama"] for each in found if each["symmetric"])
    return Measured(least, more={"products": [_brief(each, "share", "against_llama") for each in every]})


def _brief(found: dict[str, Any], *figures: str) -> dict[str, Any]:
    return {name: found[name] for name in ("k", "n", "activations", "symmetric", *figures)}


@row("library", "library, stripped", Goal("MB", 1.2, 1.1, least=False))
def _library() -> Measured:
    built = Path(maas_rt.__file__).with_name("libmaas_rt.so")
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(built, folder)
        subprocess.run(["strip", str(copy)], check=True)
        return Measured({"MB": Path(copy).stat().st_size / 1e6})
