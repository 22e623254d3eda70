"""GPTQ: weights rounded one input after the other, each rounding error made up for by the inputs that are still floats.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022),
algorithm 1. The Hessian of a row's squared error is X X^T of what the layer reads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ._grids import Blocks, Grid, fitted_grid, grouped, stored
from ._moments import inverse_factor

__all__ = ["compensated", "gptq"]

Array = npt.NDArray[np.float64]

_TOGETHER = 32  # inputs whose errors reach the others in one product


def gptq(
    rows: npt.NDArray[np.float32],
    hessian: Array,
    bits: int,
    group: int | None,
    symmetric: bool,
    act_order: bool,
    scales: str = "float32",
) -> tuple[Blocks, float]:
    """Rows [rows, K] in groups, by the Hessian [K, K]; and the damping that its factorisation took, of the mean diagonal.

    `act_order` takes the inputs of the largest diagonal first, with the groups' steps found before anything is rounded, so that groups stay
    where they are; otherwise a group's steps are found when its turn comes, on what the errors before it have made of it. Weights that are 0,
    as pruned ones, stay 0.
    """
    block = min(group or rows.shape[1], rows.shape[1])
    groups = grouped(rows, group)
    grid = fitted_grid(groups, bits, symmetric, "mse", scales) if act_order else Grid.empty(groups, bits)
    refit = None if act_order else lambda x: fitted_grid(x, bits, symmetric, "mse", scales)
    q, grid, damping = compensated(rows, hessian, grid, block, act_order, refit)
    return stored(q, grid, block), damping


def compensated(
    rows: npt.NDArray[np.float32],
    hessian: npt.NDArray[Any],
    grid: Grid,
    block: int,
    act_order: bool = False,
    refit: Callable[[npt.NDArray[np.float32]], Grid] | None = None,
) -> tuple[Array, Grid, float]:
    """Numbers [rows, K] of a grid with groups of `block`; the grid, with the steps that `refit` finds of groups when their turn comes; and
    the damping."""
    depth = rows.shape[1]
    hessian = hessian.astype(np.float64)
    silent = np.diag(hessian) <= 0  # inputs that are always 0: rounded to nearest, whatever they are
    hessian[silent, silent] = 1.0
    order = np.argsort(-np.diag(hessian), kind="stable") if act_order else np.arange(depth)
    upper, damping = inverse_factor(hessian[np.ix_(order, order)])
    scale, zero = grid.scale.copy(), grid.zero.copy()
    weights = np.ascontiguousarray(
        rows.T[order], np.float64
    )  # [K, rows]: what is done to an input is done to numbers side by side
    zeros = weights == 0
    q = np.empty_like(weights)
    for begin in range(0, depth, _TOGETHER):
        end = min(begin + _TOGETHER, depth)
        errors = np.zeros((end - begin, len(rows)))
        for k in range(begin, end):
            at = int(order[k]) // block
            if refit is not None and k % block == 0:
                # What lies behind this stretch has not had its errors yet.
                behind = upper[begin:k, end : k + block].T @ errors[: k - begin]
                own = np.concatenate([weights[k:end][:block], weights[end : k + block] - behind])
                fresh = refit(np.ascontiguousarray(own.T, np.float32)[:, None])
                scale[:, at], zero[:, at] = fresh.scale[:, 0], fresh.zero[:, 0]
            column = Grid(scale[:, at], zero[:, at], grid.levels)
            q[k] = np.where(zeros[k], column.zero, column.quantize(weights[k][:, None])[:, 0])
            errors[k - begin] = (weights[k] - column.dequantize(q[k][:, None])[:, 0]) / upper[k, k]
            weights[k:end] -= np.outer(upper[k, k:end], errors[k - begin])
        weights[end:] -= upper[begin:end, end:].T @ errors
    return np.ascontiguousarray(q[np.argsort(order)].T), Grid(scale, zero, grid.levels), damping
