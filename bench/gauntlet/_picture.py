"""The picture of a recorded run: for each model, where each peer stands against us; a panel for each thread count and batch."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

COLORS = {
    "onnxruntime": ("ONNX Runtime", "#d97706", "o"),
    "openvino": ("OpenVINO", "#7c3aed", "o"),
    "mnn": ("MNN", "#059669", "s"),
    "ncnn": ("ncnn", "#0284c7", "s"),
    "litert": ("LiteRT", "#dc2626", "D"),
    "inductor": ("torch.compile", "#64748b", "^"),
    "torch": ("eager torch", "#cbd5e1", "^"),
}
RIGHT = 8.0  # peers further behind are drawn at the edge, as arrows


def draw(result: dict[str, Any], target: Path) -> None:
    """A mark is the median over the rounds of (the peer's time / ours); ringed: the peer that the model's result is against."""
    rows = [row for row in result["rows"] if row["precision"] == "fp32" and row["speed_to_best"] is not None]
    settings = sorted({(row["batch"], row["threads"]) for row in rows})
    models = _order(rows, settings[0])
    height = 0.31 * len(models) + 1.1
    vertical = 1 if len(settings) <= 2 else 2
    across = -(-len(settings) // vertical)
    figure, grid = plt.subplots(
        vertical, across, figsize=(5.2 * across + 0.6, height * vertical + 0.7), squeeze=False, sharey=True
    )
    for axes in grid.flat[len(settings) :]:
        axes.set_visible(False)
    for axes, (batch, threads) in zip(grid.flat, settings):
        here = {row["model"]: row for row in rows if (row["batch"], row["threads"]) == (batch, threads)}
        _panel(axes, [here.get(model) for model in models])
        counted = [row["speed_to_best"] for row in here.values() if row["quiet"]] or [math.nan]
        mean = statistics.geometric_mean(counted)
        threads_text = "1 thread" if threads == 1 else f"{threads} threads"
        axes.set_title(
            f"batch {batch}, {threads_text}: {mean:.2f} × the best peer (geometric mean)", fontsize=9.5, loc="left"
        )
        axes.set_yticks(range(len(models)), models, fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("peer's time / maas_rt's: right of 1, maas_rt is faster", fontsize=9)
    _legend(figure, result, rows)
    figure.suptitle(
        f"float32, {result['machine']['cpu']} ({result['machine'].get('isa', 'avx2')})", x=0.01, ha="left", fontsize=10
    )
    figure.tight_layout(rect=(0, 0.75 / (height * vertical + 0.7), 1, 1))
    plt.rcParams["svg.hashsalt"] = "maas_rt"
    figure.savefig(target, metadata={"Date": None})


def _order(rows: list[dict[str, Any]], setting: tuple[int, int]) -> list[str]:
    """Models by their result at the first setting, the best at the top."""
    speed = {row["model"]: row["speed_to_best"] for row in rows}
    speed |= {row["model"]: row["speed_to_best"] for row in rows if (row["batch"], row["threads"]) == setting}
    return sorted(speed, key=lambda model: float(speed[model]))


def _panel(axes: Axes, rows: list[dict[str, Any] | None]) -> None:
    lowest = min((s for row in rows if row for s in row["speed"].values()), default=1.0)
    left = min(0.6, 0.9 * lowest)
    axes.set_xscale("log")
    axes.set_xlim(left, RIGHT * 1.08)
    axes.set_ylim(-0.7, len(rows) - 0.3)
    axes.axvspan(left, 1, color="#fef2f2", zorder=0)
    axes.axvline(1, color="#0f172a", linewidth=1.1, zorder=1)
    ticks = [tick for tick in (0.25, 0.5, 0.7, 1, 1.5, 2, 3, 4, 6, 8) if tick >= left]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=8)
    axes.minorticks_off()
    for y, row in enumerate(rows):
        axes.axhline(y, color="#e2e8f0", linewidth=0.8, zorder=0)
        if row is None:
            axes.text(1.05, y, "not measured, or not counted", fontsize=8, va="center", color="#64748b")
            continue
        for peer, speed in row["speed"].items():
            if peer in COLORS and peer not in row["wrong"]:
                _mark(axes, speed, y, peer, peer == row["best_peer"])
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)


def _mark(axes: Axes, speed: float, y: float, peer: str, best: bool) -> None:
    _, color, shape = COLORS[peer]
    far = speed > RIGHT
    axes.plot(
        min(speed, RIGHT),
        y,
        ">" if far else shape,
        color=color,
        markersize=5.5,
        markeredgecolor="#0f172a" if best else color,
        markeredgewidth=1.3 if best else 0.5,
        zorder=4 if best else 3,
    )


def _legend(figure: Any, result: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    shown = {peer for row in rows for peer in row["speed"]}
    handles = [
        Line2D([], [], marker=shape, linestyle="", color=color, label=f"{name} {result['versions'][peer]}")
        for peer, (name, color, shape) in COLORS.items()
        if peer in shown
    ]
    ring: dict[str, Any] = {"marker": "o", "linestyle": "", "color": "white", "markeredgecolor": "#0f172a"}
    handles += [
        Line2D([], [], **ring, label="the best peer of the model"),
        Line2D([], [], marker=">", linestyle="", color="#94a3b8", label=f"more than {RIGHT:g} times slower"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=min(5, len(handles)), frameon=False, fontsize=8.5)
