"""What TVM writes to the terminal by itself is kept off it, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import importlib.util, os, subprocess, sys, warnings
spec = importlib.util.spec_from_file_location("stray", sys.argv[1])
stray = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stray)
with stray.without_stray_lines() as terminal:
    os.write(2, b"[08:28:13] /project/src/relax/ir/block_builder.cc:67: Warning: BlockBuilder destroyed!\\n")
    os.write(2, b"a line of somebody else\\n[08:28:14] no such line\\n")
    warnings.warn("a warning")
    print("the bar", file=terminal)
    subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)  # holds the pipe's end
    os.write(2, b"[08:28:15] /project/src/target/llvm/codegen_cpu.cc:1183: Warning: x")
os.write(2, b"afterwards\\n")

class Says:
    def __init__(self):
        self.itself = self
    def __del__(self):
        os.write(2, b"[08:28:16] /project/src/relax/ir/block_builder.cc:67: Warning: of a frame\\n")

def fails():
    held = Says()
    raise ValueError

try:
    with stray.without_stray_lines():
        fails()
except ValueError as error:
    kept = error
"""
SOURCE = Path(__file__).resolve().parents[2] / "compiler" / "_stray.py"


def run(**environment: str) -> str:
    command = [sys.executable, "-c", SCRIPT, str(SOURCE)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, **environment}, text=True) as process:
        assert process.stderr is not None
        assert process.wait(30) == 0
        read, _ = os.read(process.stderr.fileno(), 1 << 16), process.stderr.close()
    return read.decode()


def test_tvms_lines_alone_are_held_back() -> None:
    said = run()
    assert ".cc:" not in said
    for kept in ("a line of somebody else", "[08:28:14] no such line", "a warning", "the bar", "afterwards"):
        assert kept in said


def test_nothing_is_held_back_for_debugging() -> None:
    assert said_all(run(MAAS_RT_DEBUG="1"))


def said_all(said: str) -> bool:
    return said.count(".cc:") == 3
