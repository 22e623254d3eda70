"""The tests of kernels, with the kernels of the library for AArch64 under qemu: all of them on each level's CPU by `make test-cross`, else
some on the one that has every instruction set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from maas_rt.compiler.emulation import CPUS

from tests.cross._tools import FULL, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=missing() or "")

ROOT = Path(__file__).parents[2]
SAMPLE = ["tests/kernels/test_pool.py", "tests/kernels/test_gemm_conv.py::test_gemm", "tests/kernels/test_qgemm.py"]


@pytest.mark.parametrize("cpu", CPUS.values() if FULL else [CPUS["aarch64-i8mm"]])
def test_kernels_pass_their_tests(cpu: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.cross._emulated_kernels"]
    run = subprocess.run(
        [*command, *(["tests/kernels"] if FULL else SAMPLE)],
        cwd=ROOT,
        env={**os.environ, "MAAS_RT_EMULATED_CPU": cpu},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
    ran = re.search(r"(\d+) kernels ran under qemu", run.stdout)
    assert ran is not None and int(ran.group(1)) > 100, run.stdout[-500:]
