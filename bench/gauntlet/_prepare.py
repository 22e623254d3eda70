"""Models made ready for every peer, once: what is in build/bench/gauntlet already, from the same sources and tools, is kept."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from bench import _environments
from bench._environments import ROOT
from bench.gauntlet._roofline import Work
from bench.peers import PEERS

WORK = ROOT / "build" / "bench" / "gauntlet"
CONVERT_SECONDS = 1200.0
FP32_TOLERANCE = 1e-4  # of the output's scale


@dataclass(frozen=True)
class Maker:
    """How a format is made: in which environment, from which other format, by which packages, from which of our sources. `revision` is
    raised when the way in bench/_formats.py changes."""

    environment: str = "main"
    after: str | None = "torch"
    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    revision: int = 1


MAKERS: dict[str, Maker] = {
    "torch": Maker(after=None, packages=("torch",), sources=("bench/models",)),
    "mrt": Maker(sources=("compiler", "maas_rt")),
    "onnx": Maker(packages=("onnx", "onnxscript")),
    "torchscript": Maker(),
    "ncnn": Maker("ncnn", after="torchscript", packages=("pnnx",)),
    "mnn": Maker("mnn", after="onnx", packages=("MNN",), revision=3),
    "tflite": Maker("litert_convert", packages=("litert-torch",)),
    "qdq": Maker(after="onnx", packages=("onnxruntime",), revision=2),
    "mrt_int8": Maker(after="qdq", sources=("compiler", "maas_rt")),
}
INT8 = {"onnx": "qdq", "mrt": "mrt_int8"}  # what is made in place of a format where a model is quantized
OURS = ("mrt", "mrt_int8")
_tried: set[tuple[str, Path]] = set()  # in this process: a failure of ours is not believed from a record alone
INT8_SLACK = 1.5  # a runtime may differ from f32 by this many times the error of the quantized file as it is defined


@dataclass(frozen=True)
class Prepared:
    """One model at one batch size, for some peers: its folder, its work, why some formats could not be made, and the error that is
    allowed: of fp32 the largest relative to the output's scale, of int8 the root mean square's."""

    model: str
    batch: int
    folder: Path
    work: Work
    failed: dict[str, str]
    precision: str = "fp32"
    tolerance: float = FP32_TOLERANCE

    def failure(self, peer: str) -> str | None:
        kind = PEERS[peer].format
        return self.failed.get(kind if self.precision == "fp32" else INT8[kind])


def prepare(model: str, batch: int, peers: Iterable[str], told: Callable[[str], None]) -> Prepared:
    """Make every format that `peers` load, each in a process of its own; a format that cannot be made is a recorded reason."""
    formats = {PEERS[peer].format for peer in peers} | {"torch"}
    folder = WORK / f"batch{batch}" / model
    folder.mkdir(parents=True, exist_ok=True)
    failed = {}
    for kind in sorted(formats, key=list(MAKERS).index):
        reason = _ready(kind, model, batch, folder, told)
        if reason is not None:
            failed[kind] = reason
    if "torch" in failed:
        raise RuntimeError(f"{model} does not run in torch: {failed['torch']}")
    if batch > 1 and "ncnn" in formats:
        # A batch is a loop over the items, with the conversion of a batch of one.
        single = prepare(model, 1, ["ncnn"], told)
        failed = {**failed, "ncnn": single.failed["ncnn"]} if "ncnn" in single.failed else failed
        for name in ("model.ncnn.param", "model.ncnn.bin"):
            if (single.folder / name).exists() and not (folder / name).exists():
                os.symlink(single.folder / name, folder / name)
    return Prepared(model, batch, folder, _work(model, batch, folder), failed)


def prepare_int8(model: str, batch: int, told: Callable[[str], None]) -> Prepared:
    """The same of the quantized model, in a folder of its own, where model.onnx is the quantized file; for peers that read ONNX, and us."""
    full = prepare(model, batch, ["onnxruntime"], told)
    folder = WORK / "int8" / f"batch{batch}" / model
    folder.mkdir(parents=True, exist_ok=True)
    for name, source in (("inputs.npz", "inputs.npz"), ("expected.npz", "expected.npz"), ("f32.onnx", "model.onnx")):
        (folder / name).unlink(missing_ok=True)
        os.symlink(full.folder / source, folder / name)
    failed = {"qdq": full.failed["onnx"]} if "onnx" in full.failed else {}
    for kind in INT8.values():
        reason = _made(kind, model, batch, folder, told) if "qdq" not in failed else failed["qdq"]
        if reason is not None:
            failed[kind] = reason
    error = (
        0.0 if "qdq" in failed else float(json.loads((folder / "tolerance.json").read_text())["rms_error_of_the_file"])
    )
    return Prepared(model, batch, folder, full.work, failed, "int8", INT8_SLACK * error)


def _ready(kind: str, model: str, batch: int, folder: Path, told: Callable[[str], None]) -> str | None:
    """Make one format unless it is there, or its failure is known; the reason if it cannot be made."""
    maker = MAKERS[kind]
    if kind == "ncnn" and batch > 1:
        return None
    if maker.after is not None:
        reason = _ready(maker.after, model, batch, folder, told)
        if reason is not None:
            return f"no {maker.after} file to convert: {reason}"
    return _made(kind, model, batch, folder, told)


def _made(kind: str, model: str, batch: int, folder: Path, told: Callable[[str], None]) -> str | None:
    """The same of one format whose source is there."""
    records = _records(folder)
    known = records.get(kind, {})
    again = kind in OURS and known.get("error") and (kind, folder) not in _tried  # perhaps the library was being built
    if known.get("key") != key(kind) or again:
        _tried.add((kind, folder))
        told(f"{model}, batch {batch}: making {kind}")
        records[kind] = {"key": key(kind), **_make(kind, model, batch, folder)}
        (folder / "records.json").write_text(json.dumps(records, indent=1) + "\n")
    reason = records[kind]["error"]
    return None if reason is None else str(reason)


def _records(folder: Path) -> dict[str, Any]:
    path = folder / "records.json"
    records: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return records


def _make(kind: str, model: str, batch: int, folder: Path) -> dict[str, Any]:
    command = [_environments.python(MAKERS[kind].environment), "-m", "bench._formats"]
    command += [kind, model, str(batch), str(folder)]
    log, start, error = folder / f"{kind}.log", time.perf_counter(), None
    with log.open("w") as out:
        try:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out, timeout=CONVERT_SECONDS
            ).returncode
            error = None if status == 0 else reason_in(log.read_text(errors="replace"), status)
        except subprocess.TimeoutExpired:
            error = f"not done within {CONVERT_SECONDS:.0f} s"
    return {"seconds": time.perf_counter() - start, "error": error}


def reason_in(log: str, status: int) -> str:
    """The line of a converter's log that says why it failed: the last one that names an error, else the last."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if status < 0:
        return f"its converter crashed with signal {-status}" + (f" after: {lines[-1][:300]}" if lines else "")
    named = [line for line in lines if "Error" in line.split(":")[0] or line.startswith("error:")]
    return (named or lines or [f"status {status}, with no message"])[-1][:500]


@cache
def key(kind: str) -> str:
    """What a format depends on, hashed: our sources, the versions of its packages, and the format that it is made from."""
    maker = MAKERS[kind]
    digest = hashlib.sha256(key(maker.after).encode() if maker.after else b"1")
    digest.update(f"revision {maker.revision}\n".encode() if maker.revision > 1 else b"")
    for package in maker.packages:
        found = (
            metadata.version(package)
            if maker.environment == "main"
            else _environments.version(package, maker.environment)
        )
        digest.update(f"{package} {found}\n".encode())
    for source in maker.sources:
        for path in sorted((ROOT / source).rglob("*")):
            if path.is_file() and path.suffix in (".py", ".so", ".h"):
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _work(model: str, batch: int, folder: Path) -> Work:
    """Counted once; cheap beside a conversion, but it runs eager torch."""
    path = folder / "work.json"
    if path.exists():
        record = json.loads(path.read_text())
        if record["key"] == key("torch"):
            return Work(record["flops"], record["bytes"])
    from bench.gauntlet._work import work_of
    from bench.models import EVERY

    work = work_of(EVERY[model].module(), EVERY[model].inputs(batch))
    path.write_text(json.dumps({"key": key("torch"), "flops": work.flops, "bytes": work.bytes}) + "\n")
    return work
