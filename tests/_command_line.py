"""Many `maas-rt` commands from one start: each runs in a process of its own, forked from an interpreter that has the frameworks imported.

A command spends most of its time on importing torch and TVM; what it does, prints, writes and returns is the same.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[1]


class CommandLine:
    """Runs commands in a folder, which is also where they import modules from."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self._server = server
        self._folder = folder

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(arguments), file=self._server.stdin, flush=True)
        answer = json.loads(self._server.stdout.readline())
        return subprocess.CompletedProcess(arguments, answer["status"], answer["stdout"], answer["stderr"])


@contextmanager
def command_line(folder: Path) -> Iterator[CommandLine]:
    command = [sys.executable, "-m", "tests._command_line", str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield CommandLine(server, folder)
        finally:
            server.terminate()


def _serve(folder: Path) -> None:
    for name in ("torch.export", "tvm", "onnx", "maas_rt._cli", "maas_rt.compiler"):
        importlib.import_module(name)
    compiler = sys.modules["maas_rt.compiler"]
    for module in pkgutil.walk_packages(compiler.__path__, "maas_rt.compiler."):
        importlib.import_module(module.name)
    gc.freeze()  # a child that searched what is there for garbage would copy the pages that hold it
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            child = os.fork()
            if child == 0:
                _become_command(folder, stdout.fileno(), stderr.fileno())
                _run(json.loads(line))
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            stdout.seek(0)
            stderr.seek(0)
            print(json.dumps({"status": status, "stdout": stdout.read(), "stderr": stderr.read()}), flush=True)


def _run(arguments: list[str]) -> NoReturn:
    """The command, and the end of its process: what was registered for the end runs, and what was printed is written. The frameworks are
    not taken down module by module, which takes longer than most commands."""
    status: object = 1
    try:
        status = sys.modules["maas_rt._cli"].main(arguments)
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else 0 if status is None else 1)


def _become_command(folder: Path, stdout: int, stderr: int) -> None:
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for ours, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (stdout, 1), (stderr, 2)):
        os.dup2(ours, standard)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
