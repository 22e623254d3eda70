"""The main job on real input, from training to serving: what `maas-rt demo` and `make demo` run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from .._progress import reporter

__all__ = ["run"]


def run(directory: str | Path, *, epochs: int = 12) -> int:
    """Train with two processes, compile the checkpoint, measure every way to run it; prints one table. Returns the exit status."""
    from maas_rt import compiler

    from . import measure
    from .data import load_digits

    work = Path(directory)
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, target = work / "checkpoint", work / "digits.mrt"
    began = time.perf_counter()

    _say(f"1. train with torch.distributed: two processes, FSDP2 over gloo, {epochs} epochs on 1,437 images of digits")
    _train(checkpoint, epochs)

    _say(
        f"2. compile the distributed checkpoint: maas-rt compile {checkpoint} --model maas_rt.compiler.demo.model:build"
    )
    (_, (images, labels)) = load_digits()
    with reporter() as progress:
        artifact = compiler.compile(
            checkpoint,
            {"image": images[:1]},
            dynamic={"image": {0: (1, 64)}},
            factory="maas_rt.compiler.demo.model:build",
            name="digits",
            progress=progress,
        )
        artifact.save(target)

    _say("3. run it everywhere, beside eager torch and ONNX Runtime on the same 360 held-out images, one thread each")
    rows = measure.every_way(work, checkpoint, target, images, labels)
    print()
    print(measure.table(rows))
    print(f"\n{target} is the whole model. Next: maas-rt inspect {target}; maas-rt serve {work}")
    _say(f"done in {time.perf_counter() - began:.0f} s")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _train(checkpoint: Path, epochs: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        + ["-m", "maas_rt.compiler.demo.train", str(checkpoint), str(epochs)],
        check=True,
        env=environment,
    )
