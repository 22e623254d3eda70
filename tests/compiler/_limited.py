"""Compiles ONNX files in a process of its own, which may not take much more memory than it has at its start: one line of JSON a file.

python -m tests.compiler._limited FILE...
"""

from __future__ import annotations

import faulthandler
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

HEADROOM = 4 << 30  # bytes beyond what the imports take


def compile_limited(paths: list[Path], seconds: float) -> dict[str, dict[str, Any]]:
    """What became of each file, by its name: {"error": class and its bases, "message", "seconds"}; "error" is [] if it compiled."""
    command = [sys.executable, "-m", "tests.compiler._limited", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    found = {entry["file"]: entry for entry in map(json.loads, done.stdout.splitlines())}
    lost = [path.name for path in paths if path.name not in found]
    assert not lost, f"the process ended at {lost[0]} with {done.returncode}: {done.stderr[-2000:]}"
    return found


def limit_memory(headroom: int = HEADROOM) -> None:
    """Let this process take `headroom` bytes more than it has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + headroom, resource.RLIM_INFINITY))


def _compile(path: Path) -> dict[str, Any]:
    from maas_rt.compiler import compile

    start, error = time.monotonic(), None
    try:
        compile(path)
    except BaseException as caught:
        error = caught
    kinds = [] if error is None else [kind.__name__ for kind in type(error).__mro__]
    seconds = round(time.monotonic() - start, 2)
    return {"file": path.name, "error": kinds, "message": "" if error is None else str(error), "seconds": seconds}


def main(paths: list[str]) -> None:
    faulthandler.enable()
    import maas_rt.compiler
    from maas_rt.compiler import _configs, _pipeline
    from maas_rt.compiler.importers.onnx import import_onnx

    assert maas_rt.compiler and _pipeline and import_onnx
    _configs.VerifyOptions = partial(_configs.VerifyOptions, seconds=10.0)  # type: ignore[assignment,misc]
    limit_memory()
    for path in paths:
        print(json.dumps(_compile(Path(path))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
