"""Draws the trials of a search: what each form of the net scores, how long an image takes, and how large its file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

_DULL, _FRONT, _CHOSEN = "#cbd5e1", "#0284c7", "#d97706"


def draw(result: dict[str, Any], target: Path) -> None:
    """A dot is a trial, its area the file's size; the line joins those that no other beats in both; ringed: what was written. Trials that lost
    more than five times what the budget allows are counted, not drawn."""
    report = result["report"]
    allowed = 100 * report["budget"]["max_drop"]
    whole = 100 * report["score"]["float"]
    tried = [t for t in report["tried"] if not t["failure"] and t["score"] is not None]
    shown = [t for t in tried if 100 * t["score"] > whole - 5 * allowed]
    figure, axes = plt.subplots(figsize=(8, 4.2))
    for t in shown:
        color = _FRONT if t["on_front"] else _DULL
        axes.scatter(*_place(t), s=_area(t), color=color, alpha=0.85, linewidths=0)
        if t["chosen"]:
            axes.scatter(*_place(t), s=_area(t) + 90, facecolors="none", edgecolors=_CHOSEN, linewidths=2)
    front = sorted(_place(t) for t in shown if t["on_front"])
    axes.plot(*zip(*front, strict=True), color=_FRONT, linewidth=1.2, zorder=0)
    axes.axhline(whole - allowed, color="#dc2626", linewidth=1, linestyle="--")
    axes.set_xlim(0, 1.25 * max(_place(t)[0] for t in shown))
    axes.set_ylim(whole - 5.5 * allowed, max(_place(t)[1] for t in shown) + allowed)
    axes.text(0, whole - allowed, " the budget", color="#dc2626", fontsize=8, va="bottom")
    for t in shown:
        if not t["layers"] or t["chosen"]:
            word = "chosen" if t["chosen"] else "float"
            text = f"{word}: {100 * t['score']:.1f} %, {_place(t)[0]:.0f} µs, {t['bytes'] / 1000:.0f} kB"
            axes.annotate(text, _place(t), textcoords="offset points", xytext=(0, -26), ha="center", fontsize=8)
    axes.set_xlabel("latency of one image, µs, one thread: left is quicker; the larger the dot, the larger the file", fontsize=9)  # fmt: skip
    axes.set_ylabel("accuracy, % of the images that choose", fontsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    machine, below = result["machine"], len(report["tried"]) - len(shown)
    axes.set_title(
        f"{result['net']} on Fashion-MNIST: {len(report['tried'])} trials, {below} below the picture; {machine['cpu']} "
        f"({machine.get('isa', 'avx2')})",
        fontsize=10, loc="left",
    )  # fmt: skip
    figure.tight_layout()
    plt.rcParams["svg.hashsalt"] = "maas_rt"
    figure.savefig(target, metadata={"Date": None})


def _place(trial: dict[str, Any]) -> tuple[float, float]:
    return trial["latency"] * 1e6, 100 * trial["score"]


def _area(trial: dict[str, Any]) -> float:
    return float(trial["bytes"]) / 2500
