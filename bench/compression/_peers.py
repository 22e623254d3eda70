"""The peers that quantize what we do, with the same calibration data, and how far each is from the float model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import _environments
from .._environments import ROOT

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Peer:
    """`title` is for the table. The program tries several settings: the best one counts."""

    title: str
    environment: str
    program: str


PEERS = {
    "nncf": Peer("NNCF, OpenVINO", "nncf", "_with_nncf"),
    "onnxruntime": Peer("ONNX Runtime", "main", "_with_onnxruntime"),
}


def outputs_of_peers(
    folder: Path, calibration: Arrays, inputs: Arrays, batch: int = 1, transformer: bool = False
) -> dict[str, dict[str, np.ndarray]]:
    """What each peer's variants compute of `inputs` (samples along the first axis, `batch` at a time) after quantizing
    folder/model.onnx. A peer that cannot is named on stderr with the reason, and has none."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, peer in PEERS.items():
        own = folder / name
        own.mkdir(parents=True, exist_ok=True)
        (own / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
        np.savez(own / "calibration.npz", **calibration)
        np.savez(own / "inputs.npz", **inputs)
        (own / "job.json").write_text(json.dumps({"batch": batch, "transformer": transformer}))
        for stale in own.glob("outputs.*.npz"):
            stale.unlink()
        _run(peer, own)
        found[peer.title] = {path.name.split(".")[1]: np.load(path)["y"] for path in sorted(own.glob("outputs.*.npz"))}
    return found


def _run(peer: Peer, folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [_environments.python(peer.environment), "-m", f"{__package__}.{peer.program}", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    (folder / "log").write_text(done.stdout + done.stderr)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        print(f"{peer.title}: {reason} ({folder / 'log'})", file=sys.stderr)


def best(
    outputs: Mapping[str, Mapping[str, np.ndarray]], figures: Callable[[np.ndarray], Mapping[str, float]], by: str
) -> tuple[dict[str, Mapping[str, float]], dict[str, str]]:
    """The figures of each peer's best variant, by the figure `by`; and that variant's name."""
    kept: dict[str, Mapping[str, float]] = {}
    variant: dict[str, str] = {}
    for peer, variants in outputs.items():
        each = {name: figures(y) for name, y in variants.items()}
        if each:
            variant[peer] = max(each, key=lambda name: each[name][by])
            kept[peer] = each[variant[peer]]
    return kept, variant


def signal_to_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """In dB, over all elements; both in float64."""
    want = expected.astype(np.float64)
    error = np.square(actual.astype(np.float64) - want).sum()
    return float(10 * np.log10(np.square(want).sum() / error)) if error else float("inf")


def varying_to_error(expected: np.ndarray, actual: np.ndarray) -> float:
    """In dB: what varies over the samples, per element of an output, against the error. A constant says nothing."""
    want = expected.astype(np.float64)
    error = np.square(actual.astype(np.float64) - want).sum()
    return float(10 * np.log10(np.square(want - want.mean(0)).sum() / error)) if error else float("inf")
