"""Latency of maas_rt beside its peers, in one run: `python -m bench.latency`. The protocol is in README.md."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from bench import machine, peers
from bench._agreement import relative_error
from bench._formats import FORMATS
from bench._harness import QUIET, ROOT, Comparison, compare
from bench._results import write_results
from bench.models import CASES, ODD_CASES, ModelCase

PEERS = ["maas_rt", "onnxruntime", "openvino", "torch"]
WORK = ROOT / "build" / "bench"


def prepare(case: ModelCase, batch: int) -> Path:
    """Compile and export a case into build/bench/NAME: model.mrt, model.onnx, inputs.npz, expected.npz."""
    folder = WORK / f"batch{batch}" / case.name
    folder.mkdir(parents=True, exist_ok=True)
    for kind in ("torch", "mrt", "onnx"):
        FORMATS[kind](case.name, batch, folder)
    return folder


def measure(cases: list[ModelCase], threads: int, batch: int, rounds: int) -> list[dict[str, object]]:
    rows = []
    for case in cases:
        folder = prepare(case, batch)
        names = PEERS + (["maas_rt_c"] if case.name == "mlp" else [])
        result = compare(folder, names, threads, rounds)
        rows.append(_row(case.name, folder, result, threads, batch))
        print(_line(rows[-1]), flush=True)
    return rows


def _row(name: str, folder: Path, result: Comparison, threads: int, batch: int) -> dict[str, object]:
    return {
        "model": name,
        "threads": threads,
        "batch": batch,
        "median_ms": {peer: result.median(peer) * 1e3 for peer in result.rounds},
        "spread": {peer: max(r) / min(r) for peer, r in result.rounds.items()},
        "ratio": {peer: statistics.median(result.ratios(peer)) for peer in result.rounds if peer != "maas_rt"},
        "best_peer": result.best_peer(),
        "ratio_to_best": result.best_ratio(),
        "relative_error": {peer: relative_error(folder, peer) for peer in result.rounds},
        "failed": result.errors,
    }


def _line(row: dict) -> str:
    times = "".join(f"{row['median_ms'].get(p, float('nan')):>16.3f}" for p in PEERS)
    ratios = "".join(f"{row['ratio'].get(p, float('nan')):>13.2f}" for p in PEERS[1:])
    return f"{row['model']:<15}{times}{ratios}{row['relative_error'].get('maas_rt', float('nan')):>10.1e}"


def first_result(folder: Path, repeats: int = 7) -> dict[str, float]:
    """Seconds from process start to the first result of a model: a C program, and Python with ONNX Runtime; medians, interleaved."""
    program = _build_classify()
    raw = folder / "input.f32"
    with np.load(folder / "inputs.npz") as file:
        file["x"].astype(np.float32).tofile(raw)
    script = (
        f"import onnxruntime, numpy; s = onnxruntime.InferenceSession({str(folder / 'model.onnx')!r}, "
        "providers=['CPUExecutionProvider']); "
        f"s.run(None, {{'x': numpy.fromfile({str(raw)!r}, 'float32').reshape(1, 3, 224, 224)}})"
    )
    commands = {
        "c": [str(program), str(folder / "model.mrt"), str(raw), "--top", "1"],
        "python_onnxruntime": [sys.executable, "-c", script],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def _build_classify() -> Path:
    import maas_rt

    package, program = Path(maas_rt.__file__).parent, WORK / "classify"
    subprocess.run(
        ["cc", "-O2", "-o", str(program), str(ROOT / "csrc" / "examples" / "classify.c"), f"-I{package / 'include'}"]
        + [f"-L{package}", "-lmaas_rt", f"-Wl,-rpath,{package.resolve()}"],
        check=True,
    )
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", help="comma-separated; default: all, the odd ones too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results" / "latency.json")
    args = parser.parse_args()
    every = {**CASES, **ODD_CASES}
    cases = [every[name] for name in args.models.split(",")] if args.models else list(every.values())

    before = machine.peak_gflops()
    print(
        f"{'':15}"
        + "".join(f"{p + ' ms':>16}" for p in PEERS)
        + "".join(f"{'/' + p:>13}" for p in PEERS[1:])
        + f"{'error':>10}"
    )
    rows = measure(cases, args.threads, args.batch, args.rounds)
    start = (
        first_result(WORK / "batch1" / "mobilenet_v2")
        if args.batch == 1 and "mobilenet_v2" in {c.name for c in cases}
        else None
    )
    after = machine.peak_gflops()
    quiet = abs(after - before) <= QUIET * before

    result = {
        "command": "python -m bench.latency",
        "machine": machine.describe(),
        "peak_gflops": [before, after],
        "quiet": quiet,
        "versions": {peer: peers.version(peer) for peer in PEERS},
        "rows": rows,
        "first_result_seconds": start,
    }
    write_results(args.output, result)
    print(
        f"ratios are our time over the peer's, median of {args.rounds} rounds, {args.threads} thread(s), batch {args.batch}; below 1 is faster"
    )
    if start:
        ratio = start["python_onnxruntime"] / start["c"]
        print(
            f"process start to first MobileNetV2 result: C {start['c'] * 1e3:.0f} ms, Python with ONNX Runtime "
            f"{start['python_onnxruntime'] * 1e3:.0f} ms: {ratio:.1f} times sooner"
        )
    print(
        f"FMA peak {before:.1f} GFLOP/s before, {after:.1f} after"
        + ("" if quiet else ": the machine was not quiet, this run is void")
    )
    print(f"wrote {args.output}")
    return 0 if quiet else 3


if __name__ == "__main__":
    raise SystemExit(main())
