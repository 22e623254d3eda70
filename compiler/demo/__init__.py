"""The main job on real input, from training to serving: what `maas-rt demo` and `make demo` run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

from maas_rt._errors import Error, InvalidArgumentError

from .._progress import reporter

__all__ = ["run"]


def run(directory: str | Path, *, epochs: int = 12) -> int:
    """Train with two processes, compile the checkpoint, measure every way to run it; prints one table. Returns the exit status."""
    from maas_rt import compiler

    from . import measure
    from .data import load_digits
    from .smaller import smaller

    work = Path(directory)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidArgumentError(f"{work} cannot be made a directory ({error.strerror}); choose another") from None
    checkpoint, target = work / "checkpoint", work / "digits.mrt"
    began = time.perf_counter()

    _say(f"1. train with torch.distributed: two processes, FSDP2 over gloo, {epochs} epochs on 1,437 images of digits")
    with tempfile.TemporaryDirectory(dir=work, prefix=".training-") as folder:
        _train(Path(folder), epochs)
        if (checkpoint / ".metadata").exists():  # of a demo before
            shutil.rmtree(checkpoint)
        (Path(folder) / "result").rename(checkpoint)

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
    small = work / "digits-small.mrt"
    _say("4. the smallest form of it that loses at most one image in a hundred: maas_rt.compiler.compress")
    with reporter() as progress:
        found = smaller(checkpoint, small, progress)
    rows.append(measure.python_row("compressed", small, images, labels))
    print()
    print(measure.table(rows))
    assert found.report is not None
    layers = ", ".join(f"{count} {name}" for name, count in found.report["methods"].items()) or "all in float"
    print(
        f"\n{small}: {layers}, of {found.report['trials']} that were tried; the report is {small.with_suffix('.html')}"
    )
    print(f"{target} is the whole model. Next: maas-rt inspect {target}; maas-rt serve {work}")
    _say(f"done in {time.perf_counter() - began:.0f} s")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _train(folder: Path, epochs: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "maas_rt.compiler.demo.train", str(folder), str(epochs)]
    last_lines: deque[str] = deque(maxlen=400)
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, errors="replace") as process:
        assert process.stderr is not None
        for line in process.stderr:  # progress is shown; torchrun's reports are kept, for the one sentence of a failure
            if line.startswith("epoch "):
                _say(line.rstrip())
            else:
                last_lines.append(line.rstrip())
    if process.returncode:
        raise Error(f"training did not finish: {failure(list(last_lines), process.returncode)}: run it again")


def failure(lines: list[str], status: int) -> str:
    """What ended the training, from what torchrun wrote on stderr and its exit status."""
    codes = [int(found[1]) for line in lines if (found := re.search(r"exitcode\s*:\s*(-?\d+)", line))]
    ranks = [found[1] for line in lines if (found := re.search(r"\brank\s*:\s*(\d+)", line))]
    code = codes[-1] if codes else status
    who = f"its process of rank {ranks[-1]}" if ranks and codes else "torchrun"
    if code < 0:
        why = " (the system does so where memory runs out)" if -code == signal.SIGKILL else ""
        return f"{who} was ended by signal {-code}{why}"
    error_lines = [
        found[1] for line in lines if (found := re.match(r"(?:\[rank\d+\]: ?)?(\w*(?:Error|Exception)\b.*)", line))
    ]
    own = [line for line in error_lines if not line.startswith("ChildFailedError")]
    return f"{who} ended with status {code}" + (f", {own[0][:200]}" if own else "")
