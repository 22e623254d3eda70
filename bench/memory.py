"""How much memory a compile takes, against its model's float32 weights: `python -m bench.memory`, written to bench/results/memory.json.

Each model of bench/_large.py is compiled, verified and saved by a process of its own. Its peak is VmHWM less what it was when everything was
imported, so that it counts the source's weights, mapped files included; that of the process that runs ONNX Runtime is counted apart, less what it was
before it opened a model. Weights of few bits count as float32 too. `--models a,b` chooses, `--stages` tells each stage's peak. Other jobs on the
machine change the seconds and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from bench._large import SOURCES
from bench._results import write_results

RESULTS = Path(__file__).parent / "results" / "memory.json"
LIMIT = 2.5


def _status(pid: int | str, key: str) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), 0)


class _Peaks:
    """Of this process by stage, and of its child."""

    def __init__(self) -> None:
        self.base = _status("self", "VmRSS")
        self.stages: dict[str, int] = {}
        self.child = 0
        self._stage = "import"
        self._lowest: dict[int, int] = {}
        self._reset()
        threading.Thread(target=self._watch, daemon=True).start()

    def told(self, stage: str, fraction: float) -> None:
        self._note()
        self._stage = stage
        self._reset()

    def _note(self) -> None:
        self.stages[self._stage] = max(self.stages.get(self._stage, 0), _status("self", "VmHWM") - self.base)

    def _reset(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")

    def _watch(self) -> None:
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        while True:
            for pid in map(int, children.read_text().split()):
                now = _status(pid, "VmRSS")
                if now:
                    self._lowest.setdefault(pid, 80 << 20)  # Python with onnx and its runtime
                    self.child = max(self.child, now - self._lowest[pid])
            time.sleep(0.01)


def _measure(name: str, folder: str) -> dict[str, Any]:
    """In a process of its own."""
    import onnx
    import onnxruntime  # noqa: F401 - what a compile imports counts for nothing
    import torch
    import tvm  # noqa: F401
    from maas_rt.compiler import _pipeline, compile, importers  # noqa: F401
    from maas_rt.compiler.importers.onnx import import_onnx  # noqa: F401

    onnx.__version__  # noqa: B018
    compile(_tiny())
    compile(torch.nn.Linear(2, 2).eval(), [torch.ones(1, 2)])
    peaks = _Peaks()
    begin = time.perf_counter()
    artifact = SOURCES[name].compile(folder, peaks.told)
    peaks.told("save", 1.0)
    path = os.path.join(folder, "m.mrt")
    artifact.save(path)
    peaks.told("end", 1.0)
    return {
        "peak": max(peaks.stages.values()),
        "source_framework": peaks.child,
        "seconds": round(time.perf_counter() - begin, 1),
        "file": os.path.getsize(path),
        "stages": peaks.stages,
        "verified": artifact.manifest["verified"]["status"],
    }


def _tiny() -> Any:
    from onnx import TensorProto, helper

    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", info[:1], info[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SOURCES))
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(*args.measure)))
        return 0
    results: dict[str, Any] = {}
    worst = 0.0
    for name in args.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            weights = SOURCES[name].write(folder)
            command = [sys.executable, "-m", "bench.memory", "--measure", name, folder]
            done = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            print(f"{name:20} failed")
            worst = float("inf")
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        ratio = found["peak"] / weights
        worst = max(worst, ratio)
        results[name] = {"weights": weights, "ratio": round(ratio, 2), **found}
        print(f"{name:20} weights {weights >> 20:5} MiB, peak {found['peak'] >> 20:5} MiB = {ratio:.2f} x, source framework "
              f"{found['source_framework'] / weights:.2f} x, file {found['file'] / weights:.2f} x, {found['seconds']} s", flush=True)  # fmt: skip
        if args.stages:
            for stage, peak in found["stages"].items():
                print(f"    {stage:28} {peak / weights:.2f}")
    if len(results) == len(SOURCES):
        write_results(RESULTS, {"limit": LIMIT, "models": results})
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
