"""Weights of 4 bits: products of few rows against our own float32, one row against the rate of reading memory; and the library's size."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from maas_rt.compiler import Recipe, WeightOnly, compile
from torch import nn

import maas_rt

from .. import machine
from . import _timing
from ._rows import Goal, Measured, row

WIDTH, COUNTS = 1536, (8, 32, 128)
LARGE = 8192  # a layer's weights: 38 MB at 4 bits; two of them are beyond any cache here
ACTIVATIONS = ("float", "int8")


def _compiled(net: nn.Module, rows: int, method: WeightOnly | None) -> Any:
    example = [torch.zeros(rows, next(net.parameters()).shape[1])]
    return compile(net, example, recipe=Recipe(quantize=method) if method else None, verify=False)


@row(
    "int4-rows",
    "int4 weight-only products of 8, 32 and 128 rows",
    *(Goal(f"most time over our fp32, {each} activations", 1, 1, least=False) for each in ACTIVATIONS),
    timed=True,
)
def _rows() -> Measured:
    torch.manual_seed(0)
    net, found = nn.Linear(WIDTH, WIDTH), {each: {} for each in ACTIVATIONS}
    for rows in COUNTS:
        x = {"input": np.random.default_rng(0).standard_normal((rows, WIDTH), np.float32)}
        forms = {each: _compiled(net, rows, WeightOnly(method="rtn", activations=each)) for each in ACTIVATIONS}
        runs = {name: _timing.maas_rt(each, x) for name, each in {**forms, "fp32": _compiled(net, rows, None)}.items()}
        times = _timing.interleaved(runs)
        for each in ACTIVATIONS:
            found[each][rows] = 1 / _timing.best_ratio(times, each, ["fp32"])[0]
    figures = {f"most time over our fp32, {each} activations": max(of.values()) for each, of in found.items()}
    return Measured(figures, more={"by rows": found})


@row(
    "int4-read",
    "int4 weight-only product of one row, share of the read bandwidth",
    Goal("symmetric", 0.8, 0.95),
    Goal("asymmetric", 0.7, 0.85),
    timed=True,
)
def _read() -> Measured:
    """Activations in 8 bits; bytes are those of weights, scales and minima in the file."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(LARGE, LARGE, bias=False) for _ in range(2)))
    x = {"input": np.random.default_rng(0).standard_normal((1, LARGE), np.float32)}
    figures = {}
    for name in ("symmetric", "asymmetric"):
        method = WeightOnly(method="rtn", symmetric=name == "symmetric", activations="int8")
        artifact = _compiled(net, 1, method)
        size = len(artifact.to_bytes())
        run, shares = _timing.maas_rt(artifact, x), []
        for _ in range(5):
            (seconds,) = _timing.interleaved({"ours": run}, 2)["ours"][-1:]
            shares.append(size / seconds / 1e9 / machine.read_bandwidth())
        figures[name] = float(np.median(shares))
    return Measured(figures, more={"bytes": size})


@row("library", "library, stripped", Goal("MB", 1.2, 1.1, least=False))
def _library() -> Measured:
    built = Path(maas_rt.__file__).with_name("libmaas_rt.so")
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(built, folder)
        subprocess.run(["strip", str(copy)], check=True)
        return Measured({"MB": Path(copy).stat().st_size / 1e6})
