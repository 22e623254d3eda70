"""Instructions that ours and the peers' aarch64 builds execute, counted under qemu-user: `python -m bench.instructions`.

Work, not time: a count says nothing of caches, of how many instructions a core begins at once or of how long each takes. The third call of a process
is counted, from the end of the second on, in two processes that should agree.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from bench import _aarch64
from bench._agreement import quantized_error, relative_error
from bench._counted import CALLS, COLUMNS, DEPTH, PRODUCTS, ROWS
from bench._results import write_results
from bench.peers import PEERS

ROOT = _aarch64.ROOT
WORK = ROOT / "build" / "bench" / "instructions"
RESULTS = ROOT / "bench" / "results" / "instructions.json"
TOLERANCE = 1e-4  # of the outputs' scale, float32
LANES = 4  # float32 in a register

FLOAT_PEERS = ("onnxruntime", "ncnn", "litert")


@dataclass(frozen=True)
class Row:
    """One model, or a product of ours that is counted alone."""

    name: str
    title: str
    peers: tuple[str, ...] = ()
    int8: bool = False

    @property
    def model(self) -> str:
        return self.name.removesuffix("_int8")


ROWS_OF_TABLE = (
    Row("gemm_f32", f"GEMM {ROWS} x {COLUMNS} x {DEPTH}, float32"),
    Row("gemm_u8s8", f"GEMM {ROWS} x {COLUMNS} x {DEPTH}, int8"),
    Row("conv3x3_64", "conv 3 x 3, 64 to 64, 28 x 28", FLOAT_PEERS),
    Row("mobilenet_v2", "MobileNetV2", FLOAT_PEERS),
    Row("vit_tiny", "ViT-tiny", FLOAT_PEERS),
    Row("minilm_128", "MiniLM, 128 tokens", FLOAT_PEERS),
    Row("lstm_tagger", "LSTM tagger", FLOAT_PEERS),
    Row("mobilenet_v2_int8", "MobileNetV2, int8", ("onnxruntime",), int8=True),
)


@dataclass
class Counts:
    """Of one row: by who executed it, instructions of a call, how many more another process counted, the error, and what failed."""

    calls: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    unequal: dict[str, int] = field(default_factory=dict)


def count_row(row: Row, cpu: str) -> Counts:
    """Prepares and counts; a peer that cannot run the model, or computes something else, is a recorded reason."""
    counts = Counts()
    folder = WORK / row.name
    folder.mkdir(parents=True, exist_ok=True)
    who = [row.name] if row.name in PRODUCTS else ["maas_rt", *row.peers]
    tolerance = TOLERANCE if row.name in PRODUCTS else _prepare(row, folder, counts)
    for each in who:
        if each in counts.failed:
            continue
        try:
            count, again = _count(each, folder, cpu)
        except RuntimeError as error:
            counts.failed[each] = str(error)
            continue
        counts.unequal[each] = again - count
        if each not in PRODUCTS:
            error_of = quantized_error if row.int8 else relative_error
            counts.errors[each] = error_of(folder, each)
            if counts.errors[each] > tolerance:
                counts.failed[each] = f"its error is {counts.errors[each]:.1e}, expected at most {tolerance:.1e}"
                continue
        counts.calls[each] = count
    return counts


def _count(what: str, folder: Path, cpu: str) -> list[int]:
    """Instructions of the last call, in two processes side by side."""
    wheels = ["numpy", *([PEERS[what].package] if what in FLOAT_PEERS else [])]
    environment = {**_aarch64.python_environment(wheels), "OMP_NUM_THREADS": "1"}
    tree, plugin = _aarch64.tree(), _counter()

    def run(number: int) -> int:
        out = folder / f"outputs.{what}.{number}.npz"
        command = _aarch64.python_command("-m", "bench._counted", what, folder, out, cpu=cpu, plugin=plugin)
        done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
        lines = done.stderr.splitlines()
        marks = [int(line.split()[1]) for line in lines if line.startswith("instructions ")]
        if done.returncode != 0 or len(marks) != CALLS + 1:
            said = [line for line in lines if not line.startswith("instructions ")]
            raise RuntimeError(f"ended with status {done.returncode}: {said[-1] if said else 'it said nothing'}")
        os.replace(out, folder / f"outputs.{what}.npz")
        return marks[-1] - marks[-2]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(run, range(2)))


@cache
def _counter() -> Path:
    """The plugin, compiled for this machine."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise _aarch64.MissingTool(
            "the counting plugin is compiled here, and no C compiler is installed: apt-get install gcc"
        )
    source, out = ROOT / "bench" / "count_instructions.c", WORK / "count_instructions.so"
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(out), str(source)], check=True)
    return out


def _prepare(row: Row, folder: Path, counts: Counts) -> float:
    """The peers' files, as bench.gauntlet makes them, and ours for aarch64. Returns the error that is allowed."""
    from bench.gauntlet._prepare import prepare, prepare_int8

    told = lambda text: print(text, file=sys.stderr)  # noqa: E731
    if row.int8:
        prepared = prepare_int8(row.model, 1, told)
    else:
        prepared = prepare(row.model, 1, row.peers, told)
    for path in prepared.folder.iterdir():
        if path.suffix in (".npz", ".onnx", ".param", ".bin", ".tflite") and not path.name.startswith("outputs."):
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path)
    counts.failed |= {peer: reason for peer in row.peers if (reason := prepared.failure(peer))}
    try:
        _compile(row, folder)
    except Exception as error:
        counts.failed["maas_rt"] = f"{type(error).__name__}: {error}"
    return prepared.tolerance


def _compile(row: Row, folder: Path) -> None:
    from bench.models import EVERY
    from maas_rt import compiler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if row.int8:
            artifact = compiler.compile(folder / "model.onnx", name=row.model, target="aarch64")
        else:
            case = EVERY[row.model]
            artifact = compiler.compile(case.module(), case.inputs(1), name=row.model, target="aarch64")
    artifact.save(folder / "model.mrt")


def table(rows: dict[str, Any]) -> str:
    """The rows as text, millions of instructions; the last column is ours over the best peer's."""
    lines = [
        f"{'millions of instructions':32} {'ours':>9} {'ONNX Runtime':>13} {'ncnn':>9} {'LiteRT':>9} {'ours / best':>12}"
    ]
    for row in ROWS_OF_TABLE:
        if row.name not in rows:
            continue
        calls = rows[row.name]["calls"]
        ours = calls.get("maas_rt", calls.get(row.name))
        peers = [calls.get(peer) for peer in FLOAT_PEERS]
        known = [each for each in peers if each]
        last = f"{ours / min(known):.3f}" if ours and known else rows[row.name]["note"]
        cells = [_millions(ours, 9), *(_millions(each, width) for each, width in zip(peers, (13, 9, 9)))]
        lines.append(f"{row.title:32} {' '.join(cells)} {last:>12}")
    return "\n".join(lines)


def _millions(count: int | None, width: int) -> str:
    return f"{'-' if count is None else f'{count / 1e6:.2f}':>{width}}"


def _note(row: Row, counts: Counts, rows: dict[str, Any]) -> str:
    """What a product of ours is held against."""
    if row.name not in counts.calls:
        return ""
    ours = counts.calls[row.name]
    if row.name == "gemm_f32":
        return f"{ours / (ROWS * COLUMNS * DEPTH / LANES):.2f} for a vector multiply-add"
    dense = rows.get("gemm_f32", {}).get("calls", {}).get("gemm_f32")
    return f"{ours / dense:.3f} of float32's" if dense else ""


def sizes() -> dict[str, int]:
    """Bytes of the stripped libraries."""
    return {
        "aarch64": _aarch64.library().stat().st_size,
        "x86-64": (ROOT / "maas_rt" / "libmaas_rt.so").resolve().stat().st_size,
    }


def main() -> int:
    names = [row.name for row in ROWS_OF_TABLE]
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *names], help="(default: all)")
    parser.add_argument("--cpu", default=_aarch64.DEFAULT_CPU, help="as qemu names it (default: %(default)s)")
    parser.add_argument(
        "--json", type=Path, default=RESULTS, help="where results go (default: bench/results/instructions.json)"
    )
    options = parser.parse_args()
    reason = _aarch64.missing()
    if reason:
        parser.error(reason)
    rows = _rows_of(options.json, options.cpu)
    for row in ROWS_OF_TABLE:
        if options.rows and row.name not in options.rows:
            continue
        counts = count_row(row, options.cpu)
        rows[row.name] = vars(counts) | {"note": _note(row, counts, rows), "commit": _commit()}
        print(f"{row.name}: {counts.calls}" + (f" failed: {counts.failed}" if counts.failed else ""), flush=True)
        write_results(options.json, _record(options.cpu, rows))
    libraries = sizes()
    unequal = max(abs(n) for row in rows.values() for n in row["unequal"].values())
    print(table(rows))
    print(
        f"libraries, stripped: aarch64 {libraries['aarch64'] / 1e6:.3f} MB, x86-64 {libraries['x86-64'] / 1e6:.3f} MB"
    )
    print(f"Two processes counted {'the same' if unequal == 0 else f'up to {unequal} instructions differently'}.")
    return 0


def _rows_of(path: Path, cpu: str) -> dict[str, Any]:
    """The rows that an earlier run on this CPU has left, each with its commit."""
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return dict(kept["rows"]) if kept.get("cpu") == cpu else {}


def _record(cpu: str, rows: dict[str, Any]) -> dict[str, Any]:
    """What a run has counted so far, to be kept."""
    return {
        "cpu": cpu,
        "versions": {peer: _version(peer) for peer in FLOAT_PEERS},
        "library_bytes": sizes(),
        "rows": rows,
    }


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


def _version(peer: str) -> str:
    """Of the wheel that was counted; "" where none was needed."""
    package = PEERS[peer].package
    found = list((_aarch64.BUILD / "site" / package).glob(f"{package.replace('-', '_')}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").rpartition("-")[2] if found else ""


if __name__ == "__main__":
    sys.exit(main())
