"""Draws a recorded run: bench/results/latency.json as docs/latency.svg (`python -m bench.plot`), with `gauntlet` the gauntlet's, and with
`compression_front` the trials of a search."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from bench.compression import _front_picture
from bench.gauntlet import _picture

ROOT = Path(__file__).resolve().parents[1]
PEERS = {
    "onnxruntime": ("ONNX Runtime", "#d97706"),
    "openvino": ("OpenVINO", "#7c3aed"),
    "torch": ("eager torch", "#64748b"),
}


def draw(result: dict, target: Path) -> None:
    """One row a model, best first; a dot is the median over the rounds of (maas_rt's time / the peer's)."""
    rows = sorted(result["rows"], key=lambda row: -row["ratio"]["onnxruntime"])
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(rows) + 1.6))
    for y, row in enumerate(rows):
        axes.axhline(y, color="#e2e8f0", linewidth=0.8, zorder=0)
        for peer, (_, color) in PEERS.items():
            if peer in row["ratio"]:
                axes.plot(row["ratio"][peer], y, "o", color=color, markersize=7)
    axes.axvline(1, color="#0f172a", linewidth=1.2)
    axes.text(1.01, len(rows) - 0.35, "as fast as the peer", fontsize=8, color="#0f172a")
    axes.set_yticks(range(len(rows)), [f"{row['model']}  ({row['median_ms']['maas_rt']:.3g} ms)" for row in rows])
    axes.set_xlim(0, 1.2)
    axes.set_ylim(-0.6, len(rows) - 0.1)
    axes.set_xlabel("maas_rt's time / the peer's: left of 1 is faster")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(left=False)
    versions, machine = result["versions"], result["machine"]
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", color=color, label=f"{name} {versions[peer]}")
        for peer, (name, color) in PEERS.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3, frameon=False, fontsize=9, bbox_to_anchor=(0.5, 0.0))
    row = rows[0]
    axes.set_title(
        f"float32, batch {row['batch']}, {row['threads']} thread, {machine['cpu']} ({machine.get('isa', 'avx2')})",
        fontsize=10,
        loc="left",
    )
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    plt.rcParams["svg.hashsalt"] = "maas_rt"
    figure.savefig(target, metadata={"Date": None})


DRAWINGS = {"latency": draw, "gauntlet": _picture.draw, "compression_front": _front_picture.draw}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.plot", description=__doc__)
    parser.add_argument("run", nargs="?", choices=list(DRAWINGS), default="latency")
    parser.add_argument("--input", type=Path, help="default: bench/results/RUN.json")
    parser.add_argument("--output", type=Path, help="default: docs/RUN.svg")
    options = parser.parse_args()
    source = options.input or ROOT / "bench" / "results" / f"{options.run}.json"
    result = json.loads(source.read_text())
    if not result["quiet"] and options.output is None:
        raise SystemExit(
            f"the machine was not quiet in the recorded run, which is void: run {result['command']} again "
            "(with --output FILE it is drawn all the same)"
        )
    DRAWINGS[options.run](result, options.output or ROOT / "docs" / f"{options.run}.svg")


if __name__ == "__main__":
    main()
